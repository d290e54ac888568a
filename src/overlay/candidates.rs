//! The candidate routes to an exit: their figures, or the reason why they may not be used.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::{
    linkstate::{LinkStateDb, ReportedState, Roles},
    metrics::PathMetrics,
    monitor::{LinkState, LinkSummary},
    policy::{Policy, RuleName, Tag},
    units::saturating_u64,
};
use crate::{flow::Route, identity::NodeName};

/// Conditions of a user or a rule on a flow's route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Constraints {
    /// Only through this relay; `None` means any route.
    pub via: Option<NodeName>,
    /// Never through these relays.
    pub avoid: Vec<NodeName>,
    /// Never through a relay. Together with `via`, no route is admissible.
    pub direct_only: bool,
}

/// Why a route is no candidate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Exclusion {
    /// The flow is pinned to another route.
    Pinned,
    /// The flow is to avoid this relay.
    Vetoed,
    /// This policy rule refuses the flow.
    Policy(RuleName),
    /// The node does not offer to relay.
    NotRelay,
    /// The node has not advertised itself lately.
    Unknown,
    /// A link of the route is down.
    LinkDown(NodeName, NodeName),
    /// The first link was down and has not yet had three good probes.
    Recovering {
        /// Good probes in a row, 1 or 2.
        good: u8,
    },
    /// A lane found it silent, although probes of its links may succeed: a path may carry probes
    /// and drop data. Set and withdrawn by the caller.
    Silent,
    /// A lane lost a large share of its own packets on it, for seconds.
    Lossy {
        /// The share in percent.
        percent: u8,
    },
    /// The relay refused a label, by its own policy or for a limit. Set and withdrawn by the caller.
    LabelRefused,
    /// Nearly as good as the route of this lane. Other lanes to the same exit use it.
    LeftToOthers,
}

impl Exclusion {
    /// Whether a rule or policy forbids the route. Such a route is not kept even if there is no
    /// other.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Pinned | Self::Vetoed | Self::Policy(_))
    }

    /// The stable name, as in metrics and JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Vetoed => "vetoed",
            Self::Policy(_) => "policy",
            Self::NotRelay => "not-relay",
            Self::Unknown => "unknown",
            Self::LinkDown(..) => "link-down",
            Self::Recovering { .. } => "recovering",
            Self::Silent => "silent",
            Self::Lossy { .. } => "lossy",
            Self::LabelRefused => "label-refused",
            Self::LeftToOthers => "left-to-others",
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("pinned to another route"),
            Self::Vetoed => f.write_str("to be avoided"),
            Self::Policy(rule) => write!(f, "refused by policy rule {rule}"),
            Self::NotRelay => f.write_str("does not relay"),
            Self::Unknown => f.write_str("not heard of lately"),
            Self::LinkDown(from, to) => write!(f, "link {from}–{to} is down"),
            Self::Recovering { good } => write!(f, "recovering, {good} of 3 good probes"),
            Self::Silent => f.write_str("a lane hears nothing over it"),
            Self::Lossy { percent } => write!(f, "a lane lost {percent} % of its packets on it"),
            Self::LabelRefused => f.write_str("the relay refused to forward"),
            Self::LeftToOthers => f.write_str("left to other lanes to this exit"),
        }
    }
}

/// A figure of an application-defined metric; smaller is better. In millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppValue(u64);

impl AppValue {
    /// The largest. A route without a value ranks after it.
    const MAX: u64 = u64::MAX - 1;

    /// The figure nearest to `value`; `None` when it is negative or not a number.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (value >= 0.0).then(|| Self(saturating_u64(value * 1e6).min(Self::MAX)))
    }

    /// The figure of a value of which more is better: its inverse. From 1e-3 to 1e12 it is exact to a
    /// thousandth.
    #[must_use]
    pub fn inverse(value: f64) -> Option<Self> {
        (value >= 0.0).then(|| Self(saturating_u64(1e15 / value).min(Self::MAX)))
    }

    /// The figure.
    #[must_use]
    pub fn millionths(self) -> u64 {
        self.0
    }
}

/// A route to the exit, with its figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The route.
    pub route: Route,
    /// Its figures; `None` when a link is not measured. They are shown even when it is excluded.
    pub metrics: Option<PathMetrics>,
    /// The value of the application's metric, for the hint `app:…`; `None` without one. Filled by
    /// the caller, from what was posted for this route.
    pub app: Option<AppValue>,
    /// Why it may not be used; `None` when it may.
    pub excluded: Option<Exclusion>,
}

/// The inputs of the search for routes.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// This node.
    pub own: &'a NodeName,
    /// Its links, by peer.
    pub links: &'a BTreeMap<NodeName, LinkSummary>,
    /// What the others advertised.
    pub db: &'a LinkStateDb,
    /// This node's rules.
    pub policy: &'a Policy,
    /// The current time.
    pub now: Instant,
}

/// Every possible route to `exit`: direct, then through each known node, by name.
///
/// An unmeasured link excludes nothing: the route is a candidate without figures, and ranks last.
/// A link that either of its ends reports as down is down.
#[must_use]
pub fn candidates(
    view: &View<'_>,
    exit: &NodeName,
    tag: &Tag,
    constraints: &Constraints,
) -> Vec<Candidate> {
    let known = view.links.keys().chain(view.db.iter(view.now).map(|advert| &advert.origin));
    let relays: BTreeSet<_> =
        known.chain(&constraints.via).filter(|name| *name != view.own && *name != exit).collect();
    let relayed = relays.into_iter().map(|relay| Route::Via(relay.clone()));
    [Route::Direct]
        .into_iter()
        .chain(relayed)
        .map(|route| {
            let metrics = view.metrics(&route, exit);
            let excluded = forbidden(&route, constraints)
                .or_else(|| {
                    let rule = view.policy.admits(tag, route.relay(), view.own, exit).err();
                    rule.map(Exclusion::Policy)
                })
                .or_else(|| view.unusable(&route, exit));
            Candidate { route, metrics, app: None, excluded }
        })
        .collect()
}

fn forbidden(route: &Route, constraints: &Constraints) -> Option<Exclusion> {
    let relay = route.relay();
    if constraints.via.is_some() && constraints.via.as_ref() != relay {
        return Some(Exclusion::Pinned);
    }
    if constraints.direct_only && relay.is_some() {
        return Some(Exclusion::Pinned);
    }
    relay.is_some_and(|relay| constraints.avoid.contains(relay)).then_some(Exclusion::Vetoed)
}

impl View<'_> {
    fn metrics(&self, route: &Route, exit: &NodeName) -> Option<PathMetrics> {
        let first = route.first_node(exit);
        let link = self.links.get(first)?.metrics()?;
        match route {
            Route::Direct => Some(link),
            Route::Via(relay) => Some(link.then(self.reported(relay, exit)?)),
        }
    }

    /// The link from `relay` to `exit`, as the relay sees it, or else as the exit sees it, turned
    /// round.
    fn reported(&self, relay: &NodeName, exit: &NodeName) -> Option<PathMetrics> {
        let report = |origin: &NodeName, peer: &NodeName| {
            self.db.get(origin, self.now)?.link(peer)?.metrics()
        };
        let turned = |seen: PathMetrics| PathMetrics {
            loss_out: seen.loss_in,
            loss_in: seen.loss_out,
            ..seen
        };
        report(relay, exit).or_else(|| report(exit, relay).map(turned))
    }

    fn unusable(&self, route: &Route, exit: &NodeName) -> Option<Exclusion> {
        let Route::Via(relay) = route else { return self.own_link(exit) };
        let Some(advert) = self.db.get(relay, self.now) else { return Some(Exclusion::Unknown) };
        if !advert.roles.contains(Roles::RELAY) {
            return Some(Exclusion::NotRelay);
        }
        self.own_link(relay).or_else(|| {
            let down = |origin: &NodeName, peer: &NodeName| {
                let link = self.db.get(origin, self.now).and_then(|advert| advert.link(peer));
                link.is_some_and(|link| link.state == ReportedState::Down)
            };
            (down(relay, exit) || down(exit, relay))
                .then(|| Exclusion::LinkDown(relay.clone(), exit.clone()))
        })
    }

    fn own_link(&self, peer: &NodeName) -> Option<Exclusion> {
        match self.links.get(peer)?.state {
            LinkState::Unmeasured | LinkState::Up => None,
            LinkState::Recovering { good } => Some(Exclusion::Recovering { good }),
            LinkState::Down => Some(Exclusion::LinkDown(self.own.clone(), peer.clone())),
        }
    }
}

#[cfg(test)]
#[path = "candidates_tests.rs"]
mod tests;
