//! The window of one flow: how many bytes the far end may send before this end's application takes
//! more. Pure.
//!
//! noq gives all streams of a connection the same fixed window. It has to suit the fastest reader,
//! and a flow that nobody reads holds all of it. So each flow has a window of its own below QUIC's.
//! It begins small and grows with the bytes that the application takes, so it doubles in each round
//! trip like a slow start. All windows of a lane come from one pool, and each is multiplied by the
//! square of the pool's free share. So flows that nobody reads always leave room for others.

use std::time::{Duration, Instant};

use crate::transport::{FLOW_WINDOW, LONGEST_FRAME};

/// The window of any reader that has taken as much: a queue on a path of 100 Mbit/s and 160 ms.
const ANY: u64 = 5 << 19;

/// The largest window of a fast reader. It is a quarter above QUIC's own of a stream, so that QUIC's limits it
/// first: the far end learns of this one later and in larger steps.
const MOST: u64 = FLOW_WINDOW as u64 / 4 * 5;

/// A reader is fast by so many times what it takes in a round trip. In slow start the far end sends twice as
/// much in the next one, and the one after that is under way before this end has told of more.
const PACE: u64 = 4;

/// A reader that slows down counts as fast for a while: it loses this part in each round trip.
const FADE: u64 = 8;

/// The least window: a keystroke's echo, or a short request. A flow has it also when the pool is
/// full.
const LEAST: u64 = 1 << 10;

/// The largest first window: slow start sends this much in five round trips.
const FIRST: u64 = 256 << 10;

/// A new flow in an empty pool gets this part of it. After n idle flows, 1 part in 1 + n/128 of the
/// pool is free.
const FIRST_PART: u64 = 128;

/// The fastest reader gets this part of an empty pool. Two such flows that stop reading leave half
/// of it free.
const MOST_PART: u64 = 2;

/// The far end is told a larger window when the gain is this part of the window, as in noq.
const STEPS: u64 = 8;

/// The windows of a lane's flows together.
#[derive(Debug)]
pub(super) struct Pool {
    capacity: u64,
    /// Bytes that the far end may send, or has sent, and that the application has not taken yet.
    outstanding: u64,
}

/// The window of one flow: its limit less what was taken.
#[derive(Debug)]
pub(super) struct FlowWindow {
    limit: u64,
    /// What may still come: at first also the message before the flow's bytes.
    expected: u64,
    taken: u64,
    pace: Pace,
}

/// How much a reader takes in a round trip.
#[derive(Debug, Default)]
struct Pace {
    /// The round trip that is measured: its begin, its end, and what was taken before.
    trip: Option<(Instant, Instant)>,
    before: u64,
    most: u64,
}

/// The far end sent more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the far end sent more than this flow's window")]
pub(super) struct Exceeded;

/// The far end may send more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct More {
    /// Up to this many bytes of the flow in all.
    pub(super) limit: u64,
    /// The flow would use a larger window, and the pool is too small for it.
    pub(super) pool_is_small: bool,
}

impl Pool {
    pub(super) fn new(capacity: u64) -> Self {
        Self { capacity: capacity.max(1), outstanding: 0 }
    }

    pub(super) fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity.max(1);
    }

    /// The window of a flow that took `taken` bytes so far, `pace` of them in a round trip, and of which `own`
    /// bytes are outstanding.
    fn window(&self, taken: u64, pace: u64, own: u64) -> u64 {
        let (first, most) = (self.capacity / FIRST_PART, self.capacity / MOST_PART);
        let wanted = (first.min(FIRST) + taken).min(most).min(reach(pace));
        let free = self.capacity.saturating_sub(self.outstanding - own);
        (wanted * free / self.capacity * free / self.capacity).max(LEAST)
    }
}

impl FlowWindow {
    /// The window of a new flow.
    pub(super) fn open(pool: &mut Pool) -> Self {
        let limit = pool.window(0, 0, 0);
        pool.outstanding += limit;
        Self { limit, expected: limit + LONGEST_FRAME, taken: 0, pace: Pace::default() }
    }

    /// The bytes that the far end may send at first.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes arrived and were read from the stream.
    pub(super) fn received(&mut self, bytes: u64) -> Result<(), Exceeded> {
        self.expect_less(bytes)
    }

    /// The message before the flow's bytes has come, and had so many.
    pub(super) fn begins_after(&mut self, message: u64) -> Result<(), Exceeded> {
        self.expect_less(LONGEST_FRAME.saturating_sub(message))
    }

    fn expect_less(&mut self, bytes: u64) -> Result<(), Exceeded> {
        self.expected = self.expected.checked_sub(bytes).ok_or(Exceeded)?;
        Ok(())
    }

    /// The application took bytes. Returns the new limit of the far end, if it is clearly larger
    /// than the known one.
    pub(super) fn took(
        &mut self,
        bytes: u64,
        pool: &mut Pool,
        (now, rtt): (Instant, impl FnOnce() -> Duration),
    ) -> Option<More> {
        self.taken += bytes;
        self.pace.saw(self.taken, now, rtt);
        pool.outstanding -= bytes;
        let own = self.limit - self.taken;
        let window = pool.window(self.taken, self.pace.most, own);
        if own + (window / STEPS).max(LEAST / 4) > window {
            return None;
        }
        pool.outstanding += window - own;
        self.expected += window - own;
        self.limit = self.taken + window;
        let pool_is_small = window < self.taken.min(reach(self.pace.most)) / 4 * 3;
        Some(More { limit: self.limit, pool_is_small })
    }

    /// The flow has ended: nothing of it is outstanding any more.
    pub(super) fn close(self, pool: &mut Pool) {
        pool.outstanding -= self.limit - self.taken;
    }
}

impl Pace {
    fn saw(&mut self, taken: u64, now: Instant, rtt: impl FnOnce() -> Duration) {
        let Some((begin, end)) = self.trip else {
            self.trip = Some((now, now + rtt()));
            return;
        };
        if now < end {
            return;
        }
        let rtt = rtt();
        let (lasted, trip) = ((now - begin).max(rtt).as_micros().max(1), rtt.as_micros());
        let taken_in_a_trip = u128::from(taken - self.before) * trip / lasted;
        let fading = self.most / FADE * (FADE - 1);
        self.most = fading.max(u64::try_from(taken_in_a_trip).unwrap_or(u64::MAX));
        (self.trip, self.before) = (Some((now, now + rtt)), taken);
    }
}

/// The largest window of a reader that takes so much in a round trip.
fn reach(pace: u64) -> u64 {
    PACE.saturating_mul(pace).clamp(ANY, MOST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    const RTT: Duration = Duration::from_millis(100);

    /// A clock of one round trip after another.
    fn trips() -> impl Iterator<Item = Instant> {
        let begin = Instant::now();
        (0..).map(move |trip| begin + trip * RTT)
    }

    fn at_once() -> (Instant, impl FnOnce() -> Duration) {
        (Instant::now(), || RTT)
    }

    /// Lets the far end send all it may in each round trip, and takes it at once; returns the
    /// window after so many round trips.
    fn read_for(count: usize, flow: &mut FlowWindow, pool: &mut Pool) -> u64 {
        for now in trips().take(count) {
            let mut may = flow.limit - flow.taken;
            while may > 0 {
                let bytes = may.min(14_000);
                flow.received(bytes).unwrap();
                flow.took(bytes, pool, (now, || RTT));
                may -= bytes;
            }
        }
        flow.limit - flow.taken
    }

    /// A flow whose reader took this much and then stopped, with its window used up.
    fn stalled(taken: u64, pool: &mut Pool) -> FlowWindow {
        let mut flow = FlowWindow::open(pool);
        let mut trips = trips();
        while flow.taken < taken {
            let bytes = (flow.limit - flow.taken).min(taken - flow.taken);
            flow.received(bytes).unwrap();
            flow.took(bytes, pool, (trips.next().unwrap(), || RTT));
        }
        flow.received(flow.limit - flow.taken).unwrap();
        flow
    }

    #[test]
    fn a_fast_reader_has_half_of_the_pool_after_a_few_round_trips() {
        let mut pool = Pool::new(8 * MIB);
        let mut flow = FlowWindow::open(&mut pool);
        assert_eq!(flow.limit(), 64 << 10);
        let window = read_for(6, &mut flow, &mut pool);
        assert!((3 * MIB..=4 * MIB).contains(&window), "{window}");
        assert_eq!(pool.outstanding, window);
        flow.close(&mut pool);
        assert_eq!(pool.outstanding, 0);
    }

    #[test]
    fn a_reader_has_a_large_window_only_while_it_takes_much_in_a_round_trip() {
        // Bytes that the path carries in a round trip, and the window after ten seconds.
        for (carried, window) in [(MIB / 8, ANY), (MIB, 4 * MIB), (12 * MIB, MOST)] {
            let mut pool = Pool::new(100 * MIB);
            let mut flow = FlowWindow::open(&mut pool);
            for now in trips().take(100) {
                let bytes = carried.min(flow.limit - flow.taken);
                flow.received(bytes).unwrap();
                flow.took(bytes, &mut pool, (now, || RTT));
            }
            let got = flow.limit - flow.taken;
            assert!((window / 4 * 3..=window).contains(&got), "{carried}: {got}");
            // It goes on slowly.
            for now in trips().skip(100).take(3_000) {
                flow.received(10_000).unwrap();
                flow.took(10_000, &mut pool, (now, || RTT));
            }
            let got = flow.limit - flow.taken;
            assert!(got <= ANY, "{carried}, then little: {got}");
        }
    }

    #[test]
    fn flows_that_nobody_reads_leave_a_reader_a_window() {
        // Bytes that each took before, how many flows, and the least window of a reader beside
        // them after 200 round trips.
        let cases = [
            (0, 600, 48 << 10),
            (256 << 10, 60, 128 << 10),
            (100 * MIB, 3, MIB / 4),
            (100 * MIB, 15, 12 << 10),
        ];
        for (taken, count, least) in cases {
            let mut pool = Pool::new(8 * MIB);
            let _held: Vec<_> = (0..count).map(|_| stalled(taken, &mut pool)).collect();
            let mut flow = FlowWindow::open(&mut pool);
            let window = read_for(200, &mut flow, &mut pool);
            assert!(window >= least, "{count} after {taken} bytes: {window}");
        }
    }

    #[test]
    fn a_far_end_that_sends_more_than_it_may_is_found_out() {
        let mut pool = Pool::new(4 * MIB);
        let mut flow = FlowWindow::open(&mut pool);
        assert_eq!(flow.received(100 + flow.limit()), Ok(()));
        assert_eq!(flow.begins_after(100), Ok(()));
        assert_eq!(flow.received(1), Err(Exceeded));
    }

    #[test]
    fn what_comes_with_the_first_message_counts_too() {
        let mut pool = Pool::new(4 * MIB);
        let mut flow = FlowWindow::open(&mut pool);
        assert_eq!(flow.received(flow.limit() + LONGEST_FRAME), Ok(()));
        assert_eq!(flow.begins_after(100), Err(Exceeded));
        let mut flow = FlowWindow::open(&mut pool);
        assert_eq!(flow.received(flow.limit() + LONGEST_FRAME + 1), Err(Exceeded));
    }

    #[test]
    fn a_flow_asks_for_a_larger_pool_only_when_it_could_use_one() {
        let mut pool = Pool::new(MIB);
        let mut flow = FlowWindow::open(&mut pool);
        let mut asked = None;
        while asked.is_none() {
            let bytes = flow.limit - flow.taken;
            flow.received(bytes).unwrap();
            asked = flow.took(bytes, &mut pool, at_once()).filter(|more| more.pool_is_small);
        }
        assert!(flow.taken > MIB / 3, "{flow:?}");
        pool.set_capacity(64 * MIB);
        let bytes = flow.limit - flow.taken;
        flow.received(bytes).unwrap();
        assert!(!flow.took(bytes, &mut pool, at_once()).unwrap().pool_is_small);
    }

    proptest! {
        #[test]
        fn the_pool_counts_what_its_flows_may_send(
            steps in prop::collection::vec((0_u8..5, 0_usize..8, 1_u64..100_000), 1..200)
        ) {
            let mut pool = Pool::new(4 * MIB);
            let mut flows: Vec<FlowWindow> = Vec::new();
            for (step, at, bytes) in steps {
                if step == 0 || flows.is_empty() {
                    flows.push(FlowWindow::open(&mut pool));
                } else if step == 1 {
                    let at = at % flows.len();
                    flows.swap_remove(at).close(&mut pool);
                } else if step == 2 {
                    pool.set_capacity(bytes * 40);
                } else {
                    let at = at % flows.len();
                    let flow = &mut flows[at];
                    let bytes = bytes.min(flow.limit - flow.taken);
                    prop_assert_eq!(flow.received(bytes), Ok(()));
                    flow.took(bytes, &mut pool, at_once());
                    prop_assert!(flow.limit > flow.taken, "a flow stands still for ever");
                }
                let outstanding: u64 = flows.iter().map(|flow| flow.limit - flow.taken).sum();
                prop_assert_eq!(pool.outstanding, outstanding);
                prop_assert!(outstanding <= 4 * MIB + LEAST * 200);
            }
        }
    }
}
