//! QUIC configurations from credentials: TLS plus transport parameters.

use std::{sync::Arc, time::Duration};

use noq::{
    ClientConfig, ConnectionError, ServerConfig, TransportErrorCode,
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
};

use super::{
    Knock, KnockKey, LaneOptions, RerouteMark, guest_parameters, hosted_lane_parameters,
    join_parameters, lane_parameters, link_parameters,
    resume::{RouteMemory, RoutesTo},
};
use crate::{
    chance::Chance,
    flow::Hint,
    identity::{
        ALPN_LANE, ALPN_LINK, Credentials, Fingerprint, NodeName, TlsError, client_crypto,
        server_crypto,
    },
};

/// The longest patience an entry can have; the exit waits as long as any entry.
const MOST_PATIENCE: Duration = Duration::from_secs(3600);

/// Connections that wait for the door's decision: it takes some microseconds for each, so this is a
/// fraction of a second's worth.
const MAX_INCOMING: usize = 4096;

/// Bytes kept of packets that follow a first one the door has not decided about: a flight of a
/// handshake.
const INCOMING_BUFFER: u64 = 64 << 10;

/// QUIC cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// The identity is unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The TLS library lacks the cipher of QUIC's Initial packets.
    #[error("TLS has no cipher for QUIC: {0}")]
    Cipher(#[from] NoInitialCipherSuite),
}

/// How links are accepted, and at the authority the protocols in `more`: those of joiners and of
/// renewals. Whoever connects is a stranger until its certificate is known:
/// [`trust_link`](super::trust_link) then gives a member's link its room.
///
/// # Errors
/// When the identity is unusable.
pub fn link_server_config(
    credentials: &Credentials,
    more: &[&[u8]],
) -> Result<ServerConfig, ConfigureError> {
    let alpn = [&[ALPN_LINK], more].concat();
    let tls = QuicServerConfig::try_from(server_crypto(credentials, &alpn)?)?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(guest_parameters())
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(16 * INCOMING_BUFFER);
    Ok(config)
}

/// How lanes are accepted. Their virtual addresses never change, so a packet from elsewhere is no
/// migration.
#[derive(Debug)]
pub struct LaneServer {
    config: ServerConfig,
    options: LaneOptions,
    memory: Arc<RouteMemory>,
}

impl LaneServer {
    /// Lanes for these credentials.
    ///
    /// # Errors
    /// When the identity is unusable.
    pub fn new(credentials: &Credentials, options: LaneOptions) -> Result<Self, ConfigureError> {
        let tls = QuicServerConfig::try_from(server_crypto(credentials, &[ALPN_LANE])?)?;
        let mut config = ServerConfig::with_crypto(Arc::new(tls));
        config.migration(false);
        // The entry's patience is to decide.
        let options = LaneOptions { patience: MOST_PATIENCE, ..options };
        Ok(Self { config, options, memory: Arc::default() })
    }

    /// The configuration of one lane of `entry` for flows with `hint`, whose reroutes `mark` tells; its route
    /// takes packets of up to `longest` bytes, as far as is known.
    #[must_use]
    pub fn config(
        &self,
        entry: &NodeName,
        mark: &Arc<RerouteMark>,
        hint: &Hint,
        longest: u16,
    ) -> ServerConfig {
        let routes = RoutesTo { memory: self.memory.clone(), peer: entry.clone() };
        let mut config = self.config.clone();
        config.transport_config(hosted_lane_parameters(
            self.options.within(longest),
            hint,
            mark,
            routes,
        ));
        config
    }
}

/// How links are dialled. The first packets show that the node knows the overlay; [`knock_with`] tells more.
///
/// # Errors
/// When the identity is unusable.
pub fn link_client_config(credentials: &Credentials) -> Result<ClientConfig, ConfigureError> {
    let mut config = client(client_crypto(credentials, &[ALPN_LINK])?)?;
    let authority = Fingerprint::of(credentials.identity().authority());
    knock_with(&mut config, Knock::new(KnockKey::of_overlay(&authority)), &Chance::default());
    config.transport_config(link_parameters());
    Ok(config)
}

/// How lanes are opened.
#[derive(Debug)]
pub struct LaneClient {
    config: ClientConfig,
    options: LaneOptions,
    memory: Arc<RouteMemory>,
}

impl LaneClient {
    /// Lanes for these credentials.
    ///
    /// # Errors
    /// When the identity is unusable.
    pub fn new(credentials: &Credentials, options: LaneOptions) -> Result<Self, ConfigureError> {
        let config = client(client_crypto(credentials, &[ALPN_LANE])?)?;
        Ok(Self { config, options, memory: Arc::default() })
    }

    /// The configuration of one lane to `exit` for flows with `hint`, whose reroutes `mark` tells; its route
    /// takes packets of up to `longest` bytes, as far as is known. Without a `patience` of its own it has that of
    /// all lanes.
    #[must_use]
    pub fn config(
        &self,
        exit: &NodeName,
        mark: &Arc<RerouteMark>,
        hint: &Hint,
        patience: Option<Duration>,
        longest: u16,
    ) -> ClientConfig {
        let patience = patience.unwrap_or(self.options.patience);
        let options = LaneOptions { patience, ..self.options.within(longest) };
        let mut config = self.config.clone();
        let routes = RoutesTo { memory: self.memory.clone(), peer: exit.clone() };
        config.transport_config(lane_parameters(options, hint, mark, routes));
        config
    }
}

/// How a new node reaches the authority; `tls` pins its certificate, and `knock` shows that it is invited.
///
/// # Errors
/// When the TLS library lacks QUIC's cipher.
pub fn join_client_config(
    tls: rustls::ClientConfig,
    knock: Knock,
) -> Result<ClientConfig, ConfigureError> {
    let mut config = client(tls)?;
    knock_with(&mut config, knock, &Chance::default());
    config.transport_config(join_parameters());
    Ok(config)
}

/// What a failed handshake says about a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFault {
    /// One was refused because of its dates: the peer's by our clock, or ours by the peer's.
    Dates,
    /// The peer refuses ours as revoked.
    Revoked,
}

impl CertificateFault {
    /// What `error` says; `None` if it is about something else.
    #[must_use]
    pub fn of(error: &ConnectionError) -> Option<Self> {
        // TLS alerts `certificate_revoked`, and `certificate_expired`, which rustls uses for "not
        // yet valid", too (RFC 8446, §6.2).
        let [revoked, expired] = [44, 45].map(TransportErrorCode::crypto);
        match error {
            ConnectionError::TransportError(error) if error.code == expired => Some(Self::Dates),
            ConnectionError::ConnectionClosed(close) if close.error_code == expired => {
                Some(Self::Dates)
            }
            ConnectionError::ConnectionClosed(close) if close.error_code == revoked => {
                Some(Self::Revoked)
            }
            _ => None,
        }
    }
}

/// Lets the first packets of connections show this, and takes the rest of their numbers from `chance`.
pub fn knock_with(config: &mut ClientConfig, knock: Knock, chance: &Chance) {
    let chance = chance.clone();
    config.initial_dst_cid_provider(Arc::new(move || knock.number(chance.draw())));
}

fn client(tls: rustls::ClientConfig) -> Result<ClientConfig, ConfigureError> {
    Ok(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
}
