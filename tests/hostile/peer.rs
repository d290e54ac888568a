//! A hostile peer: a certificate or none, and the protocol by hand.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use noq::{
    AsyncUdpSocket, ClientConfig, Connection, Endpoint, EndpointConfig, RecvStream, SendStream,
    TokioRuntime, TransportConfig, VarInt,
};
use ronproxy::internals::{
    emulator::Internet,
    flow::Hint,
    identity::{
        Credentials, DeskRequest, Fingerprint, JoinReply, NodeDir, NodeIdentity, NodeName,
        StatementKey, renew_crypto, server_name,
    },
    lab::{Lab, LabNode},
    transport::{self, Knock, KnockKey, LaneClient, LaneOptions, RerouteMark},
    underlay::{LabelSocket, Neighbour, NextHop, Switch, bind_udp},
    wire::label::Label,
};
use tokio::time::{Instant, timeout};

use crate::words;

/// The UDP port of the lab's nodes.
pub(crate) const PORT: u16 = 4600;

/// Long enough for a handshake or an answer over the lab's paths, short enough for a test.
const PATIENCE: Duration = Duration::from_secs(5);

/// A node that the peer speaks with.
#[derive(Debug, Clone)]
pub(crate) struct Victim {
    pub(crate) name: NodeName,
    pub(crate) at: SocketAddr,
    /// Its public key.
    pub(crate) key: StatementKey,
}

impl Victim {
    /// The node of this name in a lab.
    pub(crate) fn of(lab: &Lab, name: &str) -> Self {
        let at = SocketAddr::new(lab.topology().address(name), PORT);
        let credentials = lab.credentials(name).unwrap();
        Self { name: name.parse().unwrap(), at, key: key_of(&credentials.identity()) }
    }

    /// The node of this folder, which listens there.
    pub(crate) fn in_folder(dir: &Path, at: SocketAddr) -> Self {
        let identity = NodeIdentity::load(&NodeDir::at(dir)).unwrap();
        Self { name: identity.name().clone(), at, key: key_of(&identity) }
    }
}

fn key_of(identity: &NodeIdentity) -> StatementKey {
    StatementKey::of(&identity.chain()[0]).unwrap()
}

/// How the member `by` dials a victim: its first packets show who it is.
pub(crate) fn members_client(by: &Credentials, victim: &Victim) -> ClientConfig {
    let mut client = transport::link_client_config(by).unwrap();
    let identity = by.identity();
    let overlay = KnockKey::of_overlay(&Fingerprint::of(identity.authority()));
    let shared = KnockKey::of_members(&by.shared_with(&victim.key).unwrap());
    let knock = Knock::new(overlay).member(&key_of(&identity), shared);
    transport::knock_with(&mut client, knock, &Default::default());
    client
}

/// A peer with a certificate, over any socket.
pub(crate) struct Peer {
    credentials: Credentials,
    endpoint: Endpoint,
    switch: Arc<Switch>,
    /// Its process: another one would end its lanes.
    incarnation: u64,
}

impl Peer {
    /// A member with this certificate.
    pub(crate) fn over(credentials: Credentials, socket: Box<dyn AsyncUdpSocket>) -> Self {
        let switch = Arc::<Switch>::default();
        let socket = LabelSocket::new(socket, switch.clone());
        let mut config = EndpointConfig::default();
        config.grease_quic_bit(false);
        let runtime = Arc::new(TokioRuntime);
        let endpoint =
            Endpoint::new_with_abstract_socket(config, None, Box::new(socket), runtime).unwrap();
        Self { credentials, endpoint, switch, incarnation: rand::random() }
    }

    /// The same over a real socket. Needs a runtime.
    pub(crate) fn on_loopback(credentials: Credentials) -> Self {
        Self::over(credentials, bind_udp("127.0.0.1:0".parse().unwrap()).unwrap())
    }

    /// Who it is.
    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A link, after the introductions; `None` if the victim does not take it up.
    pub(crate) async fn link(&self, victim: &Victim) -> Option<HostileLink> {
        self.link_with(victim, None).await
    }

    /// The same with transport parameters of its own.
    pub(crate) async fn link_with(
        &self,
        victim: &Victim,
        transport: Option<TransportConfig>,
    ) -> Option<HostileLink> {
        let held = self.credentials.identity().revoked().number();
        self.introduce(victim, transport, held).await
    }

    /// The same of one that has no revocation list yet.
    pub(crate) async fn stale_link(
        &self,
        victim: &Victim,
        transport: TransportConfig,
    ) -> Option<HostileLink> {
        self.introduce(victim, Some(transport), 0).await
    }

    async fn introduce(
        &self,
        victim: &Victim,
        transport: Option<TransportConfig>,
        revocations: u64,
    ) -> Option<HostileLink> {
        let mut config = members_client(&self.credentials, victim);
        if let Some(transport) = transport {
            config.transport_config(Arc::new(transport));
        }
        let conn = self.connect(victim, config).await?;
        let link = HostileLink { conn };
        let hello = words::hello(self.incarnation, None, revocations);
        link.request(&hello).await.map(|_| link)
    }

    /// A link of a process that says to be `incarnation`; with the victim's own.
    pub(crate) async fn link_as(
        &self,
        victim: &Victim,
        incarnation: u64,
    ) -> Option<(HostileLink, u64)> {
        let config = members_client(&self.credentials, victim);
        let link = HostileLink { conn: self.connect(victim, config).await? };
        let reply = link.request(&words::hello(incarnation, None, 0)).await?;
        Some((link, words::heard_incarnation(&reply)?))
    }

    /// A connection with any TLS configuration.
    async fn connect(&self, victim: &Victim, config: ClientConfig) -> Option<Connection> {
        let name = server_name(&victim.name);
        let connecting = self.endpoint.connect_with(config, victim.at, &name).unwrap();
        timeout(PATIENCE, connecting).await.ok()?.ok()
    }

    /// A lane to an exit, over the link to it; the OPEN headers are the peer's own. `None` if the exit
    /// does not grant it. With the label under which the exit takes the lane's packets.
    pub(crate) async fn lane(
        &self,
        victim: &Victim,
        link: &HostileLink,
    ) -> Option<(Connection, Label)> {
        self.lane_with(victim, link, Windows::Small).await
    }

    /// The same with these windows for what the exit sends.
    pub(crate) async fn lane_with(
        &self,
        victim: &Victim,
        link: &HostileLink,
        windows: Windows,
    ) -> Option<(Connection, Label)> {
        let (slot, activity) = self.switch.open_slot()?;
        let reply = self.switch.with_labels(|labels| words::own_label(labels, &victim.name, slot));
        let asked = words::open_lane(&self.credentials, victim.name.as_str(), reply);
        let label = words::granted_lane(&link.request(&asked).await?)?;
        let neighbour = Arc::new(Neighbour::new(victim.name.clone(), Some(victim.at)));
        self.switch.route_slot(slot, Some(NextHop { neighbour, label }));
        let mark = Arc::new(RerouteMark::new(activity));
        let client = LaneClient::new(&self.credentials, LaneOptions::default()).unwrap();
        let mut config = client.config(&victim.name, &mark, &Hint::Latency, None, 1_441);
        config.transport_config(windows.transport());
        let name = server_name(&victim.name);
        let connecting = self.endpoint.connect_with(config, slot.virtual_address(), &name).unwrap();
        Some((timeout(PATIENCE, connecting).await.ok()?.ok()?, label))
    }
}

/// A peer on a lab's Internet that is no node of the lab.
pub(crate) struct Hostile {
    peer: Peer,
    internet: Internet,
    address: SocketAddr,
}

impl Hostile {
    /// A member with what its plan says in its certificate.
    pub(crate) fn with(lab: &Lab, plan: &LabNode, host: IpAddr) -> Self {
        Self::at(lab, lab.certify(plan).unwrap(), host)
    }

    /// A member with this certificate.
    pub(crate) fn at(lab: &Lab, credentials: Credentials, host: IpAddr) -> Self {
        let address = SocketAddr::new(host, PORT);
        let internet = lab.internet().clone();
        let peer = Peer::over(credentials, internet.attach(address));
        Self { peer, internet, address }
    }

    /// How it speaks.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Who it is.
    pub(crate) fn credentials(&self) -> &Credentials {
        self.peer.credentials()
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A link to the node of this name, after the introductions.
    pub(crate) async fn link_to(&self, lab: &Lab, victim: &str) -> HostileLink {
        self.try_link_to(lab, victim).await.expect("the victim takes up a member's link")
    }

    /// The same; `None` if the victim does not take it up.
    pub(crate) async fn try_link_to(&self, lab: &Lab, victim: &str) -> Option<HostileLink> {
        self.peer.link(&Victim::of(lab, victim)).await
    }

    /// Asks the authority's desk over a connection of its own; `None` if there is no answer.
    pub(crate) async fn ask_desk(
        &self,
        lab: &Lab,
        authority: &str,
        request: &DeskRequest,
    ) -> Option<JoinReply> {
        let fingerprint = Fingerprint::of(self.credentials().identity().authority());
        let crypto = renew_crypto(fingerprint, self.credentials().clock()).unwrap();
        let overlay = KnockKey::of_overlay(&fingerprint);
        let knock = Knock::new(overlay);
        let config = transport::join_client_config(crypto, knock).unwrap();
        let conn = self.peer.connect(&Victim::of(lab, authority), config).await?;
        let reply = HostileLink { conn }.request(&request.encode().unwrap()).await?;
        JoinReply::decode(&reply).ok()
    }

    /// A lane to an exit, over the link to it; `None` if the exit does not grant it.
    pub(crate) async fn lane_to(
        &self,
        lab: &Lab,
        link: &HostileLink,
        exit: &str,
    ) -> Option<Connection> {
        self.peer.lane(&Victim::of(lab, exit), link).await.map(|(lane, _)| lane)
    }

    /// From now on the peer's packets claim to come from `source`; `None`: from its own address.
    pub(crate) fn mask(&self, source: Option<SocketAddr>) {
        self.internet.forge_source(self.address.ip(), source);
    }

    /// Sends one datagram from its own address.
    pub(crate) fn datagram(&self, to: SocketAddr, bytes: &[u8]) {
        self.datagram_from(self.address, to, bytes);
    }

    /// Sends one datagram that claims to come from `source`.
    pub(crate) fn datagram_from(&self, source: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.internet.forge(self.address.ip(), source, to, bytes);
    }
}

/// What a lane's entry takes of what an exit sends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Windows {
    /// Little, so that it stays there: a test counts the memory of both.
    Small,
    /// Nothing of any stream.
    None,
}

impl Windows {
    fn transport(self) -> Arc<TransportConfig> {
        let mut transport = TransportConfig::default();
        let of_stream = match self {
            Self::Small => 16 << 10,
            Self::None => 0,
        };
        transport
            .mtu_discovery_config(None)
            .stream_receive_window(VarInt::from_u32(of_stream))
            .receive_window(VarInt::from_u32(256 << 10))
            .datagram_receive_buffer_size(Some(16 << 10));
        Arc::new(transport)
    }
}

/// A link of the hostile peer.
#[derive(Clone)]
pub(crate) struct HostileLink {
    pub(crate) conn: Connection,
}

impl HostileLink {
    /// Sends bytes as a request, and waits for the answer; `None` if there is none.
    pub(crate) async fn request(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let exchange = async {
            let (mut send, mut recv) = self.conn.open_bi().await.ok()?;
            send.write_all(bytes).await.ok()?;
            send.finish().ok()?;
            recv.read_to_end(1 << 20).await.ok()
        };
        timeout(PATIENCE, exchange).await.ok()?
    }

    /// Sends bytes as a notice; false if the victim takes none now.
    pub(crate) async fn notice(&self, bytes: &[u8]) -> bool {
        let send = async {
            let mut stream = self.conn.open_uni().await.ok()?;
            stream.write_all(bytes).await.ok()?;
            stream.finish().ok()
        };
        timeout(PATIENCE, send).await.is_ok_and(|sent| sent.is_some())
    }

    /// The victim's next notice; `None` when the link has ended.
    pub(crate) async fn heard(&self) -> Option<Vec<u8>> {
        let mut stream = self.conn.accept_uni().await.ok()?;
        stream.read_to_end(1 << 20).await.ok()
    }

    /// Sends bytes as a probe.
    pub(crate) fn probe(&self, bytes: &[u8]) {
        let _ = self.conn.send_datagram(bytes.to_vec().into());
    }

    /// Answers probes, as any neighbour does, until the link ends.
    pub(crate) async fn answer_probes(&self) {
        let mut seq = 0;
        while let Ok(datagram) = self.conn.read_datagram().await {
            if let Some(reply) = words::probe_reply(&datagram, seq) {
                self.probe(&reply);
                seq += 1;
            }
        }
    }

    /// Why the connection ended, if it did.
    pub(crate) fn ended(&self) -> Option<String> {
        self.conn.close_reason().map(|reason| reason.to_string())
    }
}

/// Opens a flow on a lane of the hostile peer: the header is written, the answer is not read.
pub(crate) async fn open_flow(lane: &Connection, target: &str) -> Option<(SendStream, RecvStream)> {
    open_with(lane, &words::open(target)).await
}

/// The same with any header.
pub(crate) async fn open_with(
    lane: &Connection,
    header: &[u8],
) -> Option<(SendStream, RecvStream)> {
    let (mut send, recv) = timeout(PATIENCE, lane.open_bi()).await.ok()?.ok()?;
    let length = u16::try_from(header.len()).unwrap();
    send.write_all(&length.to_be_bytes()).await.ok()?;
    send.write_all(header).await.ok()?;
    Some((send, recv))
}

/// Runs `attack` with the number of each repetition until `end`, once in `every`.
pub(crate) async fn repeat(end: Instant, every: Duration, mut attack: impl FnMut(u64)) {
    let mut tick = tokio::time::interval(every);
    let mut number = 0;
    while Instant::now() < end {
        tick.tick().await;
        attack(number);
        number += 1;
    }
}
