//! A whole overlay in one process, on the emulated Internet: for the demo, tests and benchmarks.
//!
//! Its nodes are full nodes with real certificates, links and lanes; only the packets between them
//! and the services behind their exits are inside the process. Under tokio's paused clock it runs
//! in virtual time.

mod emulation;
mod service;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;

pub use emulation::{EmulatedOverlay, EmulatedPath, EmulatedStream, Emulation, EmulationError};
pub use service::{DatagramService, Service, Services};

use crate::{
    app::{JoinDesk, Node, NodeSettings, StartError},
    carrier::StreamSettings,
    chance::Chance,
    config::Rules,
    emulator::{Cable, Internet, Topology},
    entry,
    flow::{FlowTimes, RefusalKind},
    identity::{
        Actor, Attributes, Authority, AuthorityContact, AuthorityError, Clock, Credentials, Deed,
        Granted, IdentityError, Invitation, LIFETIME, MemberInfo, NodeDir, NodeIdentity, NodeKey,
        NodeName, PendingError, PendingInvitations, Roles, StatementKey, StoreError, TlsError,
        Token, UnixTime,
    },
    lane::LaneBudget,
    mesh::{MemberRecord, Probing, RelayConfig},
    overlay::{budget::DEFAULT_BUDGET, policy::Policy},
    signer::{AuthorityClient, Clerk},
    transport::{Congestion, LaneOptions},
    underlay::PathMtu,
};

/// The UDP port of every node of a lab, at its emulated address.
const PORT: u16 = 4600;

/// How long a stopping lab node lets its flows finish.
const DRAIN: Duration = Duration::from_secs(1);

/// One node of a lab; it lives at the site of the same name.
#[derive(Debug, Clone)]
pub struct LabNode {
    /// The node's and its site's name.
    pub name: String,
    /// What it may do for others.
    pub roles: Roles,
    /// Its groups, for policies.
    pub groups: Vec<String>,
    /// The domains it serves as an exit; empty means all.
    pub serves: Vec<String>,
    /// Whether its configuration makes it an exit, if `roles` grants it.
    pub exit_enabled: bool,
    /// Why it refuses every flow that is to leave there; `None`: it does not.
    pub refuses: Option<RefusalKind>,
    /// How long it takes to connect to a service.
    pub connects_in: Duration,
    /// Its local proxy, on a real port; `None`: no proxy.
    pub entry: Option<entry::Config>,
    /// Its routing rules.
    pub rules: Rules,
    /// Its policy on links and relays.
    pub policy: Policy,
    /// The nodes of its site, with which it shares what it measures.
    pub share_with: Vec<NodeName>,
    /// What it forwards for each neighbour at most, in bytes per second; `None`: no limit.
    pub forwarding_limit: Option<u64>,
    /// The outside address of the NAT it is behind; `None`: it can be dialled.
    pub nat: Option<IpAddr>,
    /// How long its flows may rest.
    pub flow: FlowTimes,
    /// How long packets it takes for possible.
    pub path_mtu: PathMtu,
    /// What the lanes that end there may pin.
    pub memory: LaneBudget,
    /// What the lanes that it opens may pin.
    pub entry_memory: LaneBudget,
}

impl LabNode {
    /// A node with these roles and nothing else.
    #[must_use]
    pub fn new(name: &str, relay: bool, exit: bool) -> Self {
        Self {
            name: name.to_owned(),
            roles: Roles { relay, exit },
            groups: Vec::new(),
            serves: Vec::new(),
            exit_enabled: true,
            refuses: None,
            connects_in: Duration::ZERO,
            entry: None,
            rules: Rules::default(),
            policy: Policy::default(),
            share_with: Vec::new(),
            forwarding_limit: None,
            nat: None,
            flow: FlowTimes::default(),
            path_mtu: PathMtu::default(),
            memory: LaneBudget::HOSTED,
            entry_memory: LaneBudget::OPENED,
        }
    }

    /// The same behind a NAT of this outside address.
    #[must_use]
    pub fn behind(self, nat: IpAddr) -> Self {
        Self { nat: Some(nat), ..self }
    }
}

/// A lab could not be built.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The temporary folder.
    #[error("no temporary folder: {0}")]
    Folder(#[from] std::io::Error),
    /// The temporary folder's files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lab's authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A node's identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An invitation.
    #[error(transparent)]
    Pending(#[from] PendingError),
    /// A node's TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A node did not start.
    #[error("node {0}: {1}")]
    Start(String, #[source] StartError),
    /// A node's name is not a node name, or no site of the topology.
    #[error("{0} is no site of the topology")]
    NoSite(String),
}

/// The time that a lab's certificates live in.
#[derive(Debug, Clone)]
pub struct Dates {
    /// How long certificates last.
    pub lifetime: Duration,
    /// How many seconds pass for certificates in one of tokio's: 1, or more to make weeks short.
    pub rate: u32,
    /// The node at which the authority answers; `None`: nobody renews anything.
    pub authority: Option<String>,
}

impl Default for Dates {
    fn default() -> Self {
        Self { lifetime: LIFETIME, rate: 1, authority: None }
    }
}

/// What a node of a lab is, from one start to the next.
#[derive(Debug)]
struct Plan {
    node: LabNode,
    /// Of its last or next start.
    credentials: Credentials,
}

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    internet: Internet,
    topology: Topology,
    plans: BTreeMap<String, Plan>,
    nodes: BTreeMap<String, (Arc<Node>, Cable)>,
    services: Services,
    congestion: Congestion,
    authority: Authority,
    /// The same, as its node asks it; `None`: nobody does.
    signer: Option<AuthorityClient>,
    clock: Clock,
    dates: Dates,
    folder: TempDir,
    /// What the nodes' own sources are drawn from, at each start.
    chance: Chance,
}

impl Lab {
    /// Starts `nodes` at the sites of `topology`; each knows the first one's address.
    ///
    /// # Errors
    /// When a node cannot start, usually because its proxy's port is taken.
    pub async fn start(
        topology: Topology,
        seed: u64,
        nodes: Vec<LabNode>,
        services: Services,
        congestion: Congestion,
    ) -> Result<Self, LabError> {
        let dates = Dates::default();
        Self::start_in(dates, topology, seed, nodes, services, congestion).await
    }

    /// The same with certificates of other dates, and perhaps an authority that answers.
    ///
    /// # Errors
    /// As for [`Lab::start`].
    pub async fn start_in(
        dates: Dates,
        topology: Topology,
        seed: u64,
        nodes: Vec<LabNode>,
        services: Services,
        congestion: Congestion,
    ) -> Result<Self, LabError> {
        let folder = tempfile::tempdir()?;
        let dir = NodeDir::at(folder.path());
        dir.begin()?;
        let clock = Clock::in_lab(UnixTime::now(), dates.rate);
        let authority = Authority::create(&dir, clock.now())?.with_lifetime(dates.lifetime);
        let mut plans = BTreeMap::new();
        for node in nodes {
            let identity = certify(&authority, &node, clock.now())?;
            let credentials = Credentials::new(identity, clock.of_another_machine())?;
            plans.insert(node.name.clone(), Plan { node, credentials });
        }
        let internet = topology.build(seed);
        for Plan { node, .. } in plans.values() {
            let (Some(nat), Some(host)) = (node.nat, topology.find(&node.name)) else { continue };
            internet.nat(host, nat);
        }
        let signer = dates.authority.as_ref().map(|_| {
            let clerk = Clerk::open(&dir, dates.lifetime)?;
            Ok::<_, LabError>(AuthorityClient::here(clerk, clock.clone()))
        });
        let nodes = BTreeMap::new();
        let mut lab = Self {
            internet,
            topology,
            plans,
            nodes,
            services,
            congestion,
            authority,
            signer: signer.transpose()?,
            clock,
            dates,
            folder,
            chance: Chance::seeded(seed),
        };
        let names: Vec<String> = lab.plans.keys().cloned().collect();
        for name in names {
            lab.restart(&name).await?;
        }
        Ok(lab)
    }

    /// Starts three nodes on [`emulator::triangle`](crate::emulator::triangle): `entry`, `relay` and `exit`,
    /// behind which `services` are. The seed is 1.
    ///
    /// # Errors
    /// As for [`Lab::start`].
    pub async fn triangle(services: Services) -> Result<Self, LabError> {
        let nodes = vec![
            LabNode::new("entry", false, false),
            LabNode::new("exit", false, true),
            LabNode::new("relay", true, false),
        ];
        Self::start(crate::emulator::triangle(), 1, nodes, services, Congestion::default()).await
    }

    /// Starts a node anew: like a process that was killed and started again.
    ///
    /// # Errors
    /// When it cannot start.
    pub async fn restart(&mut self, name: &str) -> Result<(), LabError> {
        let told = self.members();
        self.begin_again(name, told, Vec::new()).await
    }

    /// The same with the members that the node has written down.
    ///
    /// # Errors
    /// When it does not run, or cannot start.
    pub async fn restart_with_members(&mut self, name: &str) -> Result<(), LabError> {
        let node = self.node(name).ok_or_else(|| LabError::NoSite(name.to_owned()))?;
        let (told, records) = node.view().written_members();
        self.begin_again(name, told, records).await
    }

    async fn begin_again(
        &mut self,
        name: &str,
        bootstrap: Vec<MemberInfo>,
        records: Vec<MemberRecord>,
    ) -> Result<(), LabError> {
        self.crash(name);
        self.read_files(name)?;
        let no_site = || LabError::NoSite(name.to_owned());
        let Plan { node: plan, credentials } = self.plans.get(name).ok_or_else(no_site)?;
        let address = SocketAddr::new(self.topology.find(name).ok_or_else(no_site)?, PORT);
        let settings = NodeSettings {
            credentials: credentials.clone(),
            addresses: dialled_at(plan, address),
            own: None,
            bound: None,
            streams: StreamSettings::default(),
            bootstrap,
            records,
            blocked: Vec::new(),
            entry: plan.entry.clone(),
            rules: plan.rules.clone(),
            acceptor: Arc::new(self.services.clone().behind(plan)),
            exit: plan.exit_enabled,
            relay: RelayConfig { enabled: true, rate_limit: plan.forwarding_limit },
            policy: plan.policy.clone(),
            probing: Probing { budget: DEFAULT_BUDGET, share_with: plan.share_with.clone() },
            lane: LaneOptions { congestion: self.congestion, ..LaneOptions::default() },
            path_mtu: plan.path_mtu,
            flow: plan.flow,
            memory: plan.memory,
            entry_memory: plan.entry_memory,
            desk: self.desk(name),
            chance: Chance::seeded(self.chance.draw()),
        };
        let (socket, cable) = self.internet.plug_in(address);
        let node = Node::start(settings, socket, DRAIN)
            .await
            .map_err(|error| LabError::Start(name.to_owned(), error))?;
        self.nodes.insert(name.to_owned(), (Arc::new(node), cable));
        Ok(())
    }

    /// What a node finds in its folder when it starts: the certificate and the revocation list of
    /// its last run, and where the authority is.
    fn read_files(&mut self, name: &str) -> Result<(), LabError> {
        let contact = self.dates.authority.as_ref().filter(|authority| *authority != name);
        let contact = contact.and_then(|authority| {
            let address = SocketAddr::new(self.topology.find(authority)?, PORT);
            let name = authority.parse().ok()?;
            Some(AuthorityContact { name, addresses: vec![address], names: Vec::new() })
        });
        let Some(plan) = self.plans.get_mut(name) else { return Ok(()) };
        let identity = (*plan.credentials.identity()).clone();
        let clock = plan.credentials.clock().clone();
        plan.credentials = Credentials::new(identity, clock)?.with_contact(contact);
        Ok(())
    }

    fn desk(&self, name: &str) -> Option<JoinDesk> {
        let here = self.dates.authority.as_deref() == Some(name);
        let signer = self.signer.clone().filter(|_| here)?;
        Some(JoinDesk::new(signer, self.plans.get(name)?.credentials.clone()))
    }

    /// How many questions were put to the authority so far.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.signer.as_ref().map_or(0, AuthorityClient::asked)
    }

    /// Revokes a node, and gives the running node `told` the new list, as the authority's folder
    /// does.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn revoke(&self, name: &str, told: &str) -> Result<(), LabError> {
        let no_site = || LabError::NoSite(name.to_owned());
        let plan = self.plans.get(name).ok_or_else(no_site)?;
        let revoked = plan.credentials.peer().name;
        let list = self.authority.revoke(&revoked, Actor::Node, self.clock.now())?;
        let node = self.node(told).ok_or_else(|| LabError::NoSite(told.to_owned()))?;
        // It is newer than any other: nothing can be wrong with it.
        let _ = node.credentials().learn_revocations(list.der());
        Ok(())
    }

    /// An invitation of `name` for an hour, by the authority's node.
    ///
    /// # Errors
    /// When no authority answers in this lab, or the name is not one.
    pub fn invite(&self, name: &str) -> Result<Invitation, LabError> {
        let no_site = || LabError::NoSite(name.to_owned());
        let authority = self.dates.authority.as_ref().ok_or_else(no_site)?;
        let address = SocketAddr::new(self.topology.find(authority).ok_or_else(no_site)?, PORT);
        let attributes = Attributes::entry(name.parse().map_err(|_| no_site())?);
        let invitation = Invitation {
            addresses: vec![address],
            names: Vec::new(),
            authority: authority.parse().map_err(|_| no_site())?,
            fingerprint: self.authority.fingerprint(),
            token: Token::from_random(self.chance.draw()),
            name: attributes.name.clone(),
            expires: self.clock.now().as_secs() + 3600,
        };
        let granted = Granted { attributes, expires: invitation.expires, by_dashboard: false };
        let invitations = PendingInvitations::new(&NodeDir::at(self.folder.path()));
        invitations.add(&invitation.token, &granted, self.clock.now())?;
        Ok(invitation)
    }

    /// The clock that shows the right time, as the authority's.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The clock by which a node judges certificates; `None` if there is no such node.
    #[must_use]
    pub fn clock_of(&self, name: &str) -> Option<&Clock> {
        self.plans.get(name).map(|plan| plan.credentials.clock())
    }

    /// Changes what a node will be from its next start on, as an edited configuration does.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn edit(&mut self, name: &str, change: impl FnOnce(&mut LabNode)) -> Result<(), LabError> {
        let plan = self.plans.get_mut(name).ok_or_else(|| LabError::NoSite(name.to_owned()))?;
        change(&mut plan.node);
        Ok(())
    }

    /// Gives a node another key and certificate from its next start on, as joining anew does.
    ///
    /// # Errors
    /// When there is no such node, or no certificate can be made.
    pub fn rekey(&mut self, name: &str) -> Result<(), LabError> {
        let no_site = || LabError::NoSite(name.to_owned());
        let plan = self.plans.get_mut(name).ok_or_else(no_site)?;
        let now = self.clock.now();
        self.authority.revoke(&plan.credentials.peer().name, Actor::Node, now)?;
        let identity = certify(&self.authority, &plan.node, now)?;
        plan.credentials = Credentials::new(identity, plan.credentials.clock().clone())?;
        Ok(())
    }

    /// An identity of the lab's overlay for a peer that is no node of the lab: tests of hostile
    /// members speak the protocol by hand.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn certify(&self, plan: &LabNode) -> Result<Credentials, LabError> {
        let identity = certify(&self.authority, plan, self.clock.now())?;
        Ok(Credentials::new(identity, self.clock.clone())?)
    }

    /// What a node shows others to prove who it is; for tests of members that keep an old one.
    #[must_use]
    pub fn credentials(&self, name: &str) -> Option<&Credentials> {
        self.plans.get(name).map(|plan| &plan.credentials)
    }

    /// Kills a node: its socket is gone before it can say goodbye.
    pub fn crash(&mut self, name: &str) {
        if let Some((_, cable)) = self.nodes.remove(name) {
            cable.pull();
        }
    }

    /// The addresses that every node is told at its start.
    fn members(&self) -> Vec<MemberInfo> {
        let told = self.plans.values().filter_map(|Plan { node, credentials }| {
            let address = SocketAddr::new(self.topology.find(&node.name)?, PORT);
            let addresses = dialled_at(node, address);
            let key = StatementKey::of(&credentials.identity().chain()[0]).ok();
            Some(MemberInfo { name: credentials.peer().name, addresses, key })
        });
        told.collect()
    }

    /// The node of this name, if it runs.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).map(|(node, _)| &**node)
    }

    /// The library's handle on the node of this name, if it runs, as if it had been
    /// [opened](crate::Node::open). The node goes on when the handle is dropped.
    #[must_use]
    pub fn open(&self, name: &str) -> Option<crate::Node> {
        self.nodes.get(name).map(|(node, _)| crate::Node::of(node.clone()))
    }

    /// The running nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(name, (node, _))| (name.as_str(), &**node))
    }

    /// The Internet between the nodes.
    #[must_use]
    pub fn internet(&self) -> &Internet {
        &self.internet
    }

    /// The sites.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Whether every running node has a link to every other.
    #[must_use]
    pub fn is_meshed(&self) -> bool {
        let others = self.nodes.len() - 1;
        self.nodes.values().all(|(node, _)| node.mesh().links().all().len() >= others)
    }

    /// Stops all nodes in order.
    pub async fn stop(mut self) {
        while let Some((_, (node, _))) = self.nodes.pop_first() {
            node.stop().await;
        }
    }
}

/// Where others can dial the node.
fn dialled_at(plan: &LabNode, address: SocketAddr) -> Vec<SocketAddr> {
    if plan.nat.is_some() { Vec::new() } else { vec![address] }
}

fn certify(authority: &Authority, node: &LabNode, now: UnixTime) -> Result<NodeIdentity, LabError> {
    let attributes = Attributes {
        name: node.name.parse().map_err(|_| LabError::NoSite(node.name.clone()))?,
        roles: node.roles,
        groups: node.groups.clone(),
        serves: node.serves.clone(),
    };
    let key = NodeKey::generate()?;
    let by = (Deed::Join, Actor::Node);
    let chain = authority.issue(&key.signing_request()?, &attributes, by, now)?;
    Ok(NodeIdentity::new(&key, chain, authority.revocations()?.der())?)
}
