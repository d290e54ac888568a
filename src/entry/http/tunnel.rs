//! What a client connection becomes after CONNECT or an upgrade.

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional, net::TcpStream};
use tracing::{Instrument, debug};

use super::upstream::Upstream;
use crate::entry::session::Opened;

/// Bytes to carry once HTTP on the client's connection has ended.
pub(super) enum Tunnel {
    /// After CONNECT: client and flow.
    Connect { client: OnUpgrade, opened: Opened },
    /// After `101 Switching Protocols`: client and the HTTP connection over a flow.
    Upgrade { client: OnUpgrade, origin: OnUpgrade, upstream: Upstream },
}

impl Tunnel {
    /// Carries the bytes to the end.
    pub(super) async fn run(self) {
        match self {
            Self::Connect { client, opened } => connect(client, opened).await,
            Self::Upgrade { client, origin, upstream } => {
                let span = upstream.span().clone();
                upgrade(client, origin).instrument(span).await;
                drop(upstream);
            }
        }
    }
}

async fn connect(client: OnUpgrade, opened: Opened) {
    match client_socket(client).await {
        Some((tcp, preread)) => opened.splice(tcp, preread).await,
        None => opened.span.in_scope(|| debug!("the client left before its tunnel began")),
    }
}

/// The client's socket, and what was read from it behind the request.
async fn client_socket(client: OnUpgrade) -> Option<(TcpStream, Bytes)> {
    // The connection was served as `TokioIo<TcpStream>`, so the cast holds.
    let parts = client.await.ok()?.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

async fn upgrade(client: OnUpgrade, origin: OnUpgrade) {
    let (client, origin) = match tokio::try_join!(client, origin) {
        Ok(both) => both,
        Err(error) => return debug!(%error, "the upgrade did not happen"),
    };
    let carried = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(origin)).await;
    if let Err(error) = carried {
        debug!(%error, "the upgraded connection broke");
    }
}
