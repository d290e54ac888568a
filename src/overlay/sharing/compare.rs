//! What a sharer tells against what this node measured.

use std::time::Duration;

use crate::overlay::{
    metrics::PathMetrics,
    monitor::{LinkState, LinkSummary},
    units::LossRate,
};

/// By how much round-trip times may differ: two hosts of a site have other last hops (Wi-Fi adds some
/// milliseconds), and their estimates move in steps.
const RTT_APART: Duration = Duration::from_millis(10);

/// The same as a part of the greater one: a detour that is better by less hardly matters.
const RTT_PART: u32 = 4;

/// By how much loss rates may differ. Ten messages of one end show a loss of 10 % as 0 to 30 %.
const LOSS_APART: LossRate = LossRate::from_percent(20);

/// The own figures of a link.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    /// As the monitor has them.
    pub summary: LinkSummary,
    /// Whether they are of exchanges of the last 75 s, at least five.
    pub measured: bool,
}

/// The result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// They agree, or there are no own figures.
    Agrees,
    /// The loss differs, but the own exchanges are too few or too old to tell.
    Unproved,
    /// They differ.
    Differs,
}

/// Compares the figures of a link that are told with the own ones.
pub(super) fn compare(own: &Own, told: PathMetrics) -> Comparison {
    let summary = &own.summary;
    if summary.state != LinkState::Up {
        return Comparison::Agrees;
    }
    let apart =
        |rtt: Duration| rtt.abs_diff(told.rtt) > RTT_APART.max(rtt.max(told.rtt) / RTT_PART);
    if summary.rtt.is_some_and(apart) {
        return Comparison::Differs;
    }
    let apart = |own: Option<LossRate>, told: LossRate| {
        own.is_some_and(|own| own.ppm().abs_diff(told.ppm()) > LOSS_APART.ppm())
    };
    if apart(summary.loss_out, told.loss_out) || apart(summary.loss_in, told.loss_in) {
        return if own.measured { Comparison::Differs } else { Comparison::Unproved };
    }
    Comparison::Agrees
}
