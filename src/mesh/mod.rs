//! The mesh: the shell around the pure [`overlay`](crate::overlay) core.
//!
//! It keeps a link to every member, answers neighbours' requests, grants labels as a relay, and
//! tells lanes which route to take and how to get onto it.

mod address;
mod arrival;
mod attest;
mod certificates;
mod control;
mod dial;
mod dials;
mod fallback;
mod known;
mod lanes;
mod measure;
mod members;
mod networks;
mod nonces;
mod outside;
mod own;
mod ping;
mod questions;
mod race;
mod reach;
mod record;
mod relay;
mod renewal;
mod requests;
mod service;
mod share;
mod trial;
mod trials;
mod trust;
mod unanswered;
mod waiting;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use noq::{ClientConfig, Connection, Endpoint, UdpSender};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

pub use address::AddressRefusal;
pub(crate) use address::{is_of_internet, is_public};
pub(crate) use fallback::HEAD_START as UDP_HEAD_START;
pub use members::{MAX_MEMBERS, MemberFacts, Members};
pub use ping::PingFailure;
pub(crate) use race::{HEAD_START as FAMILY_HEAD_START, families};
pub use reach::ReachFacts;
#[cfg(feature = "cli")]
pub(crate) use reach::to_try;
pub use record::MemberRecord;
pub use relay::RelayConfig;
pub use renewal::CertificateDesk;
pub use share::SharedFacts;
pub use trust::Ended;

use self::{address::check_form, attest::Attestations, fallback::Ways, outside::Outside};
use crate::{
    carrier::StreamDialler,
    events::Events,
    identity::{Credentials, MemberInfo, NodeName, Peer},
    lane::LaneHost,
    link::{Buckets, Link, Links, LogLimit},
    live::Live,
    overlay::{
        budget::Plan,
        linkstate::{Flood, MAX_NODES, ReportedState, Roles},
        monitor::{LinkState, LinkSummary},
        policy::Policy,
        router::Router,
        units::{Bitrate, LossRate},
    },
    transport::{Claim, Knock},
    underlay::Switch,
    wire::{link::Hello, reach::is_stream_mark},
};

/// What the mesh needs to know about its node.
pub struct MeshConfig {
    /// Who we are: our certificate, the key that signs our advertisements, and whom we trust.
    pub credentials: Credentials,
    /// Where others can dial us, as far as this node knows by itself; empty behind a NAT.
    pub addresses: Vec<SocketAddr>,
    /// The TCP port at which others reach our streams, at the same IP addresses.
    pub stream_port: Option<u16>,
    /// Dials streams; `None`: links are over UDP only.
    pub streams: Option<StreamDialler>,
    /// Whether links may be over UDP.
    pub udp: bool,
    /// Where the UDP socket is bound on this machine, whose routes then say what it reaches; `None`: it is
    /// none of this machine and reaches everything.
    pub bound: Option<IpAddr>,
    /// The TLS configuration for dialling links.
    pub link_client: ClientConfig,
    /// The relay role.
    pub relay: RelayConfig,
    /// Whether the node is an exit now: its certificate grants it and its configuration enables it.
    pub exit: bool,
    /// Which flows may use which links and relays.
    pub policy: Policy,
    /// How it measures.
    pub probing: Probing,
    /// Where it records what happens.
    pub events: Arc<Events>,
    /// Sends datagrams of the node's socket past QUIC.
    pub sender: Pin<Box<dyn UdpSender>>,
}

/// How a node measures the paths to others.
#[derive(Debug, Clone, Default)]
pub struct Probing {
    /// What probes and advertisements together may send.
    pub budget: Bitrate,
    /// The other nodes of its site, with which it shares what it measures.
    pub share_with: Vec<NodeName>,
}

/// The mesh of one node.
pub struct Mesh {
    us: Peer,
    exit: bool,
    events: Arc<Events>,
    credentials: Credentials,
    /// Drawn at random; tells this process from an earlier one.
    incarnation: u64,
    /// Where others can dial us, as this node knows by itself.
    configured: Live<Vec<SocketAddr>>,
    stream_port: Option<u16>,
    streams: Option<StreamDialler>,
    bound: Option<IpAddr>,
    /// Where UDP was found blocked.
    networks: Mutex<networks::Networks>,
    endpoint: Endpoint,
    link_client: ClientConfig,
    relay: relay::Relay,
    switch: Arc<Switch>,
    links: Links,
    members: Mutex<Members>,
    /// Whose coming and going was recorded.
    known: Mutex<known::Known>,
    routing: Mutex<Router>,
    attestations: Attestations,
    /// Where neighbours see us.
    outside: Mutex<Outside>,
    /// Our last advertisement and when it was made, for neighbours to come.
    own_record: Mutex<Option<(Flood, tokio::time::Instant)>>,
    lane_requests: lanes::LaneRequests,
    /// How often relays are asked because of each far end.
    asks: Mutex<Buckets>,
    nonces: nonces::Nonces,
    /// Wakes the measuring task: something changed that its next deadline depends on.
    news: Notify,
    /// Wakes the dialling task: somebody is to be dialled now.
    dial_news: Notify,
    /// Tells who follows this machine's addresses that they may be others now.
    moves: watch::Sender<()>,
    /// Which lines about dials are due.
    dial_lines: Mutex<LogLimit>,
    /// Tells flows that wait that a route may have come up.
    route_news: watch::Sender<()>,
    looked_at_network: Mutex<Option<tokio::time::Instant>>,
    host: OnceLock<Arc<LaneHost>>,
    desk: OnceLock<Arc<dyn CertificateDesk>>,
    /// Held while what belongs to revoked nodes is taken away, so that a link that is taken up
    /// afterwards is not taken for theirs.
    expelling: Mutex<()>,
    /// The connection of each neighbour that it measures beside its link.
    hosted: Mutex<BTreeMap<NodeName, Connection>>,
    /// Held while it is tried what passes to members.
    reaching: tokio::sync::Mutex<()>,
}

/// A link between two other nodes, as one of them advertises it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FarLink {
    /// The node that says so.
    pub from: NodeName,
    /// The other one.
    pub to: NodeName,
    /// Whether the path is up.
    pub up: bool,
    /// The round-trip time in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Loss towards `to` in percent.
    pub loss_out_percent: Option<f64>,
}

/// What listings show of a carrier that a link does not go over.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CarrierFacts {
    /// `udp`, or `tls` for a stream (TLS on TCP).
    pub carrier: String,
    /// Smoothed round-trip time in milliseconds, by probes.
    pub rtt_ms: f64,
    /// Exchanges that were lost in percent: either way. On a stream, where nothing is lost, those that were late.
    pub loss_percent: f64,
    /// Seconds since it was measured.
    pub age_seconds: u64,
}

impl CarrierFacts {
    fn of(measured: &trials::Measured, now: std::time::Instant) -> Self {
        Self {
            carrier: measured.carrier.name().to_owned(),
            rtt_ms: measured.metrics.rtt.as_secs_f64() * 1e3,
            loss_percent: measured.metrics.round_trip_loss().fraction() * 100.0,
            age_seconds: now.saturating_duration_since(measured.at).as_secs(),
        }
    }
}

/// What listings show of a link.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LinkFacts {
    /// The neighbour.
    pub peer: NodeName,
    /// `up`, `down`, `recovering (n of 3)`, `unmeasured`, or `no link`.
    pub state: String,
    /// Whether the path is up.
    pub up: bool,
    /// The neighbour's address; `None` without a link.
    pub address: Option<SocketAddr>,
    /// `udp`, or `tls` for a stream (TLS on TCP); `None` without a link.
    pub carrier: Option<String>,
    /// The other carrier, if one of the two ends measured it beside the link in the last 11 min, as UDP loses much;
    /// `None` otherwise.
    pub other_carrier: Option<CarrierFacts>,
    /// Smoothed round-trip time in milliseconds, by probes; `None`: not measured yet.
    pub rtt_ms: Option<f64>,
    /// Loss towards the neighbour in percent; `None`: not measured yet.
    pub loss_out_percent: Option<f64>,
    /// Loss from the neighbour in percent; `None`: not measured yet.
    pub loss_in_percent: Option<f64>,
    /// What lanes of this node delivered to the neighbour directly, lately, in bits per second;
    /// `None` without traffic.
    pub delivered_bps: Option<u64>,
    /// The node of this site whose measurement the figures above are; `None`: they are this node's own.
    pub shared_by: Option<NodeName>,
    /// Seconds since that node measured them; `None` as for `shared_by`.
    pub shared_age_seconds: Option<u64>,
    /// Seconds in this state; `None`: there never was a link.
    pub since_seconds: Option<u64>,
    /// Control bytes sent and received on this link.
    pub control_bytes: (u64, u64),
    /// The mean rate of these since the link stands, both ways together, in bits per second;
    /// `None` without a link.
    pub control_bps: Option<u64>,
    /// Labels the neighbour holds here.
    pub labels: usize,
    /// Whether the neighbour is an exit now; before its advertisement arrives: may be one.
    pub exit: bool,
    /// The same of the relay role.
    pub relay: bool,
}

impl Mesh {
    /// A mesh without links.
    #[must_use]
    pub fn new(config: MeshConfig, endpoint: Endpoint, switch: Arc<Switch>) -> Arc<Self> {
        let credentials = config.credentials;
        let us = credentials.peer();
        let relaying = config.relay.enabled && us.roles.relay;
        let exit = config.exit && us.roles.exit;
        let role = |held: bool, role| if held { role } else { Roles::NONE };
        let does = role(exit, Roles::EXIT).with(role(relaying, Roles::RELAY));
        // Advertisements of a later process must win over those of an earlier one.
        let started = credentials.now().as_secs();
        let Probing { budget, share_with } = config.probing;
        let mut routing = Router::new(&us, does, started, config.policy, budget);
        routing.share_with(share_with);
        let mut members = Members::new(us.name.clone());
        let streams = config.streams.is_some();
        members.set_ways(Ways { udp: config.udp, streams, udp_blocked: false });
        let mesh = Arc::new(Self {
            stream_port: config.stream_port,
            streams: config.streams,
            bound: config.bound,
            networks: Mutex::default(),
            relay: relay::Relay::new(config.relay, us.roles.relay),
            routing: Mutex::new(routing),
            news: Notify::new(),
            dial_news: Notify::new(),
            moves: watch::Sender::new(()),
            dial_lines: Mutex::default(),
            route_news: watch::Sender::new(()),
            looked_at_network: Mutex::default(),
            incarnation: switch.chance().draw(),
            outside: Mutex::default(),
            own_record: Mutex::default(),
            configured: Live::new(config.addresses),
            endpoint,
            link_client: config.link_client,
            switch,
            links: Links::default(),
            known: Mutex::default(),
            members: Mutex::new(members),
            host: OnceLock::new(),
            exit,
            events: config.events,
            desk: OnceLock::new(),
            expelling: Mutex::default(),
            hosted: Mutex::default(),
            reaching: tokio::sync::Mutex::default(),
            attestations: Attestations::new(&credentials),
            lane_requests: lanes::LaneRequests::default(),
            asks: Mutex::new(Buckets::new(control::ASKS, MAX_NODES)),
            nonces: nonces::Nonces::new(config.sender),
            credentials,
            us,
        });
        mesh.routing().set_addresses(mesh.addresses(&[]));
        mesh
    }

    /// What this node says of itself on a new link.
    fn hello(&self) -> Hello {
        Hello {
            incarnation: self.incarnation,
            seen: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revocations: self.credentials.identity().revoked().number(),
            time: self.credentials.now().as_secs(),
        }
    }

    /// Makes this node host lanes: it is an exit.
    pub fn host_lanes(&self, host: Arc<LaneHost>) {
        // Called once, by the wiring; a second host would never be asked.
        let _ = self.host.set(host);
    }

    /// Who we are.
    #[must_use]
    pub fn us(&self) -> &Peer {
        &self.us
    }

    /// The links.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Takes what the last process wrote down: records, which are checked again, and in `told` the addresses
    /// that may be dialled, of members with a record and of those that the authority named when this node
    /// joined; in `blocked` the networks where UDP was found blocked.
    pub fn remember(&self, told: &[MemberInfo], records: &[MemberRecord], blocked: &[IpAddr]) {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner).remember(blocked);
        let now = tokio::time::Instant::now().into_std();
        let told = told.iter().take(MAX_MEMBERS).map(|info| (&info.name, info));
        let mut told: BTreeMap<_, _> = told.collect();
        let own = self.own_kinds();
        for record in records.iter().take(MAX_MEMBERS) {
            match self.attestations.check_record(record, self.credentials.now()) {
                Ok((peer, flood)) => {
                    let mut addresses = flood.advert.addresses;
                    // A record has all addresses that its member named, also those that were refused: which
                    // kinds this node has itself may not be known yet, as neighbours tell it.
                    let allowed = told.remove(&record.name);
                    addresses.retain(|address| match allowed {
                        Some(info) => info.addresses.contains(address) && is_tellable(*address),
                        None => is_stream_mark(*address) || own.check(*address).is_ok(),
                    });
                    self.members().remember(now, &peer, addresses, &Arc::new(record.clone()));
                }
                Err(error) => {
                    let reason = error.name();
                    tracing::info!(name = %record.name, reason, "a stored record of a member is not valid");
                }
            }
        }
        for info in told.values() {
            info.key.inspect(|key| self.attestations.told(&info.name, *key));
        }
        for info in told.into_values() {
            let addresses = info.addresses.iter().filter(|address| is_tellable(**address));
            let addresses = addresses.copied().collect();
            self.members().bootstrap(now, &MemberInfo { addresses, ..info.clone() });
        }
        // Its record may name the addresses of a machine that is lost.
        if let Some(contact) = self.credentials.authority()
            && let Some(last) = contact.addresses.iter().find(|at| check_form(**at).is_ok())
        {
            self.members().last_seen(now, &contact.name, *last);
        }
        self.expire();
    }

    /// What is to be written down for the next process: the addresses of members that may be dialled, and
    /// records.
    #[must_use]
    pub fn written_members(&self) -> (Vec<MemberInfo>, Vec<Arc<MemberRecord>>) {
        let (mut told, records) = self.members().written();
        for info in &mut told {
            info.key = self.attestations.key_of(&info.name);
        }
        (told, records)
    }

    /// The networks where UDP was found blocked, by this machine's addresses in them, for the next process.
    #[must_use]
    pub fn blocked_networks(&self) -> Vec<IpAddr> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner).blocked()
    }

    /// All other members that this node knows.
    #[must_use]
    pub fn known_members(&self) -> Vec<MemberFacts> {
        self.members().all()
    }

    /// Whether `name` is this node, or a member that it knows.
    #[must_use]
    pub fn knows(&self, name: &NodeName) -> bool {
        *name == self.us.name || self.members().get(name).is_some()
    }

    /// What this node shows when it dials the member `name`: who it is, if it knows the other's key.
    #[must_use]
    pub fn knock(&self, name: &NodeName) -> Knock {
        self.attestations.knock(name)
    }

    /// The member whose claim at the door this is.
    #[must_use]
    pub fn claimant(&self, claim: &Claim<'_>) -> Option<NodeName> {
        self.attestations.claimant(claim)
    }

    /// Takes the certificate of a member that joined just now.
    pub(crate) fn joined(&self, certificate: &CertificateDer<'static>) {
        if let Ok(peer) = Peer::from_certificate(certificate) {
            self.attestations.meet(&Arc::new(peer), certificate);
        }
    }

    /// What the authority tells a joiner: this node first, and the members with a certificate in force.
    #[must_use]
    pub fn members_for_joiner(&self) -> Vec<MemberInfo> {
        let us = (self.us.name.clone(), self.addresses(&[]));
        let known = self.known_members().into_iter().filter(|member| member.certified.is_some());
        let known = known.map(|member| (member.name, member.addresses));
        let told = std::iter::once(us).chain(known).map(|(name, addresses)| {
            let key = self.attestations.key_of(&name);
            MemberInfo { name, addresses, key }
        });
        told.take(MAX_MEMBERS).collect()
    }

    /// Takes away roles and advertisements of members whose certificate has ended.
    pub(crate) fn expire(&self) {
        let now = self.credentials.now();
        self.attestations.forget_ended(now);
        let ended = self.members().expire(now);
        for name in ended {
            tracing::info!(%name, "the member's certificate has ended");
            self.routing().forget(tokio::time::Instant::now().into_std(), &name);
        }
    }

    /// Where neighbours see this node.
    fn outside_addresses(&self) -> Vec<SocketAddr> {
        self.outside.lock().unwrap_or_else(PoisonError::into_inner).addresses()
    }

    /// What listings show: every member and the link to it, by name.
    #[must_use]
    pub fn facts(&self) -> Vec<LinkFacts> {
        let now = tokio::time::Instant::now().into_std();
        let measured = self.routing().links(now);
        let members = self.members().all();
        let facts = members.into_iter();
        facts.map(|member| self.facts_of(measured.get(&member.name), member, now)).collect()
    }

    /// The same of one member; `None` if it is not known.
    #[must_use]
    pub fn facts_of_link(&self, peer: &NodeName) -> Option<LinkFacts> {
        let now = tokio::time::Instant::now().into_std();
        let measured = self.routing().links(now);
        let known = self.members().get(peer);
        known.map(|member| self.facts_of(measured.get(peer), member, now))
    }

    fn facts_of(
        &self,
        measured: Option<&LinkSummary>,
        member: MemberFacts,
        now: std::time::Instant,
    ) -> LinkFacts {
        let (exit, relay, peer) = (member.is_exit(), member.is_relay(), member.name);
        let link = self.links.get(&peer);
        let does = self.routing().roles(now, &peer);
        let (shared_by, shared_age_seconds) = self.shared_by(&peer).unzip();
        let percent = |loss: LossRate| loss.fraction() * 100.0;
        let up = link.is_some() && measured.is_some_and(|m| m.state == LinkState::Up);
        LinkFacts {
            state: measured.map_or_else(|| "no link".to_owned(), |m| m.state.to_string()),
            up,
            address: link.as_ref().and_then(|link| link.real_address()),
            carrier: link.as_ref().map(|link| link.carrier().name().to_owned()),
            other_carrier: self.other_carrier(&peer),
            rtt_ms: measured.and_then(|m| m.rtt).map(|rtt| rtt.as_secs_f64() * 1e3),
            loss_out_percent: measured.and_then(|m| m.loss_out).map(percent),
            loss_in_percent: measured.and_then(|m| m.loss_in).map(percent),
            delivered_bps: measured.and_then(|m| m.delivered).map(Bitrate::bps),
            shared_by,
            shared_age_seconds,
            since_seconds: measured.map(|m| now.saturating_duration_since(m.since).as_secs()),
            control_bytes: link.as_ref().map_or((0, 0), |link| link.bytes()),
            control_bps: link.as_deref().and_then(control_rate),
            labels: self.switch.with_labels(|labels| labels.held_by(&peer)),
            exit: does.map_or(exit, |does| does.contains(Roles::EXIT)),
            relay: does.map_or(relay, |does| does.contains(Roles::RELAY)),
            peer,
        }
    }

    /// What is known of the carrier that the link to `peer` does not go over.
    #[must_use]
    pub fn other_carrier(&self, peer: &NodeName) -> Option<CarrierFacts> {
        let now = tokio::time::Instant::now().into_std();
        let other = self.members().trials(peer)?.other(now)?;
        Some(CarrierFacts::of(&other, now))
    }

    /// The links between other nodes, as they advertise them.
    #[must_use]
    pub fn far_links(&self) -> Vec<FarLink> {
        let now = tokio::time::Instant::now().into_std();
        let routing = self.routing();
        let adverts = routing.advertised(now).filter(|advert| advert.origin != self.us.name);
        let links = adverts.flat_map(|advert| {
            let others = advert.links.iter().filter(|link| link.peer != self.us.name);
            others.map(|link| {
                let metrics = link.metrics();
                FarLink {
                    from: advert.origin.clone(),
                    to: link.peer.clone(),
                    up: link.state == ReportedState::Up,
                    rtt_ms: metrics.map(|metrics| metrics.rtt.as_secs_f64() * 1e3),
                    loss_out_percent: metrics.map(|metrics| metrics.loss_out.fraction() * 100.0),
                }
            })
        });
        links.collect()
    }

    /// Judges which flows may use which links and relays by `policy` from now on: labels are judged when
    /// they are asked for and renewed, each 40 s.
    pub fn set_policy(&self, policy: Policy) {
        self.routing().set_policy(policy);
    }

    /// What the node may spend on measuring and advertising, and how it does.
    #[must_use]
    pub fn budget(&self) -> (Bitrate, Plan) {
        self.routing().budget()
    }

    fn routing(&self) -> MutexGuard<'_, Router> {
        self.routing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an item of a list of addresses may be used: an address, or the port of streams.
fn is_tellable(address: SocketAddr) -> bool {
    is_stream_mark(address) || check_form(address).is_ok()
}

/// What a link costs: the mean over its life.
fn control_rate(link: &Link) -> Option<u64> {
    let (sent, received) = link.bytes();
    Bitrate::from_bytes(sent + received, link.since().elapsed()).map(Bitrate::bps)
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("us", &self.us.name).field("links", &self.links).finish()
    }
}
