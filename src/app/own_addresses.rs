//! Keeps up with where this node and the node of the overlay's authority are found: names are resolved again, and this
//! machine's addresses looked at again.
//!
//! A name may change its address at any time, and fail. So what a name led to last stays in use until it leads
//! elsewhere, and a failure is said once. The name servers may lie: of a name few addresses are used, and only such as
//! the mesh would dial ([`Mesh::check_named`]).

use std::{
    collections::BTreeMap,
    fmt,
    future::pending,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::router_port::RouterPort;
use crate::{
    exit::Resolver,
    eyeballs::by_turns,
    flow::{Host, Target},
    identity::{Credentials, NodeName},
    mesh::Mesh,
    underlay::own_addresses,
};

/// Addresses of one name that are used: two of each family, for a machine that is moved.
const MAX_OF_NAME: usize = 4;

/// How often names are resolved while all is well. Answers are kept for their lifetime, up to 5 min.
const EVERY: Duration = Duration::from_secs(60);

/// The first pause after a failure, or while the authority's node has no link and is found by name. It doubles up to
/// [`EVERY`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// How often to look whether the authority's node has a link. It costs two look-ups in tables.
const LOOK_AT_LINK_EVERY: Duration = Duration::from_secs(1);

/// Where this node is found, as its configuration and its machine say, and names of the authority's node.
#[derive(Debug, Clone)]
pub struct OwnAddresses {
    /// Where its UDP socket is bound.
    pub listen: SocketAddr,
    /// The addresses and names at which others reach it; empty: those of its interfaces. They may change.
    pub advertise: watch::Sender<Vec<Target>>,
    /// Names of the node of the overlay's authority, besides those of the invitation.
    pub authority: Vec<Target>,
    /// Whether the router of this network is asked for a port that leads to `listen`, while nothing is advertised.
    pub map_port: bool,
    /// Resolves the names.
    pub(crate) resolver: Arc<dyn Resolver>,
}

impl OwnAddresses {
    /// The addresses to begin with, known without a name server.
    #[must_use]
    pub fn at_first(&self) -> Vec<SocketAddr> {
        self.with_names(&self.advertise.borrow(), &[], None)
    }

    /// All of them, if the names in `advertise` lead to `named`, and the router passes on what comes to `mapped`. Where names
    /// only are configured and lead nowhere, they are those of this machine.
    fn with_names(
        &self,
        advertise: &[Target],
        named: &[SocketAddr],
        mapped: Option<SocketAddr>,
    ) -> Vec<SocketAddr> {
        let mut all: Vec<_> = advertise.iter().filter_map(Target::address).collect();
        all.extend(named);
        if all.is_empty() && !self.listen.ip().is_unspecified() {
            all.push(self.listen);
        } else if all.is_empty() {
            let own = own_addresses(self.listen.ip()).into_iter();
            all.extend(own.map(|ip| SocketAddr::new(ip, self.listen.port())));
        }
        all.extend(mapped.filter(|_| advertise.is_empty()));
        without_repeats(all)
    }
}

/// What changes the addresses and names that a node advertises; without `own` nobody looks at it.
pub(super) fn advertised(own: Option<&OwnAddresses>) -> watch::Sender<Vec<Target>> {
    own.map(|own| own.advertise.clone()).unwrap_or_default()
}

/// Follows the addresses; never ends.
pub(super) async fn follow(
    own: OwnAddresses,
    router: watch::Receiver<RouterPort>,
    mesh: Arc<Mesh>,
    credentials: Credentials,
) {
    let (advertise, moves) = (own.advertise.subscribe(), mesh.moves());
    let names = BTreeMap::new();
    let mut follower = Follower { own, advertise, moves, router, mesh, credentials, names };
    let mut pause = FIRST_PAUSE;
    loop {
        let settled = follower.look().await;
        let wait = if settled { EVERY } else { pause };
        pause = if settled { FIRST_PAUSE } else { (pause * 2).min(EVERY) };
        if timeout(wait, follower.news(settled)).await.is_ok() {
            pause = FIRST_PAUSE;
        }
    }
}

struct Follower {
    own: OwnAddresses,
    /// What is advertised, and whether it has changed since the last look.
    advertise: watch::Receiver<Vec<Target>>,
    /// Whether the machine has moved since the last look.
    moves: watch::Receiver<()>,
    /// What the router passes on, and whether that has changed.
    router: watch::Receiver<RouterPort>,
    mesh: Arc<Mesh>,
    credentials: Credentials,
    names: BTreeMap<Target, Found>,
}

/// What is known of a name.
#[derive(Debug, Default, PartialEq)]
struct Found {
    addresses: Vec<SocketAddr>,
    /// What was said last of it: a failure, or an address that is not used.
    trouble: Option<String>,
}

impl Follower {
    /// Returns when this machine's addresses may be others, others are advertised, or the authority's node is to be
    /// looked for again.
    async fn news(&self, settled: bool) {
        // What `look` has seen is no news to copies either.
        let (mut advertise, mut moves) = (self.advertise.clone(), self.moves.clone());
        let mut router = self.router.clone();
        let lost = async {
            let Some((authority, _)) = self.authority().filter(|_| settled) else {
                return pending().await;
            };
            while self.mesh.reaches(&authority) {
                sleep(LOOK_AT_LINK_EVERY).await;
            }
        };
        tokio::select! {
            // A sender that is gone tells nothing more.
            Ok(()) = moves.changed() => {}
            Ok(()) = advertise.changed() => {}
            Ok(()) = router.changed() => {}
            () = lost => {}
        }
    }

    /// Looks once. False if it is to look again soon.
    async fn look(&mut self) -> bool {
        let missing = self.authority().filter(|(authority, _)| !self.mesh.reaches(authority));
        let theirs = missing.iter().flat_map(|(_, names)| names);
        let own = self.advertise.borrow_and_update().clone();
        let mapped = self.router.borrow_and_update().address();
        self.moves.mark_unchanged();
        let failed = self.resolve(own.iter().chain(theirs)).await;
        let told = self.own.with_names(&own, &self.leads_to(&own), mapped);
        if self.mesh.set_own_addresses(&told) {
            tracing::info!(addresses = %Shown(&told), "this node advertises other addresses now");
        }
        if let Some((authority, names)) = &missing {
            let named = self.leads_to(names);
            if !named.is_empty() {
                self.credentials.seen_at(authority, &named);
                self.mesh.named(authority, &named);
            }
        }
        // A name that is advertised no more is forgotten.
        let theirs = self.authority().map(|(_, names)| names).unwrap_or_default();
        self.names.retain(|name, _| own.contains(name) || theirs.contains(name));
        !failed && missing.is_none()
    }

    /// The authority's node and its names; nothing if it has none.
    fn authority(&self) -> Option<(NodeName, Vec<Target>)> {
        let contact = self.credentials.authority()?;
        let written = self.own.authority.iter().filter(|place| place.address().is_none());
        let names: Vec<_> = written.chain(&contact.names).cloned().collect();
        (!names.is_empty()).then_some((contact.name, names))
    }

    /// The addresses to which names lead.
    fn leads_to(&self, names: &[Target]) -> Vec<SocketAddr> {
        let found = names.iter().filter_map(|name| self.names.get(name));
        without_repeats(found.flat_map(|found| found.addresses.clone()))
    }

    /// Resolves names, all at once. True if one failed.
    async fn resolve(&mut self, names: impl Iterator<Item = &Target>) -> bool {
        let resolver = &self.own.resolver;
        let look_ups = names.filter_map(|target| match &target.host {
            Host::Name(name) => Some(async { (target.clone(), resolver.resolve(name).await) }),
            Host::Ip(_) => None,
        });
        let mut failed = false;
        for (name, answer) in join_all(look_ups).await {
            let found = self.names.entry(name.clone()).or_default();
            let trouble = match answer {
                Ok(ips) => {
                    let (used, refused) = usable(&self.mesh, &ips, name.port);
                    if !used.is_empty() {
                        found.addresses = used;
                    }
                    refused
                }
                Err(error) => {
                    failed = true;
                    Some(error.at_this_node())
                }
            };
            if let Some(trouble) = trouble.as_ref().filter(|_| found.trouble != trouble) {
                let in_use = Shown(&found.addresses);
                tracing::warn!(%name, %in_use, "{trouble}; the node looks again by itself");
            }
            found.trouble = trouble;
        }
        failed
    }
}

/// Of the addresses of a name at most 4 that may be dialled, those of both families in turn; and why one may not.
fn usable(mesh: &Mesh, ips: &[IpAddr], port: u16) -> (Vec<SocketAddr>, Option<String>) {
    let (mut used, mut trouble) = (Vec::new(), None);
    for ip in in_turn(ips) {
        let address = SocketAddr::new(ip, port);
        match mesh.check_named(address) {
            Ok(()) => used.push(address),
            Err(refusal) => {
                let reason = refusal.name();
                trouble.get_or_insert(format!("it leads to {ip}, which is not used ({reason})"));
            }
        }
    }
    used.truncate(MAX_OF_NAME);
    (used, trouble)
}

/// The first few addresses of a name, of both families.
#[cfg(feature = "cli")]
pub(crate) fn few_of(ips: &[IpAddr]) -> Vec<IpAddr> {
    let mut few = in_turn(ips);
    few.truncate(MAX_OF_NAME);
    few
}

/// The addresses in their order, but IPv6 and IPv4 by turns.
fn in_turn(ips: &[IpAddr]) -> Vec<IpAddr> {
    by_turns(ips.iter().map(IpAddr::to_canonical), IpAddr::is_ipv6)
}

fn without_repeats(all: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut once = Vec::new();
    for address in all {
        if !once.contains(&address) {
            once.push(address);
        }
    }
    once
}

/// Addresses in a line of the log.
struct Shown<'a>(&'a [SocketAddr]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(if all.is_empty() { "none" } else { "" })?;
        f.write_str(&all.join(" "))
    }
}

#[cfg(all(test, feature = "emulator"))]
#[path = "own_addresses_tests.rs"]
mod tests;
