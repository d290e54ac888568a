//! Tests of the packets that wait in all lanes of a node.

use std::{io::IoSliceMut, time::Duration};

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Bench {
    switch: Switch,
    reorder: Reorder,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { switch: Switch::default(), reorder: Reorder::default(), start: Instant::now() }
    }

    /// A lane whose packets lately came 90 ms late.
    fn lane(&self) -> SlotId {
        let (id, _) = self.switch.open_slot().unwrap();
        let mut bench = Self { switch: Switch::default(), ..Self::new() };
        bench.start = self.start;
        let slot = self.switch.slot(id).unwrap();
        let order = &mut *slot.state.order.lock().unwrap();
        for number in (0..20).map(|n| 2 * n) {
            let run = |first| Run { first, packets: 1, relayed: false, in_pieces: false };
            order.take(self.start, run(number + 1));
            order.expire(self.start + ms(100));
            order.take(self.start + ms(90), run(number));
        }
        id
    }

    /// One packet comes; says whether it goes up at once.
    fn come(&mut self, id: SlotId, number: u16, bytes: &[u8]) -> bool {
        let slot = self.switch.slot(id).unwrap();
        let run = Run { first: number, packets: 1, relayed: false, in_pieces: false };
        let packets = (None, std::iter::once(bytes));
        let now = self.start + ms(200);
        self.reorder.take(now, &self.switch, (id, &slot), run, packets).1
    }

    /// What goes up: from whom, the bytes, and the size of the packets.
    fn up(&mut self, room: usize) -> Vec<(SlotId, Vec<u8>, usize)> {
        let mut buffers = vec![vec![0; room]; 4];
        let mut slices: Vec<_> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let mut meta = [RecvMeta::default(); 4];
        let mut up = Up::new(&mut slices, &mut meta);
        self.reorder.hand_up(&self.switch, &mut up);
        let filled = up.filled();
        let of = |(buffer, meta): (&Vec<u8>, RecvMeta)| {
            let id = SlotId::from_address(meta.addr).unwrap();
            (id, buffer[..meta.len].to_vec(), meta.stride)
        };
        buffers.iter().zip(meta).take(filled).map(of).collect()
    }
}

#[test]
fn held_packets_go_up_in_order_and_equal_sizes_share_a_buffer() {
    let mut bench = Bench::new();
    let (one, two) = (bench.lane(), bench.lane());
    assert!(!bench.come(one, 43, b"dd"));
    assert!(!bench.come(one, 41, b"bbb"));
    assert!(!bench.come(one, 42, b"ccc"));
    assert!(!bench.come(two, 41, b"xxx"));
    assert!(bench.up(100).is_empty());
    assert!(bench.come(one, 40, b"aaa"));
    assert_eq!(bench.up(100), [(one, b"bbbccc".to_vec(), 3), (one, b"dd".to_vec(), 2)]);
    assert!(bench.reorder.deadline(&bench.switch).is_some());
    let end = bench.start + ms(300);
    bench.reorder.expire(end, &bench.switch);
    assert_eq!(bench.up(100), [(two, b"xxx".to_vec(), 3)]);
    assert_eq!((bench.reorder.bytes, bench.reorder.deadline(&bench.switch)), (0, None));
    let [held, late] = bench.switch.reordered();
    assert_eq!((held, late), (("held", 4), ("late", 0)));
}

#[test]
fn packets_that_do_not_fit_stay_for_the_next_buffers() {
    let mut bench = Bench::new();
    let lane = bench.lane();
    (41..61).for_each(|number| assert!(!bench.come(lane, number, b"1234")));
    assert!(bench.come(lane, 40, b"1234"));
    let mut packets = 0;
    while !bench.reorder.is_handed_up() {
        packets += bench.up(9).iter().map(|(_, bytes, stride)| bytes.len() / stride).sum::<usize>();
    }
    assert_eq!(packets, 20);
}

#[test]
fn a_lane_that_has_ended_keeps_nothing() {
    let mut bench = Bench::new();
    let lane = bench.lane();
    assert!(!bench.come(lane, 41, b"kept"));
    bench.switch.close_slot(lane);
    assert_eq!(bench.reorder.deadline(&bench.switch), None);
    bench.reorder.expire(bench.start + ms(200), &bench.switch);
    assert_eq!((bench.reorder.bytes, bench.up(100).len()), (0, 0));
}

#[test]
fn all_lanes_together_keep_no_more_than_the_cap() {
    let mut bench = Bench::new();
    let lanes: Vec<_> = (0..20).map(|_| bench.lane()).collect();
    let packet = [7; 8000];
    let mut handed_up = 0;
    for number in 41..161 {
        for lane in &lanes {
            bench.come(*lane, number, &packet);
            assert!(bench.reorder.bytes <= MAX_BYTES);
            while !bench.reorder.is_handed_up() {
                handed_up += bench.up(8000).len();
            }
        }
    }
    assert!(bench.reorder.bytes > MAX_BYTES / 2);
    bench.reorder.expire(bench.start + ms(400), &bench.switch);
    while !bench.reorder.is_handed_up() {
        handed_up += bench.up(8000).len();
    }
    let [(_, held), _] = bench.switch.reordered();
    assert_eq!((handed_up as u64, bench.reorder.bytes), (held, 0));
}
