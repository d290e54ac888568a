//! Opening a stream to a neighbour.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ClientConfig;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    knock::KnockKey,
    proxy::{HttpProxy, ProxyError},
    pump::{self, Side},
    tls,
};
use crate::{
    identity::Fingerprint,
    underlay::{StreamHold, Switch},
};

/// How long TCP, a proxy and TLS together may take: each repeats a lost packet after a second.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// `EACCES` on every Unix.
const EACCES: i32 = 13;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The node is confined, and did not know this port when it started.
    #[error(
        "the node's confinement allows no TCP connection to port {0} until the node starts again"
    )]
    Confined(u16),
    /// TCP or TLS failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// Neither an answer nor a refusal.
    #[error("no answer by TCP within 5 s")]
    TimedOut,
    /// The session has no keys for a knock.
    #[error("the server there speaks no TLS 1.3")]
    OldTls,
    /// This node has all the streams it may have.
    #[error("too many streams")]
    TooMany,
}

/// Opens streams to members of one overlay.
#[derive(Clone)]
pub struct StreamDialler {
    switch: Arc<Switch>,
    key: KnockKey,
    tls: Arc<ClientConfig>,
    proxy: Option<HttpProxy>,
}

impl StreamDialler {
    /// A dialler of streams of the overlay with this authority, which belong to the socket of `switch`.
    ///
    /// # Errors
    /// When `rustls` refuses the configuration.
    pub fn new(
        switch: Arc<Switch>,
        authority: Fingerprint,
        proxy: Option<HttpProxy>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self { switch, key: KnockKey::of(authority), tls: Arc::new(tls::client()?), proxy })
    }

    /// The proxy that it uses.
    #[must_use]
    pub fn proxy(&self) -> Option<&HttpProxy> {
        self.proxy.as_ref()
    }

    /// Opens a stream to the TCP address of a member. Whether a member is there shows the link on it.
    ///
    /// # Errors
    /// When nobody answers there as an HTTPS server does.
    pub async fn dial(&self, address: SocketAddr) -> Result<StreamHold, DialError> {
        timeout(DIAL_TIMEOUT, self.open(address)).await.map_err(|_| DialError::TimedOut)?
    }

    async fn open(&self, address: SocketAddr) -> Result<StreamHold, DialError> {
        let tcp = match self.proxy.as_ref().filter(|proxy| proxy.serves(address.ip())) {
            None => TcpStream::connect(address).await.map_err(|error| match error.kind() {
                // EACCES is Landlock's; a firewall's refusal is EPERM or comes by ICMP.
                io::ErrorKind::PermissionDenied if error.raw_os_error() == Some(EACCES) => {
                    DialError::Confined(address.port())
                }
                _ => error.into(),
            })?,
            Some(proxy) => proxy.connect(address).await?,
        };
        pump::tune(&tcp);
        let connector = TlsConnector::from(self.tls.clone());
        let session = connector.connect(tls::server_name(address), tcp).await?;
        let exported = tls::session_of(session.get_ref().1).ok_or(DialError::OldTls)?;
        let end = self.switch.streams().open(address).ok_or(DialError::TooMany)?;
        let hold = end.hold();
        let h2 = tls::speaks_h2(session.get_ref().1);
        let side = Side::Dialler { knock: self.key.knock(&exported), h2 };
        tokio::spawn(pump::run(session, self.switch.clone(), end, side));
        Ok(hold)
    }
}
