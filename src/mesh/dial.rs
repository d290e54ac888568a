//! Keeping a link to every member.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use noq::{ClientConfig, Connection, ConnectionError, VarInt};
use tokio::{
    task::{Id, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    FAMILY_HEAD_START, Mesh, address::OwnKinds, dials::Dials, members::Dial, networks::reaches,
    outside::Outside,
};
use crate::{
    identity::{NodeName, Peer, certificate_of, peer_of, server_name},
    link::{Link, LinkDrop, LinkService, Verdict},
    transport::{CertificateFault, code, knock_with, trust_link},
    underlay::{Carrier, StreamHold},
    wire::link::Hello,
};

/// How often the directory is looked through for members to dial.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long one attempt to dial may take: three initial retransmissions at worst.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a hurried dial may take besides three round trips: signatures at both ends.
const SLACK: Duration = Duration::from_millis(500);

/// How often to look whether certificates have ended.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// The dials under way.
#[derive(Default)]
struct Dialler {
    dials: Dials,
    /// Those by streams, which have places of their own: UDP addresses that are dead take places for 5 s.
    streams: Dials,
    tasks: JoinSet<()>,
    /// Whom each task dials, by what, and where.
    dialled: BTreeMap<Id, (NodeName, Carrier, Vec<SocketAddr>)>,
}

/// A connection to the member that was dialled, after the introductions.
pub(super) struct Dialled {
    conn: Connection,
    peer: Peer,
    hello: Hello,
    /// Where the handshake went.
    address: SocketAddr,
    /// Keeps the stream open, if it goes over one, until the link does.
    pub(super) stream: Option<StreamHold>,
}

impl Mesh {
    /// Keeps links to all members until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut expire = tokio::time::interval(EXPIRE_EVERY);
        let mut dialler = Dialler::default();
        self.enter_network();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = look.tick() => self.dial_due(&mut dialler),
                () = self.dial_news.notified() => self.dial_due(&mut dialler),
                _ = expire.tick() => self.expire(),
                // It makes room for others.
                Some(ended) = dialler.tasks.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    if let Some((name, carrier, addresses)) = dialler.dialled.remove(&id) {
                        match carrier {
                            Carrier::Udp => dialler.dials.end(&name, &addresses),
                            Carrier::Tls => dialler.streams.end(&name, &addresses),
                        }
                        self.members().dial_ended(&name, carrier);
                    }
                    self.dial_due(&mut dialler);
                }
            }
        }
    }

    fn dial_due(self: &Arc<Self>, dialler: &mut Dialler) {
        // Without a certificate nobody would answer: `app` renews it first.
        if self.credentials.peer().expires <= self.credentials.now() {
            return;
        }
        let now = Instant::now().into_std();
        let refused = |peer: &Peer| self.links.is_refused(now, peer);
        let reaches = |to: SocketAddr| self.bound.is_none_or(|from| reaches(from, to.ip()));
        let mut due = self.members().due(now, &mut dialler.dials, refused, reaches);
        due.extend(self.members().streams_due(now, &mut dialler.streams, refused));
        for dial in due {
            let dialled = (dial.name.clone(), dial.carrier, dial.addresses.clone());
            let task = dialler.tasks.spawn(self.clone().dial(dial));
            dialler.dialled.insert(task.id(), dialled);
        }
    }

    async fn dial(self: Arc<Self>, dial: Dial) {
        let Dial { name, carrier, addresses, hurried, later } = dial;
        let known = self.routing().least_rtt(&name).filter(|_| hurried);
        let patience = known.map_or(DIAL_TIMEOUT, |rtt| (rtt * 3 + SLACK).min(DIAL_TIMEOUT));
        let mut attempts = JoinSet::new();
        let begin = |attempts: &mut JoinSet<_>, address: &SocketAddr| {
            let (mesh, name, address) = (self.clone(), name.clone(), *address);
            let attempt = async move {
                match carrier {
                    Carrier::Udp => mesh.dial_at(name, address).await,
                    Carrier::Tls => mesh.dial_stream(name, address).await,
                }
            };
            attempts.spawn(timeout(patience, attempt));
        };
        let first = addresses.iter().filter(|address| !later.contains(address));
        first.for_each(|address| begin(&mut attempts, address));
        let mut later = Some(later).filter(|later| !later.is_empty());
        let head_start = sleep(FAMILY_HEAD_START);
        tokio::pin!(head_start);
        // The first address that answers wins; dropping the set ends the other attempts.
        loop {
            let attempt = tokio::select! {
                biased;
                Some(attempt) = attempts.join_next() => Some(attempt),
                () = &mut head_start, if later.is_some() => None,
                else => break,
            };
            if let Some(Ok(Ok(Some(dialled)))) = attempt {
                let Dialled { conn, peer, hello, address, stream } = dialled;
                self.meet(&conn, &peer);
                self.clone().take_up(conn, peer, hello, (true, address));
                drop(stream);
                return;
            }
            if attempt.is_none() || attempts.is_empty() {
                later.take().iter().flatten().for_each(|address| begin(&mut attempts, address));
            }
        }
        self.members().dial_failed(Instant::now().into_std(), &name, carrier);
    }

    /// How a link to `name` is dialled: the first packets show who dials.
    pub(super) fn client_for(&self, name: &NodeName) -> ClientConfig {
        let mut client = self.link_client.clone();
        knock_with(&mut client, self.attestations.knock(name));
        client
    }

    pub(super) async fn dial_at(&self, name: NodeName, address: SocketAddr) -> Option<Dialled> {
        let began = Instant::now().into_std();
        let client = self.client_for(&name);
        let connecting = self.endpoint.connect_with(client, address, &server_name(&name));
        let conn = match connecting {
            Ok(connecting) => connecting.await,
            Err(error) => {
                if let Some(more) = self.dial_log(began, "cannot dial") {
                    tracing::warn!(%name, %address, %error, more, "cannot dial");
                }
                return None;
            }
        };
        let conn = conn.inspect_err(|error| {
            tracing::debug!(%name, %address, %error, "no answer");
            // Before the handshake is done anybody may have said anything about ours.
            let by_our_clock = matches!(error, ConnectionError::TransportError(_));
            if by_our_clock && CertificateFault::of(error) == Some(CertificateFault::Dates) {
                self.credentials.count_refused_by_date();
            }
        });
        let conn = conn.ok()?;
        let peer = peer_of(&conn).ok().filter(|peer| peer.name == name);
        let Some(peer) = peer else {
            conn.close(code::UNAUTHORISED.into(), b"not the node that was dialled");
            return None;
        };
        if Carrier::of(address) == Carrier::Tls && self.answers(&name, began) {
            // The neighbour would give up the link that works for this one.
            conn.close(code::DUPLICATE.into(), b"the link answers");
            return None;
        }
        let ours = self.hello();
        let hello = match Link::introduce(&conn, ours.clone()).await {
            Ok(hello) => {
                let exchanged = self.exchange_lists(&conn, &peer, (&ours, &hello)).await;
                exchanged.map(|()| hello)
            }
            Err(error) => Err(error),
        };
        let hello = hello.inspect_err(|error| {
            tracing::debug!(%name, %error, "the other node did not introduce itself");
            // A neighbour judges our certificate after its own part of the handshake is done.
            if let Some(error) = conn.close_reason() {
                self.note_fault(&name, &error);
            }
        });
        Some(Dialled { conn, peer, hello: hello.ok()?, address, stream: None })
    }

    /// Whether a line of this kind about dials is due: if so, how many were left out since the last. What
    /// members' records name decides how often dials fail.
    pub(super) fn dial_log(&self, now: std::time::Instant, kind: &'static str) -> Option<u64> {
        self.dial_lines.lock().unwrap_or_else(PoisonError::into_inner).due(now, kind)
    }

    /// Takes note of what `name`, whose certificate is verified, says about ours.
    fn note_fault(&self, name: &NodeName, error: &ConnectionError) {
        match CertificateFault::of(error) {
            Some(CertificateFault::Dates) => self.credentials.count_refused_by_date(),
            // One member's word counts as long as no other one accepts us.
            Some(CertificateFault::Revoked)
                if self.links.all().is_empty()
                    && self.credentials.count_refused_as_revoked() == 1 =>
            {
                tracing::warn!(%name, "a member refuses this node: it says that the certificate is revoked");
            }
            _ => {}
        }
    }

    /// Takes up a link that a neighbour dialled; `peer` is who its certificate says.
    ///
    /// `address` is where the handshake went: QUIC may have taken over another one since.
    pub async fn accept(self: Arc<Self>, conn: Connection, peer: Peer, address: SocketAddr) {
        if peer.name == self.us.name {
            tracing::warn!(
                "a node with this node's own name dialled; two processes may use copies of one folder"
            );
            conn.close(code::UNAUTHORISED.into(), b"this is your own name");
            return;
        }
        if self.links.is_refused(Instant::now().into_std(), &peer) {
            let conduct = self.links.conduct(&peer);
            conduct.dropped(Instant::now().into_std(), LinkDrop::LinkRefused);
            conn.close(code::FULL.into(), b"your links are refused for a while");
            return;
        }
        // From now on its first packets show who it is, also if it does not end the introductions.
        self.meet(&conn, &peer);
        // For a newer revocation list.
        conn.set_max_concurrent_uni_streams(VarInt::from_u32(1));
        let ours = self.hello();
        let introduced = match Link::await_introduction(&conn, ours.clone()).await {
            Ok(hello) => {
                let exchanged = self.exchange_lists(&conn, &peer, (&ours, &hello)).await;
                exchanged.map(|()| hello)
            }
            Err(error) => Err(error),
        };
        match introduced {
            Ok(hello) => {
                trust_link(&conn);
                self.take_up(conn, peer, hello, (false, address));
            }
            Err(error) => {
                tracing::debug!(neighbour = %peer.name, %error, "the other node did not introduce itself");
                conn.close(code::PROTOCOL.into(), b"no introduction");
            }
        }
    }

    /// Stores the certificate that a neighbour showed.
    fn meet(&self, conn: &Connection, peer: &Peer) {
        if let Some(certificate) = &certificate_of(conn) {
            self.attestations.meet(&Arc::new(peer.clone()), certificate);
        }
    }

    fn take_up(
        self: Arc<Self>,
        conn: Connection,
        peer: Peer,
        hello: Hello,
        how: (bool, SocketAddr),
    ) {
        let (peer, we_dialled) = (Arc::new(peer), how.0);
        let kept = (self.links.neighbour(&peer.name), self.links.conduct(&peer));
        let link = Arc::new(Link::new(peer, conn, kept, hello, how, &self.switch));
        let restarted = self.links.is_new_process(&link);
        let name = link.peer().name.clone();
        let path_down = self.members().is_path_down(&name);
        if self.links.insert(&self.us.name, &link, path_down) == Verdict::Duplicate {
            return;
        }
        let observed = link.neighbour().address();
        let now = Instant::now().into_std();
        if !self.members().linked(now, link.certified(), observed) {
            self.links.remove(&link);
            link.conduct().dropped(now, LinkDrop::DirectoryFull);
            link.close(code::FULL, "no room for another member");
            return;
        }
        self.note_authority(&name);
        self.credentials.forget_refusals();
        let (address, carrier) = (link.real_address().map(tracing::field::display), link.carrier());
        tracing::info!(neighbour = %name, address, carrier = carrier.name(), we_dialled, "link up");
        self.note_carrier(carrier, we_dialled);
        if we_dialled && carrier == Carrier::Tls {
            self.members().streamed(&name, link.real_address());
        }
        self.routing().link_up(now, &name, restarted, self.switch.chance().draw());
        self.take_vote(&link);
        self.news.notify_one();
        self.route_news.send_replace(());
        self.catch_up(&link);
        tokio::spawn(async move {
            let service: Arc<dyn LinkService> = self.clone();
            link.serve(&service).await;
            if self.links.remove(&link) {
                tracing::info!(neighbour = %name, reason = link.end(), "link down");
                let now = Instant::now().into_std();
                self.routing().link_down(now, &name);
                self.news.notify_one();
                self.members().unlinked(now, &name);
                self.outside_changed(&link, |outside| outside.gone(&name));
            }
        });
    }

    /// Takes note of where the member can be reached, if it is the authority's node.
    pub(super) fn note_authority(&self, name: &NodeName) {
        if let Some(member) = self.members().get(name) {
            self.credentials.seen_at(name, &member.addresses);
        }
    }

    /// Takes what a neighbour says of where it sees us. It cannot see us at an address that leads to it only
    /// from within another machine or network.
    pub(super) fn take_vote(&self, link: &Link) {
        let (name, now) = (&link.peer().name, Instant::now().into_std());
        let near = link.real_address().map(|address| address.ip());
        let near = near.into_iter().fold(OwnKinds::default(), OwnKinds::with);
        let seen = link.seen().filter(|seen| near.check(*seen).is_ok());
        self.outside_changed(link, |outside| outside.seen(now, name, seen));
    }

    /// Lets `change` record the vote of the neighbour on `link`; if our outside address is another then, it is
    /// advertised. A neighbour may change its mind at any pace.
    pub(super) fn outside_changed(&self, link: &Link, change: impl FnOnce(&mut Outside) -> bool) {
        let outside = {
            let mut outside = self.outside.lock().unwrap_or_else(PoisonError::into_inner);
            if !change(&mut outside) {
                return;
            }
            outside.addresses()
        };
        if let Some(more) = link.conduct().log(Instant::now().into_std(), "outside address") {
            tracing::info!(
                address = outside.first().map(display),
                other = outside.get(1).map(display),
                more,
                "neighbours see this node at this address"
            );
        }
        self.tell_addresses();
    }

    /// Tells all neighbours that we stop, so that they do not wait for us.
    pub fn close_links(&self) {
        for link in self.links.all() {
            link.close(code::DONE, "the node stops");
        }
    }
}

#[cfg(all(test, feature = "emulator"))]
#[path = "dial_tests.rs"]
mod tests;
