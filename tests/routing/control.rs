//! The link of two nodes, as far as routing notices it: when it stands, and when notices arrive.
//!
//! In the product it is a QUIC connection (`mesh/dial.rs`, `transport/parameters.rs`). Here it
//! stands after a packet there and one back, ends when one end has heard nothing for 30 s, and is
//! dialled again after 0.5 s, doubling to 15 s. A notice that is lost is sent again until it arrives
//! or the link ends.

use std::time::{Duration, Instant};

use ronproxy::internals::overlay::metrics::PathMetrics;

/// A link ends when an end has heard nothing for so long.
const IDLE: Duration = Duration::from_secs(30);

/// The pause before dialling again, from and to.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// The longest pause before a lost notice is sent again: probes are acknowledged in between, which
/// tells QUIC of the gap.
const MAX_RESEND: Duration = Duration::from_secs(2);

/// Which link it was: a later one between the same nodes has another number.
pub(crate) type Generation = u32;

#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) generation: Generation,
    pub(crate) up: bool,
    /// When the first end last heard the second, and the second the first.
    heard: [Instant; 2],
    retry: Duration,
}

impl Control {
    pub(crate) fn new(now: Instant) -> Self {
        Self { generation: 0, up: false, heard: [now; 2], retry: RETRY.0 }
    }

    pub(crate) fn stand(&mut self, now: Instant) {
        self.generation += 1;
        (self.up, self.heard, self.retry) = (true, [now; 2], RETRY.0);
    }

    pub(crate) fn end(&mut self) {
        self.up = false;
    }

    pub(crate) fn hear(&mut self, now: Instant, first: bool) {
        self.heard[usize::from(!first)] = now;
    }

    /// When one of the ends gives up unless it hears something.
    pub(crate) fn gives_up_at(&self) -> Instant {
        self.heard[0].min(self.heard[1]) + IDLE
    }

    /// The pause after a dial that failed.
    pub(crate) fn next_retry(&mut self) -> Duration {
        let retry = self.retry;
        self.retry = (retry * 2).min(RETRY.1);
        retry
    }
}

/// How long after its sending a notice is sent again for the `attempt`th time (RFC 9002, §6.2, with
/// the variation at half a round trip).
pub(crate) fn resend_after(path: Option<PathMetrics>, attempt: u32) -> Duration {
    let rtt = path.map_or(MAX_RESEND, |path| path.rtt);
    let timeout = rtt * 3 / 2 + Duration::from_millis(25);
    (timeout * 2u32.saturating_pow(attempt.min(8))).min(MAX_RESEND)
}
