//! The authority's desk: puts the questions of joiners and members to the signer, and keeps each asker
//! within a share of its own.
//!
//! | question | bounds |
//! |---|---|
//! | by a neighbour's link | its budget (`link/budget.rs`), turns by its name |
//! | by a connection of its own | handshakes (`admission`), turns by prefix |
//! | for a key that got its certificate lately | the same one again, without the signer (`recent`) |
//!
//! Both kinds of turns together are fewer than the questions that may wait for the signer, so none is
//! refused because of others.

use std::{
    fmt,
    hash::Hash,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use noq::Connection;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use super::recent::{Chain, Recent};
use crate::{
    flow::BoxFuture,
    identity::{
        Actor, Credentials, DeskRequest, Fingerprint, JoinRefusal, JoinReply, JoinRequest,
        MAX_JOIN_REQUEST, NodeName, Peer, Renewed, SigningRequest, Welcome,
    },
    mesh::{CertificateDesk, Mesh},
    signer::AuthorityClient,
    transport::{KnockKey, code},
    turns::{Limits, Turn, Turns},
    underlay::prefix,
    wire::link::RenewalRefusal,
};

/// An asker must send its request, and fetch the answer, within this time.
const DESK_TIMEOUT: Duration = Duration::from_secs(10);

/// Questions of neighbours. A question takes some milliseconds, so few are enough. At most 16 of one
/// neighbour are worked on (`link/conduct.rs`).
const OF_NEIGHBOURS: Limits = Limits { each: 2, waiting: 14, in_all: 16 };

/// Questions of others, by prefix: 16 of a prefix, and 64 in all, are let in (`admission`).
const OF_STRANGERS: Limits = Limits { each: 2, waiting: 14, in_all: 8 };

/// Where the authority's node answers joiners, and members whose certificate is to be renewed.
pub struct JoinDesk {
    authority: AuthorityClient,
    credentials: Credentials,
    recent: Mutex<Recent>,
    invited: Mutex<Invited>,
    neighbours: Turns<NodeName>,
    strangers: Turns<[u8; 7]>,
}

/// The open invitations.
#[derive(Default)]
struct Invited {
    /// The SHA-256 of their tokens.
    tokens: Arc<[[u8; 32]]>,
    keys: Arc<[KnockKey]>,
}

impl JoinDesk {
    /// The desk of an authority at the node with these credentials.
    #[must_use]
    pub fn new(authority: AuthorityClient, credentials: Credentials) -> Self {
        Self {
            authority,
            credentials,
            recent: Mutex::default(),
            invited: Mutex::default(),
            neighbours: Turns::new(OF_NEIGHBOURS),
            strangers: Turns::new(OF_STRANGERS),
        }
    }

    /// Whether a stranger may join now, by what the authority said within a second.
    pub(super) async fn is_open(&self) -> bool {
        self.authority.may_join().await
    }

    /// The keys by which joiners show that they are invited. To derive them takes some microseconds each.
    pub(super) fn invitation_keys(&self) -> Arc<[KnockKey]> {
        let tokens = self.authority.open_tokens();
        let mut invited = self.invited.lock().unwrap_or_else(PoisonError::into_inner);
        if invited.tokens != tokens {
            let keys = tokens.iter().map(KnockKey::of_invitation).collect();
            *invited = Invited { tokens, keys };
        }
        invited.keys.clone()
    }

    /// Answers one request: of a joiner if it `joins`, else of a member.
    pub(super) async fn serve(&self, conn: Connection, mesh: &Mesh, joins: bool) {
        match timeout(DESK_TIMEOUT, self.answer(&conn, mesh, joins)).await {
            // The joiner closes when it has read the answer; without it the answer could be lost.
            Ok(Ok(())) => drop(timeout(DESK_TIMEOUT, conn.closed()).await),
            Ok(Err(error)) => tracing::debug!(error, "a request to the authority failed"),
            Err(_) => tracing::debug!("a request to the authority timed out"),
        }
        conn.close(code::DONE.into(), b"");
    }

    async fn answer(&self, conn: &Connection, mesh: &Mesh, joins: bool) -> Result<(), String> {
        let (mut send, mut recv) = conn.accept_bi().await.map_err(|e| e.to_string())?;
        let bytes = recv.read_to_end(MAX_JOIN_REQUEST).await.map_err(|e| e.to_string())?;
        let request = DeskRequest::decode(&bytes).map_err(|e| e.to_string())?;
        if joins != matches!(request, DeskRequest::Join(_)) {
            return Err("a request of the other protocol".to_owned());
        }
        let from = remote(conn);
        let reply = match request {
            DeskRequest::Join(request) => self.join(request, from, mesh).await,
            DeskRequest::Renew(request) => self.renewed(request, from).await,
            DeskRequest::Time => Ok(JoinReply::Time(self.credentials.now().as_secs())),
        };
        let bytes = reply.unwrap_or_else(JoinReply::Refused).encode().map_err(|e| e.to_string())?;
        send.write_all(&bytes).await.map_err(|e| e.to_string())?;
        send.finish().map_err(|e| e.to_string())
    }

    async fn join(
        &self,
        request: JoinRequest,
        from: IpAddr,
        mesh: &Mesh,
    ) -> Result<JoinReply, JoinRefusal> {
        let _turn = turn(&self.strangers, &prefix(from)).await?;
        let welcome = self.authority.join(request, Actor::Address(from)).await?;
        welcome.chain.first().into_iter().for_each(|own| mesh.joined(&own.clone().into()));
        Ok(JoinReply::Welcome(Welcome { members: mesh.members_for_joiner(), ..welcome }))
    }

    async fn renewed(
        &self,
        signing_request: Vec<u8>,
        from: IpAddr,
    ) -> Result<JoinReply, JoinRefusal> {
        let request = SigningRequest::parse(signing_request)?;
        let asker = prefix(from);
        let turn = turn(&self.strangers, &asker);
        let chain = self.chain(request, Actor::Address(from), turn).await?;
        Ok(JoinReply::Renewed(Renewed {
            chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
            revocations: self.credentials.identity().revoked().der().to_vec(),
            time: self.credentials.now().as_secs(),
        }))
    }

    /// The next certificate for this node's own key.
    pub(super) async fn own_certificate(
        &self,
        signing_request: Vec<u8>,
    ) -> Result<Chain, RenewalRefusal> {
        let renewed = self.authority.renew(signing_request, Actor::Node).await;
        renewed.map(|renewed| chain(renewed.chain)).map_err(|refusal| told(&refusal))
    }

    /// The next certificate for a key that has one on record. Whoever has to ask the signer waits for
    /// its turn.
    async fn chain<T>(
        &self,
        request: SigningRequest,
        by: Actor,
        turn: impl Future<Output = Result<T, JoinRefusal>>,
    ) -> Result<Chain, JoinRefusal> {
        let key = request.key();
        if let Some(chain) = self.issued_lately(key) {
            return Ok(chain);
        }
        let _turn = turn.await?;
        // Another request for the key may have had its turn.
        if let Some(chain) = self.issued_lately(key) {
            return Ok(chain);
        }
        let renewed = self.authority.renew(request.into_der(), by).await?;
        let chain = chain(renewed.chain);
        self.recent().put(&chain, self.credentials.now());
        Ok(chain)
    }

    fn issued_lately(&self, key: Fingerprint) -> Option<Chain> {
        let may = |peer: &Peer| !self.credentials.is_revoked(peer);
        self.recent().get(key, self.credentials.now(), may)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CertificateDesk for JoinDesk {
    fn renew<'a>(
        &'a self,
        request: SigningRequest,
        neighbour: &'a NodeName,
    ) -> BoxFuture<'a, Result<Chain, RenewalRefusal>> {
        Box::pin(async move {
            let turn = turn(&self.neighbours, neighbour);
            let chain = self.chain(request, Actor::Link, turn).await;
            chain.map_err(|refusal| told(&refusal))
        })
    }
}

/// The turn of an asker, unless too many of its questions wait.
async fn turn<K: Eq + Hash + Clone>(turns: &Turns<K>, asker: &K) -> Result<Turn<K>, JoinRefusal> {
    turns.next(asker).await.ok_or(JoinRefusal::Unavailable)
}

fn chain(certificates: Vec<Vec<u8>>) -> Chain {
    certificates.into_iter().map(CertificateDer::from).collect()
}

/// What a node on a link is told; the log says the rest.
fn told(refusal: &JoinRefusal) -> RenewalRefusal {
    match refusal {
        JoinRefusal::UnknownKey(_) => RenewalRefusal::UnknownKey,
        JoinRefusal::Revoked(_) => RenewalRefusal::Revoked,
        error => {
            tracing::debug!(%error, "a certificate could not be renewed");
            RenewalRefusal::Failed
        }
    }
}

/// Where the other end is; the unspecified address when its path is just gone.
fn remote(conn: &Connection) -> IpAddr {
    let path = conn.path(noq::PathId::ZERO).and_then(|path| path.remote_address().ok());
    path.map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip().to_canonical())
}

impl fmt::Debug for JoinDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinDesk")
    }
}
