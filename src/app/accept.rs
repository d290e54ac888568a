//! The node's front door: every incoming QUIC connection is judged here.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use noq::{Connection, Endpoint, Incoming, ServerConfig};
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    admission::{Admission, Arrival, Verdict},
    desk::JoinDesk,
    handshakes::{HandshakeCounts, Outcome},
    known::{KnownAddresses, MAX_PER_NAME, site},
    places::Who,
};
use crate::{
    identity::{Accepted, Peer, accepted},
    lane::{Granted, LaneHost},
    mesh::Mesh,
    transport::{Claim, KnockKey, LaneServer, Shown, code, shown},
    underlay::{Carrier, SlotId, Switch},
    wire::reach::udp_of,
};

/// A handshake must be complete within this time: three initial retransmissions at worst.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the neighbours' addresses are noted: a link that stood for less is not remembered.
const NOTE_EVERY: Duration = Duration::from_secs(5);

/// What serves accepted connections.
pub(super) struct Door {
    endpoint: Endpoint,
    mesh: Arc<Mesh>,
    host: Arc<LaneHost>,
    servers: Servers,
    desk: Option<Arc<JoinDesk>>,
    knocks: KnockKey,
    counts: Arc<HandshakeCounts>,
    switch: Arc<Switch>,
    state: Mutex<State>,
}

/// How connections are accepted.
pub(super) struct Servers {
    /// Members' links.
    pub(super) link: Arc<ServerConfig>,
    /// At the authority: those, and members that renew their certificate.
    pub(super) renew: Arc<ServerConfig>,
    /// At the authority, while somebody is invited: joiners, too.
    pub(super) join: Arc<ServerConfig>,
    /// Lanes.
    pub(super) lane: LaneServer,
}

struct State {
    admission: Admission,
    known: KnownAddresses,
    /// Ends the handshake of a ticket.
    under_way: BTreeMap<u64, CancellationToken>,
}

/// A handshake under way; dropping it makes room for another.
struct Ticket {
    door: Arc<Door>,
    number: u64,
    gave_way: CancellationToken,
}

impl Door {
    pub(super) fn new(
        endpoint: Endpoint,
        (mesh, host): (Arc<Mesh>, Arc<LaneHost>),
        servers: Servers,
        (desk, knocks): (Option<Arc<JoinDesk>>, KnockKey),
        counts: Arc<HandshakeCounts>,
        switch: Arc<Switch>,
    ) -> Self {
        let now = Instant::now().into_std();
        let admission = Admission::new(now, switch.chance().draw());
        let mut known = KnownAddresses::default();
        // After a restart no neighbour is here yet, and some of them cannot be dialled.
        for member in mesh.known_members() {
            for address in udp_of(&member.addresses).take(MAX_PER_NAME) {
                known.note(now, &member.name, address.ip());
            }
        }
        let state = Mutex::new(State { admission, known, under_way: BTreeMap::new() });
        Self { endpoint, mesh, host, servers, desk, knocks, counts, switch, state }
    }

    /// Accepts connections until the endpoint closes.
    pub(super) async fn run(self: Arc<Self>) {
        let mut tick = interval(NOTE_EVERY);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => self.note_neighbours(),
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.clone().answer(incoming),
                    None => return,
                },
            }
        }
    }

    /// Decides about a connection before anything is computed for it.
    fn answer(self: Arc<Self>, incoming: Incoming) {
        let slot = SlotId::from_address(incoming.remote_address());
        let granted = slot.map(|slot| self.host.granted(slot));
        let verdict = match &granted {
            Some(None) => Verdict::Ignore(Outcome::NoGrant),
            Some(Some(granted)) => self.judge(&incoming, slot.zip(Some(granted))),
            None => self.judge(&incoming, None),
        };
        match verdict {
            Verdict::Ignore(outcome) => {
                self.counts.count(outcome);
                incoming.ignore();
            }
            Verdict::Retry => {
                self.counts.count(Outcome::Retried);
                // The error would mean that a retry is not possible, which was just asked.
                let _ = incoming.retry();
            }
            Verdict::Accept { ticket: number, instead_of } => {
                let ticket = self.clone().begin(number, instead_of);
                tokio::spawn(self.serve(incoming, slot, granted.flatten(), ticket));
            }
        }
    }

    fn judge(&self, incoming: &Incoming, lane: Option<(SlotId, &Granted)>) -> Verdict {
        let now = Instant::now().into_std();
        let (address, by_tcp) = self.whereabouts(incoming.remote_address());
        let ip = address.ip();
        let validated = by_tcp || incoming.remote_address_validated();
        let shown = lane.is_none().then(|| self.shown(incoming));
        let mut state = self.lock();
        let State { admission, known, .. } = &mut *state;
        let (who, begun) = match (lane, shown) {
            (Some((slot, granted)), _) => {
                (Who::Lane { entry: granted.entry.clone(), slot: slot.0 }, Outcome::Lane)
            }
            (None, Some(Shown::Member(name))) => {
                let seen = known.is_at(now, &name, ip);
                (Who::Member { name, ip: site(ip), seen }, Outcome::Member)
            }
            (None, Some(Shown::Invitation)) => (Who::Invited(ip.to_canonical()), Outcome::Invited),
            // A member that this node does not know.
            (None, Some(Shown::Overlay)) => (Who::Stranger(ip.to_canonical()), Outcome::Stranger),
            (None, Some(Shown::Nothing) | None) => return Verdict::Ignore(Outcome::Unknown),
        };
        let arrival = Arrival { who, validated, may_retry: incoming.may_retry() };
        let verdict = admission.judge(now, arrival);
        if matches!(verdict, Verdict::Accept { .. }) {
            self.counts.count(begun);
        }
        verdict
    }

    /// What the sender of the first packet knows.
    fn shown(&self, incoming: &Incoming) -> Shown {
        let member = |claim: &Claim<'_>| self.mesh.claimant(claim);
        let open = || self.desk.as_ref().map(|desk| desk.invitation_keys()).unwrap_or_default();
        shown(&incoming.orig_dst_cid(), &self.knocks, member, open)
    }

    /// Where a connection comes from: on a stream its TCP peer, which has answered there.
    fn whereabouts(&self, address: SocketAddr) -> (SocketAddr, bool) {
        match self.switch.streams().real_address(address) {
            Some(real) => (real, Carrier::of(address) == Carrier::Tls),
            // The stream has ended, and the connection will.
            None => (address, false),
        }
    }

    fn begin(self: Arc<Self>, number: u64, instead_of: Option<u64>) -> Ticket {
        let gave_way = CancellationToken::new();
        {
            let mut state = self.lock();
            if let Some(other) = instead_of.and_then(|other| state.under_way.remove(&other)) {
                other.cancel();
            }
            state.under_way.insert(number, gave_way.clone());
        }
        Ticket { door: self, number, gave_way }
    }

    async fn serve(
        self: Arc<Self>,
        incoming: Incoming,
        slot: Option<SlotId>,
        granted: Option<Granted>,
        ticket: Ticket,
    ) {
        // QUIC may take over another one that is not validated as soon as the handshake is over.
        let address = incoming.remote_address();
        let shaken = tokio::select! {
            biased;
            shaken = timeout(HANDSHAKE_TIMEOUT, self.shake_hands(incoming, granted)) => {
                shaken.unwrap_or(Err(Outcome::TimedOut))
            }
            () = ticket.gave_way.cancelled() => Err(Outcome::GaveWay),
        };
        match shaken {
            Ok(conn) => self.admit(conn, address, slot, ticket).await,
            Err(outcome) => self.counts.count(outcome),
        }
    }

    async fn shake_hands(
        &self,
        incoming: Incoming,
        granted: Option<Granted>,
    ) -> Result<Connection, Outcome> {
        let remote = incoming.remote_address();
        let config = match granted {
            None => self.server().await,
            Some(Granted { entry, mark, hint, longest }) => {
                Arc::new(self.servers.lane.config(&entry, &mark, &hint, longest))
            }
        };
        let conn = match incoming.accept_with(config) {
            Ok(connecting) => connecting.await,
            Err(error) => Err(error),
        };
        conn.map_err(|error| {
            tracing::debug!(%remote, %error, "handshake failed");
            Outcome::Failed
        })
    }

    /// Joiners are spoken with only where and while somebody is invited.
    async fn server(&self) -> Arc<ServerConfig> {
        let server = match &self.desk {
            None => &self.servers.link,
            Some(desk) if desk.is_open().await => &self.servers.join,
            Some(_) => &self.servers.renew,
        };
        server.clone()
    }

    /// Serves a connection as what its certificate, its protocol and its way of arrival say;
    /// one that does not fit together gets nothing.
    async fn admit(
        &self,
        conn: Connection,
        address: SocketAddr,
        slot: Option<SlotId>,
        ticket: Ticket,
    ) {
        match (accepted(&conn), slot) {
            (Ok(Accepted::Join), None) => self.admit_to_desk(conn, ticket, true).await,
            (Ok(Accepted::Renew), None) => self.admit_to_desk(conn, ticket, false).await,
            (Ok(Accepted::Link(peer)), None) => {
                let ip = self.whereabouts(address).0.ip();
                self.lock().known.note(Instant::now().into_std(), &peer.name, ip);
                self.admit_to_mesh(conn, peer, address, ticket).await;
            }
            (Ok(Accepted::Lane(peer)), Some(slot)) => {
                drop(ticket);
                self.host.clone().serve(conn, slot, peer).await;
            }
            (Ok(_), _) => {
                self.counts.count(Outcome::Unauthorised);
                conn.close(code::UNAUTHORISED.into(), b"wrong kind of connection");
            }
            (Err(error), _) => {
                self.counts.count(Outcome::Unauthorised);
                tracing::debug!(%address, %error, "connection refused");
                conn.close(code::UNAUTHORISED.into(), error.to_string().as_bytes());
            }
        }
    }

    /// A neighbour keeps its place among the handshakes, and the room of a stranger, until the introductions
    /// are over: one that does not end them gives way to others.
    async fn admit_to_mesh(
        &self,
        conn: Connection,
        peer: Peer,
        address: SocketAddr,
        ticket: Ticket,
    ) {
        tokio::select! {
            biased;
            () = self.mesh.clone().accept(conn.clone(), peer, address) => {}
            () = ticket.gave_way.cancelled() => {
                self.counts.count(Outcome::GaveWay);
                conn.close(code::FULL.into(), b"others introduce themselves; try again");
            }
        }
    }

    /// Such a connection keeps its place among the handshakes until it is answered: a peer that sends no
    /// request, or does not fetch the answer, gives way to others.
    async fn admit_to_desk(&self, conn: Connection, ticket: Ticket, joins: bool) {
        let Some(desk) = &self.desk else {
            conn.close(code::UNAUTHORISED.into(), b"not the overlay authority");
            return;
        };
        tokio::select! {
            biased;
            () = desk.serve(conn.clone(), &self.mesh, joins) => {}
            () = ticket.gave_way.cancelled() => {
                self.counts.count(Outcome::GaveWay);
                conn.close(code::FULL.into(), b"others ask the authority; try again in some seconds");
            }
        }
    }

    fn note_neighbours(&self) {
        let links = self.mesh.links().all();
        let at = links.iter().filter_map(|link| link.real_address().zip(Some(link)));
        let now = Instant::now().into_std();
        let mut state = self.lock();
        for (address, link) in at {
            state.known.note(now, &link.peer().name, address.ip());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.door.lock();
        state.admission.done(self.number);
        state.under_way.remove(&self.number);
    }
}
