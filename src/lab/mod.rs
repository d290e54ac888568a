//! A whole overlay in one process, on the emulated Internet: for the demo, tests and benchmarks.
//!
//! Its nodes are full nodes with real certificates, links and lanes; only the packets between them
//! and the services behind their exits are inside the process. Under tokio's paused clock it runs
//! in virtual time.

mod service;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;

pub use service::{Service, Services};

use crate::{
    app::{Node, NodeSettings, StartError},
    config::Rules,
    emulator::{Cable, Internet, Topology},
    entry,
    flow::RefusalKind,
    identity::{
        Attributes, Authority, AuthorityError, IdentityError, LIFETIME, NodeDir, NodeIdentity,
        NodeKey, Roles, StoreError, UnixTime,
    },
    mesh::RelayConfig,
    overlay::{budget::DEFAULT_BUDGET, policy::Policy},
    transport::{Congestion, LaneOptions},
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
    /// Its local proxy, on a real port; `None`: no proxy.
    pub entry: Option<entry::Config>,
    /// Its routing rules.
    pub rules: Rules,
    /// Its policy on links and relays.
    pub policy: Policy,
    /// What it forwards for each neighbour at most, in bytes per second; `None`: no limit.
    pub forwarding_limit: Option<u64>,
    /// The outside address of the NAT it is behind; `None`: it can be dialled.
    pub nat: Option<IpAddr>,
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
            entry: None,
            rules: Rules::default(),
            policy: Policy::default(),
            forwarding_limit: None,
            nat: None,
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
    /// A node did not start.
    #[error("node {0}: {1}")]
    Start(String, #[source] StartError),
    /// A node's name is not a node name, or no site of the topology.
    #[error("{0} is no site of the topology")]
    NoSite(String),
}

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    internet: Internet,
    topology: Topology,
    plans: BTreeMap<String, (LabNode, NodeIdentity)>,
    nodes: BTreeMap<String, (Node, Cable)>,
    services: Services,
    congestion: Congestion,
    authority: Authority,
    _folder: TempDir,
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
        let folder = tempfile::tempdir()?;
        let dir = NodeDir::at(folder.path());
        dir.begin()?;
        let now = UnixTime::now();
        let authority = Authority::create(&dir, now)?;
        let mut plans = BTreeMap::new();
        for node in nodes {
            let identity = certify(&authority, &node, now)?;
            plans.insert(node.name.clone(), (node, identity));
        }
        let internet = topology.build(seed);
        for (plan, _) in plans.values() {
            let (Some(nat), Some(host)) = (plan.nat, topology.find(&plan.name)) else { continue };
            internet.nat(host, nat);
        }
        let nodes = BTreeMap::new();
        let mut lab = Self {
            internet,
            topology,
            plans,
            nodes,
            services,
            congestion,
            authority,
            _folder: folder,
        };
        let names: Vec<String> = lab.plans.keys().cloned().collect();
        for name in names {
            lab.restart(&name).await?;
        }
        Ok(lab)
    }

    /// Starts a node anew: like a process that was killed and started again.
    ///
    /// # Errors
    /// When it cannot start.
    pub async fn restart(&mut self, name: &str) -> Result<(), LabError> {
        self.crash(name);
        let no_site = || LabError::NoSite(name.to_owned());
        let (plan, identity) = self.plans.get(name).ok_or_else(no_site)?;
        let address = SocketAddr::new(self.topology.find(name).ok_or_else(no_site)?, PORT);
        let settings = NodeSettings {
            identity: identity.clone(),
            addresses: dialled_at(plan, address),
            members: self.members(),
            entry: plan.entry.clone(),
            rules: plan.rules.clone(),
            acceptor: Arc::new(self.services.clone().refusing(plan.refuses)),
            exit: plan.exit_enabled,
            relay: RelayConfig { enabled: true, rate_limit: plan.forwarding_limit },
            policy: plan.policy.clone(),
            probe_budget: DEFAULT_BUDGET,
            lane: LaneOptions { congestion: self.congestion, ..LaneOptions::default() },
            desk: None,
        };
        let (socket, cable) = self.internet.plug_in(address);
        let node = Node::start(settings, socket, DRAIN)
            .await
            .map_err(|error| LabError::Start(name.to_owned(), error))?;
        self.nodes.insert(name.to_owned(), (node, cable));
        Ok(())
    }

    /// Changes what a node will be from its next start on, as an edited configuration does.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn edit(&mut self, name: &str, change: impl FnOnce(&mut LabNode)) -> Result<(), LabError> {
        let (plan, _) =
            self.plans.get_mut(name).ok_or_else(|| LabError::NoSite(name.to_owned()))?;
        change(plan);
        Ok(())
    }

    /// Gives a node another key and certificate from its next start on, as joining anew does.
    ///
    /// # Errors
    /// When there is no such node, or no certificate can be made.
    pub fn rekey(&mut self, name: &str) -> Result<(), LabError> {
        let no_site = || LabError::NoSite(name.to_owned());
        let (plan, identity) = self.plans.get_mut(name).ok_or_else(no_site)?;
        let now = UnixTime::now();
        self.authority.revoke(identity.name(), now)?;
        *identity = certify(&self.authority, plan, now)?;
        Ok(())
    }

    /// An identity of the lab's overlay for a peer that is no node of the lab: tests of hostile
    /// members speak the protocol by hand.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn certify(&self, plan: &LabNode) -> Result<NodeIdentity, LabError> {
        certify(&self.authority, plan, UnixTime::now())
    }

    /// Kills a node: its socket is gone before it can say goodbye.
    pub fn crash(&mut self, name: &str) {
        if let Some((_, cable)) = self.nodes.remove(name) {
            cable.pull();
        }
    }

    /// The addresses that every node is told at its start.
    fn members(&self) -> Vec<crate::identity::MemberInfo> {
        let told = self.plans.values().filter_map(|(plan, identity)| {
            let address = SocketAddr::new(self.topology.find(&plan.name)?, PORT);
            Some(crate::identity::MemberInfo {
                name: identity.name().clone(),
                addresses: dialled_at(plan, address),
                roles: plan.roles,
            })
        });
        told.collect()
    }

    /// The node of this name, if it runs.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).map(|(node, _)| node)
    }

    /// The running nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(name, (node, _))| (name.as_str(), node))
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
    let chain = authority.issue(&key.signing_request()?, &attributes, LIFETIME, now)?;
    Ok(NodeIdentity::new(&key, chain, authority.revocations()?.der())?)
}
