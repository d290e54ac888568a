//! The window of one flow: how many bytes the far end may send before this end's application takes
//! more. Pure.
//!
//! noq gives all streams of a connection the same fixed window. It has to suit the fastest reader,
//! and a flow that nobody reads holds all of it. So each flow has a window of its own below QUIC's.
//! It begins small and grows with the bytes that the application takes, so it doubles in each round
//! trip like a slow start. All windows of a lane come from one pool, and each is multiplied by the
//! square of the pool's free share. So flows that nobody reads always leave room for others.

/// The largest window: a quarter above QUIC's own of a stream, so that it does not limit a fast
/// reader before QUIC's does. With the same size it did, because the far end learns of this window
/// later and in larger steps. It then limited a download over 100 Mbit/s, 60 ms and a queue of 100
/// ms. The queue stood without losses, so the lane took it for the path's delay, and moved to a
/// slower route.
pub(super) const MOST: u64 = 5 << 19;

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
    received: u64,
    taken: u64,
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

    /// The window of a flow that took `taken` bytes so far, and of which `own` bytes are outstanding.
    fn window(&self, taken: u64, own: u64) -> u64 {
        let (first, most) = (self.capacity / FIRST_PART, self.capacity / MOST_PART);
        let wanted = (first.min(FIRST) + taken).min(most).min(MOST);
        let free = self.capacity.saturating_sub(self.outstanding - own);
        (wanted * free / self.capacity * free / self.capacity).max(LEAST)
    }
}

impl FlowWindow {
    /// The window of a new flow.
    pub(super) fn open(pool: &mut Pool) -> Self {
        let limit = pool.window(0, 0);
        pool.outstanding += limit;
        Self { limit, received: 0, taken: 0 }
    }

    /// The bytes that the far end may send at first.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes arrived and were read from the stream.
    pub(super) fn received(&mut self, bytes: u64) -> Result<(), Exceeded> {
        self.received += bytes;
        if self.received > self.limit { Err(Exceeded) } else { Ok(()) }
    }

    /// The application took bytes. Returns the new limit of the far end, if it is clearly larger
    /// than the known one.
    pub(super) fn took(&mut self, bytes: u64, pool: &mut Pool) -> Option<More> {
        self.taken += bytes;
        pool.outstanding -= bytes;
        let own = self.limit - self.taken;
        let window = pool.window(self.taken, own);
        if own + (window / STEPS).max(LEAST / 4) > window {
            return None;
        }
        pool.outstanding += window - own;
        self.limit = self.taken + window;
        let pool_is_small = window < self.taken.min(MOST) / 4 * 3;
        Some(More { limit: self.limit, pool_is_small })
    }

    /// The flow has ended: nothing of it is outstanding any more.
    pub(super) fn close(self, pool: &mut Pool) {
        pool.outstanding -= self.limit - self.taken;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Lets the far end send all it may in each round trip, and takes it at once; returns the
    /// window after so many round trips.
    fn read_for(trips: u32, flow: &mut FlowWindow, pool: &mut Pool) -> u64 {
        for _ in 0..trips {
            let mut may = flow.limit - flow.taken;
            while may > 0 {
                let bytes = may.min(14_000);
                flow.received(bytes).unwrap();
                flow.took(bytes, pool);
                may -= bytes;
            }
        }
        flow.limit - flow.taken
    }

    /// A flow whose reader took this much and then stopped, with its window used up.
    fn stalled(taken: u64, pool: &mut Pool) -> FlowWindow {
        let mut flow = FlowWindow::open(pool);
        while flow.taken < taken {
            let bytes = (flow.limit - flow.taken).min(taken - flow.taken);
            flow.received(bytes).unwrap();
            flow.took(bytes, pool);
        }
        flow.received(flow.limit - flow.received).unwrap();
        flow
    }

    #[test]
    fn a_reader_has_the_full_window_after_a_few_round_trips() {
        let mut pool = Pool::new(8 * MIB);
        let mut flow = FlowWindow::open(&mut pool);
        assert_eq!(flow.limit(), 64 << 10);
        let window = read_for(6, &mut flow, &mut pool);
        assert!((MOST / 4 * 3..=MOST).contains(&window), "{window}");
        assert_eq!(pool.outstanding, window);
        flow.close(&mut pool);
        assert_eq!(pool.outstanding, 0);
    }

    #[test]
    fn flows_that_nobody_reads_leave_a_reader_a_window() {
        // Bytes that each took before, how many flows, and the least window of a reader beside
        // them after 200 round trips.
        let cases = [
            (0, 600, 48 << 10),
            (256 << 10, 60, 128 << 10),
            (100 * MIB, 3, MIB / 3),
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
        assert_eq!(flow.received(flow.limit()), Ok(()));
        assert_eq!(flow.received(1), Err(Exceeded));
    }

    #[test]
    fn a_flow_asks_for_a_larger_pool_only_when_it_could_use_one() {
        let mut pool = Pool::new(MIB);
        let mut flow = FlowWindow::open(&mut pool);
        let mut asked = None;
        while asked.is_none() {
            let bytes = flow.limit - flow.taken;
            flow.received(bytes).unwrap();
            asked = flow.took(bytes, &mut pool).filter(|more| more.pool_is_small);
        }
        assert!(flow.taken > MIB / 3, "{flow:?}");
        pool.set_capacity(64 * MIB);
        let bytes = flow.limit - flow.taken;
        flow.received(bytes).unwrap();
        assert!(!flow.took(bytes, &mut pool).unwrap().pool_is_small);
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
                    flow.took(bytes, &mut pool);
                    prop_assert!(flow.limit > flow.taken, "a flow stands still for ever");
                }
                let outstanding: u64 = flows.iter().map(|flow| flow.limit - flow.taken).sum();
                prop_assert_eq!(pool.outstanding, outstanding);
                prop_assert!(outstanding <= 4 * MIB + LEAST * 200);
            }
        }
    }
}
