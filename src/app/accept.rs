//! The node's front door: every incoming QUIC connection is judged here.

use std::{sync::Arc, time::Duration};

use noq::{Connection, Endpoint, Incoming, ServerConfig};
use tokio::{sync::Semaphore, time::timeout};

use super::join::JoinDesk;
use crate::{
    identity::{Accepted, accepted},
    lane::LaneHost,
    mesh::Mesh,
    transport::{LaneServer, code},
    underlay::SlotId,
};

/// A handshake must be complete within this time: three initial retransmissions at worst.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes under way at once. Each costs some 50 KiB and half a millisecond of CPU; an overlay
/// of 200 nodes that all come back at once is through within a second.
const MAX_HANDSHAKES: usize = 256;

/// From this many handshakes under way on, strangers must first prove their address (RFC 9000,
/// §8.1.2), so that forged addresses cannot use up the rest.
const RETRY_ABOVE: usize = 32;

/// What serves accepted connections.
pub(super) struct Door {
    pub(super) endpoint: Endpoint,
    pub(super) mesh: Arc<Mesh>,
    pub(super) host: Arc<LaneHost>,
    pub(super) desk: Option<Arc<JoinDesk>>,
    pub(super) link_server: Arc<ServerConfig>,
    pub(super) lane_server: LaneServer,
}

impl Door {
    /// Accepts connections until the endpoint closes.
    pub(super) async fn run(self: Arc<Self>) {
        let permits = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        while let Some(incoming) = self.endpoint.accept().await {
            let pending = MAX_HANDSHAKES - permits.available_permits();
            if pending >= RETRY_ABOVE
                && incoming.may_retry()
                && !incoming.remote_address_validated()
            {
                // The error would mean that a retry is not possible, which was just asked.
                let _ = incoming.retry();
                continue;
            }
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                incoming.ignore();
                continue;
            };
            let door = self.clone();
            tokio::spawn(async move {
                let slot = SlotId::from_address(incoming.remote_address());
                let conn = timeout(HANDSHAKE_TIMEOUT, door.shake_hands(incoming, slot)).await;
                drop(permit);
                if let Ok(Some(conn)) = conn {
                    door.admit(conn, slot).await;
                }
            });
        }
    }

    async fn shake_hands(&self, incoming: Incoming, slot: Option<SlotId>) -> Option<Connection> {
        let remote = incoming.remote_address();
        let config = match slot {
            None => self.link_server.clone(),
            Some(slot) => {
                let (hint, mark) = self.host.granted(slot)?;
                Arc::new(self.lane_server.config(&mark, &hint))
            }
        };
        let conn = match incoming.accept_with(config) {
            Ok(connecting) => connecting.await,
            Err(error) => Err(error),
        };
        conn.inspect_err(|error| tracing::debug!(%remote, %error, "handshake failed")).ok()
    }

    /// Serves a connection as what its certificate, its protocol and its way of arrival say;
    /// one that does not fit together gets nothing.
    async fn admit(&self, conn: Connection, slot: Option<SlotId>) {
        match (accepted(&conn), slot) {
            (Ok(Accepted::Link(peer)), None) => self.mesh.clone().accept(conn, peer).await,
            (Ok(Accepted::Lane(peer)), Some(slot)) => {
                self.host.clone().serve(conn, slot, peer).await;
            }
            (Ok(Accepted::Join), None) => match &self.desk {
                Some(desk) => desk.serve(conn, &self.mesh).await,
                None => conn.close(code::UNAUTHORISED.into(), b"not the overlay authority"),
            },
            (Ok(_), _) => conn.close(code::UNAUTHORISED.into(), b"wrong kind of connection"),
            (Err(error), _) => {
                tracing::info!(remote = %conn_address(&conn), %error, "connection refused");
                conn.close(code::UNAUTHORISED.into(), error.to_string().as_bytes());
            }
        }
    }
}

fn conn_address(conn: &Connection) -> String {
    let path = conn.path(noq::PathId::ZERO).and_then(|path| path.remote_address().ok());
    path.map_or_else(|| "an unknown address".into(), |address| address.to_string())
}
