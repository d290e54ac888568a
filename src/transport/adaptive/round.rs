//! A round lasts until a packet that was sent after its beginning is acknowledged: one round-trip time. This module
//! counts what happens in a round, and says what the counts show.

use std::time::{Duration, Instant};

/// The counts of the present round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) began: Instant,
    /// The first packet of the next round.
    pub(super) end: u64,
    pub(super) bytes: u64,
    pub(super) lost: u32,
    pub(super) least: Duration,
    /// Of the packets that were acknowledged.
    pub(super) rtt: MeanRtt,
    pub(super) app_limited: bool,
    pub(super) lumpy: bool,
    /// Packets acknowledged in a row whose round trip shows a queue. Those of a trickle are late because their
    /// acknowledgements wait for more, but they are few.
    pub(super) late_in_a_row: u32,
    /// A router on the way marked a packet (RFC 3168).
    pub(super) marked: bool,
}

/// The findings of a round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    /// The application, not the path, was the limit.
    pub(super) app_limited: bool,
    /// Packets arrived faster than the path is believed to carry them.
    pub(super) lumpy: bool,
    /// A queue was there throughout.
    pub(super) stood: bool,
    /// The same, where the variation of round trips is that of rounds without a queue: others fill it while this end holds
    /// back.
    pub(super) others: bool,
    /// A queue was there on average.
    pub(super) queued: bool,
    /// Packets were lost.
    pub(super) lossy: bool,
    /// As many as when a sender that doubles its rate overflows a queue.
    pub(super) overflowed: bool,
    /// More packets were lost than the path loses by itself, or a router marked some.
    pub(super) congested: bool,
}

impl Counts {
    pub(super) fn new(began: Instant, end: u64) -> Self {
        Self {
            began,
            end,
            bytes: 0,
            lost: 0,
            least: Duration::MAX,
            rtt: MeanRtt::default(),
            app_limited: false,
            lumpy: false,
            late_in_a_row: 0,
            marked: false,
        }
    }
}

/// The mean round trip of some packets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MeanRtt {
    pub(super) packets: u32,
    pub(super) sum: Duration,
}

impl MeanRtt {
    pub(super) fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.sum += other.sum;
    }

    pub(super) fn get(self) -> Duration {
        self.sum / self.packets.max(1)
    }
}
