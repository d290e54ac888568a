//! What `status`, `flows` and the demo show: plain facts, taken at one moment.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use super::{
    dialer::Dialer,
    flow_log::FlowLog,
    handshakes::HandshakeCounts,
    renewal::{CertificateStatus, Renewal},
    router_port::RouterPort,
    steering::{Steer, SteerError, Steering},
};
use crate::{
    config::Rules,
    entry::{RefusedClients, User},
    events::{Event, Events, LaneSide, Totals},
    flow::{
        AppMetric, DatagramDrops, DatagramFacts, FlowEntry, FlowLabel, FlowLimits, FlowState,
        FlowTimes, Hint, Ingress, OnLane, Route, Target, WaitsFor,
    },
    identity::{MemberInfo, NodeName},
    lane::{LaneFacts, LaneHost, LanePool, RerouteFacts, STILL_AFTER},
    live::Live,
    mesh::{FarLink, LinkFacts, MemberFacts, MemberRecord, Mesh, SharedFacts},
    overlay::{
        connects::ConnectTotals,
        policy::Policy,
        posted::{Declared, PostError},
    },
    underlay::Switch,
};

/// Numbers by name: a reason or an outcome, as in metrics.
pub type Counts = Vec<(Cow<'static, str>, u64)>;

pub(super) fn counted(counts: impl IntoIterator<Item = (&'static str, u64)>) -> Counts {
    counts.into_iter().map(|(name, count)| (name.into(), count)).collect()
}

/// What a lane carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carries {
    /// Flows of connections.
    Connections,
    /// Datagrams of associations.
    Datagrams,
}

/// A node in numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Its name.
    pub name: NodeName,
    /// The program's version.
    pub version: Cow<'static, str>,
    /// Whether its certificate allows it to be an exit.
    pub exit: bool,
    /// Whether its certificate allows it to be a relay.
    pub relay: bool,
    /// Where the local proxy listens; `None`: the node has none.
    pub proxy: Option<SocketAddr>,
    /// Known members, without this node.
    pub members: usize,
    /// Members with a link.
    pub links_up: usize,
    /// Lanes this node opened.
    pub lanes_out: usize,
    /// Lanes that end here.
    pub lanes_in: usize,
    /// Flows of this entry.
    pub flows: usize,
    /// Flows that leave here.
    pub exit_flows: usize,
    /// Packets forwarded for others since the node started.
    pub forwarded: u64,
    /// The bytes of these packets.
    pub forwarded_bytes: u64,
    /// Packets dropped, by reason.
    pub dropped: Counts,
    /// Packets of lanes that came out of order: `held` until the missing one came, or `late`.
    pub reordered: Counts,
    /// Clients on this machine that the proxy does not serve, by reason.
    pub refused_clients: Counts,
    /// Connections that others began, by what became of them.
    pub handshakes: Counts,
    /// Flows that neither side ended, by the limit that ended them.
    pub ended_flows: Counts,
    /// Datagrams of applications that were dropped, by reason.
    pub dropped_datagrams: Counts,
    /// Messages of neighbours, and addresses in their records, that were dropped, by reason.
    pub dropped_messages: Counts,
    /// What flows may leave unread here, and entries unacknowledged, in bytes.
    pub exit_windows: (u64, u64),
    /// What it spends on measuring.
    pub measuring: Measuring,
    /// Its certificate and its clock.
    pub certificate: CertificateStatus,
}

/// What a node spends on probes and advertisements.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Measuring {
    /// What it may send for them, in bits per second.
    pub budget_bps: u64,
    /// What it plans to send, in bits per second.
    pub planned_bps: u64,
    /// The mean time between two probes of one link, in milliseconds.
    pub probe_interval_ms: f64,
    /// The time between two regular advertisements, in seconds.
    pub advert_interval_seconds: f64,
    /// Whether the slowest plan exceeds the budget.
    pub over_budget: bool,
}

/// A lane that starts or ends here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LaneStatus {
    /// Which end this node is.
    pub end: LaneSide,
    /// The routing hint; `None` at the exit, which does not know it.
    pub hint: Option<Hint>,
    /// What it carries; `None` at the exit, which does not know it.
    pub carries: Option<Carries>,
    /// The smoothed round-trip time of QUIC (RFC 9002, section 5.3), in milliseconds; `None` at the exit.
    pub rtt_ms: Option<f64>,
    /// The lane.
    #[serde(flatten)]
    pub facts: LaneFacts,
}

/// A flow of this entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FlowFacts {
    /// Its label.
    pub label: FlowLabel,
    /// Where it goes; of an association, its first destination.
    pub target: String,
    /// Through which exit.
    pub exit: NodeName,
    /// The number of the lane that carries it; `None`: it has none yet, or leaves at this node.
    pub lane: Option<u32>,
    /// The route its lane takes now; `None` as for the lane, or it has ended.
    pub route: Option<Route>,
    /// How often its lane was rerouted since it began.
    pub reroutes: u64,
    /// The last of these reroutes, oldest first.
    pub history: Vec<RerouteFacts>,
    /// Its routing hint.
    pub hint: Hint,
    /// The application's protocol.
    pub ingress: Ingress,
    /// The application's address.
    pub client: SocketAddr,
    /// Whether it is open yet.
    pub state: FlowState,
    /// Its age in seconds.
    pub seconds: f64,
    /// Bytes from the application.
    pub sent: u64,
    /// Bytes to the application.
    pub received: u64,
    /// Its datagrams; `None`: it is a connection.
    pub datagrams: Option<DatagramFacts>,
    /// Seconds since a byte moved.
    pub quiet_seconds: f64,
    /// For how many seconds it stands still although there are bytes to move; `None`: it does not.
    pub stands_still_seconds: Option<f64>,
    /// What it waits for while it stands still; `None`: it does not.
    pub waits_for: Option<WaitsFor>,
}

/// What this node forwards from one node to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelayedFacts {
    /// Who sends.
    pub from: NodeName,
    /// Where it goes.
    pub to: NodeName,
    /// Labels for it that are in force: one for each end of a lane.
    pub labels: usize,
    /// Bytes forwarded.
    pub bytes: u64,
    /// Since when, in seconds.
    pub seconds: f64,
}

/// What of a node's settings can change while it runs.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    /// The entry's routing rules.
    pub rules: Rules,
    /// Which flows may use which links and relays.
    pub policy: Policy,
    /// How long flows may rest.
    pub flow: FlowTimes,
    /// Who may use the proxy.
    pub users: Vec<User>,
    /// The addresses and names at which others reach the node.
    pub advertise: Vec<Target>,
}

/// Reads what a node is doing. It may outlive the node and then shows its end.
#[derive(Clone)]
pub struct NodeView {
    pub(super) mesh: Arc<Mesh>,
    pub(super) pool: Arc<LanePool>,
    pub(super) dialer: Arc<Dialer>,
    pub(super) events: Arc<Events>,
    pub(super) log: Arc<FlowLog>,
    pub(super) host: Arc<LaneHost>,
    pub(super) renewal: Arc<Renewal>,
    pub(super) switch: Arc<Switch>,
    pub(super) handshakes: Arc<HandshakeCounts>,
    pub(super) limits: Arc<FlowLimits>,
    pub(super) datagram_drops: Arc<DatagramDrops>,
    pub(super) proxy: Option<SocketAddr>,
    pub(super) refused: Arc<RefusedClients>,
    pub(super) users: Arc<Live<Vec<User>>>,
    pub(super) advertise: watch::Sender<Vec<Target>>,
    pub(super) router_port: watch::Receiver<RouterPort>,
}

impl NodeView {
    /// The node in numbers.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let us = self.mesh.us();
        let dropped = self.switch.drops().into_iter().filter(|(_, count)| *count > 0);
        NodeStatus {
            name: us.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            exit: self.mesh.is_exit(&us.name),
            relay: us.roles.relay,
            proxy: self.proxy,
            members: self.mesh.known_members().len(),
            links_up: self.mesh.facts().iter().filter(|link| link.up).count(),
            lanes_out: self.pool.lanes().len(),
            lanes_in: self.host.facts().len(),
            flows: self.pool.flows().len(),
            exit_flows: self.host.flow_count(),
            forwarded: self.switch.forwarded(),
            forwarded_bytes: self.switch.forwarded_bytes(),
            dropped: counted(dropped.map(|(reason, count)| (reason.name(), count))),
            reordered: counted(self.switch.reordered()),
            refused_clients: counted(self.refused.counts()),
            handshakes: counted(self.handshakes.so_far()),
            ended_flows: counted(self.limits.ended()),
            dropped_datagrams: counted(self.datagram_drops.counts()),
            dropped_messages: counted(self.mesh.links().drops().counts()),
            exit_windows: self.host.windows(),
            measuring: self.measuring(),
            certificate: self.renewal.status(),
        }
    }

    fn measuring(&self) -> Measuring {
        let (budget, plan) = self.mesh.budget();
        Measuring {
            budget_bps: budget.bps(),
            planned_bps: plan.in_all().bps(),
            probe_interval_ms: plan.probe_interval.as_secs_f64() * 1e3,
            advert_interval_seconds: plan.advert_interval.as_secs_f64(),
            over_budget: plan.over_budget,
        }
    }

    /// What happened lately.
    #[must_use]
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// What happened since the node started, in numbers.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.log.count_now();
        self.events.totals()
    }

    /// What the connects of each exit cost since the node started, as the flows of this entry saw it.
    #[must_use]
    pub fn connect_totals(&self) -> Vec<(String, ConnectTotals)> {
        self.pool.connect_totals()
    }

    /// The links to all members.
    #[must_use]
    pub fn link_facts(&self) -> Vec<LinkFacts> {
        self.mesh.facts()
    }

    /// What the other nodes of this site measured of members.
    #[must_use]
    pub fn shared_facts(&self) -> Vec<SharedFacts> {
        self.mesh.shared_facts()
    }

    /// What this node forwards for others.
    #[must_use]
    pub fn relayed(&self) -> Vec<RelayedFacts> {
        let now = Instant::now().into_std();
        let relayed = self.switch.with_labels(|labels| {
            labels.sweep(now);
            labels.relayed()
        });
        let facts = relayed.into_iter().map(|relayed| RelayedFacts {
            from: relayed.from,
            to: relayed.to,
            labels: relayed.labels,
            bytes: relayed.bytes,
            seconds: now.saturating_duration_since(relayed.since).as_secs_f64(),
        });
        facts.collect()
    }

    /// The links between other nodes, as they advertise them.
    #[must_use]
    pub fn far_links(&self) -> Vec<FarLink> {
        self.mesh.far_links()
    }

    /// What new flows are steered to.
    #[must_use]
    pub fn steering(&self) -> Steering {
        self.dialer.steering().clone()
    }

    /// Steers new flows as they were in an earlier run, whose members need not be known yet.
    pub(crate) fn resume(&self, steering: Steering) {
        *self.dialer.steering() = steering;
    }

    /// Steers new flows: makes all changes, or none.
    ///
    /// # Errors
    /// When an exit or a relay is not known, or too many relays would be avoided.
    pub fn steer(&self, changes: Vec<Steer>) -> Result<Steering, SteerError> {
        let changes: Vec<Steer> =
            changes.into_iter().map(|change| self.named(change)).collect::<Result<_, _>>()?;
        let mut steering = self.dialer.steering();
        let mut next = steering.clone();
        for change in changes {
            match &change {
                Steer::Exit(Some(name)) | Steer::Avoid(name, true) if !self.mesh.knows(name) => {
                    return Err(SteerError::Unknown(name.clone()));
                }
                Steer::Exit(Some(exit)) if !self.mesh.is_exit(exit) => {
                    return Err(SteerError::NotAnExit(exit.clone()));
                }
                _ => next.change(change)?,
            }
        }
        // What was paused may have left the configuration.
        let rules = self.dialer.rules.get();
        next.paused.retain(|id| rules.told().any(|(known, _)| known == id));
        if *steering != next {
            *steering = next.clone();
            let Steering { exit, hint, avoid, paused } = next.clone();
            self.events.record(Event::Steered { exit, hint, avoid, paused });
        }
        Ok(next)
    }

    /// Takes a value of an application's metric for an exit, and returns the one that counts now.
    ///
    /// # Errors
    /// For a number that is no value, for the metric `connect`, which the node measures itself, and for a metric
    /// too many.
    pub fn post(
        &self,
        metric: &AppMetric,
        declared: Declared,
        exit: &NodeName,
        value: f64,
    ) -> Result<Option<f64>, PostError> {
        self.mesh.post(metric, declared, (exit, None), value)?;
        Ok(self.mesh.posted(metric, exit, None))
    }

    /// Puts what can change while the node runs into force.
    pub fn reload(&self, settings: LiveSettings) {
        let LiveSettings { rules, policy, flow, users, advertise } = settings;
        self.dialer.rules.set(rules);
        self.mesh.set_policy(policy);
        self.limits.set_times(flow);
        self.users.set(users);
        self.advertise.send_if_modified(|told| {
            let differs = *told != advertise;
            *told = advertise;
            differs
        });
    }

    /// The addresses and names at which others reach the node, as it is configured now.
    #[must_use]
    pub fn advertised(&self) -> Vec<Target> {
        self.advertise.borrow().clone()
    }

    /// Closes a flow of this entry; false if none has this label.
    #[must_use]
    pub fn close_flow(&self, label: FlowLabel) -> bool {
        self.flow(label).inspect(|flow| flow.carried.activity().close()).is_some()
    }

    /// The lanes that start or end at the node.
    #[must_use]
    pub fn lane_facts(&self) -> Vec<LaneStatus> {
        lanes(&self.pool, &self.host)
    }

    /// The flows of the node's entry.
    #[must_use]
    pub fn flow_facts(&self) -> Vec<FlowFacts> {
        flows(&self.pool)
    }

    /// What is listed of a live flow of this entry.
    #[must_use]
    pub fn flow(&self, label: FlowLabel) -> Option<Arc<FlowEntry>> {
        self.pool.flows().get(label)
    }

    /// The route that a flow of this entry takes now; `None`: it leaves here, or its lane has ended.
    #[must_use]
    pub fn route_of(&self, flow: &FlowEntry) -> Option<Route> {
        self.log.route(flow)
    }

    /// Whether a flow without any wish can be opened: a link and an exit are up.
    #[must_use]
    pub fn can_open(&self) -> bool {
        self.dialer.can_open()
    }

    /// Changes whenever a route may have come up.
    #[must_use]
    pub fn route_news(&self) -> watch::Receiver<()> {
        self.mesh.route_news()
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.mesh.us().name
    }

    /// The other members that the node knows.
    #[must_use]
    pub fn members(&self) -> Vec<MemberFacts> {
        self.mesh.known_members()
    }

    /// What is to be written down of them: the addresses that may be dialled, and records.
    #[must_use]
    pub fn written_members(&self) -> (Vec<MemberInfo>, Vec<MemberRecord>) {
        let (told, records) = self.mesh.written_members();
        (told, records.iter().map(|record| MemberRecord::clone(record)).collect())
    }

    /// The networks where UDP was found blocked, which are to be written down too.
    #[must_use]
    pub fn blocked_networks(&self) -> Vec<IpAddr> {
        self.mesh.blocked_networks()
    }
}

impl fmt::Debug for NodeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeView").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

fn lanes(pool: &LanePool, host: &LaneHost) -> Vec<LaneStatus> {
    let out = pool.lanes().into_iter().map(|(key, lane)| LaneStatus {
        end: LaneSide::Entry,
        hint: Some(key.wish.hint.clone()),
        carries: Some(if key.datagrams { Carries::Datagrams } else { Carries::Connections }),
        rtt_ms: lane.rtt().map(|rtt| rtt.as_secs_f64() * 1e3),
        facts: lane.facts(),
    });
    let inward = host.facts().into_iter();
    let inward = inward.map(|facts| LaneStatus {
        end: LaneSide::Exit,
        hint: None,
        carries: None,
        rtt_ms: None,
        facts,
    });
    out.chain(inward).collect()
}

fn flows(pool: &LanePool) -> Vec<FlowFacts> {
    let now = Instant::now().into_std();
    pool.flows().snapshot().iter().map(|flow| describe(pool, flow, now)).collect()
}

fn describe(pool: &LanePool, flow: &FlowEntry, now: std::time::Instant) -> FlowFacts {
    let (sent, received) = flow.carried.bytes();
    let on = flow.lane();
    let lane = on.and_then(|on| pool.end_of(on.lane)).map(|end| end.facts());
    let (reroutes, history) =
        on.zip(lane.as_ref()).map(|(on, lane)| since(on, lane)).unwrap_or_default();
    let quiet = flow.carried.activity().last().elapsed();
    let by_lane = lane.as_ref().and_then(|lane| lane.stands_still_seconds);
    let by_lane = by_lane.map(|seconds| (seconds, WaitsFor::Lane));
    let held_up = flow.carried.held_up().filter(|_| quiet >= STILL_AFTER);
    let still = by_lane.or(held_up.map(|side| (quiet.as_secs_f64(), side)));
    FlowFacts {
        label: flow.label,
        target: flow.target.to_string(),
        exit: flow.exit.clone(),
        lane: on.map(|on| on.lane),
        route: lane.map(|lane| lane.route),
        reroutes,
        history,
        hint: flow.hint.clone(),
        ingress: flow.ingress,
        client: flow.client,
        state: flow.state(),
        seconds: now.saturating_duration_since(flow.since).as_secs_f64(),
        sent,
        received,
        datagrams: flow.datagrams.as_ref().map(|counts| counts.facts()),
        quiet_seconds: quiet.as_secs_f64(),
        stands_still_seconds: still.map(|(seconds, _)| seconds),
        waits_for: still.map(|(_, what)| what),
    }
}

/// The reroutes of a flow's lane since the flow began: how many, and the last ones.
fn since(on: OnLane, lane: &LaneFacts) -> (u64, Vec<RerouteFacts>) {
    let count = lane.reroutes.saturating_sub(on.reroutes_before);
    let known = usize::try_from(count).unwrap_or(usize::MAX).min(lane.history.len());
    (count, lane.history[lane.history.len() - known..].to_vec())
}
