//! A flow that leaves at its own entry, because the node is an exit too: no lane carries it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional},
    net::TcpStream,
};

use crate::{
    flow::{
        BoxFuture, Carried, Flow, FlowEnd, FlowGuard, FlowIo, FlowLabel, FlowLimits, FlowState,
        HalfClosed, Spliced, reset_on_close,
    },
    lane::{Outward, OutwardStream, Place},
};

/// An open flow without a lane. Dropping it before it is shut down resets its connection.
pub(super) struct LocalFlow {
    guard: FlowGuard,
    stream: OutwardStream,
    /// Counts at the exit's places, where the flow may be asked to end.
    at_exit: Arc<Carried>,
    limits: Arc<FlowLimits>,
    half: Arc<HalfClosed>,
    finished: bool,
    _permit: Option<Box<dyn Send + Sync>>,
}

impl LocalFlow {
    /// The listed flow, carried by the connection that the exit role opened.
    pub(super) fn new(guard: FlowGuard, outward: Outward, limits: Arc<FlowLimits>) -> Self {
        guard.entry().set_state(FlowState::Open);
        let Outward { stream, place: Place { carried: at_exit, permit: _permit }, .. } = outward;
        let half = Arc::default();
        Self { guard, stream, at_exit, limits, half, finished: false, _permit }
    }

    async fn carry(&mut self, client: &mut TcpStream, preread: &[u8]) -> io::Result<()> {
        let (limits, half) = (self.limits.clone(), self.half.clone());
        let (at_exit, at_entry) = (self.at_exit.clone(), self.guard.entry().carried.clone());
        let both = async {
            self.write_all(preread).await?;
            copy_bidirectional(client, self).await.map(|_| ())
        };
        tokio::select! {
            biased;
            carried = both => carried,
            end = limits.overdue(at_exit.activity(), &half) => Err(end.into()),
            () = at_entry.activity().closed() => Err(FlowEnd::Closed.into()),
        }
    }

    fn stream(&mut self) -> Pin<&mut dyn FlowIo> {
        match &mut self.stream {
            OutwardStream::Tcp(tcp) => Pin::new(tcp),
            OutwardStream::Inside(io) => Pin::new(io),
        }
    }
}

impl Flow for LocalFlow {
    fn label(&self) -> FlowLabel {
        self.guard.entry().label
    }

    fn carried(&self) -> Arc<Carried> {
        self.guard.entry().carried.clone()
    }

    fn splice(
        mut self: Box<Self>,
        mut client: TcpStream,
        preread: Bytes,
    ) -> BoxFuture<'static, Spliced> {
        Box::pin(async move {
            let result = self.carry(&mut client, &preread).await;
            if result.is_err() {
                // Neither side may take a broken flow as complete.
                self.finished = false;
                reset_on_close(&client);
            }
            let (sent, received) = self.guard.entry().carried.bytes();
            Spliced { sent, received, result }
        })
    }

    fn into_io(self: Box<Self>) -> Box<dyn FlowIo> {
        self
    }
}

impl AsyncRead for LocalFlow {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = this.stream().poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            this.guard.entry().carried.add_received(read);
            this.at_exit.add_received(read);
        } else if matches!(polled, Poll::Ready(Ok(()))) && buf.remaining() > 0 {
            this.half.set(this.at_exit.activity());
        }
        polled
    }
}

impl AsyncWrite for LocalFlow {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.stream().poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            this.guard.entry().carried.add_sent(*written);
            this.at_exit.add_sent(*written);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.finished = true;
        this.half.set(this.at_exit.activity());
        this.stream().poll_shutdown(cx)
    }
}

impl Drop for LocalFlow {
    fn drop(&mut self) {
        if let (false, OutwardStream::Tcp(tcp)) = (self.finished, &self.stream) {
            reset_on_close(tcp);
        }
    }
}
