//! A running node.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use noq::{AsyncUdpSocket, Endpoint, EndpointConfig, UdpSender};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    accept::{Door, Servers},
    desk::JoinDesk,
    dialer::Dialer,
    flow_log::FlowLog,
    handshakes::HandshakeCounts,
    inboxes::{ConduitError, Receives},
    join::Way,
    network,
    outlets::Outlets,
    own_addresses::{self, OwnAddresses},
    renewal::Renewal,
    router_port::{self, RouterWatch},
    serving::{Accepts, ServeError, Serving},
    status::{FlowFacts, LaneStatus, NodeStatus, NodeView},
};
#[cfg(feature = "proxy")]
use crate::carrier::StreamListener;
use crate::{
    carrier::{StreamDialler, StreamSettings},
    chance::Chance,
    config::Rules,
    entry::{self, RefusedClients, User},
    events::Events,
    exit::{Exit, ExitPermit},
    flow::{
        BoxFuture, DatagramDrops, DatagramSink, FlowDialer, FlowLabel, FlowLimits, FlowTable,
        FlowTimes, Judgement, OutwardDatagrams, Refusal, Target,
    },
    identity::{ALPN_JOIN, ALPN_RENEW, Credentials, Fingerprint, MemberInfo, Peer},
    lane::{
        FlowAcceptor, LaneBudget, LaneHost, LanePool, Outward, OutwardStream, Place, RouteControl,
    },
    live::Live,
    mesh::{LinkFacts, MemberRecord, Mesh, MeshConfig, Probing, RelayConfig},
    overlay::policy::Policy,
    transport::{self, ConfigureError, KnockKey, LaneClient, LaneOptions, LaneServer},
    underlay::{InTurns, LabelSocket, MAX_QUIC_PACKET, PathMtu, Switch},
};

/// After the flows have ended, how long the last packets may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a node is to be.
pub struct NodeSettings {
    /// Who it is, and whom it trusts.
    pub credentials: Credentials,
    /// Where others can dial it at first; empty behind a NAT.
    pub addresses: Vec<SocketAddr>,
    /// How it learns that this has changed, and where the authority's node is found by name; `None`: never.
    pub own: Option<OwnAddresses>,
    /// Where the UDP socket is bound on this machine, whose routes then say what it reaches; `None`: it is
    /// none of this machine and reaches everything.
    pub bound: Option<IpAddr>,
    /// TLS over TCP, beside UDP or instead of it.
    pub streams: StreamSettings,
    /// The addresses of members that may be dialled, as the last process wrote them down, or as the authority
    /// said when the node joined.
    pub bootstrap: Vec<MemberInfo>,
    /// The members' records that the last process wrote down.
    pub records: Vec<MemberRecord>,
    /// The networks in which the last process found UDP blocked, by this machine's addresses there.
    pub blocked: Vec<IpAddr>,
    /// The local proxy; `None`: no entry.
    pub entry: Option<entry::Config>,
    /// The entry's routing rules.
    pub rules: Rules,
    /// What opens connections for flows that leave here; usually an [`ExitDoor`].
    pub acceptor: Arc<dyn FlowAcceptor>,
    /// Whether the configuration makes it an exit. Its certificate must grant it too.
    pub exit: bool,
    /// The relay role.
    pub relay: RelayConfig,
    /// Which flows may use which links and relays.
    pub policy: Policy,
    /// How it measures.
    pub probing: Probing,
    /// What is configured about its lanes.
    pub lane: LaneOptions,
    /// How long packets may be on its socket.
    pub path_mtu: PathMtu,
    /// How long its flows may rest.
    pub flow: FlowTimes,
    /// What the lanes that end here may pin.
    pub memory: LaneBudget,
    /// What the lanes that it opens may pin.
    pub entry_memory: LaneBudget,
    /// The overlay authority's desk, if the authority lives here.
    pub desk: Option<JoinDesk>,
    /// What its labels, nonces and jitter are drawn from.
    pub chance: Chance,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// QUIC refused the configuration.
    #[error(transparent)]
    Configure(#[from] ConfigureError),
    /// The local proxy's port.
    #[cfg(feature = "proxy")]
    #[error(transparent)]
    Entry(#[from] entry::EntryError),
    /// This build has no local proxy.
    #[cfg(not(feature = "proxy"))]
    #[error("this program was built without ronproxy's feature `proxy`")]
    NoProxy,
    /// The UDP socket, or that of streams.
    #[error("the node's socket failed: {0}")]
    Socket(#[from] io::Error),
    /// TLS refused the configuration of streams.
    #[error("streams cannot be dialled: {0}")]
    Streams(#[from] rustls::Error),
}

/// A running node. Stop it with [`Node::stop`]; dropping it stops it without ceremony.
pub struct Node {
    mesh: Arc<Mesh>,
    pool: Arc<LanePool>,
    host: Arc<LaneHost>,
    dialer: Arc<Dialer>,
    events: Arc<Events>,
    log: Arc<FlowLog>,
    serving: Arc<Serving>,
    outlets: Arc<Outlets>,
    renewal: Arc<Renewal>,
    credentials: Credentials,
    switch: Arc<Switch>,
    handshakes: Arc<HandshakeCounts>,
    limits: Arc<FlowLimits>,
    datagram_drops: Arc<DatagramDrops>,
    endpoint: Endpoint,
    proxy: Option<SocketAddr>,
    refused: Arc<RefusedClients>,
    users: Arc<Live<Vec<User>>>,
    advertise: watch::Sender<Vec<Target>>,
    router: RouterWatch,
    /// Ends the entry; its flows may go on for the drain time.
    stop_entry: CancellationToken,
    entry: Mutex<Option<JoinHandle<()>>>,
    /// Ends everything else.
    shutdown: CancellationToken,
}

impl Node {
    /// Starts a node on `socket`, a bound UDP socket, real or emulated.
    ///
    /// Open flows may finish for `drain` after [`Node::stop`].
    ///
    /// # Errors
    /// When the identity is unusable or the local proxy's port cannot be had.
    pub async fn start(
        settings: NodeSettings,
        socket: Box<dyn AsyncUdpSocket>,
        drain: Duration,
    ) -> Result<Self, StartError> {
        let credentials = &settings.credentials;
        let switch = Arc::new(Switch::new(settings.chance).with_path_mtu(settings.path_mtu));
        let (endpoint, sender) = open_endpoint(socket, &switch)?;
        let servers = servers(credentials, settings.lane, switch.chance())?;
        endpoint.set_server_config(Some((*servers.link).clone()));

        let events = Arc::<Events>::default();
        let StreamSettings { listener, port, dial, proxy, udp } = settings.streams;
        let authority = Fingerprint::of(credentials.identity().authority());
        let streams =
            dial.then(|| StreamDialler::new(switch.clone(), authority, proxy)).transpose()?;
        let mesh_config = MeshConfig {
            credentials: credentials.clone(),
            addresses: settings.addresses,
            stream_port: port,
            streams: streams.clone(),
            udp,
            bound: settings.bound,
            link_client: transport::link_client_config(credentials)?,
            relay: settings.relay,
            exit: settings.exit,
            policy: settings.policy,
            probing: settings.probing,
            events: events.clone(),
            sender,
        };
        let mesh = Mesh::new(mesh_config, endpoint.clone(), switch.clone());
        mesh.remember(&settings.bootstrap, &settings.records, &settings.blocked);
        let (limits, datagram_drops) = (Arc::new(FlowLimits::new(settings.flow)), Arc::default());
        let acceptor = Serving::new(settings.acceptor, mesh.us().name.clone());
        let (host, pool) = lane_ends(
            (&mesh, &endpoint, &switch),
            acceptor.clone(),
            LaneClient::new(credentials, settings.lane)?,
            (&limits, &datagram_drops),
            (settings.memory, settings.entry_memory),
        );
        let desk = settings.desk.map(Arc::new);
        desk.iter().for_each(|desk| mesh.open_desk(desk.clone()));
        let way = Way { endpoint: endpoint.clone(), streams };
        let seen = (mesh.clone(), events.clone());
        let renewal = Renewal::new(credentials.clone(), seen, way, desk.clone());
        let log = FlowLog::start(events.clone(), &pool);
        let ways = (mesh.clone(), pool.clone());
        let counts = (log.clone(), datagram_drops.clone());
        let dialer = Arc::new(Dialer::new(settings.rules, ways, acceptor.clone(), counts));
        let mut node = Self {
            mesh,
            pool,
            host,
            dialer: dialer.clone(),
            events,
            log,
            outlets: Arc::new(Outlets::new(dialer.clone(), acceptor.inboxes().clone())),
            serving: acceptor,
            renewal: Arc::new(renewal),
            credentials: credentials.clone(),
            switch,
            handshakes: Arc::default(),
            limits,
            datagram_drops,
            endpoint,
            proxy: None,
            refused: Arc::default(),
            users: Arc::default(),
            advertise: own_addresses::advertised(settings.own.as_ref()),
            router: RouterWatch::default(),
            stop_entry: CancellationToken::new(),
            entry: Mutex::default(),
            shutdown: CancellationToken::new(),
        };
        if let Some(config) = settings.entry {
            node.open_entry(config, drain).await?;
        }
        listener.map_or(Ok(()), |listener| node.listen(listener, authority))?;
        node.open_door(desk, servers, settings.own);
        Ok(node)
    }

    #[cfg(feature = "proxy")]
    async fn open_entry(
        &mut self,
        config: entry::Config,
        drain: Duration,
    ) -> Result<(), StartError> {
        let entry = entry::Entry::bind(config, self.dialer.clone()).await?;
        self.proxy = Some(entry.local_addr());
        self.refused = entry.refused();
        self.users = entry.users();
        let running = tokio::spawn(entry.run(self.stop_entry.clone(), drain));
        self.entry = Mutex::new(Some(running));
        Ok(())
    }

    #[cfg(not(feature = "proxy"))]
    async fn open_entry(&mut self, _: entry::Config, _: Duration) -> Result<(), StartError> {
        Err(StartError::NoProxy)
    }

    /// Accepts streams from now on.
    #[cfg(feature = "proxy")]
    fn listen(&self, tcp: std::net::TcpListener, authority: Fingerprint) -> Result<(), StartError> {
        let listener = StreamListener::new(tcp, self.switch.clone(), authority)?;
        tokio::spawn(self.shutdown.clone().run_until_cancelled_owned(listener.run()));
        Ok(())
    }

    #[cfg(not(feature = "proxy"))]
    fn listen(&self, _: std::net::TcpListener, _: Fingerprint) -> Result<(), StartError> {
        Err(StartError::NoProxy)
    }

    fn open_door(&self, desk: Option<Arc<JoinDesk>>, servers: Servers, own: Option<OwnAddresses>) {
        let roles = (self.mesh.clone(), self.host.clone());
        let counts = self.handshakes.clone();
        let authority = Fingerprint::of(self.credentials.identity().authority());
        let desk = (desk, KnockKey::of_overlay(&authority));
        let door =
            Door::new(self.endpoint.clone(), roles, servers, desk, counts, self.switch.clone());
        let (mesh, pool) = (self.mesh.clone(), self.pool.clone());
        let shutdown = self.shutdown.clone();
        tokio::spawn(self.shutdown.clone().run_until_cancelled_owned(Arc::new(door).run()));
        tokio::spawn(self.shutdown.clone().run_until_cancelled_owned(pool.keep()));
        let log = self.log.clone();
        tokio::spawn(self.shutdown.clone().run_until_cancelled_owned(log.count()));
        let host = self.host.clone();
        tokio::spawn(self.shutdown.clone().run_until_cancelled_owned(host.sweep()));
        if let Some(own) = own {
            self.follow_addresses(own);
        }
        tokio::spawn(mesh.clone().measure(shutdown.clone()));
        tokio::spawn(mesh.clone().watch_members(shutdown.clone()));
        tokio::spawn(self.renewal.clone().run(shutdown.clone()));
        tokio::spawn(mesh.run(shutdown));
    }

    /// Keeps up with where this node is found, and asks the router for a port.
    fn follow_addresses(&self, own: OwnAddresses) {
        let (mesh, shutdown) = (self.mesh.clone(), self.shutdown.clone());
        if own.map_port {
            let advertise = own.advertise.subscribe();
            let news = router_port::News { moves: mesh.moves(), advertise };
            let key = self.credentials.identity().key_for(b"ports of routers 1");
            self.router.keep(own.listen, key, news, shutdown.clone());
        }
        let router = self.router.told();
        let following = own_addresses::follow(own, router, mesh, self.credentials.clone());
        tokio::spawn(shutdown.run_until_cancelled_owned(following));
    }

    /// Stops in order: the proxy accepts no more, open flows finish within the drain time, then
    /// lanes and links close.
    pub async fn stop(&self) {
        self.stop_entry.cancel();
        let entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(entry) = entry
            && let Err(error) = entry.await
        {
            tracing::error!(%error, "the entry failed");
        }
        self.close("the node stops");
        self.router.closed().await;
        if timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await.is_err() {
            tracing::debug!("some peers did not confirm the close");
        }
    }

    fn close(&self, reason: &str) {
        self.shutdown.cancel();
        self.serving.inboxes().close();
        self.outlets.close();
        self.endpoint.close(transport::code::DONE.into(), reason.as_bytes());
    }

    /// Looks at all links when the machine's addresses or routes change or when it wakes up, for as long as
    /// the node runs. For a node on a socket of this machine.
    pub fn watch_network(&self) {
        tokio::spawn(network::watch(self.mesh.clone(), self.shutdown.clone()));
    }

    /// Cancelled when the node has stopped, except that its local proxy's flows may still finish.
    #[must_use]
    pub fn stopped(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Where the local proxy listens.
    #[must_use]
    pub fn proxy(&self) -> Option<SocketAddr> {
        self.proxy
    }

    /// What the node shows others and judges them by.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The mesh.
    #[must_use]
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// Opens flows as the local proxy does.
    #[must_use]
    pub fn dialer(&self) -> Arc<dyn FlowDialer> {
        self.dialer.clone()
    }

    /// Serves a name from now on: flows of others to it come to the one who accepts them.
    ///
    /// # Errors
    /// When this node may not, or does already.
    pub(crate) fn serve(&self, target: Target) -> Result<Accepts, ServeError> {
        self.serving.serve(&self.mesh, target)
    }

    /// From now on packets of type `kind` come to the one who takes them.
    ///
    /// # Errors
    /// When somebody takes them already, there are too many types, or the node has stopped.
    pub(crate) fn receive(&self, kind: Target) -> Result<Receives, ConduitError> {
        self.serving.inboxes().open(kind)
    }

    /// Sends packets to programs of other nodes.
    pub(crate) fn outlets(&self) -> &Arc<Outlets> {
        &self.outlets
    }

    /// The lanes this node opened as an entry.
    #[must_use]
    pub fn lanes(&self) -> &Arc<LanePool> {
        &self.pool
    }

    /// The lanes that end here.
    #[must_use]
    pub fn host(&self) -> &Arc<LaneHost> {
        &self.host
    }

    /// What happened lately.
    #[must_use]
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// What labels and slots mean here.
    #[must_use]
    pub fn switch(&self) -> &Arc<Switch> {
        &self.switch
    }

    /// A reader of what the node is doing, for the admin API.
    #[must_use]
    pub fn view(&self) -> NodeView {
        NodeView {
            mesh: self.mesh.clone(),
            pool: self.pool.clone(),
            dialer: self.dialer.clone(),
            events: self.events.clone(),
            log: self.log.clone(),
            host: self.host.clone(),
            renewal: self.renewal.clone(),
            switch: self.switch.clone(),
            handshakes: self.handshakes.clone(),
            limits: self.limits.clone(),
            datagram_drops: self.datagram_drops.clone(),
            proxy: self.proxy,
            refused: self.refused.clone(),
            users: self.users.clone(),
            advertise: self.advertise.clone(),
            router_port: self.router.told(),
        }
    }

    /// The node in numbers.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.view().status()
    }

    /// The links to all members.
    #[must_use]
    pub fn link_facts(&self) -> Vec<LinkFacts> {
        self.mesh.facts()
    }

    /// The lanes that start or end here.
    #[must_use]
    pub fn lane_facts(&self) -> Vec<LaneStatus> {
        self.view().lane_facts()
    }

    /// The flows of this entry.
    #[must_use]
    pub fn flow_facts(&self) -> Vec<FlowFacts> {
        self.view().flow_facts()
    }
}

/// What hosts lanes, and what opens them; `hosted` and `opened` are what they may pin.
fn lane_ends(
    (mesh, endpoint, switch): (&Arc<Mesh>, &Endpoint, &Arc<Switch>),
    acceptor: Arc<Serving>,
    client: LaneClient,
    (limits, drops): (&Arc<FlowLimits>, &Arc<DatagramDrops>),
    (hosted, opened): (LaneBudget, LaneBudget),
) -> (Arc<LaneHost>, Arc<LanePool>) {
    let control: Weak<dyn RouteControl> = Arc::downgrade(&(mesh.clone() as Arc<_>));
    let shared = (limits.clone(), drops.clone(), hosted);
    let host = Arc::new(LaneHost::new(switch.clone(), control.clone(), acceptor, shared));
    mesh.host_lanes(host.clone());
    let shared = (FlowTable::default(), limits.clone(), drops.clone());
    let pool = LanePool::new(endpoint.clone(), client, switch.clone(), control, shared, opened);
    (host, Arc::new(pool))
}

/// What answers connections, by the protocol that they name.
fn servers(
    credentials: &Credentials,
    lane: LaneOptions,
    chance: &Chance,
) -> Result<Servers, StartError> {
    let link = |more: &[&[u8]]| transport::link_server_config(credentials, more);
    // The endpoint's own configuration seals the tokens of all.
    let mut first = link(&[])?;
    transport::seal_tokens(&mut first, chance);
    Ok(Servers {
        link: Arc::new(first),
        renew: Arc::new(link(&[ALPN_RENEW])?),
        join: Arc::new(link(&[ALPN_RENEW, ALPN_JOIN])?),
        lane: LaneServer::new(credentials, lane)?,
    })
}

/// The QUIC endpoint on `socket`, and what sends past QUIC.
fn open_endpoint(
    socket: Box<dyn AsyncUdpSocket>,
    switch: &Arc<Switch>,
) -> io::Result<(Endpoint, Pin<Box<dyn UdpSender>>)> {
    let socket = Box::new(LabelSocket::new(socket, switch.clone()));
    let sender = socket.create_sender();
    let mut config = EndpointConfig::default();
    // The fixed bit tells QUIC packets from labelled ones, so it must not be greased.
    config.grease_quic_bit(false);
    config.rng_seed(Some(switch.chance().draw()));
    config.max_udp_payload_size(MAX_QUIC_PACKET).map_err(io::Error::other)?;
    let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(InTurns))?;
    Ok((endpoint, sender))
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_entry.cancel();
        self.close("the node is gone");
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

fn place(permit: ExitPermit) -> Place {
    Place { carried: permit.carried(), permit: Some(Box::new(permit)) }
}

/// The exit role as lanes see it.
#[derive(Debug)]
pub struct ExitDoor(pub Arc<Exit>);

impl FlowAcceptor for ExitDoor {
    fn flows_per_entry(&self) -> usize {
        self.0.flows_per_entry()
    }

    fn open<'a>(
        &'a self,
        entry: &'a Peer,
        label: FlowLabel,
        target: &'a Target,
    ) -> BoxFuture<'a, Result<Outward, Refusal>> {
        Box::pin(async move {
            let (stream, remote, permit) = self.0.open(&entry.name, &entry.groups, target).await?;
            permit.set_label(label);
            Ok(Outward { stream: OutwardStream::Tcp(stream), remote, place: place(permit) })
        })
    }

    fn judge<'a>(
        &'a self,
        entry: &'a Peer,
        target: &'a Target,
        served: bool,
    ) -> BoxFuture<'a, Result<Judgement, Refusal>> {
        Box::pin(self.0.would_carry(&entry.groups, target, served))
    }

    fn admit(&self, entry: &Peer, target: &Target) -> Result<Place, Refusal> {
        self.0.admit(&entry.name, &entry.groups, target).map(place)
    }

    fn associate(
        &self,
        entry: &Peer,
        back: Arc<dyn DatagramSink>,
        drops: Arc<DatagramDrops>,
    ) -> Result<OutwardDatagrams, Refusal> {
        self.0.associate(&entry.name, &entry.groups, back, drops)
    }
}
