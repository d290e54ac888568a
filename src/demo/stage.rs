//! The running demo: four nodes, the Internet between them, and what a visitor does to it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    board::{Board, Bound, Conditions},
    commands::Command,
    facts::{Change, Condition, FlowFact, LaneFact, Observation, PathFact, Traffic, paths_of},
    paths::{PathId, Place},
    site,
};
use crate::{
    app::{Node, StartError},
    config::Config,
    emulator::{Bitrate, LinkModel, Loss, LossRate, Topology, paper_sites},
    entry::{self, EntryError},
    events::LaneSide,
    lab::{Lab, LabError, LabNode},
    lane::RerouteFacts,
    mesh::LinkFacts,
    transport::Congestion,
};

/// What the cable modem sends and receives here. The paper's 300 kbit/s upstream would make a
/// download through it take ten minutes; at this rate the third-best route is visibly slower than
/// the other two (10 Mbit/s) and still worth watching.
const CABLE: Bitrate = Bitrate::mbit(4);

/// What [`Command::ToggleLoss`] adds: the worst of the paper's outages short of a cut.
pub(super) const HEAVY: LossRate = LossRate::from_percent(30.0);

/// How long four nodes may take to find each other: a few round trips, also on a loaded machine.
const MESHED_WITHIN: Duration = Duration::from_secs(20);

/// The demo's nodes and their Internet.
#[derive(Debug)]
pub(super) struct Stage {
    lab: Lab,
    topology: Topology,
    conditions: Conditions,
    proxy: SocketAddr,
    board: Option<Board>,
}

/// Why the demo could not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The nodes did not find each other.
    #[error(
        "the four nodes did not find each other within {MESHED_WITHIN:?}; is this machine very busy?"
    )]
    NotMeshed,
    /// The entry has no proxy.
    #[error("the entry opened no proxy")]
    NoProxy,
}

impl Stage {
    /// Starts the four nodes, with the proxy at `listen`, or at a free port of the same address
    /// if that one is taken, and waits until all are linked.
    ///
    /// # Errors
    /// When a node does not start, or they do not find each other.
    pub(super) async fn start(listen: SocketAddr, seed: u64) -> Result<Self, StageError> {
        let topology = topology();
        let bound = Bound::bind().await.ok();
        let dashboard = bound.as_ref().map(Bound::listen);
        let lab = match open_lab(&topology, (listen, dashboard), seed).await {
            Err(error) if is_port_in_use(&error) => {
                let free = SocketAddr::new(listen.ip(), 0);
                open_lab(&topology, (free, dashboard), seed).await?
            }
            opened => opened?,
        };
        let entry = lab.node(Place::ArosNet.name());
        let proxy = entry.and_then(Node::proxy).ok_or(StageError::NoProxy)?;
        let conditions: Conditions = Arc::new(Mutex::new([Condition::Whole; 6]));
        let board = bound.zip(entry);
        let board = board.map(|(bound, entry)| bound.open(entry, proxy, conditions.clone()));
        let stage = Self { lab, topology, conditions, proxy, board };
        let start = Instant::now();
        while !stage.lab.is_meshed() {
            if start.elapsed() > MESHED_WITHIN {
                return Err(StageError::NotMeshed);
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(stage)
    }

    /// Where the proxy really listens.
    #[must_use]
    pub(super) fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    fn conditions(&self) -> MutexGuard<'_, [Condition; 6]> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What somebody clicked on the map of the dashboard.
    pub(super) async fn clicked(&mut self) -> Option<Command> {
        match &mut self.board {
            Some(board) => board.clicked().await,
            None => None,
        }
    }

    /// A link that opens the dashboard once; `None`: no port could be had.
    #[must_use]
    pub(super) fn dashboard(&self) -> Option<String> {
        self.board.as_ref().map(Board::link)
    }

    /// Does to the world what `command` says and tells what happened; `None` if the command is
    /// none about the world.
    ///
    /// # Errors
    /// When a node does not start again.
    pub(super) async fn perform(&mut self, command: &Command) -> Result<Option<String>, LabError> {
        let done = match *command {
            Command::Cut(path) => self.put(path, Condition::Cut),
            Command::Heal(path) => self.put(path, Condition::Whole),
            Command::Lose(path, rate) => self.put(path, Condition::Lossy(rate)),
            Command::CutInUse => {
                let used = self.path_in_use().unwrap_or(PathId::DIRECT);
                self.put(used, Condition::Cut)
            }
            Command::Toggle(path) => {
                let whole = self.conditions()[path.index()] == Condition::Whole;
                self.put(path, if whole { Condition::Cut } else { Condition::Whole })
            }
            Command::ToggleLoss => {
                let lossy = matches!(self.conditions()[0], Condition::Lossy(_));
                let next = if lossy { Condition::Whole } else { Condition::Lossy(HEAVY) };
                self.put(PathId::DIRECT, next)
            }
            Command::Crash(place) => self.crash(place),
            Command::Restart(place) => self.restart(place).await?,
            Command::ToggleNode(place) if self.runs(place) => self.crash(place),
            Command::ToggleNode(place) => self.restart(place).await?,
            Command::HealAll => self.heal_all().await?,
            Command::Get(_)
            | Command::Dashboard
            | Command::Status
            | Command::Help
            | Command::Leave
            | Command::Quit => return Ok(None),
        };
        Ok(Some(done))
    }

    /// The first path of the route that the visitor's flows take: not of one that is held to the direct path.
    fn path_in_use(&self) -> Option<PathId> {
        let entry = self.entry()?;
        let flows = entry.flow_facts();
        let held: Vec<_> = flows
            .iter()
            .filter(|flow| flow.target.starts_with(site::HELD))
            .filter_map(|flow| flow.lane)
            .collect();
        let busy = |lane: &LaneFact| flows.iter().any(|flow| flow.lane == Some(lane.lane));
        let mut free: Vec<_> =
            lanes(entry).into_iter().filter(|lane| !held.contains(&lane.lane)).collect();
        free.sort_by_key(|lane| !busy(lane));
        paths_of(&free.first()?.route).first().copied()
    }

    fn put(&mut self, path: PathId, condition: Condition) -> String {
        let (a, b) = path.ends();
        for (from, to) in [(a, b), (b, a)] {
            let (from, to) = (self.topology.address(from.name()), self.topology.address(to.name()));
            let own = self.topology.paths().iter().find(|p| (p.from, p.to) == (from, to));
            let mut model = own.map_or_else(|| LinkModel::new(Duration::ZERO), |path| path.model);
            match condition {
                Condition::Whole => {}
                Condition::Cut => model.up = false,
                Condition::Lossy(rate) => model.loss = Loss::Bernoulli(rate),
            }
            self.lab.internet().set(from, to, model);
        }
        self.conditions()[path.index()] = condition;
        match condition {
            Condition::Whole => format!("path {} {path} healed", path.number()),
            Condition::Cut => format!("path {} {path} CUT, both ways", path.number()),
            Condition::Lossy(rate) => {
                format!("path {} {path} now loses {rate} of its packets", path.number())
            }
        }
    }

    fn runs(&self, place: Place) -> bool {
        self.lab.node(place.name()).is_some()
    }

    fn crash(&mut self, place: Place) -> String {
        if !self.runs(place) {
            return format!("{place} is already down");
        }
        self.lab.crash(place.name());
        format!("{place} KILLED without a goodbye")
    }

    async fn restart(&mut self, place: Place) -> Result<String, LabError> {
        self.lab.restart(place.name()).await?;
        Ok(format!("{place} started"))
    }

    async fn heal_all(&mut self) -> Result<String, LabError> {
        for path in PathId::all() {
            self.put(path, Condition::Whole);
        }
        for place in Place::ALL {
            if !self.runs(place) {
                self.restart(place).await?;
            }
        }
        Ok("everything healed".to_owned())
    }

    /// All facts, now.
    #[must_use]
    pub(super) fn observe(&self) -> Observation {
        Observation {
            running: Place::ALL.map(|place| self.runs(place)),
            paths: PathId::all().map(|path| self.observe_path(path)).collect(),
            lanes: self.entry().map_or_else(Vec::new, lanes),
            flows: self.entry().map_or_else(Vec::new, flows),
        }
    }

    /// The entry's node.
    #[must_use]
    pub(super) fn entry(&self) -> Option<&Node> {
        self.lab.node(Place::ArosNet.name())
    }

    fn observe_path(&self, path: PathId) -> PathFact {
        let (a, b) = path.ends();
        let (near, far) = (self.link(a, b), self.link(b, a));
        let rtt = near.as_ref().and_then(|link| link.rtt_ms);
        PathFact {
            condition: self.conditions()[path.index()],
            linked: near.is_some_and(|link| link.up) && far.is_some_and(|link| link.up),
            rtt: rtt.map(|ms| Duration::from_secs_f64(ms / 1e3)),
            traffic: self.traffic(a, b) + self.traffic(b, a),
        }
    }

    /// What `from` knows of its link to `to`.
    fn link(&self, from: Place, to: Place) -> Option<LinkFacts> {
        let facts = self.lab.node(from.name())?.link_facts();
        facts.into_iter().find(|link| link.peer.as_str() == to.name())
    }

    /// What the emulated Internet carried from one site to another.
    #[must_use]
    pub(super) fn traffic(&self, from: Place, to: Place) -> Traffic {
        let address = |place: Place| self.topology.address(place.name());
        let counters = self.lab.internet().counters(address(from), address(to));
        Traffic {
            sent: counters.sent,
            lost: counters.dropped_in_all(),
            bytes: counters.delivered_bytes,
        }
    }

    /// Stops all nodes in order.
    pub(super) async fn stop(self) {
        self.lab.stop().await;
    }
}

fn lanes(entry: &Node) -> Vec<LaneFact> {
    let ours = entry.lane_facts().into_iter().filter(|lane| lane.end == LaneSide::Entry);
    let fact = ours.map(|lane| LaneFact {
        lane: lane.facts.lane,
        peer: lane.facts.peer.to_string(),
        route: lane.facts.route,
        hint: lane.hint.unwrap_or_default().to_string(),
        rtt: lane.rtt_ms.map(|ms| Duration::from_secs_f64(ms / 1e3)),
        reroutes: lane.facts.reroutes,
        history: lane.facts.history.iter().map(change).collect(),
    });
    fact.collect()
}

fn change(reroute: &RerouteFacts) -> Change {
    Change {
        from: reroute.from.to_string(),
        to: reroute.to.to_string(),
        reason: reroute.reason.clone(),
        stall: reroute.stall_ms.map(|ms| Duration::from_secs_f64(ms / 1e3)),
    }
}

fn flows(entry: &Node) -> Vec<FlowFact> {
    let fact = entry.flow_facts().into_iter().map(|flow| FlowFact {
        label: flow.label.to_string(),
        target: flow.target,
        route: flow.route.map(|route| route.to_string()),
        reroutes: flow.reroutes,
        last: flow.history.last().map(change),
        sent: flow.sent,
        received: flow.received,
    });
    fact.collect()
}

/// The paper's four sites, with a faster cable modem.
fn topology() -> Topology {
    let mut topology = paper_sites();
    let cable = topology.address(Place::MediaOne.name());
    for path in PathId::all() {
        let (a, b) = path.ends();
        for (from, to) in [(a, b), (b, a)] {
            let ends = (topology.address(from.name()), topology.address(to.name()));
            let own = topology.paths().iter().find(|path| (path.from, path.to) == ends);
            if let Some(mut model) = own.map(|path| path.model)
                && (ends.0 == cable || ends.1 == cable)
            {
                model.rate = Some(CABLE);
                topology = topology.one_way(from.name(), to.name(), model);
            }
        }
    }
    topology
}

async fn open_lab(
    topology: &Topology,
    (listen, dashboard): (SocketAddr, Option<SocketAddr>),
    seed: u64,
) -> Result<Lab, LabError> {
    let mut nodes = vec![
        LabNode::new(Place::Mit.name(), true, true),
        LabNode::new(Place::Utah.name(), true, false),
        LabNode::new(Place::MediaOne.name(), true, false),
        LabNode::new(Place::ArosNet.name(), false, false),
    ];
    // A rule for the name that stands for a connection without an overlay.
    let held = format!("[[rule]]\ndomain = \"{}\"\ndirect = true\n", site::HELD);
    nodes[3].rules = Config::parse(&held).map(|config| config.rules).unwrap_or_default();
    nodes[3].entry = Some(entry::Config { listen, dashboard, ..entry::Config::default() });
    // Its rate survives the random loss of the paper's commercial paths, MediaOne's too, to which a
    // flow moves when Utah's are cut.
    Lab::start(topology.clone(), seed, nodes, site::services(), Congestion::Adaptive).await
}

fn is_port_in_use(error: &LabError) -> bool {
    matches!(error, LabError::Start(_, StartError::Entry(EntryError::PortInUse(_))))
}
