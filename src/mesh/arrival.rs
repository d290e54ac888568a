//! Connections that become links: the introductions that others make, and what a new link begins with.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
};

use noq::{Connection, VarInt};
use tokio::time::Instant;

use super::{Mesh, address::OwnKinds, outside::Outside};
use crate::{
    identity::{NodeName, Peer, certificate_of},
    link::{Introduction, Link, LinkDrop, LinkError, LinkService, Verdict},
    overlay::monitor::Monitor,
    transport::{code, trust_link},
    underlay::Carrier,
    wire::link::Hello,
};

/// How a connection came about that becomes a link.
pub(super) struct Arrival {
    we_dialled: bool,
    /// Where the handshake went.
    address: SocketAddr,
    /// What has measured it, if it was better than the link before.
    tried: Option<Monitor>,
}

impl Arrival {
    pub(super) fn dialled(address: SocketAddr) -> Self {
        Self { we_dialled: true, address, tried: None }
    }

    fn accepted(address: SocketAddr) -> Self {
        Self { we_dialled: false, address, tried: None }
    }

    pub(super) fn tried(we_dialled: bool, address: SocketAddr, monitor: Monitor) -> Self {
        Self { we_dialled, address, tried: Some(monitor) }
    }
}

impl Mesh {
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
        match Link::await_introduction(&conn, || self.hello()).await {
            Ok(Introduction::Link { theirs, ours }) => {
                if self.settle(&conn, &peer, (&ours, &theirs)).await {
                    self.take_up(conn, peer, theirs, Arrival::accepted(address));
                }
            }
            // It takes half a minute, and no place among the handshakes.
            Ok(Introduction::Trial) => drop(tokio::spawn(self.host_trial(conn, peer, address))),
            Err(error) => not_introduced(&conn, &peer, &error),
        }
    }

    /// Exchanges revocation lists on a connection on which the neighbour has introduced itself, and gives the connection
    /// the room of a link. Closes the connection and returns false if the neighbour owes a list and does not send it.
    pub(super) async fn settle(
        &self,
        conn: &Connection,
        peer: &Peer,
        (ours, theirs): (&Hello, &Hello),
    ) -> bool {
        let exchanged = self.exchange_lists(conn, peer, (ours, theirs)).await;
        match &exchanged {
            Ok(()) => trust_link(conn),
            Err(error) => not_introduced(conn, peer, error),
        }
        exchanged.is_ok()
    }

    /// Stores the certificate that a neighbour showed.
    pub(super) fn meet(&self, conn: &Connection, peer: &Peer) {
        if let Some(certificate) = &certificate_of(conn) {
            self.attestations.meet(&Arc::new(peer.clone()), certificate);
        }
    }

    pub(super) fn take_up(
        self: Arc<Self>,
        conn: Connection,
        peer: Peer,
        hello: Hello,
        arrival: Arrival,
    ) {
        let Arrival { we_dialled, address, tried } = arrival;
        let (peer, how) = (Arc::new(peer), (we_dialled, address));
        let kept = (self.links.neighbour(&peer.name), self.links.conduct(&peer));
        let link = Arc::new(Link::new(peer, conn, kept, hello, how, &self.switch));
        let restarted = self.links.is_new_process(&link);
        let name = link.peer().name.clone();
        let path_down = self.members().is_path_down(&name);
        let before = self.links.get(&name).map(|link| link.carrier());
        if self.links.insert(&self.us.name, &link, path_down) == Verdict::Duplicate {
            return;
        }
        let observed = link.neighbour().address();
        let now = Instant::now().into_std();
        if !self.members().linked(now, link.certified(), (we_dialled, observed)) {
            self.links.remove(&link);
            link.conduct().dropped(now, LinkDrop::DirectoryFull);
            link.close(code::FULL, "no room for another member");
            return;
        }
        self.note_authority(&name);
        self.credentials.forget_refusals();
        let (address, carrier) = (link.real_address().map(tracing::field::display), link.carrier());
        tracing::info!(neighbour = %name, address, carrier = carrier.name(), we_dialled, "link up");
        if tried.is_none() || carrier == Carrier::Udp {
            self.note_carrier(carrier, we_dialled);
        }
        if we_dialled && carrier == Carrier::Tls {
            self.members().streamed(&name, link.real_address());
        }
        self.routing().link_up(now, &name, restarted, self.switch.chance().draw());
        match tried {
            Some(monitor) => self.routing().adopt(now, &name, monitor),
            None if before.is_some_and(|before| before != carrier) => {
                self.routing().another_path(&name)
            }
            None => {}
        }
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

fn not_introduced(conn: &Connection, peer: &Peer, error: &LinkError) {
    tracing::debug!(neighbour = %peer.name, %error, "the other node did not introduce itself");
    conn.close(code::PROTOCOL.into(), b"no introduction");
}
