//! Keeping a link to every member.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use noq::{Connection, ConnectionError};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Mesh;
use crate::{
    identity::{MemberInfo, NodeName, Peer, certificate_of, peer_of, server_name},
    link::{Link, LinkService, Verdict},
    transport::{CertificateFault, code},
    wire::link::Hello,
};

/// How often the directory is looked through for members to dial.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long one attempt to dial may take: three initial retransmissions at worst.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often news of members are told to the neighbours. When a mesh of 50 forms, each node has
/// 49 pieces of news within a second or two; they go out together.
const TELL_EVERY: Duration = Duration::from_secs(1);

impl Mesh {
    /// Keeps links to all members until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut tell = tokio::time::interval(TELL_EVERY);
        let mut dials = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = look.tick() => {
                    // Without a certificate nobody would answer: `app` renews it first.
                    if self.credentials.peer().expires <= self.credentials.now() {
                        continue;
                    }
                    let due = self.members().due(Instant::now().into_std());
                    for (name, addresses) in due {
                        dials.spawn(self.clone().dial(name, addresses));
                    }
                }
                _ = tell.tick() => self.tell_everyone(),
                Some(_) = dials.join_next() => {}
            }
        }
    }

    async fn dial(self: Arc<Self>, name: NodeName, addresses: Vec<SocketAddr>) {
        let mut attempts = JoinSet::new();
        for address in addresses {
            attempts.spawn(timeout(DIAL_TIMEOUT, self.clone().dial_at(name.clone(), address)));
        }
        // The first address that answers wins; dropping the set ends the other attempts.
        while let Some(attempt) = attempts.join_next().await {
            if let Ok(Ok(Some((conn, peer, hello)))) = attempt {
                self.clone().take_up(conn, peer, hello, true);
                return;
            }
        }
        self.members().dial_failed(Instant::now().into_std(), &name);
    }

    async fn dial_at(
        self: Arc<Self>,
        name: NodeName,
        address: SocketAddr,
    ) -> Option<(Connection, Peer, Hello)> {
        let client = self.link_client.clone();
        let connecting = self.endpoint.connect_with(client, address, &server_name(&name));
        let conn = match connecting {
            Ok(connecting) => connecting.await,
            Err(error) => {
                tracing::warn!(%name, %address, %error, "cannot dial");
                return None;
            }
        };
        let conn = conn.inspect_err(|error| {
            tracing::debug!(%name, %address, %error, "no answer");
            self.note_fault(&name, error);
        });
        let conn = conn.ok()?;
        let peer = peer_of(&conn).ok().filter(|peer| peer.name == name);
        let Some(peer) = peer else {
            conn.close(code::UNAUTHORISED.into(), b"not the node that was dialled");
            return None;
        };
        let ours = self.hello();
        let hello = match Link::introduce(&conn, ours.clone()).await {
            Ok(hello) => {
                let exchanged = self.exchange_lists(&conn, &peer, (&ours, &hello)).await;
                exchanged.map(|()| hello)
            }
            Err(error) => Err(error),
        };
        let hello = hello.inspect_err(|error| {
            tracing::debug!(%name, %error, "no introduction");
            // A neighbour judges our certificate after its own part of the handshake is done.
            if let Some(error) = conn.close_reason() {
                self.note_fault(&name, &error);
            }
        });
        Some((conn, peer, hello.ok()?))
    }

    /// Takes note of what a failed handshake with `name` says about a certificate.
    fn note_fault(&self, name: &NodeName, error: &ConnectionError) {
        match CertificateFault::of(error) {
            Some(CertificateFault::Dates) => self.credentials.count_refused_by_date(),
            Some(CertificateFault::Revoked) if self.credentials.count_refused_as_revoked() == 1 => {
                tracing::warn!(%name, "a member refuses this node: its certificate is revoked");
            }
            _ => {}
        }
    }

    /// Takes up a link that a neighbour dialled; `peer` is who its certificate says.
    pub async fn accept(self: Arc<Self>, conn: Connection, peer: Peer) {
        if peer.name == self.us.name {
            tracing::warn!("a node with our own name dialled; is our identity in use twice?");
            conn.close(code::UNAUTHORISED.into(), b"this is your own name");
            return;
        }
        let ours = self.hello();
        let introduced = match Link::await_introduction(&conn, ours.clone()).await {
            Ok(hello) => {
                let exchanged = self.exchange_lists(&conn, &peer, (&ours, &hello)).await;
                exchanged.map(|()| hello)
            }
            Err(error) => Err(error),
        };
        match introduced {
            Ok(hello) => self.take_up(conn, peer, hello, false),
            Err(error) => {
                tracing::debug!(neighbour = %peer.name, %error, "no introduction");
                conn.close(code::PROTOCOL.into(), b"no introduction");
            }
        }
    }

    fn take_up(self: Arc<Self>, conn: Connection, peer: Peer, hello: Hello, we_dialled: bool) {
        let neighbour = self.links.neighbour(&peer.name);
        let certificate = certificate_of(&conn);
        let link = Arc::new(Link::new(peer, conn, neighbour, hello, we_dialled));
        if let Some(certificate) = &certificate {
            self.attestations.meet(link.peer(), certificate);
        }
        let restarted = self.links.is_new_process(&link);
        let path_down = self.members().is_path_down(&link.peer().name);
        if self.links.insert(&self.us.name, &link, path_down) == Verdict::Duplicate {
            return;
        }
        let name = link.peer().name.clone();
        let info = MemberInfo {
            name: name.clone(),
            addresses: link.hello().addresses.clone(),
            roles: link.peer().roles,
        };
        let observed = link.neighbour().address();
        let seen: Vec<SocketAddr> =
            observed.into_iter().chain(info.addresses.iter().copied()).collect();
        self.credentials.seen_at(&name, &seen);
        self.members().linked(Instant::now().into_std(), info, observed);
        tracing::info!(neighbour = %name, address = ?observed, we_dialled, "link up");
        let now = Instant::now().into_std();
        self.routing().link_up(now, &name, restarted, rand::random());
        self.news.notify_one();
        self.catch_up(&link);
        tokio::spawn(async move {
            let service: Arc<dyn LinkService> = self.clone();
            link.serve(&service).await;
            if self.links.remove(&link) {
                tracing::info!(neighbour = %name, reason = link.end(), "link down");
                self.members().unlinked(Instant::now().into_std(), &name);
            }
        });
    }

    fn tell_everyone(&self) {
        let members = self.tell_members();
        for link in self.links.all() {
            link.tell_members(&members);
        }
    }

    /// Tells all neighbours that we stop, so that they do not wait for us.
    pub fn close_links(&self) {
        for link in self.links.all() {
            link.close(code::DONE, "the node stops");
        }
    }
}
