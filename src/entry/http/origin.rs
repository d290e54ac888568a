//! One HTTP connection to an origin, over one flow.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf},
    task::unconstrained,
};
use tracing::{Span, info};

use super::body::Buffered;
use crate::{
    entry::{options::Options, session::Opened},
    flow::{FlowIo, Target},
};

/// What a connection may be reused for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) target: Target,
    pub(super) options: Options,
}

/// An HTTP connection to an origin. Dropping it resets the flow, unless it was closed.
pub(super) struct Origin {
    key: Key,
    pub(super) read: Buffered<ReadHalf<Counted>>,
    pub(super) write: WriteHalf<Counted>,
    span: Span,
}

impl Origin {
    /// HTTP over the flow.
    pub(super) fn new(key: Key, opened: Opened) -> Self {
        let Opened { flow, span } = opened;
        let io = Counted { io: flow.into_io(), span: span.clone(), sent: 0, received: 0 };
        let (read, write) = tokio::io::split(io);
        Self { key, read: Buffered::new(read), write, span }
    }

    /// The span of its flow.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Whether it can carry another request to `key`: nothing came in on it since the last response,
    /// neither bytes, which nobody asked for, nor its end.
    pub(super) async fn is_reusable(&mut self, key: &Key) -> bool {
        self.key == *key && !self.read.has_more() && self.is_silent().await
    }

    async fn is_silent(&mut self) -> bool {
        let io = self.read.get_mut();
        let silent = poll_fn(|cx| {
            let mut byte = [0];
            let polled = Pin::new(&mut *io).poll_read(cx, &mut ReadBuf::new(&mut byte));
            Poll::Ready(polled.is_pending())
        });
        unconstrained(silent).await
    }

    /// Ends the flow in order.
    pub(super) async fn close(mut self) {
        // It may have ended already.
        let _ = self.write.shutdown().await;
    }

    /// The flow, and what was read from it ahead.
    pub(super) fn into_parts(self) -> (Counted, Bytes, Span) {
        let (read, ahead) = self.read.into_parts();
        (read.unsplit(self.write), ahead, self.span)
    }
}

/// The flow's byte stream, which logs its totals when it ends.
pub(super) struct Counted {
    io: Box<dyn FlowIo>,
    span: Span,
    sent: usize,
    received: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _entered = self.span.enter();
        info!(sent = self.sent, received = self.received, "flow closed");
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.received += buf.filled().len() - before;
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = polled {
            self.sent += written;
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
