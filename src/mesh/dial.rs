//! Keeping a link to every member.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use noq::{ClientConfig, Connection, ConnectionError};
use tokio::{
    task::{Id, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    FAMILY_HEAD_START, Mesh, arrival::Arrival, dials::Dials, members::Dial, networks::reaches,
    trials::Trials,
};
use crate::{
    identity::{NodeName, Peer, peer_of, server_name},
    link::Link,
    transport::{CertificateFault, code, knock_with},
    underlay::{Carrier, StreamHold},
    wire::link::Hello,
};

/// How often the directory is looked through for members to dial.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long one attempt to dial may take: three initial retransmissions at worst.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// Trials, which take half a minute.
    trials: Dials,
    tasks: JoinSet<()>,
    /// Whom each task dials, by what, and where.
    dialled: BTreeMap<Id, Dial>,
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
                    dialler.dialled.remove(&id).into_iter().for_each(|dial| self.ended(&mut dialler, &dial));
                    self.dial_due(&mut dialler);
                }
            }
        }
    }

    fn ended(&self, dialler: &mut Dialler, Dial { name, carrier, addresses, trial, .. }: &Dial) {
        let dials = match (trial, carrier) {
            (true, _) => &mut dialler.trials,
            (false, Carrier::Udp) => &mut dialler.dials,
            (false, Carrier::Tls) => &mut dialler.streams,
        };
        dials.end(name, addresses);
        if *trial {
            self.members().trials(name).into_iter().for_each(Trials::ended);
        } else {
            self.members().dial_ended(name, *carrier);
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
        let lossy = self.streams.as_ref().map(|_| self.routing().lossy(now)).unwrap_or_default();
        due.extend(self.members().trials_due(now, &mut dialler.trials, &lossy, refused, reaches));
        for dial in due {
            let task = match dial.trial {
                true => dialler.tasks.spawn(self.clone().try_carrier(dial.clone())),
                false => dialler.tasks.spawn(self.clone().dial(dial.clone())),
            };
            dialler.dialled.insert(task.id(), dial);
        }
    }

    async fn dial(self: Arc<Self>, dial: Dial) {
        let Dial { name, carrier, addresses, hurried, later, trial: _ } = dial;
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
                self.clone().take_up(conn, peer, hello, Arrival::dialled(address));
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
        knock_with(&mut client, self.attestations.knock(name), self.switch.chance());
        client
    }

    pub(super) async fn dial_at(&self, name: NodeName, address: SocketAddr) -> Option<Dialled> {
        let began = Instant::now().into_std();
        let (conn, peer) = self.connect(&name, address).await?;
        // A stream is dialled beside a link that is silent, and UDP beside a stream that is.
        let by_stream = |link: Arc<Link>| link.carrier() == Carrier::Tls;
        let beside =
            Carrier::of(address) == Carrier::Tls || self.links.get(&name).is_some_and(by_stream);
        if beside && self.answers(&name, began) {
            // The neighbour would give up the link that works for this one.
            conn.close(code::DUPLICATE.into(), b"the link answers");
            return None;
        }
        let hello = self.introduce_on(&conn, &peer).await?;
        Some(Dialled { conn, peer, hello, address, stream: None })
    }

    /// Connects to a member, and sees that it is the one.
    pub(super) async fn connect(
        &self,
        name: &NodeName,
        address: SocketAddr,
    ) -> Option<(Connection, Peer)> {
        let began = Instant::now().into_std();
        let client = self.client_for(name);
        let connecting = self.endpoint.connect_with(client, address, &server_name(name));
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
        let peer = peer_of(&conn).ok().filter(|peer| peer.name == *name);
        let Some(peer) = peer else {
            conn.close(code::UNAUTHORISED.into(), b"not the node that was dialled");
            return None;
        };
        Some((conn, peer))
    }

    /// Introduces this node on a connection that it dialled: it becomes a link.
    pub(super) async fn introduce_on(&self, conn: &Connection, peer: &Peer) -> Option<Hello> {
        let name = &peer.name;
        let ours = self.hello();
        let hello = match Link::introduce(conn, ours.clone()).await {
            Ok(hello) => {
                let exchanged = self.exchange_lists(conn, peer, (&ours, &hello)).await;
                exchanged.map(|()| hello)
            }
            Err(error) => Err(error),
        };
        let hello = hello.inspect_err(|error| {
            tracing::debug!(%name, %error, "the other node did not introduce itself");
            // A neighbour judges our certificate after its own part of the handshake is done.
            if let Some(error) = conn.close_reason() {
                self.note_fault(name, &error);
            }
        });
        hello.ok()
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
}

#[cfg(all(test, feature = "emulator"))]
#[path = "dial_tests.rs"]
mod tests;
