//! Tests of the order of one direction: each packet is its own number.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A receiver, and what went up.
struct Bench {
    order: Order<u16>,
    start: Instant,
    up: Vec<(u64, u16)>,
    late: usize,
}

impl Bench {
    fn new() -> Self {
        Self { order: Order::default(), start: Instant::now(), up: Vec::new(), late: 0 }
    }

    /// One on a path where packets lately came this late.
    fn with_hold(hold: Duration) -> Self {
        let mut bench = Self::new();
        bench.order.hold = Hold::of(bench.start, hold);
        bench
    }

    fn come(&mut self, at_ms: u64, number: u16) {
        self.come_by(at_ms, number, false);
    }

    fn come_by(&mut self, at_ms: u64, number: u16, relayed: bool) {
        let now = self.start + ms(at_ms);
        let taken =
            self.order.take(now, Run { first: number, packets: 1, relayed, in_pieces: false });
        self.late += usize::from(taken.late);
        match taken.place {
            Place::Up => self.up.push((at_ms, number)),
            Place::Kept(full) => self.order.keep(full, 1000, number),
        }
        self.drain(at_ms);
    }

    fn expire(&mut self, at_ms: u64) {
        self.order.expire(self.start + ms(at_ms));
        self.drain(at_ms);
    }

    fn drain(&mut self, at_ms: u64) {
        while let Some(number) = self.order.pop() {
            self.up.push((at_ms, number));
        }
    }

    fn numbers(&self) -> Vec<u16> {
        self.up.iter().map(|(_, number)| *number).collect()
    }

    fn deadline_ms(&self) -> Option<u128> {
        self.order.deadline().map(|at| (at - self.start).as_millis())
    }
}

#[test]
fn packets_in_order_go_up_at_once_past_the_wrap_of_their_numbers() {
    let mut bench = Bench::with_hold(ms(50));
    for step in 0..3000_u16 {
        let first = step.wrapping_mul(50);
        let run = Run { first, packets: 50, relayed: false, in_pieces: false };
        let taken = bench.order.take(bench.start + ms(step.into()), run);
        assert_eq!(taken, Taken { packets: 50, place: Place::Up, late: false });
    }
    assert!(bench.order.gaps.is_empty());
}

#[test]
fn a_gap_delays_nobody_where_nothing_comes_late() {
    let mut bench = Bench::new();
    for number in [0, 1, 3, 4, 6] {
        bench.come(10, number);
    }
    assert_eq!((bench.numbers(), bench.late), (vec![0, 1, 3, 4, 6], 0));
    assert_eq!(bench.deadline_ms(), None);
}

#[test]
fn late_packets_teach_the_hold_and_the_next_ones_are_put_in_order() {
    let mut bench = Bench::new();
    let mut at = 0;
    // Every other packet comes 8 ms after the one behind it.
    for pair in 0..10_u16 {
        at += 10;
        bench.come(at, 2 * pair + 1);
        bench.expire(at + 7);
        bench.come(at + 8, 2 * pair);
    }
    assert_eq!(bench.late, 3, "after 2, 6 and 9 ms of hold the rest is in time");
    let rest: Vec<u16> = (6..20).collect();
    assert_eq!(bench.numbers(), [&[1, 0, 3, 2, 5, 4][..], &rest].concat());
}

#[test]
fn each_gap_has_its_own_deadline() {
    let mut bench = Bench::with_hold(ms(20));
    bench.come(0, 1);
    bench.come(5, 4);
    bench.come(6, 2);
    assert_eq!((bench.up.len(), bench.deadline_ms()), (0, Some(20)));
    bench.expire(20);
    assert_eq!((bench.numbers(), bench.deadline_ms()), (vec![1, 2], Some(25)));
    bench.come(22, 3);
    assert_eq!(bench.numbers(), [1, 2, 3, 4]);
    bench.come(30, 0);
    assert_eq!((bench.numbers(), bench.late), (vec![1, 2, 3, 4, 0], 1));
    assert_eq!(bench.order.bytes(), 0);
}

#[test]
fn a_packet_that_comes_twice_goes_up_twice_and_teaches_nothing() {
    let mut bench = Bench::with_hold(ms(20));
    for (at, number) in [(0, 0), (1, 0), (2, 2), (3, 2), (4, 1), (50, 1)] {
        bench.come(at, number);
    }
    assert_eq!((bench.numbers(), bench.late), (vec![0, 0, 1, 2, 2, 1], 0));
    assert_eq!(bench.order.hold.time(), ms(20));
}

#[test]
fn packets_of_the_route_before_teach_nothing() {
    let mut bench = Bench::new();
    (10..20).for_each(|number| bench.come_by(0, number, true));
    (0..10).for_each(|number| bench.come_by(60, number, false));
    assert_eq!((bench.late, bench.order.hold.time()), (10, Duration::ZERO));
}

#[test]
fn far_numbers_go_up_and_move_nothing_until_they_persist() {
    let mut bench = Bench::with_hold(ms(50));
    bench.come(0, 0);
    // Forged ones, with the real ones between them.
    for number in 1..50 {
        bench.come(1, number);
        bench.come(1, 20_000 + number);
    }
    assert_eq!((bench.order.high, bench.late), (FIRST + 50, 0));
    // So much was lost that the sender is far away.
    for number in 30_000..30_010 {
        bench.come(2, number);
    }
    assert_eq!(bench.order.high, FIRST + 30_010);
    bench.come(3, 30_011);
    assert_eq!(bench.deadline_ms(), Some(53));
}

#[test]
fn a_forged_number_holds_nothing_longer_than_the_longest_hold() {
    let mut bench = Bench::with_hold(LONGEST);
    bench.come(0, 0);
    bench.come(1, 4000);
    // The real packets close the gap from its beginning.
    (1..100).for_each(|number| bench.come(2, number));
    assert_eq!(bench.up.len(), 100);
    bench.expire(101);
    assert_eq!(bench.up.len(), 101);
    (100..200).for_each(|number| bench.come(110, number));
    assert_eq!(bench.up.len(), 201);
}

#[test]
fn gaps_and_bytes_are_bounded_and_what_has_no_room_goes_up() {
    let mut bench = Bench::with_hold(LONGEST);
    for pair in 0..2000_u16 {
        bench.come(0, 2 * pair + 1);
    }
    assert_eq!((bench.order.gaps.len(), bench.order.kept.len()), (MAX_GAPS, MAX_GAPS));
    let mut bench = Bench::with_hold(LONGEST);
    for number in 1..3000 {
        bench.come(0, number);
        assert!(bench.order.bytes() <= MAX_BYTES);
    }
    // One gap: all that waited for it goes up at once, and what comes then.
    assert_eq!(bench.up.len(), 2999);
    let mut bench = Bench::with_hold(LONGEST);
    for number in (1..400).chain(401..800).chain(801..1200) {
        bench.come(0, number);
        assert!(bench.order.bytes() <= MAX_BYTES);
    }
    assert_eq!(bench.numbers(), (1..400).collect::<Vec<_>>(), "only the first gap was given up");
}

#[test]
fn giving_up_lets_all_go_up() {
    let mut bench = Bench::with_hold(ms(50));
    [2, 4, 6].into_iter().for_each(|number| bench.come(0, number));
    bench.order.give_up();
    bench.drain(0);
    assert_eq!((bench.numbers(), bench.order.bytes()), (vec![2, 4, 6], 0));
}

/// Sends a packet each millisecond, with delays and losses as drawn; returns when each went up.
fn run_path(hold: Duration, path: &[Option<u64>]) -> (Bench, BTreeMap<u64, Vec<u16>>) {
    let mut coming = BTreeMap::<u64, Vec<u16>>::new();
    for (sent, delay) in path.iter().enumerate() {
        let number = u16::try_from(sent).unwrap();
        if let Some(delay) = delay {
            coming.entry(u64::from(number) + delay).or_default().push(number);
        }
    }
    let mut bench = if hold.is_zero() { Bench::new() } else { Bench::with_hold(hold) };
    for at in 0..=coming.keys().max().copied().unwrap_or(0) + 200 {
        for number in coming.get(&at).into_iter().flatten() {
            bench.come(at, *number);
        }
        bench.expire(at);
    }
    (bench, coming)
}

fn path() -> impl Strategy<Value = Vec<Option<u64>>> {
    let packet = prop_oneof![9 => (0..40_u64).prop_map(Some), 1 => Just(None)];
    prop::collection::vec(packet, 1..400)
}

proptest! {
    #[test]
    fn every_packet_goes_up_once_and_soon(path in path(), hold in 0..=100_u64) {
        let (bench, coming) = run_path(ms(hold), &path);
        let mut up = bench.numbers();
        up.sort_unstable();
        let mut came: Vec<u16> = coming.values().flatten().copied().collect();
        came.sort_unstable();
        prop_assert_eq!(up, came);
        let arrival: BTreeMap<u16, u64> =
            coming.iter().flat_map(|(at, numbers)| numbers.iter().map(|n| (*n, *at))).collect();
        for (at, number) in &bench.up {
            prop_assert!(at - arrival[number] <= 100, "{number} waited from {} to {at}", arrival[number]);
        }
        prop_assert_eq!(bench.order.bytes(), 0);
    }

    #[test]
    fn all_goes_up_in_order_where_the_hold_is_long_enough(path in path()) {
        let (bench, _) = run_path(ms(45), &path);
        prop_assert_eq!(bench.late, 0);
        prop_assert!(bench.numbers().is_sorted());
    }

    #[test]
    fn any_numbers_at_any_time_go_up_and_little_is_kept(
        packets in prop::collection::vec((any::<u16>(), 0..30_u64, any::<bool>()), 1..600),
        near in any::<bool>(),
    ) {
        let (mut bench, mut at) = (Bench::with_hold(ms(30)), 0);
        for (number, pause, relayed) in &packets {
            at += pause;
            bench.come_by(at, if near { number % 600 } else { *number }, *relayed);
            bench.expire(at);
            prop_assert!(bench.order.bytes() <= MAX_BYTES && bench.order.gaps.len() <= MAX_GAPS + 1);
            prop_assert!(bench.order.hold.time() <= LONGEST);
        }
        bench.expire(at + 100);
        prop_assert_eq!(bench.up.len(), packets.len());
        prop_assert_eq!(bench.deadline_ms(), None);
    }
}
