//! What can happen to a node. PURE.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    flow::{FlowLabel, Hint, Refusal, RefusalKind, Route},
    identity::NodeName,
};

/// Something that happened to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// A lane's end changed its route.
    Rerouted {
        /// The lane's number at this node.
        lane: u32,
        /// Which end this node is.
        end: LaneSide,
        /// The node at the far end.
        peer: NodeName,
        /// The route that was left.
        from: Route,
        /// The route that was taken.
        to: Route,
        /// The kind of reason.
        reason: RerouteKind,
        /// The reason in few words.
        why: String,
        /// How long the lane stood still, in milliseconds; `None`: it ended before anything came in.
        stall_ms: Option<f64>,
    },
    /// The path to a member is up.
    LinkUp {
        /// The member.
        peer: NodeName,
    },
    /// The path to a member is down.
    LinkDown {
        /// The member.
        peer: NodeName,
    },
    /// A member with a certificate in force is known from now on.
    MemberJoined {
        /// Its name.
        name: NodeName,
    },
    /// A member counts no more.
    MemberLeft {
        /// Its name.
        name: NodeName,
        /// Why.
        why: LeftWhy,
    },
    /// The authority took a member's certificate back.
    MemberRevoked {
        /// Its name.
        name: NodeName,
    },
    /// A flow of this entry is open.
    FlowOpened {
        /// Its label.
        label: FlowLabel,
        /// Where it goes.
        target: String,
        /// Through which exit.
        exit: NodeName,
        /// Its lane's route when it opened; `None`: it leaves at this node.
        route: Option<Route>,
        /// Its routing hint.
        hint: Hint,
        /// How long it took to open, in milliseconds.
        opened_ms: f64,
    },
    /// A flow of this entry has ended.
    FlowClosed {
        /// Its label.
        label: FlowLabel,
        /// Where it went.
        target: String,
        /// Through which exit.
        exit: NodeName,
        /// Its lane's route when it ended; `None`: it left at this node.
        route: Option<Route>,
        /// Its age in seconds.
        seconds: f64,
        /// Bytes from the application.
        sent: u64,
        /// Bytes to the application.
        received: u64,
    },
    /// A flow could not be opened.
    FlowRefused {
        /// Where it was to go.
        target: String,
        /// The exit that refused; `None`: none was chosen.
        exit: Option<NodeName>,
        /// The kind of reason.
        reason: RefusalKind,
        /// The reason in a sentence.
        why: String,
        /// What to do about it.
        cure: String,
    },
    /// New flows are steered otherwise than before.
    Steered {
        /// To this exit; `None`: as the rules say.
        exit: Option<NodeName>,
        /// With this hint; `None`: as the rules say.
        hint: Option<Hint>,
        /// Off these relays.
        avoid: BTreeSet<NodeName>,
        /// Without the rules with these identifiers.
        #[serde(default)]
        paused: BTreeSet<String>,
    },
    /// The configuration was read again.
    Reloaded {
        /// What of it is new and in force.
        live: Vec<String>,
        /// What of it is new and needs a restart.
        restart: Vec<String>,
    },
    /// This node's certificate was renewed.
    CertificateRenewed {
        /// When it ends, in seconds since 1970.
        expires: u64,
    },
}

/// Which end of a lane a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneSide {
    /// The end with the local proxy.
    Entry,
    /// The end that opens real connections.
    Exit,
}

/// Why a lane changed its route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RerouteKind {
    /// Nothing came in on the old route.
    Silent,
    /// The old route lost a large share of the packets.
    Lossy,
    /// The new route was measured to be better.
    Better,
    /// The far end asked for it.
    FarEnd,
    /// To find out whether the new route carries more.
    Trial,
}

/// Why a member counts no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LeftWhy {
    /// Its certificate has ended.
    CertificateEnded,
    /// It made room for another member, or was silent for too long.
    Forgotten,
}

/// Events of one class share a part of the history, so that many of one class leave the others alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Links, members, the certificate.
    Overlay,
    /// Changes of routes.
    Reroutes,
    /// Flows that opened and closed.
    Flows,
    /// Flows that were refused.
    Refusals,
}

impl std::str::FromStr for Class {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|class| class.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is no class of events; write one of {names}")
        })
    }
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Overlay, Self::Reroutes, Self::Flows, Self::Refusals];

    /// The name by which the API takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Reroutes => "reroutes",
            Self::Flows => "flows",
            Self::Refusals => "refusals",
        }
    }
}

impl RerouteKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Silent, Self::Lossy, Self::Better, Self::FarEnd, Self::Trial];

    /// The stable name, as in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Lossy => "lossy",
            Self::Better => "better",
            Self::FarEnd => "far-end",
            Self::Trial => "trial",
        }
    }
}

impl Event {
    /// The event of a refused flow to `target`.
    #[must_use]
    pub(crate) fn refused(target: String, refusal: &Refusal) -> Self {
        Self::FlowRefused {
            target,
            exit: refusal.exit.clone(),
            reason: refusal.kind,
            why: refusal.detail.clone(),
            cure: refusal.kind.cure().to_owned(),
        }
    }

    /// Its class.
    #[must_use]
    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Rerouted { .. } => Class::Reroutes,
            Self::FlowOpened { .. } | Self::FlowClosed { .. } => Class::Flows,
            Self::FlowRefused { .. } => Class::Refusals,
            Self::LinkUp { .. }
            | Self::LinkDown { .. }
            | Self::MemberJoined { .. }
            | Self::MemberLeft { .. }
            | Self::MemberRevoked { .. }
            | Self::Steered { .. }
            | Self::Reloaded { .. }
            | Self::CertificateRenewed { .. } => Class::Overlay,
        }
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// One line for people.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rerouted { lane, peer, from, to, why, stall_ms, .. } => {
                write!(f, "lane {lane} to {peer} moved from {from} to {to}: {why}")?;
                match stall_ms {
                    Some(ms) => write!(f, ", stall {ms:.0} ms"),
                    None => f.write_str(", never resumed"),
                }
            }
            Self::LinkUp { peer } => write!(f, "the link to {peer} is up"),
            Self::LinkDown { peer } => write!(f, "the link to {peer} is down"),
            Self::MemberJoined { name } => write!(f, "{name} is a member"),
            Self::MemberLeft { name, why: LeftWhy::CertificateEnded } => {
                write!(f, "{name} is no member now: its certificate has ended")
            }
            Self::MemberLeft { name, why: LeftWhy::Forgotten } => {
                write!(f, "{name} is forgotten: it was silent for too long")
            }
            Self::MemberRevoked { name } => write!(f, "{name} was revoked by the authority"),
            Self::FlowOpened { label, target, exit, route, opened_ms, .. } => {
                write!(f, "flow {label} to {target} by exit {exit}")?;
                if let Some(route) = route {
                    write!(f, ", {route}")?;
                }
                write!(f, ": open after {opened_ms:.0} ms")
            }
            Self::FlowClosed { label, target, seconds, sent, received, .. } => write!(
                f,
                "flow {label} to {target} closed after {seconds:.1} s: {sent} bytes sent, {received} received"
            ),
            Self::FlowRefused { target, reason, why, cure, .. } => {
                write!(f, "no flow to {target} ({}): {why}. {cure}", reason.name())
            }
            Self::Steered { exit, hint, avoid, paused } => {
                f.write_str("new flows are steered: ")?;
                match exit {
                    Some(exit) => write!(f, "exit {exit}")?,
                    None => f.write_str("exit as the rules say")?,
                }
                match hint {
                    Some(hint) => write!(f, ", hint {hint}")?,
                    None => f.write_str(", hint as the rules say")?,
                }
                avoid.iter().try_for_each(|relay| write!(f, ", not by {relay}"))?;
                paused.iter().try_for_each(|rule| write!(f, ", without the rule {rule}"))
            }
            Self::Reloaded { live, restart } => {
                write!(f, "the configuration was read again; new in force: {}", listed(live))?;
                write!(f, "; a restart is needed for: {}", listed(restart))
            }
            Self::CertificateRenewed { .. } => f.write_str("this node's certificate is renewed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_has_this_form_in_json_and_reads_back() {
        let event = Event::Rerouted {
            lane: 3,
            end: LaneSide::Entry,
            peer: "mit".parse().unwrap(),
            from: Route::Direct,
            to: Route::Via("utah".parse().unwrap()),
            reason: RerouteKind::FarEnd,
            why: "far end: silent for 130 ms".to_owned(),
            stall_ms: Some(210.5),
        };
        let expected = json!({
            "kind": "rerouted", "lane": 3, "end": "entry", "peer": "mit", "from": "direct",
            "to": "via utah", "reason": "far-end", "why": "far end: silent for 130 ms",
            "stall_ms": 210.5,
        });
        assert_eq!(serde_json::to_value(&event).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Event>(expected).unwrap(), event);
    }

    #[test]
    fn the_names_in_metrics_are_those_in_json() {
        for kind in RerouteKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
