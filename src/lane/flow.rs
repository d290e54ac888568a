//! One flow, seen from the entry.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use noq::{Stopped, VarInt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    broken,
    inflow::Inflow,
    open_lane::Streams,
    pump::{TcpIs, pump},
};
use crate::{
    flow::{BoxFuture, Carried, Flow, FlowGuard, FlowIo, FlowLabel, FlowLimits, Spliced},
    transport::code,
};

/// An open flow. Dropping it before its streams have ended resets it.
pub(super) struct LaneFlow {
    pub(super) guard: FlowGuard,
    pub(super) limits: Arc<FlowLimits>,
    pub(super) streams: Streams,
}

impl Flow for LaneFlow {
    fn label(&self) -> FlowLabel {
        self.guard.entry().label
    }

    fn carried(&self) -> Arc<Carried> {
        self.guard.entry().carried.clone()
    }

    fn splice(self: Box<Self>, client: TcpStream, preread: Bytes) -> BoxFuture<'static, Spliced> {
        Box::pin(async move {
            let Self { guard, limits, streams } = *self;
            let counts = (&*guard.entry().carried, &*limits);
            pump(client, streams, preread, TcpIs::Client, counts).await
        })
    }

    fn into_io(self: Box<Self>) -> Box<dyn FlowIo> {
        let Self { guard, limits: _, streams } = *self;
        let stopped = Some(Box::pin(streams.send.stopped()));
        let (finished, received) = (false, None);
        let (unwanted, end) = (None, None);
        let taken = 0;
        Box::new(FlowStream { guard, streams, finished, received, stopped, unwanted, taken, end })
    }
}

/// A flow as one duplex byte stream.
struct FlowStream {
    guard: FlowGuard,
    streams: Streams,
    finished: bool,
    /// Resolves when the exit has received everything; set once a task waits for that.
    received: Option<Pin<Box<Stopped>>>,
    /// Resolves when the exit stops the stream towards it; `None` afterwards.
    stopped: Option<Pin<Box<Stopped>>>,
    /// The same for the writer; set once a writer waits for room.
    unwanted: Option<Pin<Box<Stopped>>>,
    /// Bytes read.
    taken: u64,
    /// How many bytes come before a broken end, if there is one.
    end: Option<u64>,
}

impl FlowStream {
    /// Whether the destination's connection broke and all that it sent before was read.
    fn is_broken(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(stopped) = &mut self.stopped
            && let Poll::Ready(stopped) = stopped.as_mut().poll(cx)
        {
            self.stopped = None;
            self.end = stopped.ok().flatten().and_then(broken::bytes_before);
        }
        self.end.is_some_and(|end| self.taken >= end)
    }
}

impl AsyncRead for FlowStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Streams { recv: Inflow { arriving, backlog }, port, .. } = &mut this.streams;
        let polled = match arriving.has_ended() {
            true => Poll::Ready(Ok(())),
            false => arriving.poll_read(cx).map_ok(|arrived| backlog.append(arrived)),
        };
        let read = backlog.read(buf);
        backlog.copy();
        this.guard.entry().carried.hold_client(!backlog.is_empty());
        if read > 0 {
            this.guard.entry().carried.add_received(read);
            this.taken += read as u64;
            port.took(read);
            return Poll::Ready(Ok(()));
        }
        if polled.is_pending() && this.is_broken(cx) {
            return Poll::Ready(Err(broken::error()));
        }
        polled
    }
}

impl AsyncWrite for FlowStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { guard, streams, unwanted, .. } = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Streams { send, port, .. } = streams;
        let room = port.poll_room(cx);
        guard.entry().carried.hold_destination(room.is_pending());
        let room = match room {
            Poll::Ready(room) => room.min(bytes.len()),
            Poll::Pending => {
                // Where the exit takes no more there will be no room, and writing tells why.
                let stopped = unwanted.get_or_insert_with(|| Box::pin(send.stopped()));
                let _ = ready!(stopped.as_mut().poll(cx));
                *unwanted = None;
                1
            }
        };
        port.prioritise(send, room);
        let polled = AsyncWrite::poll_write(Pin::new(send), cx, &bytes[..room]);
        match &polled {
            Poll::Ready(Ok(written)) => {
                guard.entry().carried.add_sent(*written);
                port.writes(*written);
                port.sent(*written);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => port.blocked(),
        }
        polled
    }

    /// After a shutdown it waits until the exit has received everything, or takes no more.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let send = &mut this.streams.send;
        if !this.finished {
            return AsyncWrite::poll_flush(Pin::new(send), cx);
        }
        let received = this.received.get_or_insert_with(|| Box::pin(send.stopped()));
        let received = ready!(received.as_mut().poll(cx));
        this.received = None;
        Poll::Ready(received.map(drop).map_err(io::Error::other))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.finished {
            return Poll::Ready(Ok(()));
        }
        this.finished = true;
        AsyncWrite::poll_shutdown(Pin::new(&mut this.streams.send), cx)
    }
}

impl Drop for FlowStream {
    fn drop(&mut self) {
        if !self.finished {
            // A stream that was closed or stopped meanwhile needs no reset.
            let _ = self.streams.send.reset(VarInt::from_u32(code::FLOW_RESET));
        }
    }
}
