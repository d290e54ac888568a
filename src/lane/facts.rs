//! The facts of a lane end that listings show.

use std::time::{Duration, Instant};

use noq::Connection;
use serde::{Deserialize, Serialize};

use crate::{
    failover::{Reroute, Traffic},
    flow::Route,
    identity::NodeName,
    wire::lane::RerouteReason,
};

/// What listings show of a lane's end.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LaneFacts {
    /// The lane's number at this node.
    pub lane: u32,
    /// The node at the far end.
    pub peer: NodeName,
    /// The route its packets take from here.
    pub route: Route,
    /// How often the route changed since the lane began.
    pub reroutes: u64,
    /// Why it changed last; `None`: it never did.
    pub last_reroute: Option<String>,
    /// The last changes, at most 32, oldest first.
    pub history: Vec<RerouteFacts>,
    /// For how many seconds it stands still: it waits for an answer, or for the first packet on a new route, and
    /// nothing comes in. `None`: it does not.
    pub stands_still_seconds: Option<f64>,
    /// Packets sent and received.
    pub packets: (u64, u64),
    /// Bytes sent and received in them, by QUIC's count.
    pub bytes: (u64, u64),
}

/// What listings show of one reroute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RerouteFacts {
    /// How long ago, in seconds.
    pub seconds_ago: f64,
    /// The route that was left.
    pub from: Route,
    /// The route that was taken.
    pub to: Route,
    /// Why, in few words.
    pub reason: String,
    /// How long the lane stood still, in milliseconds; `None` while it does.
    pub stall_ms: Option<f64>,
}

impl RerouteFacts {
    /// What is to be shown of `reroute` at `now`.
    pub(super) fn of(reroute: &Reroute, now: Instant) -> Self {
        Self {
            seconds_ago: now.saturating_duration_since(reroute.at).as_secs_f64(),
            from: reroute.from.clone(),
            to: reroute.to.clone(),
            reason: why(reroute),
            stall_ms: reroute.stall.map(|stall| stall.as_secs_f64() * 1e3),
        }
    }
}

/// Bytes that a lane's connection sent and received.
pub(super) fn bytes(conn: &Connection) -> (u64, u64) {
    let stats = conn.stats();
    (stats.udp_tx.bytes, stats.udp_rx.bytes)
}

/// A lane or flow that waits for less than this is not called still: several round trips across the Earth.
pub(crate) const STILL_AFTER: Duration = Duration::from_secs(1);

/// For how long a lane stands still at `now`, if it does: see [`LaneFacts::stands_still_seconds`].
pub(super) fn stands_still(
    (awaits_answer, traffic): (bool, &Traffic),
    last: Option<&Reroute>,
    now: Instant,
) -> Option<f64> {
    let waits = awaits_answer || last.is_some_and(|last| last.stall.is_none());
    let silent = now.saturating_duration_since(traffic.arrived?);
    (waits && silent >= STILL_AFTER).then_some(silent.as_secs_f64())
}

/// Why a lane's end moved, in few words.
#[must_use]
pub fn why(reroute: &Reroute) -> String {
    match reroute.far_reason {
        Some(far) => format!("far end: {}", brief(far)),
        None => brief(reroute.reason),
    }
}

/// A reason in few words, for a listing that names both routes.
fn brief(reason: RerouteReason) -> String {
    match reason {
        RerouteReason::Silent { ms } => format!("silent for {ms} ms"),
        RerouteReason::Lossy { percent } => format!("lost {percent} % of the packets"),
        RerouteReason::Better => "a better route".to_owned(),
        RerouteReason::FarEnd => "asked to".to_owned(),
        RerouteReason::Trial => "a trial".to_owned(),
    }
}
