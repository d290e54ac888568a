//! Joining an overlay: a new node's way to the authority, and that of a member without a link to it.

use std::{fmt, net::SocketAddr, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use noq::{ClientConfig, ConnectError, Connection, ConnectionError, Endpoint};
use rustls::pki_types::CertificateDer;
use tokio::time::{sleep, timeout};

use crate::{
    carrier::StreamDialler,
    identity::{
        AuthorityContact, Clock, Credentials, DeskRequest, Fingerprint, Invitation,
        InvitationError, JoinError, JoinRefusal, JoinReply, JoinRequest, MAX_JOIN_REPLY,
        NodeIdentity, NodeKey, NodeName, Welcome, clock_crypto, join_crypto, renew_crypto,
        server_name, skew, skew_in_words,
    },
    mesh::{FAMILY_HEAD_START, Mesh, UDP_HEAD_START, families},
    text::Escaped,
    transport::{CertificateFault, Knock, KnockKey, code, join_client_config},
    underlay::StreamHold,
    wire::reach,
};

/// How long the authority may take to answer.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// By what the authority is asked.
#[derive(Clone)]
pub struct Way {
    /// By UDP, if that passes.
    pub endpoint: Endpoint,
    /// By streams on the same socket, if the authority accepts some.
    pub streams: Option<StreamDialler>,
}

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// None of the invitation's addresses answered.
    #[error(
        "no answer from the overlay's authority at {0}; is its `ronproxy run` running, \
         and can this machine reach that address?"
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

/// Redeems `invitation` with `key`: asks the authority at its addresses, one family of them a little before the other.
///
/// # Errors
/// When no address answers, or the authority refuses. [`JoinFailure::Clock`] when certificates, or
/// the invitation, are refused because the clocks differ.
pub async fn join(
    way: &Way,
    invitation: &Invitation,
    key: &NodeKey,
    listen: Vec<SocketAddr>,
    clock: &Clock,
) -> Result<(NodeIdentity, Welcome), JoinFailure> {
    let authority = Remote {
        way,
        name: &invitation.authority,
        addresses: &invitation.addresses,
        fingerprint: invitation.fingerprint,
        knock: Knock::new(KnockKey::of_overlay(&invitation.fingerprint))
            .invited(KnockKey::of_invitation(&invitation.token.hash())),
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
    way: &Way,
    (credentials, mesh): (&Credentials, &Mesh),
    signing_request: Vec<u8>,
) -> Result<Option<Vec<CertificateDer<'static>>>, JoinFailure> {
    let Some(contact) = credentials.authority() else { return Ok(None) };
    let authority = Remote::of(way, (credentials, mesh), &contact);
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
    way: &Way,
    (credentials, mesh): (&Credentials, &Mesh),
) -> Result<Option<i64>, JoinFailure> {
    let Some(contact) = credentials.authority() else { return Ok(None) };
    let time = Remote::of(way, (credentials, mesh), &contact).time().await?;
    Ok(Some(credentials.compare_clock(time)))
}

/// The authority, as somebody without a link to it asks it.
struct Remote<'a> {
    way: &'a Way,
    name: &'a NodeName,
    addresses: &'a [SocketAddr],
    fingerprint: Fingerprint,
    /// What its first packets show.
    knock: Knock,
    clock: &'a Clock,
    /// Told of the authority's clock, if a member asks.
    credentials: Option<&'a Credentials>,
}

impl<'a> Remote<'a> {
    fn of(
        way: &'a Way,
        (credentials, mesh): (&'a Credentials, &Mesh),
        contact: &'a AuthorityContact,
    ) -> Self {
        Self {
            way,
            name: &contact.name,
            addresses: &contact.addresses,
            fingerprint: Fingerprint::of(credentials.identity().authority()),
            knock: mesh.knock(&contact.name),
            clock: credentials.clock(),
            credentials: Some(credentials),
        }
    }

    /// Asks at the addresses. If a certificate is refused because of its dates, the error
    /// says what is wrong with the clock.
    async fn ask(&self, request: &DeskRequest) -> Result<JoinReply, JoinFailure> {
        let tls = match request {
            DeskRequest::Join(_) => join_crypto(self.fingerprint, self.clock),
            DeskRequest::Renew(_) | DeskRequest::Time => renew_crypto(self.fingerprint, self.clock),
        };
        let tls = tls.map_err(|e| local(&e))?;
        let tried = match self.exchange(tls, request).await? {
            Ok(reply) => return Ok(reply),
            Err(tried) => tried,
        };
        if tried.dates {
            self.check_clock().await?;
        }
        Err(JoinFailure::NoAnswer(tried.at.join(", ")))
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
            Err(tried) => Err(JoinFailure::NoAnswer(tried.at.join(", "))),
        }
    }

    /// The first answer, or what was tried and whether certificates were refused by their dates.
    async fn exchange(
        &self,
        tls: rustls::ClientConfig,
        request: &DeskRequest,
    ) -> Result<Result<JoinReply, Tried>, JoinFailure> {
        let client = join_client_config(tls, self.knock.clone()).map_err(|e| local(&e))?;
        let request = request.encode()?;
        match self.connect(&client).await? {
            Ok((conn, _stream)) => Ok(Ok(converse(&conn, &request).await?)),
            Err(tried) => Ok(Err(tried)),
        }
    }

    /// Connects by UDP, and by streams if that does not answer within [`UDP_HEAD_START`].
    async fn connect(
        &self,
        client: &ClientConfig,
    ) -> Result<Result<Connected, Tried>, JoinFailure> {
        let by_udp = self.connect_by_udp(client);
        let by_stream = async {
            sleep(UDP_HEAD_START).await;
            self.connect_by_stream(client).await
        };
        tokio::pin!(by_udp, by_stream);
        let (mut udp_failed, mut streams_failed) = (None, None);
        loop {
            let (attempt, failed) = tokio::select! {
                biased;
                attempt = &mut by_udp, if udp_failed.is_none() => (attempt?, &mut udp_failed),
                attempt = &mut by_stream, if streams_failed.is_none() => (attempt?, &mut streams_failed),
                else => break,
            };
            match attempt {
                Ok(connected) => return Ok(Ok(connected)),
                Err(tried) => *failed = Some(tried),
            }
        }
        let mut tried = Tried::default();
        udp_failed.into_iter().chain(streams_failed).for_each(|more| tried.add(more));
        Ok(Err(tried))
    }

    /// Connects to the UDP addresses.
    async fn connect_by_udp(
        &self,
        client: &ClientConfig,
    ) -> Result<Result<Connected, Tried>, JoinFailure> {
        let addresses: Vec<_> = reach::udp_of(self.addresses).collect();
        let connect = |address| async move {
            let connected = self.connect_to(client, address, address).await?;
            Ok(connected.map(|conn| (conn, None)))
        };
        first_of(&addresses, connect).await
    }

    /// Connects by a stream to the TCP addresses.
    async fn connect_by_stream(
        &self,
        client: &ClientConfig,
    ) -> Result<Result<Connected, Tried>, JoinFailure> {
        let Some(streams) = &self.way.streams else { return Ok(Err(Tried::default())) };
        let connect = |address| async move {
            let stream = match streams.dial(address).await {
                Ok(stream) => stream,
                Err(error) => return Ok(Err(Tried::at(format!("TCP {address} ({error})")))),
            };
            let connected = self.connect_to(client, stream.virtual_address(), address).await?;
            Ok(connected.map(|conn| (conn, Some(stream))))
        };
        first_of(&reach::streams_of(self.addresses), connect).await
    }

    /// Connects to `at`, which is the address `shown` to people.
    async fn connect_to(
        &self,
        client: &ClientConfig,
        at: SocketAddr,
        shown: SocketAddr,
    ) -> Result<Result<Connection, Tried>, JoinFailure> {
        let name = server_name(self.name);
        let connecting = self.way.endpoint.connect_with(client.clone(), at, &name);
        let mut tried = Tried::default();
        let connecting = match connecting {
            Ok(connecting) => connecting,
            // Of an address that this machine cannot use, as of a family that it lacks. Others may do.
            Err(ConnectError::InvalidRemoteAddress(_)) => {
                tried.note(format!("{shown} (this machine cannot reach such addresses)"));
                return Ok(Err(tried));
            }
            Err(error) => return Err(local(&error)),
        };
        match timeout(JOIN_TIMEOUT / 2, connecting).await {
            Ok(Ok(conn)) => return Ok(Ok(conn)),
            Ok(Err(error)) if wants_no_joiners(&error) => {
                return Err(JoinFailure::NotInviting(shown));
            }
            Ok(Err(error)) => {
                tried.dates = CertificateFault::of(&error) == Some(CertificateFault::Dates);
                tried.note(format!("{shown} ({})", Escaped(error)));
            }
            Err(_) => tried.note(shown.to_string()),
        }
        Ok(Err(tried))
    }
}

/// Connects to the addresses of one family at once, and a little later to the others; the first that answers is taken.
async fn first_of<F, T>(
    addresses: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> F,
) -> Result<Result<T, Tried>, JoinFailure>
where
    F: Future<Output = Result<Result<T, Tried>, JoinFailure>>,
{
    let (first, later) = families(addresses, None);
    let connect = |(address, after)| {
        let connecting = connect(address);
        async move {
            sleep(after).await;
            connecting.await
        }
    };
    let first = first.into_iter().map(|address| (address, Duration::ZERO));
    let later = later.into_iter().map(|address| (address, FAMILY_HEAD_START));
    let mut attempts: FuturesUnordered<_> = first.chain(later).map(connect).collect();
    let mut tried = Tried::default();
    while let Some(attempt) = attempts.next().await {
        match attempt? {
            Ok(connected) => return Ok(Ok(connected)),
            Err(more) => tried.add(more),
        }
    }
    Ok(Err(tried))
}

/// A connection, and what keeps the stream open that it may go over.
type Connected = (Connection, Option<StreamHold>);

/// What was tried in vain.
#[derive(Debug, Default)]
struct Tried {
    at: Vec<String>,
    /// A certificate was refused because of its dates.
    dates: bool,
}

impl Tried {
    fn at(at: String) -> Self {
        Self { at: vec![at], dates: false }
    }

    fn note(&mut self, at: String) {
        self.at.push(at);
    }

    fn add(&mut self, more: Self) {
        self.at.extend(more.at);
        self.dates |= more.dates;
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

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_family_that_does_not_answer_costs_a_joiner_250_ms() {
        let list = ["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:1", "192.0.2.2:1"];
        let list = list.map(|address| address.parse().unwrap());
        let began = Instant::now();
        let connect = |address: SocketAddr| async move {
            match address {
                _ if address == list[1] => return Ok(Err(Tried::at("no route".to_owned()))),
                _ if address.is_ipv6() => pending().await,
                _ if address == list[3] => sleep(Duration::from_secs(1)).await,
                _ => sleep(Duration::from_millis(40)).await,
            }
            Ok(Ok(address))
        };
        let Ok(Ok(answered)) = first_of(&list, connect).await else { panic!("none answered") };
        assert_eq!((answered, began.elapsed().as_millis()), (list[2], 290));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_all_fail_are_all_told() {
        let list = ["[2001:db8::1]:1", "192.0.2.1:1"].map(|address| address.parse().unwrap());
        let fails = |address: SocketAddr| async move {
            let dates = address.is_ipv4();
            Ok(Err::<(), _>(Tried { at: vec![address.to_string()], dates }))
        };
        let Ok(Err(tried)) = first_of(&list, fails).await else { panic!("one answered") };
        assert_eq!((tried.at.join(" "), tried.dates), (format!("{} {}", list[0], list[1]), true));
    }
}
