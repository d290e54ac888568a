//! Shared by all protocols: time-outs of the handshake, dialling, and carrying the bytes.

use std::{
    future::{Future, pending},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, Span, debug, field, info, info_span};

use super::{
    auth::Authenticator, config::HANDSHAKE_TIMEOUT, local_users::LocalGate, options::Options,
    places::ClientActivity,
};
use crate::{
    flow::{
        DESTINATION_TARGET, Flow, FlowDialer, FlowRequest, Ingress, Refusal, Target,
        with_destination,
    },
    identity::NodeName,
};

/// How long a refused client may send before the connection is closed.
///
/// Closing a socket with unread data resets it, and a reset may overtake the refusal.
const LINGER: Duration = Duration::from_secs(1);
/// Most bytes that are discarded then: more than any request, less than an upload.
const LINGER_BYTES: u64 = 64 * 1024;

/// How long a client may send a body whose answer it already has, and how long it may pause
/// meanwhile. Some programs read the answer only after they have sent everything (Python's
/// `http.client`). The values are nginx's.
const UPLOAD_LINGER: Duration = Duration::from_secs(30);
const UPLOAD_PAUSE: Duration = Duration::from_secs(5);

/// When and how often the system asks whether a client that sends no more is still there, and how
/// many answers may fail. No other way distinguishes a client that ended its side from one that has
/// closed. On Linux a closed client of this machine is found at the first question, others when
/// their system has forgotten the connection, after a minute.
const ASK_AFTER: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_secs(3);
const ASK_TIMES: u32 = 3;

/// One client connection's surroundings.
pub(super) struct Session {
    /// The client's address.
    pub(super) client: SocketAddr,
    /// The address the client connected to.
    pub(super) local: SocketAddr,
    /// Its activity, for the choice of a client that ends when places run out.
    pub(super) activity: Arc<ClientActivity>,
    /// What the port stands for that the client connected to.
    pub(super) port: Options,
    /// What all sessions of the entry share.
    pub(super) shared: Arc<Shared>,
}

/// What all sessions of one entry share.
pub(super) struct Shared {
    pub(super) dialer: Arc<dyn FlowDialer>,
    pub(super) gate: LocalGate,
    pub(super) auth: Authenticator,
    /// The exits for which ports stand, and where these listen.
    pub(super) ports: Vec<(NodeName, SocketAddr)>,
    /// Where the dashboard is.
    pub(super) dashboard: Option<SocketAddr>,
    /// Places of associations.
    pub(super) associations: Semaphore,
    /// Cancelled when the entry stops: a client that has no flow yet gets none.
    pub(super) stop: CancellationToken,
    /// Cancelled when the time to drain is over: every task ends at once.
    pub(super) kill: CancellationToken,
    /// Every task of the entry, so that stopping can wait for them.
    pub(super) tasks: TaskTracker,
}

/// An open flow and the span in which everything about it is logged.
pub(super) struct Opened {
    pub(super) flow: Box<dyn Flow>,
    pub(super) span: Span,
}

/// Why a handshake ended without a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum Abandoned {
    #[error("the client did not finish its request in time")]
    TooSlow,
    #[error("the proxy is stopping")]
    Stopping,
}

impl Shared {
    /// Starts a task that stopping waits for and that [`kill`](Self::kill) ends.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let kill = self.kill.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = kill.cancelled() => {}
                () = work => {}
            }
        });
    }
}

impl Session {
    /// Runs a client's handshake, for [`HANDSHAKE_TIMEOUT`] at most and not past the entry's stop.
    pub(super) async fn handshake<T>(&self, work: impl Future<Output = T>) -> Result<T, Abandoned> {
        tokio::select! {
            () = self.shared.stop.cancelled() => Err(Abandoned::Stopping),
            done = timeout(HANDSHAKE_TIMEOUT, work) => done.map_err(|_| Abandoned::TooSlow),
        }
    }

    /// What a client asks for: what it says goes before what its port stands for.
    pub(super) fn with_port(&self, said: Options) -> Options {
        let Options { exit, hint, user } = said;
        Options {
            exit: exit.or_else(|| self.port.exit.clone()),
            hint: hint.or_else(|| self.port.hint.clone()),
            user,
        }
    }

    /// Opens a flow. Dropping the future cancels the dial.
    pub(super) async fn open(
        &self,
        target: Target,
        options: Options,
        ingress: Ingress,
    ) -> Result<Opened, Refusal> {
        let flow_span = info_span!("flow", label = field::Empty);
        let span = with_destination(&flow_span, &target);
        let Options { user, hint, exit } = self.with_port(options);
        let plain = FlowRequest::new(target, self.client, ingress);
        let request = FlowRequest { user, hint, exit, ..plain };
        let dialed = self.shared.dialer.dial(request).instrument(span.clone()).await;
        span.in_scope(|| match dialed {
            Ok(flow) => {
                self.activity.add(&flow.carried());
                flow_span.record("label", field::display(flow.label()));
                info!(client = %self.client, %ingress, "flow open");
                Ok(Opened { flow, span: span.clone() })
            }
            Err(refusal) => {
                info!(client = %self.client, %ingress, reason = refusal.kind.name(), "flow refused");
                debug!(target: DESTINATION_TARGET, detail = refusal.detail, "reason of the refusal");
                Err(refusal)
            }
        })
    }

    /// [`open`](Self::open) for a client that waits on `tcp`; `None` when it went away meanwhile.
    pub(super) async fn open_for(
        &self,
        tcp: &TcpStream,
        target: Target,
        options: Options,
        ingress: Ingress,
    ) -> Option<Result<Opened, Refusal>> {
        tokio::select! {
            opened = self.open(target, options, ingress) => Some(opened),
            () = gone(tcp) => {
                tracing::debug!(client = %self.client, "the client left before its flow was open");
                None
            }
        }
    }
}

impl Opened {
    /// Carries the client's connection over the flow until both directions have ended.
    pub(super) async fn splice(self, client: TcpStream, preread: Bytes) {
        let spliced = self.flow.splice(client, preread).instrument(self.span.clone()).await;
        let _entered = self.span.enter();
        match spliced.result {
            Ok(()) => info!(sent = spliced.sent, received = spliced.received, "flow closed"),
            Err(error) => {
                info!(sent = spliced.sent, received = spliced.received, %error, "flow broken");
            }
        }
    }
}

/// Resolves when the client has closed its connection.
///
/// A client that sent data before the reply is not watched further: its close would come after the
/// data, and the dial has a time-out in any case.
async fn gone(tcp: &TcpStream) {
    match tcp.peek(&mut [0]).await {
        Ok(0) | Err(_) => {}
        Ok(_) => pending().await,
    }
}

/// Resolves when the client has reset its connection or no longer exists.
///
/// A client that has only ended its side waits for its answer, as `nc -N` does. One that has closed
/// looks the same, so the system is asked.
pub(super) async fn lost(tcp: &TcpStream) {
    if tcp.peek(&mut [0]).await.is_err() {
        return;
    }
    let ask =
        TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_EVERY).with_retries(ASK_TIMES);
    if let Err(error) = SockRef::from(tcp).set_tcp_keepalive(&ask) {
        tracing::debug!(%error, "cannot ask whether the client is there");
    }
    // An error of this call is one of the connection too.
    while timeout(ASK_EVERY, tcp.ready(Interest::ERROR)).await.is_err() {
        if has_no_owner(tcp) {
            return;
        }
    }
}

/// Whether the system says that no process holds the client's socket on this machine. Such a socket
/// answers for a minute after its process ended.
#[cfg(target_os = "linux")]
fn has_no_owner(tcp: &TcpStream) -> bool {
    use super::socket_owner::{Answer, Netlink};
    let (Ok(client), Ok(proxy)) = (tcp.peer_addr(), tcp.local_addr()) else { return true };
    client.ip().to_canonical().is_loopback()
        && matches!(Netlink::default().ask(client, proxy), Ok(Answer::Gone))
}

#[cfg(not(target_os = "linux"))]
fn has_no_owner(_: &TcpStream) -> bool {
    false
}

/// [`close`] for a client that may be sending a large body.
pub(super) async fn close_after_upload(mut tcp: TcpStream) {
    let drained = async {
        tcp.shutdown().await?;
        let mut rest = vec![0; 16 * 1024];
        while timeout(UPLOAD_PAUSE, tcp.read(&mut rest)).await?? > 0 {}
        Ok(())
    };
    let _: Result<io::Result<()>, _> = timeout(UPLOAD_LINGER, drained).await;
}

/// Closes a refused client's connection so that it can read what was written to it.
pub(super) async fn close(mut tcp: TcpStream) {
    let drained = async {
        tcp.shutdown().await?;
        tokio::io::copy(&mut (&mut tcp).take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // The client may not read to the end.
    let _: Result<io::Result<u64>, _> = timeout(LINGER, drained).await;
}

/// A borrowed TCP stream that reads and writes, so that the owner can still watch it.
pub(super) struct Borrowed<'a>(pub(super) &'a TcpStream);

impl AsyncRead for Borrowed<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Borrowed<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Only the owner closes.
        Poll::Ready(Ok(()))
    }
}
