//! The content of `routes` and `why`: the routes of flows, and the reasons.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{ExitPolicy, NodeView};
use crate::{
    flow::{FlowRequest, Hint, Ingress, Route, Target},
    identity::NodeName,
    lane::{LaneEnd, LaneKey, RouteControl},
    mesh::{CarrierFacts, MemberFacts},
    overlay::{
        candidates::Candidate,
        history::RouteHistory,
        metrics::PathMetrics,
        select::{Decision, Explained, Selector, VerdictKind},
        units::LossRate,
    },
    underlay::Carrier,
    wire::link::LaneEndRole,
};

/// A possible flow, whose route is to be explained.
#[derive(Debug, Clone)]
pub struct Question {
    /// The destination.
    pub target: Target,
    /// The hint the application gives; `None`: the rule's, or `latency`.
    pub hint: Option<Hint>,
    /// The exit the application names; `None`: as the rules say.
    pub exit: Option<NodeName>,
    /// The SOCKS or HTTP user.
    pub user: Option<String>,
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Why {
    /// The destination.
    pub target: String,
    /// The rule of this entry that decides, counted from 1; `None` when none matches.
    pub rule: Option<usize>,
    /// Why no flow would be opened; `None` when one would.
    pub refused: Option<String>,
    /// The exits in the order in which they would be tried, each with its routes.
    pub exits: Vec<Choice>,
}

/// The choice of a route to one exit for one hint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Choice {
    /// The exit.
    pub exit: NodeName,
    /// The hint.
    pub hint: Hint,
    /// The traffic class, for policies.
    pub class: Option<String>,
    /// The lane that would carry the flow; `None` when one would be opened.
    pub lane: Option<u32>,
    /// The route in use, or the one a new lane would take; [`Self::LOCAL`] when the flow leaves at this node;
    /// `None` when there is none.
    pub route: Option<String>,
    /// Seconds since the lane's route changed last; `None` when it never did.
    pub since_seconds: Option<f64>,
    /// What the exit says of the flow by its own policy; `None`: it was not to be asked.
    pub policy: Option<ExitPolicy>,
    /// How long the exit took lately to connect to the destination in milliseconds, at most 10,000, without the
    /// lane's round trip; 10,000 where the destination was unreachable or did not answer in time. Other refusals do
    /// not count. The hint `app:connect` ranks by it. `None` when nothing is known of the last 8 min, and in
    /// `routes`.
    pub connect_ms: Option<f64>,
    /// What was posted for the exit of the metric of the hint `app:…`; `None` without a value.
    pub posted: Option<f64>,
    /// Every possible route: the usable ones, best first, then the excluded ones.
    pub candidates: Vec<CandidateFacts>,
    /// The lane's last changes of route, newest first.
    pub changes: Vec<Change>,
    /// The last decisions by figures, newest first. A lane that found its route dead changes
    /// before any figure does.
    pub decisions: Vec<Change>,
}

impl Choice {
    /// The route of flows that leave at this node.
    pub const LOCAL: &str = "local";
}

/// A candidate route, its figures, and its verdict.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CandidateFacts {
    /// The route.
    pub route: Route,
    /// What this node's link on it goes over: `udp`, or `tls` for a stream; `None` without a link.
    pub carrier: Option<Carrier>,
    /// The other carrier of that link, if it was measured lately, as UDP loses much.
    pub other_carrier: Option<CarrierFacts>,
    /// The node of this site whose measurement of that link is used; `None`: this node's own is.
    pub shared_by: Option<NodeName>,
    /// The round-trip time in milliseconds, by probes; `None` while a link is not measured.
    pub rtt_ms: Option<f64>,
    /// The loss away from this node in percent.
    pub loss_out_percent: Option<f64>,
    /// The loss towards this node in percent.
    pub loss_in_percent: Option<f64>,
    /// The round-trip time with retransmissions in milliseconds. The hint `latency` ranks by it.
    pub expected_ms: Option<f64>,
    /// The score √1.5 / (rtt·√p) in packets per second. The hint `throughput` ranks by it.
    pub score: Option<f64>,
    /// The rate lately delivered in bits per second, a lower bound; `None` without traffic.
    pub delivered_bps: Option<u64>,
    /// What was posted for it of the metric of the hint `app:…`; `None` without a value.
    pub posted: Option<f64>,
    /// The verdict…
    pub verdict: VerdictKind,
    /// The same in words, with the rule or threshold that excluded it.
    pub reason: String,
}

/// A change of route.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Change {
    /// How long ago, in seconds.
    pub seconds_ago: f64,
    /// The route before; `None` when there was none.
    pub from: Option<String>,
    /// The route after; `None` when none was left.
    pub to: Option<String>,
    /// Why.
    pub reason: String,
}

impl NodeView {
    /// Explains the route that a flow would take now, by what this node knows. It opens and changes nothing.
    #[must_use]
    pub fn why(&self, question: &Question) -> Why {
        let client = ([127, 0, 0, 1], 0).into();
        let request = FlowRequest {
            hint: question.hint.clone(),
            exit: question.exit.clone(),
            user: question.user.clone(),
            ..FlowRequest::new(question.target.clone(), client, Ingress::Socks5)
        };
        let (user, client) = (request.user.as_deref(), request.client.ip());
        let rule = self.dialer.rules.get();
        let rule = rule.choose(&request.target, user, client, &self.steering().paused).rule;
        let (keys, refused) = match self.dialer.keys(&request) {
            Ok(keys) if keys.is_empty() => (keys, Some("no exit is known yet".to_owned())),
            Ok(keys) => (keys, None),
            Err(refusal) => (Vec::new(), Some(refusal.to_string())),
        };
        let exit = |key: &LaneKey| {
            let connect = self.dialer.connect_time(&question.target.host, &key.exit);
            Choice { connect_ms: connect.map(millis), ..self.choice(key) }
        };
        let exits = keys.iter().map(exit).collect();
        Why { target: question.target.to_string(), rule, refused, exits }
    }

    /// The routes of all open lanes, and of the exits without one for the hint `latency`.
    #[must_use]
    pub fn routes(&self) -> Vec<Choice> {
        let mut keys: Vec<LaneKey> = self.pool.lanes().into_iter().map(|(key, _)| key).collect();
        for exit in self.mesh.known_members().into_iter().filter(MemberFacts::is_exit) {
            if !self.mesh.is_exit(&exit.name) {
                continue;
            }
            if !keys.iter().any(|key| key.exit == exit.name) {
                keys.push(LaneKey::plain(exit.name));
            }
        }
        keys.iter().map(|key| self.choice(key)).collect()
    }

    fn choice(&self, key: &LaneKey) -> Choice {
        let mut choice = self.measured_choice(key);
        for candidate in &mut choice.candidates {
            let first = candidate.route.first_node(&key.exit);
            let link = self.mesh.links().get(first);
            candidate.carrier = link.map(|link| link.carrier());
            candidate.other_carrier = self.mesh.other_carrier(first);
            candidate.shared_by = self.mesh.shared_by(first).map(|(by, _)| by);
        }
        if let Hint::App(metric) = &key.wish.hint {
            let posted = |route: Option<&Route>| self.mesh.posted(metric, &key.exit, route);
            choice.posted = posted(None);
            for candidate in &mut choice.candidates {
                candidate.posted = posted(Some(&candidate.route));
            }
        }
        choice
    }

    fn measured_choice(&self, key: &LaneKey) -> Choice {
        if self.dialer.is_here(&key.exit) {
            let decision = Selector::new(key.wish.hint.clone()).decide(now(), Vec::new());
            let here = choice(key, None, decision, &RouteHistory::default());
            return Choice { route: Some(Choice::LOCAL.to_owned()), ..here };
        }
        let open = self.pool.lanes().into_iter().find(|(open, _)| open == key);
        match open {
            Some((_, lane)) => of_lane(key, lane.end()),
            None => {
                let candidates = self.mesh.candidates(&key.exit, LaneEndRole::Entry, &key.wish);
                let mut selector = Selector::sharing(key.wish.hint.clone(), key.way);
                let decision = selector.decide(now(), candidates);
                let route = decision.route.clone();
                choice(key, route, decision, &RouteHistory::default())
            }
        }
    }
}

fn of_lane(key: &LaneKey, end: &LaneEnd) -> Choice {
    let (decision, history) = end.explain();
    let changes: Vec<Change> = end
        .history()
        .iter()
        .rev()
        .map(|reroute| Change {
            seconds_ago: now().saturating_duration_since(reroute.at).as_secs_f64(),
            from: Some(reroute.from.to_string()),
            to: Some(reroute.to.to_string()),
            reason: reroute.reason.to_string(),
        })
        .collect();
    Choice {
        lane: Some(end.slot().0),
        since_seconds: changes.first().map(|change| change.seconds_ago),
        changes,
        ..choice(key, Some(end.route()), decision, &history)
    }
}

fn choice(
    key: &LaneKey,
    route: Option<Route>,
    decision: Decision,
    history: &RouteHistory,
) -> Choice {
    let decisions = history.newest_first().map(|change| Change {
        seconds_ago: now().saturating_duration_since(change.at).as_secs_f64(),
        from: change.from.as_ref().map(ToString::to_string),
        to: change.to.as_ref().map(ToString::to_string),
        reason: change.reason.to_string(),
    });
    Choice {
        exit: key.exit.clone(),
        hint: key.wish.hint.clone(),
        class: key.wish.class.clone(),
        lane: None,
        route: route.map(|route| route.to_string()),
        since_seconds: None,
        policy: None,
        connect_ms: None,
        posted: None,
        candidates: decision.candidates.iter().map(facts).collect(),
        changes: Vec::new(),
        decisions: decisions.collect(),
    }
}

fn facts(explained: &Explained) -> CandidateFacts {
    let Explained { candidate, verdict } = explained;
    let Candidate { route, metrics, .. } = candidate;
    let of = |figure: fn(PathMetrics) -> f64| metrics.map(figure);
    CandidateFacts {
        route: route.clone(),
        carrier: None,
        other_carrier: None,
        shared_by: None,
        rtt_ms: of(|m| millis(m.rtt)),
        loss_out_percent: of(|m| percent(m.loss_out)),
        loss_in_percent: of(|m| percent(m.loss_in)),
        expected_ms: of(|m| millis(m.expected_latency())),
        score: of(|m| m.throughput().packets_per_second()),
        delivered_bps: metrics.and_then(|m| m.delivered).map(|rate| rate.bps()),
        posted: None,
        verdict: verdict.kind(),
        reason: verdict.to_string(),
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn percent(loss: LossRate) -> f64 {
    loss.fraction() * 100.0
}
