//! A client connection after CONNECT or an upgrade.

use bytes::Bytes;
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
};
use tracing::{Instrument, debug};

use super::origin::{Counted, Origin};
use crate::{entry::session::Opened, flow::reset_on_close};

/// Bytes to carry once HTTP on the client's connection has ended.
pub(super) enum Tunnel {
    /// After CONNECT: a flow.
    Connect(Opened),
    /// After `101 Switching Protocols`: the HTTP connection over a flow.
    Switched(Origin),
}

impl Tunnel {
    /// Carries the bytes to the end; `ahead` is what was read from the client behind its request.
    pub(super) async fn run(self, client: TcpStream, ahead: Bytes) {
        match self {
            Self::Connect(opened) => opened.splice(client, ahead).await,
            Self::Switched(origin) => {
                let (flow, behind, span) = origin.into_parts();
                switched((client, ahead), (flow, behind)).instrument(span).await;
            }
        }
    }
}

async fn switched((mut client, ahead): (TcpStream, Bytes), (mut flow, behind): (Counted, Bytes)) {
    let carried = async {
        client.write_all(&behind).await?;
        flow.write_all(&ahead).await?;
        copy_bidirectional(&mut client, &mut flow).await
    };
    if let Err(error) = carried.await {
        debug!(%error, "the upgraded connection broke");
        reset_on_close(&client);
    }
}
