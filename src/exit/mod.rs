//! The exit: policy, resolution and connection for each flow.
//!
//! ```text
//! target → pinned name? → rules → place → resolve → policy for each address → connect
//! ```
//!
//! Datagrams (`datagrams`) take the same way, but for the connection: see there.
//!
//! - [`Policy`] is pure and checks twice, before and after resolution. The connection goes to an
//!   address that was checked, so a name server cannot give one answer to the policy and another to
//!   the connection.
//! - Only [`Config::allow_private`] exempts addresses from the built-in list of private and special
//!   addresses, and from the list of the exit's own addresses. (A public address of a NAT in front
//!   of the exit is not known here: deny its `cidr`.)
//! - The caller has authenticated the entry. This module trusts its name and groups, and nothing
//!   else that it sent.

mod cache;
mod config;
mod connect;
mod datagrams;
mod destinations;
mod permit;
mod policy;
mod ranges;
mod resolve;
mod rule;
mod system;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

pub(crate) use config::Config;
pub(crate) use permit::{ExitFlow, ExitPermit};
pub(crate) use policy::{DenialReason, Policy, PolicyDenial};
#[cfg(test)]
pub(crate) use resolve::StaticResolver;
pub(crate) use resolve::{ResolveError, Resolver};
pub(crate) use rule::Rule;
pub(crate) use system::SystemResolver;

use crate::{
    flow::{Host, Judgement, Refusal, RefusalKind, Target},
    identity::NodeName,
    live::Live,
    turns::{Limits, Turns},
};

/// Look-ups of entries. Of one: a page of 16 sites at once; each holds up to four sockets. Behind 16
/// silent names of 7 s each, the last of 64 that wait would wait longer than its flow does. In all: 16
/// entries may use their whole share at once.
const LOOK_UPS: Limits = Limits { each: 16, waiting: 64, in_all: 256 };

/// Opens connections for the flows of other nodes.
#[derive(Debug)]
pub struct Exit {
    config: Config,
    policy: Live<Policy>,
    resolver: Arc<dyn Resolver>,
    pinned: HashMap<String, SocketAddr>,
    turns: Turns<NodeName>,
    limits: permit::Limits,
    associations: datagrams::Associations,
    denials: Mutex<BTreeMap<&'static str, u64>>,
}

/// What an exit is doing, for the status page and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExitSnapshot {
    /// Flows that are open or being opened.
    pub flows: usize,
    /// Flows the policy denied since the start, by [`DenialReason::name`].
    pub denials: BTreeMap<&'static str, u64>,
}

impl Exit {
    /// An exit with this configuration, which resolves names through `resolver`.
    #[must_use]
    pub fn new(config: Config, resolver: Arc<dyn Resolver>) -> Self {
        Self {
            policy: Live::new(Policy::new(&config)),
            limits: permit::Limits::new(config.max_flows, config.max_flows_per_entry),
            associations: datagrams::Associations::new(config.max_associations_per_entry),
            config,
            resolver,
            turns: Turns::new(LOOK_UPS),
            pinned: HashMap::new(),
            denials: Mutex::default(),
        }
    }

    /// How many flows of one entry it carries.
    #[must_use]
    pub fn flows_per_entry(&self) -> usize {
        self.config.max_flows_per_entry
    }

    /// Puts the parts of `config` into force that can change while the exit runs: `allow`, `deny` and
    /// `allow_private` for flows that open from now on and for all later datagrams, and
    /// `max_associations_per_entry` for new associations.
    pub fn reload(&self, config: &Config) {
        self.policy.set(Policy::new(config));
        self.associations.set_limit(config.max_associations_per_entry);
    }

    /// Gives each of these names a fixed address, for every port.
    ///
    /// The names (lower case, no trailing dot) are not resolved, and their addresses are exempt
    /// from the built-in list of private addresses; the operator's rules still hold, for the name
    /// and for the port asked for. The configuration cannot do this. The demo uses it to put a
    /// campus web server, which listens on loopback, behind its exit.
    #[must_use]
    pub fn with_pinned(mut self, names: HashMap<String, SocketAddr>) -> Self {
        self.pinned = names;
        self
    }

    /// Connects to `target` for the entry `peer_name`, whose certificate names `groups`.
    ///
    /// Returns the connection, the address it leads to, and the flow's place among the exit's
    /// limits, to be kept as long as the flow lives. Ends within [`Config::connect_timeout`];
    /// dropping the future gives everything back.
    ///
    /// # Errors
    /// - [`RefusalKind::NotAnExit`] when the node is no exit;
    /// - [`RefusalKind::Policy`] when its policy denies the request or every address of the name;
    /// - [`RefusalKind::Overloaded`] when a limit on flows is reached;
    /// - [`RefusalKind::NameNotFound`], [`RefusalKind::TimedOut`],
    ///   [`RefusalKind::ConnectionRefused`] or [`RefusalKind::Unreachable`] as it happened;
    /// - [`RefusalKind::Protocol`] when the target is none (it came from a peer).
    pub async fn open(
        &self,
        peer_name: &NodeName,
        groups: &[String],
        target: &Target,
    ) -> Result<(TcpStream, SocketAddr, ExitPermit), Refusal> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let result = self.open_until(deadline, peer_name, groups, target).await;
        if let Err(refusal) = &result {
            tracing::debug!(entry = %peer_name, %refusal, "flow refused at the exit");
        }
        result
    }

    /// A place for a flow of the entry `peer_name` to `target`, a name that a program on this node serves.
    /// Of the policy only the `deny` rules concern it.
    ///
    /// # Errors
    /// [`RefusalKind::NotAnExit`], [`RefusalKind::Policy`] or [`RefusalKind::Overloaded`].
    pub fn admit(
        &self,
        peer_name: &NodeName,
        groups: &[String],
        target: &Target,
    ) -> Result<ExitPermit, Refusal> {
        let judged = self.policy.get().check_denied(groups, &target.host, target.port);
        judged.map_err(|denial| self.denied(denial))?;
        let permit = self.limits.admit(peer_name)?;
        permit.set_target(target);
        Ok(permit)
    }

    /// Whether the policy allows a flow of an entry in `groups` to `target`. Resolves, connects and counts
    /// nothing. `served`: a program on this node serves the name, as in [`Self::admit`].
    ///
    /// # Errors
    /// As [`Self::open`] for the policy and the target.
    pub async fn would_carry(
        &self,
        groups: &[String],
        target: &Target,
        served: bool,
    ) -> Result<Judgement, Refusal> {
        let Target { host, port } = parsed(target)?;
        let policy = self.policy.get();
        if served {
            policy.check_denied(groups, &host, port)?;
            return Ok(Judgement::Allowed);
        }
        policy.check_name(groups, &host, port)?;
        match (self.pinned_addr(&host), &host) {
            (Some(pinned), _) => policy.check_rules(groups, &host, pinned.ip(), port)?,
            (None, Host::Name(_)) => return Ok(Judgement::DependsOnAddress),
            (None, Host::Ip(ip)) => {
                let judged = self.judge(groups, &host, (*ip, port).into()).await;
                if let Some(denial) = judged.map_err(|error| Refusal::from_connect_error(&error))? {
                    return Err(denial.into());
                }
            }
        }
        Ok(Judgement::Allowed)
    }

    /// The flows that leave here; with their destinations if they may be shown.
    #[must_use]
    pub fn flows(&self, with_targets: bool) -> Vec<ExitFlow> {
        self.limits.flows(with_targets)
    }

    /// Counts for the status page.
    #[must_use]
    pub fn snapshot(&self) -> ExitSnapshot {
        let denials = self.denials.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ExitSnapshot { flows: self.limits.taken(), denials }
    }

    async fn open_until(
        &self,
        deadline: Instant,
        peer_name: &NodeName,
        groups: &[String],
        target: &Target,
    ) -> Result<(TcpStream, SocketAddr, ExitPermit), Refusal> {
        let target = self.checked(groups, target)?;
        let permit = self.limits.admit(peer_name)?;
        permit.set_target(&target);
        let addrs = self.addresses(deadline, peer_name, groups, &target).await?;
        let (stream, addr) = connect::first(&addrs, deadline, connect::tcp).await?;
        Ok((stream, addr, permit))
    }

    /// The target, if the policy does not deny it before its name is resolved.
    fn checked(&self, groups: &[String], target: &Target) -> Result<Target, Refusal> {
        let target = parsed(target)?;
        let checked = self.policy.get().check_name(groups, &target.host, target.port);
        checked.map_err(|denial| self.denied(denial))?;
        Ok(target)
    }

    /// The addresses of the target that the policy allows, best first; at least one.
    async fn addresses(
        &self,
        deadline: Instant,
        entry: &NodeName,
        groups: &[String],
        Target { host, port }: &Target,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        match self.pinned_addr(host) {
            Some(addr) => {
                let judged = self.policy.get().check_rules(groups, host, addr.ip(), *port);
                judged.map_err(|denial| self.denied(denial))?;
                Ok(vec![addr])
            }
            None => {
                let ips = self.resolve(deadline, entry, host).await?;
                self.admitted(groups, host, resolve::endpoints(ips, *port)).await
            }
        }
    }

    fn pinned_addr(&self, host: &Host) -> Option<SocketAddr> {
        match host {
            Host::Name(name) => self.pinned.get(name).copied(),
            Host::Ip(_) => None,
        }
    }

    async fn resolve(
        &self,
        deadline: Instant,
        entry: &NodeName,
        host: &Host,
    ) -> Result<Vec<IpAddr>, Refusal> {
        let name = match host {
            Host::Ip(ip) => return Ok(vec![*ip]),
            Host::Name(name) => name,
        };
        let lookup = async {
            let _turn = self.turns.next(entry).await.ok_or_else(|| {
                let detail = format!("the exit resolves its limit of names for {entry}");
                Refusal::new(RefusalKind::Overloaded, detail)
            })?;
            Ok(self.resolver.resolve(name).await?)
        };
        match timeout_at(deadline, lookup).await {
            Ok(answer) => answer,
            Err(_) => Err(ResolveError::TimedOut(name.clone()).into()),
        }
    }

    /// The addresses that the policy allows; if there is none, the denial of the first one.
    async fn admitted(
        &self,
        groups: &[String],
        host: &Host,
        addrs: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let mut admitted = Vec::new();
        let mut first_denial = None;
        for addr in addrs {
            match self.judge(groups, host, addr).await {
                Ok(None) => admitted.push(addr),
                Ok(Some(denial)) => {
                    first_denial.get_or_insert(denial);
                }
                Err(error) => return Err(Refusal::from_connect_error(&error)),
            }
        }
        match (admitted.is_empty(), first_denial) {
            (true, Some(denial)) => Err(self.denied(denial)),
            (true, None) => {
                Err(Refusal::new(RefusalKind::NameNotFound, format!("{host} has no address")))
            }
            (false, _) => Ok(admitted),
        }
    }

    /// Why `addr` is denied; `None` admits it.
    async fn judge(
        &self,
        groups: &[String],
        host: &Host,
        addr: SocketAddr,
    ) -> io::Result<Option<PolicyDenial>> {
        let (ip, port) = (addr.ip(), addr.port());
        let policy = self.policy.get();
        if let Err(denial) = policy.check_addr(groups, host, ip, port) {
            return Ok(Some(denial));
        }
        let reason = DenialReason::OwnAddress;
        if policy.is_exempt(reason, ip) || !connect::is_own(addr).await? {
            return Ok(None);
        }
        Ok(Some(PolicyDenial { reason, host: host.clone(), ip: Some(ip), port }))
    }

    /// Counts a denial and returns it as the answer.
    fn denied(&self, denial: PolicyDenial) -> Refusal {
        self.count_denial(denial.reason);
        denial.into()
    }

    fn count_denial(&self, reason: DenialReason) {
        let mut denials = self.denials.lock().unwrap_or_else(PoisonError::into_inner);
        *denials.entry(reason.name()).or_default() += 1;
    }
}

/// A target that came from a peer, parsed again, so that the rules see names in one spelling.
fn parsed(target: &Target) -> Result<Target, Refusal> {
    let parsed = Target::new(&target.host.to_string(), target.port);
    parsed.map_err(|error| Refusal::new(RefusalKind::Protocol, error.to_string()))
}

#[cfg(test)]
mod tests;
