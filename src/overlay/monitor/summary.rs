//! The summary of a link.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::super::{
    metrics::PathMetrics,
    units::{Bitrate, LossRate},
};

/// The state of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// No probe exchange was ever completed, and not enough were lost to call it down.
    Unmeasured,
    /// Probes get through in both directions.
    Up,
    /// It was down, and the last `good` probes came through; three make it up.
    Recovering {
        /// Good probes in a row, 1 or 2.
        good: u8,
    },
    /// Four probes in a row were lost.
    Down,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmeasured => f.write_str("unmeasured"),
            Self::Up => f.write_str("up"),
            Self::Recovering { good } => write!(f, "recovering ({good} of 3)"),
            Self::Down => f.write_str("down"),
        }
    }
}

/// A link went up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkEvent {
    /// First contact, or the third good probe after an outage.
    Up,
    /// The fourth probe in a row was lost.
    Down,
    /// It was down, was made anew or heard again, and the fourth probe in a row was lost then, too.
    StillDown,
}

/// The summary of a link. Advertisements, listings and routing use it; they do not use the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSummary {
    /// The state of the link.
    pub state: LinkState,
    /// Since when it is up, down or unmeasured; recovering counts as down.
    pub since: Instant,
    /// The smoothed round-trip time; `None` before the first completed exchange.
    pub rtt: Option<Duration>,
    /// The loss away from this node, as the peer reports it; `None` before the first report.
    pub loss_out: Option<LossRate>,
    /// The loss towards this node; `None` before the first message.
    pub loss_in: Option<LossRate>,
    /// Of how many probe exchanges the loss is, at most 66. Their messages travel within a round trip, so that
    /// short silences take all or none.
    pub exchanges: u32,
    /// The largest rate lanes lately saw delivered; `None` when they were idle.
    pub delivered: Option<Bitrate>,
}

impl LinkSummary {
    /// A link of which nothing is known at `now`.
    #[must_use]
    pub fn unmeasured(now: Instant) -> Self {
        Self {
            state: LinkState::Unmeasured,
            since: now,
            rtt: None,
            loss_out: None,
            loss_in: None,
            exchanges: 0,
            delivered: None,
        }
    }

    /// The link as a path; `None` while its round-trip time is unknown.
    ///
    /// A loss rate that is still unknown counts as zero: the exchange that gave the round-trip
    /// time got through.
    #[must_use]
    pub fn metrics(&self) -> Option<PathMetrics> {
        Some(PathMetrics {
            rtt: self.rtt?,
            loss_out: self.loss_out.unwrap_or_default(),
            loss_in: self.loss_in.unwrap_or_default(),
            exchanges: self.exchanges,
            delivered: self.delivered,
        })
    }
}

/// What became of the requests that one end sent, since it watches the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Probed {
    /// Requests that were answered in time.
    pub answered: u64,
    /// Requests that were not.
    pub lost: u64,
    /// The round-trip time of the last one that was answered; `None` before the first.
    pub last: Option<Duration>,
}

/// What a lane saw on the link since its last sample.
///
/// Only a lane whose route is this link alone may report: on a relayed route the share of each link
/// is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PassiveSample {
    /// The smallest round-trip time of the span; `None` without one. The smallest, because others
    /// contain the queue that the lane itself filled. A route must not look worse because it is
    /// used.
    pub rtt: Option<Duration>,
    /// Packets declared lost.
    pub lost: u32,
    /// Packets acknowledged.
    pub delivered: u32,
    /// Bytes acknowledged.
    pub bytes: u64,
    /// The time since the last sample.
    pub over: Duration,
}
