//! What listings show of a lane's end.

use std::time::Instant;

use serde::Serialize;

use crate::{failover::Reroute, flow::Route, identity::NodeName, wire::lane::RerouteReason};

/// What listings show of a lane's end.
#[derive(Debug, Clone, Serialize)]
pub struct LaneFacts {
    /// The lane's number at this node.
    pub lane: u32,
    /// The node at the far end.
    pub peer: NodeName,
    /// The route its packets take from here.
    #[serde(serialize_with = "as_text")]
    pub route: Route,
    /// How often the route changed.
    pub reroutes: u64,
    /// Why it changed last.
    pub last_reroute: Option<String>,
    /// The last changes, oldest first.
    pub history: Vec<RerouteFacts>,
    /// Packets sent and received.
    pub packets: (u64, u64),
}

/// What listings show of one reroute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RerouteFacts {
    /// How long ago, in seconds.
    pub seconds_ago: f64,
    /// The route that was left.
    pub from: String,
    /// The route that was taken.
    pub to: String,
    /// Why, in few words.
    pub reason: String,
    /// How long the lane stood still, in milliseconds; `None` while it does.
    pub stall_ms: Option<f64>,
}

impl RerouteFacts {
    /// What is to be shown of `reroute` at `now`.
    pub(super) fn of(reroute: &Reroute, now: Instant) -> Self {
        let reason = match reroute.far_reason {
            Some(far) => format!("far end: {}", brief(far)),
            None => brief(reroute.reason),
        };
        Self {
            seconds_ago: now.saturating_duration_since(reroute.at).as_secs_f64(),
            from: reroute.from.to_string(),
            to: reroute.to.to_string(),
            reason,
            stall_ms: reroute.stall.map(|stall| stall.as_secs_f64() * 1e3),
        }
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

fn as_text<S: serde::Serializer>(route: &Route, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(route)
}
