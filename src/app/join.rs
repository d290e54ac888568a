//! Joining an overlay: the authority's desk, and the new node's way to it.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use noq::{Connection, Endpoint};
use tokio::time::timeout;

use crate::{
    identity::{
        Authority, DeskRequest, Invitation, JoinError, JoinRefusal, JoinReply, JoinRequest,
        MAX_JOIN_REPLY, MAX_JOIN_REQUEST, NodeIdentity, NodeKey, PendingInvitations, Renewed,
        UnixTime, Welcome, answer, join_crypto, renew, server_name,
    },
    mesh::Mesh,
    transport::{code, join_client_config},
};

/// A joiner must send its request, and fetch the answer, within this time.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the authority's node answers joiners.
pub struct JoinDesk {
    authority: Authority,
    invitations: Mutex<PendingInvitations>,
}

impl JoinDesk {
    /// The desk of an authority.
    #[must_use]
    pub fn new(authority: Authority, invitations: PendingInvitations) -> Self {
        Self { authority, invitations: Mutex::new(invitations) }
    }

    pub(super) async fn serve(&self, conn: Connection, mesh: &Mesh) {
        match timeout(JOIN_TIMEOUT, self.answer(&conn, mesh)).await {
            // The joiner closes when it has read the answer; without it the answer could be lost.
            Ok(Ok(())) => drop(timeout(JOIN_TIMEOUT, conn.closed()).await),
            Ok(Err(error)) => tracing::info!(error, "a join attempt failed"),
            Err(_) => tracing::info!("a join attempt timed out"),
        }
        conn.close(code::DONE.into(), b"");
    }

    async fn answer(&self, conn: &Connection, mesh: &Mesh) -> Result<(), String> {
        let (mut send, mut recv) = conn.accept_bi().await.map_err(|e| e.to_string())?;
        let bytes = recv.read_to_end(MAX_JOIN_REQUEST).await.map_err(|e| e.to_string())?;
        let reply = match DeskRequest::decode(&bytes).map_err(|e| e.to_string())? {
            DeskRequest::Join(request) => self.join(&request, mesh),
            DeskRequest::Renew(request) => match self.renew(&request) {
                Ok(renewed) => JoinReply::Renewed(renewed),
                Err(refusal) => JoinReply::Refused(refusal),
            },
            DeskRequest::Time => JoinReply::Time(UnixTime::now().as_secs()),
        };
        let bytes = reply.encode().map_err(|e| e.to_string())?;
        send.write_all(&bytes).await.map_err(|e| e.to_string())?;
        send.finish().map_err(|e| e.to_string())
    }

    fn join(&self, request: &JoinRequest, mesh: &Mesh) -> JoinReply {
        let mut invitations = self.invitations.lock().unwrap_or_else(PoisonError::into_inner);
        let members = mesh.tell_members();
        answer(&self.authority, &mut invitations, request, &members, UnixTime::now())
    }

    /// The next certificate for the key of a signing request.
    fn renew(&self, signing_request: &[u8]) -> Result<Renewed, JoinRefusal> {
        renew(&self.authority, signing_request, UnixTime::now())
    }
}

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// None of the invitation's addresses answered.
    #[error(
        "no answer from the overlay's authority at {0}; is its `ronproxy run` running, \
         and can this machine reach that address by UDP?"
    )]
    NoAnswer(String),
    /// The authority refused.
    #[error("{0}")]
    Refused(#[from] JoinRefusal),
    /// The answer does not fit.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The joiner's own side.
    #[error("cannot join: {0}")]
    Local(String),
}

/// Redeems `invitation` with `key`: asks the authority at each of its addresses in turn.
///
/// # Errors
/// When no address answers, or the authority refuses.
pub async fn join(
    endpoint: &Endpoint,
    invitation: &Invitation,
    key: &NodeKey,
    listen: Vec<SocketAddr>,
) -> Result<(NodeIdentity, Welcome), JoinFailure> {
    let local = |error: &dyn fmt::Display| JoinFailure::Local(error.to_string());
    let tls = join_crypto(invitation.fingerprint).map_err(|e| local(&e))?;
    let client = join_client_config(tls).map_err(|e| local(&e))?;
    let signing_request = key.signing_request().map_err(|e| local(&e))?;
    let request = JoinRequest { token: invitation.token.clone(), signing_request, listen };
    let request = DeskRequest::Join(request).encode()?;
    let name = server_name(&invitation.authority);
    let mut tried = Vec::new();
    for address in &invitation.addresses {
        let connecting = endpoint.connect_with(client.clone(), *address, &name);
        let conn = match connecting {
            Ok(connecting) => timeout(JOIN_TIMEOUT / 2, connecting).await,
            Err(error) => return Err(local(&error)),
        };
        match conn {
            Ok(Ok(conn)) => return redeem(&conn, &request, invitation, key).await,
            Ok(Err(error)) => tried.push(format!("{address} ({error})")),
            Err(_) => tried.push(address.to_string()),
        }
    }
    Err(JoinFailure::NoAnswer(tried.join(", ")))
}

async fn redeem(
    conn: &Connection,
    request: &[u8],
    invitation: &Invitation,
    key: &NodeKey,
) -> Result<(NodeIdentity, Welcome), JoinFailure> {
    let failed = |error: &dyn fmt::Display| JoinFailure::NoAnswer(error.to_string());
    let exchange = async {
        let (mut send, mut recv) = conn.open_bi().await.map_err(|e| failed(&e))?;
        send.write_all(request).await.map_err(|e| failed(&e))?;
        send.finish().map_err(|e| failed(&e))?;
        recv.read_to_end(MAX_JOIN_REPLY).await.map_err(|e| failed(&e))
    };
    let bytes = timeout(JOIN_TIMEOUT, exchange).await.map_err(|e| failed(&e))??;
    conn.close(code::DONE.into(), b"");
    match JoinReply::decode(&bytes)? {
        JoinReply::Welcome(welcome) => Ok((welcome.accept(invitation, key)?, welcome)),
        JoinReply::Refused(refusal) => Err(refusal.into()),
        JoinReply::Renewed(_) | JoinReply::Time(_) => Err(JoinError::Unreadable.into()),
    }
}

impl fmt::Debug for JoinDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinDesk")
    }
}
