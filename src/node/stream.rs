//! A flow as a byte stream.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::{
    app::NodeView,
    flow::{BoxFuture, FlowEnd, FlowEntry, FlowIo, FlowLabel, Route, Target},
    identity::NodeName,
};

/// A connection to a destination, carried by the overlay.
///
/// When a path fails, the stream moves to another route; its user sees a pause, and no error. Only complete
/// silence on all routes for the [patience](crate::Connect::patience) ends it.
///
/// - **End of reading**: the destination closed its side. An error means that it, or the overlay, broke.
/// - **`shutdown`** ends this side. It resolves when the exit has received everything, or takes no more;
///   reading goes on.
/// - **Drop**: in order, after a `shutdown`; otherwise the connection is reset, so the destination never
///   takes a part for the whole.
/// - **[`Node::stop`](crate::Node::stop)** and a `POST /close` of the user make it fail, with the kinds
///   [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) and [`TimedOut`](io::ErrorKind::TimedOut).
pub struct Stream {
    io: Box<dyn FlowIo>,
    entry: Arc<FlowEntry>,
    view: Arc<NodeView>,
    stopped: CancellationToken,
    /// Resolve when the stream is to fail: one for each direction, as two tasks may wait.
    reading: BoxFuture<'static, ()>,
    writing: BoxFuture<'static, ()>,
}

impl Stream {
    pub(super) fn new(
        io: Box<dyn FlowIo>,
        entry: Arc<FlowEntry>,
        view: Arc<NodeView>,
        stopped: CancellationToken,
    ) -> Self {
        let fails = || -> BoxFuture<'static, ()> {
            let (carried, stopped) = (entry.carried.clone(), stopped.clone());
            Box::pin(async move {
                tokio::select! {
                    biased;
                    () = stopped.cancelled() => {}
                    () = carried.activity().closed() => {}
                }
            })
        };
        Self { reading: fails(), writing: fails(), io, entry, view, stopped }
    }

    /// The flow's label, by which listings, events and logs of both ends name it.
    #[must_use]
    pub fn label(&self) -> FlowLabel {
        self.entry.label
    }

    /// Where it goes.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.entry.target
    }

    /// The node at which it leaves the overlay.
    #[must_use]
    pub fn exit(&self) -> &NodeName {
        &self.entry.exit
    }

    /// The route that its packets take now. `None`: it leaves at this node, or its lane has ended.
    #[must_use]
    pub fn route(&self) -> Option<Route> {
        self.view.route_of(&self.entry)
    }

    /// Bytes written and bytes read so far.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        self.entry.carried.bytes()
    }

    /// Fails when the node has stopped, or the user has closed the flow.
    fn check(&self) -> io::Result<()> {
        if self.stopped.is_cancelled() {
            let aborted = io::ErrorKind::ConnectionAborted;
            return Err(io::Error::new(aborted, "this node has stopped"));
        }
        if self.entry.carried.activity().is_closed() {
            return Err(FlowEnd::Closed.into());
        }
        Ok(())
    }

    /// What a direction answers: `polled`, unless the stream has failed.
    fn unless_failed<T>(
        &mut self,
        cx: &mut Context<'_>,
        waits: fn(&mut Self) -> &mut BoxFuture<'static, ()>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Ok(done)) => Poll::Ready(Ok(done)),
            // The lane's own error says less than the reason for its end.
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.check().err().unwrap_or(error))),
            Poll::Pending => {
                // A future that has resolved is not polled again.
                if self.check().is_ok() {
                    ready!(waits(self).as_mut().poll(cx));
                }
                Poll::Ready(Err(self.check().err().unwrap_or(io::ErrorKind::TimedOut.into())))
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        this.unless_failed(cx, |this| &mut this.reading, polled)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        let polled = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.unless_failed(cx, |this| &mut this.writing, polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        let polled = Pin::new(&mut this.io).poll_flush(cx);
        this.unless_failed(cx, |this| &mut this.writing, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        let ended = Pin::new(&mut this.io).poll_shutdown(cx);
        ready!(this.unless_failed(cx, |this| &mut this.writing, ended))?;
        let received = Pin::new(&mut this.io).poll_flush(cx);
        this.unless_failed(cx, |this| &mut this.writing, received)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("label", &self.label()).field("to", self.target()).finish()
    }
}
