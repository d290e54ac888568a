//! Joining an overlay: a new node's way to the authority, and that of a member without a link to it.

use std::{fmt, net::SocketAddr, time::Duration};

use noq::{Connection, ConnectionError, Endpoint};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::{
    identity::{
        AuthorityContact, Clock, Credentials, DeskRequest, Fingerprint, Invitation,
        InvitationError, JoinError, JoinRefusal, JoinReply, JoinRequest, MAX_JOIN_REPLY,
        NodeIdentity, NodeKey, NodeName, Welcome, clock_crypto, join_crypto, renew_crypto,
        server_name, skew, skew_in_words,
    },
    text::Escaped,
    transport::{CertificateFault, code, join_client_config},
};

/// How long the authority may take to answer.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// None of the invitation's addresses answered.
    #[error(
        "no answer from the overlay's authority at {0}; is its `ronproxy run` running, \
         and can this machine reach that address by UDP?"
    )]
    NoAnswer(String),
    /// The node there does not speak with joiners: nobody is invited, or it is not the authority.
    #[error(
        "the node at {0} takes in nobody now: the invitation was used, cancelled or has expired; \
         ask for a new one"
    )]
    NotInviting(SocketAddr),
    /// The authority refused.
    #[error("{0}")]
    Refused(#[from] JoinRefusal),
    /// The answer does not fit.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The invitation.
    #[error(transparent)]
    Invitation(#[from] InvitationError),
    /// This machine's clock, or the authority's, is wrong.
    #[error(
        "this machine's clock is {0} the authority's, so certificates are refused; \
         set it (best by NTP) and try again"
    )]
    Clock(String),
    /// The node's own side.
    #[error("the authority cannot be asked: {0}")]
    Local(String),
}

/// Redeems `invitation` with `key`: asks the authority at each of its addresses in turn.
///
/// # Errors
/// When no address answers, or the authority refuses. [`JoinFailure::Clock`] when certificates, or
/// the invitation, are refused because the clocks differ.
pub async fn join(
    endpoint: &Endpoint,
    invitation: &Invitation,
    key: &NodeKey,
    listen: Vec<SocketAddr>,
    clock: &Clock,
) -> Result<(NodeIdentity, Welcome), JoinFailure> {
    let authority = Remote {
        endpoint,
        name: &invitation.authority,
        addresses: &invitation.addresses,
        fingerprint: invitation.fingerprint,
        clock,
        credentials: None,
    };
    // By a clock that is ahead an invitation seems to be over.
    if let Err(error) = invitation.check_expiry(clock.now()) {
        return Err(match authority.check_clock().await {
            Err(wrong @ JoinFailure::Clock(_)) => wrong,
            // If the authority cannot be asked, this machine's clock is believed.
            Ok(()) | Err(_) => error.into(),
        });
    }
    let signing_request = key.signing_request().map_err(|e| local(&e))?;
    let request = JoinRequest { token: invitation.token.clone(), signing_request, listen };
    match authority.ask(&DeskRequest::Join(request)).await? {
        JoinReply::Welcome(welcome) => {
            let identity = welcome.accept(invitation, key)?;
            if let Some(words) = skew_in_words(skew(clock.now(), welcome.time)) {
                tracing::warn!(
                    "this machine's clock is {words} the authority's; set it, best by NTP"
                );
            }
            Ok((identity, welcome))
        }
        JoinReply::Refused(refusal) => Err(refusal.into()),
        JoinReply::Renewed(_) | JoinReply::Time(_) => Err(JoinError::Unreadable.into()),
    }
}

/// Asks the authority, over a connection of its own, for this node's next certificate. Also takes
/// over the revocation list that comes along. `None` if nobody knows where the authority is.
///
/// # Errors
/// When no address answers, or the authority refuses.
pub(super) async fn renew_outside(
    endpoint: &Endpoint,
    credentials: &Credentials,
    signing_request: Vec<u8>,
) -> Result<Option<Vec<CertificateDer<'static>>>, JoinFailure> {
    let Some(contact) = credentials.authority() else { return Ok(None) };
    let authority = Remote::of(endpoint, credentials, &contact);
    match authority.ask(&DeskRequest::Renew(signing_request)).await? {
        JoinReply::Renewed(renewed) => {
            credentials.compare_clock(renewed.time);
            if let Err(reason) = credentials.learn_revocations(&renewed.revocations) {
                tracing::debug!(
                    reason = reason.name(),
                    "the revocation list of the reply was not taken over"
                );
            }
            Ok(Some(renewed.chain.into_iter().map(CertificateDer::from).collect()))
        }
        JoinReply::Refused(refusal) => Err(refusal.into()),
        JoinReply::Welcome(_) | JoinReply::Time(_) => Err(JoinError::Unreadable.into()),
    }
}

/// Asks the authority for the time, and returns by how many seconds this machine's clock is ahead.
/// `None` if nobody knows where the authority is.
///
/// # Errors
/// When no address answers.
pub(super) async fn ask_time(
    endpoint: &Endpoint,
    credentials: &Credentials,
) -> Result<Option<i64>, JoinFailure> {
    let Some(contact) = credentials.authority() else { return Ok(None) };
    let time = Remote::of(endpoint, credentials, &contact).time().await?;
    Ok(Some(credentials.compare_clock(time)))
}

/// The authority, as somebody without a link to it asks it.
struct Remote<'a> {
    endpoint: &'a Endpoint,
    name: &'a NodeName,
    addresses: &'a [SocketAddr],
    fingerprint: Fingerprint,
    clock: &'a Clock,
    /// Told of the authority's clock, if a member asks.
    credentials: Option<&'a Credentials>,
}

impl<'a> Remote<'a> {
    fn of(
        endpoint: &'a Endpoint,
        credentials: &'a Credentials,
        contact: &'a AuthorityContact,
    ) -> Self {
        Self {
            endpoint,
            name: &contact.name,
            addresses: &contact.addresses,
            fingerprint: Fingerprint::of(credentials.identity().authority()),
            clock: credentials.clock(),
            credentials: Some(credentials),
        }
    }

    /// Asks at each address in turn. If a certificate is refused because of its dates, the error
    /// says what is wrong with the clock.
    async fn ask(&self, request: &DeskRequest) -> Result<JoinReply, JoinFailure> {
        let tls = match request {
            DeskRequest::Join(_) => join_crypto(self.fingerprint, self.clock),
            DeskRequest::Renew(_) | DeskRequest::Time => renew_crypto(self.fingerprint, self.clock),
        };
        let tls = tls.map_err(|e| local(&e))?;
        let (tried, dates) = match self.exchange(tls, request).await? {
            Ok(reply) => return Ok(reply),
            Err(failed) => failed,
        };
        if dates {
            self.check_clock().await?;
        }
        Err(JoinFailure::NoAnswer(tried))
    }

    /// Compares this machine's clock with the authority's.
    async fn check_clock(&self) -> Result<(), JoinFailure> {
        let time = self.time().await?;
        if let Some(credentials) = self.credentials {
            credentials.compare_clock(time);
        }
        let ahead = skew(self.clock.now(), time);
        skew_in_words(ahead).map_or(Ok(()), |words| Err(JoinFailure::Clock(words)))
    }

    async fn time(&self) -> Result<u64, JoinFailure> {
        let tls = clock_crypto(self.fingerprint, self.clock).map_err(|e| local(&e))?;
        match self.exchange(tls, &DeskRequest::Time).await? {
            Ok(JoinReply::Time(time)) => Ok(time),
            Ok(_) => Err(JoinError::Unreadable.into()),
            Err((tried, _)) => Err(JoinFailure::NoAnswer(tried)),
        }
    }

    /// The first answer, or what was tried and whether certificates were refused by their dates.
    async fn exchange(
        &self,
        tls: rustls::ClientConfig,
        request: &DeskRequest,
    ) -> Result<Result<JoinReply, (String, bool)>, JoinFailure> {
        let client = join_client_config(tls).map_err(|e| local(&e))?;
        let (request, name) = (request.encode()?, server_name(self.name));
        let (mut tried, mut dates) = (Vec::new(), false);
        for address in self.addresses {
            let connecting = self.endpoint.connect_with(client.clone(), *address, &name);
            let connecting = connecting.map_err(|error| local(&error))?;
            match timeout(JOIN_TIMEOUT / 2, connecting).await {
                Ok(Ok(conn)) => return Ok(Ok(converse(&conn, &request).await?)),
                Ok(Err(error)) if wants_no_joiners(&error) => {
                    return Err(JoinFailure::NotInviting(*address));
                }
                Ok(Err(error)) => {
                    dates |= CertificateFault::of(&error) == Some(CertificateFault::Dates);
                    tried.push(format!("{address} ({})", Escaped(error)));
                }
                Err(_) => tried.push(address.to_string()),
            }
        }
        Ok(Err((tried.join(", "), dates)))
    }
}

/// Whether a node refused the protocol (RFC 7301, §3.2).
fn wants_no_joiners(error: &ConnectionError) -> bool {
    const NO_APPLICATION_PROTOCOL: u8 = 120;
    let refused = noq::TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL);
    matches!(error, ConnectionError::ConnectionClosed(close) if close.error_code == refused)
}

async fn converse(conn: &Connection, request: &[u8]) -> Result<JoinReply, JoinFailure> {
    let failed = |error: &dyn fmt::Display| JoinFailure::NoAnswer(Escaped(error).to_string());
    let exchange = async {
        let (mut send, mut recv) = conn.open_bi().await.map_err(|e| failed(&e))?;
        send.write_all(request).await.map_err(|e| failed(&e))?;
        send.finish().map_err(|e| failed(&e))?;
        recv.read_to_end(MAX_JOIN_REPLY).await.map_err(|e| failed(&e))
    };
    let bytes = timeout(JOIN_TIMEOUT, exchange).await.map_err(|e| failed(&e))??;
    conn.close(code::DONE.into(), b"");
    Ok(JoinReply::decode(&bytes)?)
}

fn local(error: &dyn fmt::Display) -> JoinFailure {
    JoinFailure::Local(error.to_string())
}
