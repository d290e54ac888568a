//! One HTTP connection to an origin, over one flow.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{Either, Empty};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::AbortHandle,
    time::timeout,
};
use tracing::{Instrument, Span, debug, info};

use crate::{
    entry::{
        config::{MAX_HTTP_HEAD, MAX_HTTP_HEADERS},
        options::Options,
        session::{Opened, Shared},
    },
    flow::{FlowIo, Target},
};

/// How long a used connection may take to become ready for the next request. It is ready within
/// microseconds after the last response's end; a new flow costs a round trip.
const READY: Duration = Duration::from_millis(100);

/// A request's body: the client's, streamed, or none.
pub(super) type RequestBody = Either<Incoming, Empty<Bytes>>;

/// What a connection may be reused for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) target: Target,
    pub(super) options: Options,
}

/// An HTTP connection to an origin. Dropping it closes the flow, or resets it amid a response.
pub(super) struct Upstream {
    key: Key,
    sender: SendRequest<RequestBody>,
    driver: AbortHandle,
    span: Span,
}

/// A request that was not answered.
pub(super) struct Unanswered {
    /// Why.
    pub(super) error: hyper::Error,
    /// The request, when no byte of it was sent.
    pub(super) unsent: Option<Request<RequestBody>>,
}

impl Upstream {
    /// Speaks HTTP over the flow.
    pub(super) async fn start(
        shared: &Shared,
        key: Key,
        opened: Opened,
    ) -> Result<Self, hyper::Error> {
        let Opened { flow, span } = opened;
        let io = Counted { io: flow.into_io(), span: span.clone(), sent: 0, received: 0 };
        let (sender, connection) = http1::Builder::new()
            .max_headers(MAX_HTTP_HEADERS)
            .max_header_size(MAX_HTTP_HEAD)
            .max_buf_size(MAX_HTTP_HEAD)
            .handshake(TokioIo::new(io))
            .await?;
        let driver = async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%error, "HTTP over the flow ended");
            }
        };
        let driver = shared.spawn(driver.instrument(span.clone()));
        Ok(Self { key, sender, driver, span })
    }

    /// The span of its flow.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Whether it can carry another request to `key`.
    pub(super) async fn is_reusable(&mut self, key: &Key) -> bool {
        self.key == *key && matches!(timeout(READY, self.sender.ready()).await, Ok(Ok(())))
    }

    /// Sends a request and waits for the response's head.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Unanswered> {
        self.sender.try_send_request(request).await.map_err(|mut failed| Unanswered {
            unsent: failed.take_message(),
            error: failed.into_error(),
        })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // An idle connection is closed in order, by the driver, once the sender is gone; a response
        // in progress is of no use to anybody.
        if !self.sender.is_ready() {
            self.driver.abort();
        }
    }
}

/// The flow's byte stream, which logs its totals when it ends.
struct Counted {
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
