//! Messages between a joiner and the authority: one request and one reply, in postcard.

use std::net::SocketAddr;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Actor, Authority, AuthorityError, Deed, Fingerprint, IdentityError, Invitation, MAX_ADDRESSES,
    NodeIdentity, NodeKey, NodeName, PendingInvitations, RedeemError, SigningRequest, StatementKey,
    Token, UnixTime,
};
use crate::text::is_unsafe;

/// The largest encoded [`JoinRequest`]: a token, a signing request and 8 addresses need under 700
/// bytes.
pub const MAX_JOIN_REQUEST: usize = 4 * 1024;
/// The largest encoded [`JoinReply`]: the largest revocation list, chain and members.
pub const MAX_JOIN_REPLY: usize = 512 * 1024;
/// Members told to a joiner; the overlay is made for a few dozen.
pub const MAX_MEMBERS: usize = 256;
/// Characters of a reason that the joiner shows.
const MAX_REASON: usize = 300;

/// A question to the authority without a valid certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeskRequest {
    /// Let me join. Answered by [`JoinReply::Welcome`].
    Join(JoinRequest),
    /// The asker's certificate has ended, or no link leads to the authority. This is a PKCS#10
    /// signing request in DER for the same key. Answered by [`JoinReply::Renewed`].
    Renew(Vec<u8>),
    /// What time is it? Answered by [`JoinReply::Time`].
    Time,
}

/// What a joiner sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The one-time token of the invitation.
    pub token: Token,
    /// A PKCS#10 signing request in DER, which proves the possession of the joiner's key.
    pub signing_request: Vec<u8>,
    /// Where the joiner will listen, at most 8; empty if nobody can reach it.
    pub listen: Vec<SocketAddr>,
}

/// What the authority answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinReply {
    /// The joiner is a member.
    Welcome(Welcome),
    /// It is not, and why.
    Refused(JoinRefusal),
    /// The next certificate.
    Renewed(Renewed),
    /// The authority's clock, in seconds since 1970.
    Time(u64),
}

/// The answer to a renewal outside a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The node's certificate and the authority's, in DER.
    pub chain: Vec<Vec<u8>>,
    /// The revocation list, in DER.
    pub revocations: Vec<u8>,
    /// The authority's clock, in seconds since 1970.
    pub time: u64,
}

/// What a new member gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The node's certificate and the authority's, in DER.
    pub chain: Vec<Vec<u8>>,
    /// The revocation list, in DER.
    pub revocations: Vec<u8>,
    /// The other members, as the authority knows them.
    pub members: Vec<MemberInfo>,
    /// The authority's clock, in seconds since 1970.
    pub time: u64,
}

/// A member of the overlay and its addresses, as the authority knows them. A node dials these
/// addresses until it has the member's own signed record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// The member's name.
    pub name: NodeName,
    /// Where it listens, at most 8; empty if nobody can reach it.
    pub addresses: Vec<SocketAddr>,
    /// Its public key, which tells it who dials; `None`: the one who says so does not know it.
    #[serde(default)]
    pub key: Option<StatementKey>,
}

/// Why a joiner is refused: a stable kind, and a sentence with the next step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefusal {
    /// The token is not valid: unknown, used or expired.
    #[error("{0}")]
    Invitation(String),
    /// The signing request or the addresses are not acceptable.
    #[error("{0}")]
    Request(String),
    /// Another node has the name.
    #[error("{0}")]
    NameTaken(String),
    /// The certificate cannot be renewed: its key is not on record.
    #[error("{0}")]
    UnknownKey(String),
    /// The certificate cannot be renewed: the node was revoked.
    #[error("{0}")]
    Revoked(String),
    /// The authority failed; its own log says why.
    #[error("the authority could not issue a certificate; look at its log and try again")]
    Internal,
    /// The process with the authority's key does not run or answer.
    #[error(
        "the authority cannot issue certificates just now; try again in a minute, or look at its log"
    )]
    Unavailable,
}

/// A message is unreadable, or a welcome is not for this joiner.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Too long, cut off, or not such a message.
    #[error("the message is unreadable; both nodes need the same ronproxy version")]
    Unreadable,
    /// The certificate is from another authority or has another name than the invitation.
    #[error("the certificate does not match the invitation; ask for a new invitation")]
    Mismatch,
    /// The certificate is not for this key, or cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Redeems a joiner's invitation. The welcome names no members yet.
///
/// The token is marked as used, on disk, before the certificate is made. If the reply is lost, the
/// name has to be revoked and invited again. A request that cannot be granted does not use the
/// token up. If no certificate can be made, as on a full disk, the invitation is open again.
///
/// # Errors
/// Why the joiner is refused.
pub fn redeem(
    authority: &Authority,
    invitations: &mut PendingInvitations,
    request: &JoinRequest,
    by: Actor,
    now: UnixTime,
) -> Result<Welcome, JoinRefusal> {
    if request.listen.len() > MAX_ADDRESSES {
        return Err(JoinRefusal::Request(format!(
            "a node names at most {MAX_ADDRESSES} addresses"
        )));
    }
    let granted = invitations.peek(&request.token, now)?;
    SigningRequest::parse(request.signing_request.clone())?;
    if authority.is_taken(&granted.name, now)? {
        return Err(AuthorityError::NameTaken(granted.name).into());
    }
    let revocations = authority.revocations()?.der().to_vec();
    let granted = invitations.redeem(&request.token, now)?;
    let issued = authority.issue(&request.signing_request, &granted, (Deed::Join, by), now);
    let chain = issued.inspect_err(|_| {
        if let Err(error) = invitations.reopen(&request.token) {
            tracing::warn!(%error, "an invitation was used up without a certificate; cancel it and invite again");
        }
    })?;
    tracing::info!(node = %granted.name, "a node joined the overlay");
    Ok(Welcome {
        chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
        revocations,
        members: Vec::new(),
        time: now.as_secs(),
    })
}

/// The next certificate for the key of `signing_request`, in answer to [`DeskRequest::Renew`].
///
/// # Errors
/// Why the node is refused.
pub fn renew(
    authority: &Authority,
    signing_request: &[u8],
    by: Actor,
    now: UnixTime,
) -> Result<Renewed, JoinRefusal> {
    let chain = authority.renew(signing_request, by, now)?;
    Ok(Renewed {
        chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
        revocations: authority.revocations()?.der().to_vec(),
        time: now.as_secs(),
    })
}

impl DeskRequest {
    /// The message's bytes.
    ///
    /// # Errors
    /// When it is out of bounds.
    pub fn encode(&self) -> Result<Vec<u8>, JoinError> {
        encode(self, MAX_JOIN_REQUEST)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When it is unreadable or out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, JoinError> {
        match decode(bytes, MAX_JOIN_REQUEST)? {
            Self::Join(request) if request.listen.len() > MAX_ADDRESSES => {
                Err(JoinError::Unreadable)
            }
            request => Ok(request),
        }
    }
}

impl JoinReply {
    /// The message's bytes.
    ///
    /// # Errors
    /// When it is out of bounds.
    pub fn encode(&self) -> Result<Vec<u8>, JoinError> {
        encode(self, MAX_JOIN_REPLY)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When it is unreadable or out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, JoinError> {
        let reply: Self = decode(bytes, MAX_JOIN_REPLY)?;
        let within = match &reply {
            Self::Welcome(welcome) => {
                let addresses = |member: &MemberInfo| member.addresses.len() <= MAX_ADDRESSES;
                welcome.members.len() <= MAX_MEMBERS && welcome.members.iter().all(addresses)
            }
            Self::Refused(refusal) => is_printable(&refusal.to_string()),
            Self::Renewed(renewed) => renewed.chain.len() == 2,
            Self::Time(_) => true,
        };
        if within { Ok(reply) } else { Err(JoinError::Unreadable) }
    }
}

impl Welcome {
    /// The joiner's new identity, checked against its invitation and key.
    ///
    /// # Errors
    /// When the certificate is from another authority, for another name, or for another key.
    pub fn accept(
        &self,
        invitation: &Invitation,
        key: &NodeKey,
    ) -> Result<NodeIdentity, JoinError> {
        let chain: Vec<_> = self.chain.iter().cloned().map(CertificateDer::from).collect();
        let identity = NodeIdentity::new(key, chain, &self.revocations)?;
        let ours = Fingerprint::of(identity.authority()) == invitation.fingerprint;
        if ours && *identity.name() == invitation.name {
            Ok(identity)
        } else {
            Err(JoinError::Mismatch)
        }
    }
}

impl From<RedeemError> for JoinRefusal {
    fn from(error: RedeemError) -> Self {
        match error {
            RedeemError::Store(error) => internal(&error),
            error => Self::Invitation(error.to_string()),
        }
    }
}

impl From<AuthorityError> for JoinRefusal {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Request(_) => Self::Request(error.to_string()),
            AuthorityError::NameTaken(_) => Self::NameTaken(error.to_string()),
            AuthorityError::UnknownKey => Self::UnknownKey(error.to_string()),
            AuthorityError::Revoked(_) => Self::Revoked(error.to_string()),
            error => internal(&error),
        }
    }
}

fn internal(error: &dyn std::error::Error) -> JoinRefusal {
    tracing::warn!(%error, "the authority could not issue a certificate");
    JoinRefusal::Internal
}

/// Whether the text may be shown on a terminal.
fn is_printable(text: &str) -> bool {
    text.len() <= MAX_REASON && !text.contains(is_unsafe)
}

fn encode<T: Serialize>(message: &T, cap: usize) -> Result<Vec<u8>, JoinError> {
    let bytes = postcard::to_stdvec(message).map_err(|_| JoinError::Unreadable)?;
    if bytes.len() <= cap { Ok(bytes) } else { Err(JoinError::Unreadable) }
}

fn decode<T: DeserializeOwned>(bytes: &[u8], cap: usize) -> Result<T, JoinError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) if bytes.len() <= cap => Ok(message),
        _ => Err(JoinError::Unreadable),
    }
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
