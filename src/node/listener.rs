//! A name that a program serves, and the streams of its callers.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::{
    app::{Accepted, Accepts, PipeEnd},
    flow::{FlowLabel, Target},
    identity::NodeName,
};

/// A name that this program serves; see [`Node::serve`](crate::Node::serve). Dropping it ends the service:
/// flows that wait are refused, and streams that were accepted go on.
///
/// At most 64 flows wait to be accepted, 16 of one node; more are refused as `overloaded`. One that is not
/// accepted within 10 s is refused as `timed-out`. Accepted ones count as flows of the exit, with its limits
/// (`max_flows`, `max_flows_per_entry`) and time-outs (`[flow] idle_timeout`, `half_closed_timeout`).
#[derive(Debug)]
pub struct Listener {
    accepts: Accepts,
    stopped: CancellationToken,
}

/// A stream that another node opened to a name that this program serves.
///
/// - **End of reading**: the caller closed its side. An error means that it, or the overlay, broke, or that
///   this node has stopped.
/// - **`shutdown`** ends this side; reading goes on.
/// - **Drop**: in order, after a `shutdown`; otherwise the caller sees a reset, and never takes a part for the
///   whole.
pub struct Inbound(Accepted);

impl Listener {
    pub(super) fn new(accepts: Accepts, stopped: CancellationToken) -> Self {
        Self { accepts, stopped }
    }

    /// The name that is served.
    #[must_use]
    pub fn target(&self) -> &Target {
        self.accepts.target()
    }

    /// The next stream. The caller's `connect` returns now, not before.
    ///
    /// Dropping the future loses no stream.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the node has stopped.
    pub async fn accept(&mut self) -> Result<Inbound, Error> {
        tokio::select! {
            biased;
            () = self.stopped.cancelled() => Err(Error::Stopped),
            accepted = self.accepts.accept() => Ok(Inbound(accepted)),
        }
    }
}

impl Inbound {
    /// The node that opened it, as its certificate says.
    #[must_use]
    pub fn peer(&self) -> &NodeName {
        &self.0.caller.name
    }

    /// That node's groups, as its certificate says.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        &self.0.caller.groups
    }

    /// The flow's label, by which the logs of both ends and the caller's listings name it.
    #[must_use]
    pub fn label(&self) -> FlowLabel {
        self.0.label
    }

    /// The name that was called.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.0.target
    }

    fn io(self: Pin<&mut Self>) -> Pin<&mut PipeEnd> {
        Pin::new(&mut self.get_mut().0.io)
    }
}

impl AsyncRead for Inbound {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buf)
    }
}

impl AsyncWrite for Inbound {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").field("label", &self.label()).field("peer", self.peer()).finish()
    }
}
