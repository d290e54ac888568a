//! One link.

use std::{
    fmt, iter,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use noq::{Connection, ConnectionError, PathId, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::{
    CloseLink, Conduct, Kind, LinkDrop, Offence, Topic,
    address::{AddressCheck, Due},
    outbox::Outbox,
    reach::ReachTry,
};
use crate::{
    chance::Chance,
    flow::BoxFuture,
    identity::{Peer, certificate_of},
    transport::{FrameError, code, read_message, write_message},
    underlay::{Carrier, Neighbour, NonceInbox, StreamHold, Switch},
    wire::{
        self,
        link::{Hello, LinkDatagram, LinkRefusal, Notice, Reply, Request},
        nonce::AddressNonce,
    },
};

/// How long an answer may take. Requests are answered from memory, or after one request to a
/// third node; on the worst usable path that is some four round trips of 500 ms, and a loss.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The addresses of a neighbour at which it is tried whether it can be reached: that of the link, and what its router
/// and its configuration may add.
const REACHED_AT: usize = 3;

/// Answers a neighbour. Implemented by the mesh.
pub trait LinkService: Send + Sync + 'static {
    /// Answers a request.
    fn answer<'a>(&'a self, link: &'a Link, request: Request) -> BoxFuture<'a, Reply>;

    /// Handles a notice.
    fn notice(&self, link: &Link, notice: Notice);

    /// Handles a probe.
    fn probe(&self, link: &Link, probe: Bytes);

    /// Sends a nonce to an address where the neighbour may be. The nonce may get lost.
    fn send_nonce(&self, address: SocketAddr, nonce: AddressNonce);

    /// The neighbour has answered at another address, which is in use from now on.
    fn moved(&self, link: &Link, address: SocketAddr);
}

/// A request over a link failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No link to the node exists at present.
    #[error("no link to {0}")]
    NoLink(crate::identity::NodeName),
    /// The neighbour did not answer in time.
    #[error("no answer within {REQUEST_TIMEOUT:?}")]
    TimedOut,
    /// The connection failed, or the answer was malformed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The neighbour refuses.
    #[error(transparent)]
    Refused(#[from] LinkRefusal),
}

/// One connection to one neighbour, verified.
pub struct Link {
    peer: Arc<Peer>,
    conn: Connection,
    neighbour: Arc<Neighbour>,
    /// What it goes over.
    carrier: Carrier,
    /// Keeps its stream open; `None`: it goes over UDP, or the stream has ended already.
    stream: Option<StreamHold>,
    conduct: Arc<Conduct>,
    hello: Hello,
    we_dialled: bool,
    since: Instant,
    outbox: Mutex<Outbox>,
    /// Wakes the task that sends what is in the outbox.
    outbox_filled: Notify,
    /// Where the neighbour sees us.
    seen: Mutex<Option<SocketAddr>>,
    /// The number of the newest revocation list that the neighbour is known to hold.
    holds_list: AtomicU64,
    /// The number under which we ask for the return of a nonce.
    asks_as: u64,
    /// The nonces that the neighbour sends to our present address.
    nonces: NonceInbox,
    address: Mutex<AddressCheck>,
    /// Wakes the task that checks new addresses: there is one, or one has answered.
    address_news: Notify,
    /// Nonces sent from another port, which the neighbour is to return.
    reach: ReachTry,
    /// For the nonces that addresses must return.
    chance: Chance,
}

impl Link {
    /// A link over `conn` to `peer`, after the introductions. The handshake was made with `address`.
    /// Address and behaviour of the neighbour outlive the link. Lanes go to the address when the link is in use
    /// ([`Links::insert`](super::Links::insert)).
    #[must_use]
    pub fn new(
        peer: Arc<Peer>,
        conn: Connection,
        (neighbour, conduct): (Arc<Neighbour>, Arc<Conduct>),
        hello: Hello,
        (we_dialled, address): (bool, SocketAddr),
        switch: &Switch,
    ) -> Self {
        let chance = switch.chance().clone();
        // QUIC has its keys now. Without them no nonce would be returned.
        let (dialler, other) = askers(&conn).unwrap_or_else(|| {
            tracing::warn!(neighbour = %peer.name, "TLS gives no keys for nonces: new addresses of the neighbour stay unproved");
            (chance.draw(), chance.draw())
        });
        let (ours, theirs) = if we_dialled { (dialler, other) } else { (other, dialler) };
        let list = hello.revocations;
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Self {
            peer,
            conn,
            neighbour,
            carrier: Carrier::of(address),
            stream: switch.streams().hold(address),
            conduct,
            seen: Mutex::new(hello.seen),
            hello,
            we_dialled,
            since: Instant::now(),
            outbox: Mutex::default(),
            outbox_filled: Notify::new(),
            holds_list: AtomicU64::new(list),
            asks_as: ours,
            nonces: switch.nonces_of(theirs),
            address: Mutex::new(AddressCheck::new(address)),
            address_news: Notify::new(),
            reach: ReachTry::default(),
            chance,
        }
    }

    /// The link is in use from now on: lanes go where it goes.
    pub(super) fn taken_up(&self) {
        let address = self.address().current();
        self.neighbour.set_address(Some(address));
    }

    /// Who the neighbour is, by its certificate.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The same, to be kept.
    #[must_use]
    pub fn certified(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The certificate that the neighbour showed in the handshake.
    #[must_use]
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        certificate_of(&self.conn)
    }

    /// What the neighbour said of itself.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Whether this side opened the connection.
    #[must_use]
    pub fn we_dialled(&self) -> bool {
        self.we_dialled
    }

    /// Where the neighbour is.
    #[must_use]
    pub fn neighbour(&self) -> &Arc<Neighbour> {
        &self.neighbour
    }

    /// How the neighbour behaves.
    #[must_use]
    pub fn conduct(&self) -> &Conduct {
        &self.conduct
    }

    /// What it goes over.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        self.carrier
    }

    /// The neighbour's address on the Internet: of a stream that of its TCP peer.
    #[must_use]
    pub fn real_address(&self) -> Option<SocketAddr> {
        match self.carrier {
            Carrier::Tls => self.stream.as_ref().map(StreamHold::peer),
            Carrier::Udp => self.neighbour.address(),
        }
    }

    /// Where the neighbour says that it sees us.
    #[must_use]
    pub fn seen(&self) -> Option<SocketAddr> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records where the neighbour says that it sees us.
    pub fn set_seen(&self, address: SocketAddr) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// The longest QUIC packet that was seen to pass to the neighbour, in bytes.
    #[must_use]
    pub fn packet_bytes(&self) -> Option<u16> {
        self.conn.path_stats(PathId::ZERO).map(|stats| stats.current_mtu)
    }

    /// Whether the neighbour returns a nonce that comes from a port of `ours` from which nothing was ever sent to it;
    /// `None`: it could not be tried. The nonce is sent to where the neighbour's packets come from, and to the addresses of
    /// `told` that differ from this by the port only: a router may let packets in there alone.
    pub async fn reaches(&self, ours: IpAddr, told: &[SocketAddr]) -> Option<bool> {
        let near = self.neighbour.address().filter(|_| self.carrier == Carrier::Udp)?;
        let ip = near.ip().to_canonical();
        let others = told.iter().filter(|at| at.ip() == ip && at.port() != near.port());
        let others = others.map(|at| SocketAddr::new(near.ip(), at.port()));
        let to: Vec<_> = iter::once(near).chain(others).take(REACHED_AT).collect();
        let nonce = AddressNonce { asker: self.asks_as, nonce: self.chance.draw() };
        self.reach.run(ours, &to, nonce).await
    }

    /// When the connection was made.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The round-trip time QUIC measures.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.conn.rtt(PathId::ZERO)
    }

    /// Whether the connection is open. That says little about the path.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.conn.close_reason().is_none()
    }

    /// Why the connection has ended, for logs.
    #[must_use]
    pub fn end(&self) -> String {
        self.conn.close_reason().map_or_else(|| "it stands".to_owned(), |reason| reason.to_string())
    }

    /// Whether the connection was closed because another one between the same nodes is in use.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        match self.conn.close_reason() {
            // We close links for this reason, and when the node stops.
            Some(ConnectionError::LocallyClosed) => true,
            Some(ConnectionError::ApplicationClosed(close)) => {
                close.error_code == VarInt::from_u32(code::DUPLICATE)
            }
            _ => false,
        }
    }

    /// Bytes sent and received on the link: the cost of the control plane.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let stats = self.conn.stats();
        (stats.udp_tx.bytes, stats.udp_rx.bytes)
    }

    /// UDP packets of this connection that were sent and received.
    pub fn packets(&self) -> (u64, u64) {
        let stats = self.conn.stats();
        (stats.udp_tx.datagrams, stats.udp_rx.datagrams)
    }

    /// Asks the neighbour.
    ///
    /// # Errors
    /// When it refuses, does not answer in time, or the connection fails.
    pub async fn request(&self, request: &Request) -> Result<Reply, LinkError> {
        match request_on(&self.conn, request).await? {
            Reply::Refused(refusal) => Err(refusal.into()),
            reply => Ok(reply),
        }
    }

    /// Sends a notice, after those that already wait. If the queue has no room, the notice is
    /// dropped and counted.
    pub fn notify(&self, notice: &Notice) {
        self.notify_about(Topic::of(notice), notice);
    }

    /// The same. If a notice of this topic waits, this one replaces it.
    pub fn notify_about(&self, topic: Topic, notice: &Notice) {
        if self.outbox().push(topic, wire::encode(notice)) {
            self.outbox_filled.notify_one();
        } else {
            self.conduct.dropped(Instant::now().into_std(), LinkDrop::OutboxFull);
        }
    }

    /// Sends the revocation list of this number, unless the neighbour holds it or a newer one.
    pub fn tell_revocations(&self, number: u64, der: &[u8]) {
        if self.holds_list.fetch_max(number, Ordering::Relaxed) < number {
            self.notify(&Notice::Revocations(der.to_vec()));
        }
    }

    /// Records that the neighbour holds the revocation list of this number.
    pub fn holds_revocations(&self, number: u64) {
        self.holds_list.fetch_max(number, Ordering::Relaxed);
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a probe. It may get lost; lost probes measure loss.
    pub fn send_probe(&self, probe: Bytes) {
        // A neighbour whose packets come from a wrong address may send no probes, so its address is
        // checked here, too.
        self.look_at_address();
        self.send_datagram(&LinkDatagram::Probe(probe));
    }

    /// Returns the nonces that the neighbour sends to our present address, within its budget.
    async fn return_nonces(&self) {
        loop {
            let nonce = self.nonces.next().await;
            let now = Instant::now().into_std();
            if self.conduct.with_budget(|budget| budget.take_returned(now)) {
                self.send_datagram(&LinkDatagram::Nonce(nonce));
            }
        }
    }

    fn send_datagram(&self, datagram: &LinkDatagram) {
        if let Err(error) = self.conn.send_datagram(datagram.encode()) {
            tracing::trace!(%error, "datagram not sent");
        }
    }

    /// Closes the connection.
    pub fn close(&self, code: u32, reason: &str) {
        self.conn.close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Serves the neighbour until the connection ends.
    pub async fn serve(self: &Arc<Self>, service: &Arc<dyn LinkService>) {
        let (asked, told, probed, sent, moved, returned, ended) = (
            self.serve_requests(service),
            self.serve_notices(service),
            self.serve_datagrams(service),
            self.send_notices(),
            self.check_addresses(service),
            self.return_nonces(),
            self.stream_ended(),
        );
        tokio::select! {
            biased;
            () = asked => {}
            () = told => {}
            () = probed => {}
            () = sent => {}
            () = moved => {}
            () = returned => {}
            () = ended => self.close(code::DONE, "the stream has ended"),
        }
    }

    /// Waits until the TCP connection is gone, if the link is over one.
    async fn stream_ended(&self) {
        match (&self.stream, self.carrier) {
            (Some(stream), _) => stream.ended().await,
            (None, Carrier::Tls) => {}
            (None, Carrier::Udp) => std::future::pending().await,
        }
    }

    async fn serve_requests(self: &Arc<Self>, service: &Arc<dyn LinkService>) {
        let permits = self.conduct().places();
        while let Ok(permit) = permits.clone().acquire_owned().await {
            let Ok((mut send, mut recv)) = self.conn.accept_bi().await else { return };
            if !self.admits(Kind::Request) {
                // The asker sees the reset at once. The error would mean that the stream is already
                // closed.
                let _ = send.reset(VarInt::from_u32(code::FULL));
                continue;
            }
            let (link, service) = (self.clone(), service.clone());
            tokio::spawn(async move {
                let exchange = async {
                    let request = read_message(&mut recv).await?;
                    let reply = service.answer(&link, request).await;
                    write_message(&mut send, &reply).await
                };
                match timeout(REQUEST_TIMEOUT, exchange).await {
                    Ok(Ok(())) => {}
                    Ok(Err(FrameError::Decode(error))) => link.broke_protocol(&error.to_string()),
                    Ok(Err(error)) => tracing::debug!(%error, "request not answered"),
                    Err(_) => tracing::debug!("request not answered in time"),
                }
                drop(permit);
            });
        }
    }

    async fn serve_notices(self: &Arc<Self>, service: &Arc<dyn LinkService>) {
        while let Ok(mut stream) = self.conn.accept_uni().await {
            if !self.admits(Kind::Notice) {
                continue;
            }
            match timeout(REQUEST_TIMEOUT, read_message(&mut stream)).await {
                Ok(Ok(notice)) => service.notice(self, notice),
                Ok(Err(FrameError::Decode(error))) => self.broke_protocol(&error.to_string()),
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// Sends what is in the outbox, one notice after the other.
    async fn send_notices(&self) {
        loop {
            let next = self.outbox().pop();
            let Some(notice) = next else {
                self.outbox_filled.notified().await;
                continue;
            };
            match timeout(REQUEST_TIMEOUT, self.conn.open_uni()).await {
                Ok(Ok(stream)) => self.send_notice(stream, &notice).await,
                // The connection has ended. The other loops end, too.
                Ok(Err(_)) => return,
                Err(_) => {
                    self.conduct.dropped(Instant::now().into_std(), LinkDrop::OutboxFull);
                }
            }
        }
    }

    async fn send_notice(&self, mut stream: SendStream, notice: &[u8]) {
        match timeout(REQUEST_TIMEOUT, stream.write_all(notice)).await {
            Ok(Ok(())) => {
                if let Err(error) = stream.finish() {
                    tracing::debug!(%error, "notice not sent");
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "notice not sent"),
            Err(_) => {
                // Dropping the stream would end it, and half a notice would be malformed.
                let _ = stream.reset(VarInt::from_u32(code::DONE));
                self.conduct.dropped(Instant::now().into_std(), LinkDrop::OutboxFull);
            }
        }
    }

    /// Takes a message of this kind from the neighbour's budget. If the budget is used up, the
    /// caller drops the message. If many were over the budget, the link closes.
    pub fn admits(&self, kind: Kind) -> bool {
        let taken = self.conduct.take(Instant::now().into_std(), kind);
        taken.map_err(|close| self.close_if(close)).is_ok()
    }

    /// Counts a message that no honest node sends; closes the link if there were many.
    pub fn offended(&self, drop: LinkDrop, offence: Offence) {
        self.close_if(self.conduct.offended(Instant::now().into_std(), drop, offence));
    }

    fn close_if(&self, close: CloseLink) {
        if close.0 {
            self.close(code::FULL, "too many messages that are dropped");
        }
    }

    async fn serve_datagrams(self: &Arc<Self>, service: &Arc<dyn LinkService>) {
        while let Ok(datagram) = self.conn.read_datagram().await {
            if !self.admits(Kind::Probe) {
                continue;
            }
            self.look_at_address();
            match LinkDatagram::decode(&datagram) {
                Some(LinkDatagram::Probe(probe)) => service.probe(self, probe),
                Some(LinkDatagram::Nonce(nonce)) => self.take_answer(service, nonce),
                None => self.offended(LinkDrop::Malformed, Offence::Malformed),
            }
        }
    }

    fn take_answer(&self, service: &Arc<dyn LinkService>, nonce: u64) {
        self.reach.returned(nonce);
        let answered = self.address().answered(nonce);
        if let Some(address) = answered {
            if let Some(more) = self.conduct.log(Instant::now().into_std(), "address") {
                let neighbour = &self.peer.name;
                tracing::info!(%neighbour, %address, more, "the neighbour has another address");
            }
            self.neighbour.set_address(Some(address));
            service.moved(self, address);
        }
    }

    /// Starts the check of a new address, if the neighbour's newest packet came from one.
    fn look_at_address(&self) {
        let Some(address) = remote_address(&self.conn) else { return };
        let mut check = self.address();
        check.heard_from(Instant::now().into_std(), address, self.chance.draw());
        if check.timeout().is_some() {
            self.address_news.notify_one();
        }
    }

    /// Sends nonces to new addresses of the neighbour. Lane and relayed packets do not go to an
    /// address that has not answered. QUIC still sends the link's own packets there, so after
    /// several challenges the link closes.
    async fn check_addresses(&self, service: &Arc<dyn LinkService>) {
        loop {
            let wake = self.address().timeout();
            let asleep = async {
                match wake {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { biased; () = asleep => {} () = self.address_news.notified() => {} }
            loop {
                let due = self.address().due(Instant::now().into_std());
                match due {
                    Some(Due::Send(address, nonce)) => {
                        service.send_nonce(address, AddressNonce { asker: self.asks_as, nonce });
                    }
                    Some(Due::Forgotten) => self.unanswered(),
                    Some(Due::GiveUp) => {
                        self.unanswered();
                        self.close(code::DONE, "your new address does not answer");
                    }
                    None => break,
                }
            }
        }
    }

    fn unanswered(&self) {
        self.conduct.dropped(Instant::now().into_std(), LinkDrop::AddressUnanswered);
    }

    fn address(&self) -> MutexGuard<'_, AddressCheck> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broke_protocol(&self, error: &str) {
        if let Some(more) = self.conduct.log(Instant::now().into_std(), "protocol") {
            tracing::warn!(neighbour = %self.peer.name, error, more, "link closed: protocol broken");
        }
        self.offended(LinkDrop::Malformed, Offence::Malformed);
        self.close(code::PROTOCOL, "malformed message");
    }
}

/// The numbers under which the ends of a link ask for the return of nonces: that of the end that dialled,
/// and the other's. They come from the keys of the connection (RFC 8446, section 7.5), which no other node has.
fn askers(conn: &Connection) -> Option<(u64, u64)> {
    let (mut dialler, mut other) = ([0; 8], [0; 8]);
    conn.export_keying_material(&mut dialler, ASKER_LABEL, b"dialler").ok()?;
    conn.export_keying_material(&mut other, ASKER_LABEL, b"other").ok()?;
    Some((u64::from_be_bytes(dialler), u64::from_be_bytes(other)))
}

/// The exporter's label of these numbers.
const ASKER_LABEL: &[u8] = b"EXPORTER-ronproxy-address-nonce";

pub(super) async fn request_on(conn: &Connection, request: &Request) -> Result<Reply, LinkError> {
    let exchange = async {
        let stream = conn.open_bi().await;
        let (mut send, mut recv) = stream.map_err(|e| FrameError::Stream(e.to_string()))?;
        write_message(&mut send, request).await?;
        Ok(read_message(&mut recv).await?)
    };
    timeout(REQUEST_TIMEOUT, exchange).await.map_err(|_| LinkError::TimedOut)?
}

/// The address the connection's peer has now, in its canonical form.
pub(super) fn remote_address(conn: &Connection) -> Option<SocketAddr> {
    let address = conn.path(PathId::ZERO)?.remote_address().ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link to {:?}", self.neighbour)
    }
}
