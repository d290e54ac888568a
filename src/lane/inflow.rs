//! The bytes of a flow as they arrive, in order.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use noq::{ClosedStream, RecvStream, UnorderedRecvStream, VarInt};

use super::{
    backlog::{Backlog, CHUNKS},
    reassembly::Reassembly,
    windows::FlowPort,
};

/// The largest piece that is taken at once: that of the largest packet.
const PIECE: usize = 64 << 10;

/// The bytes of one direction of a flow that have arrived and that its reader has not taken.
pub(super) struct Inflow {
    /// Where bytes come from.
    pub(super) arriving: Arriving,
    /// Those that wait for the reader.
    pub(super) backlog: Backlog,
}

/// A stream that is read as bytes arrive, so that no bytes wait inside QUIC.
pub(super) struct Arriving {
    recv: UnorderedRecvStream,
    order: Reassembly,
    ready: Vec<Bytes>,
    ended: bool,
}

impl Inflow {
    /// What follows the bytes of `recv` that were read.
    pub(super) fn new(recv: RecvStream) -> Self {
        // A stream that has ended has no more bytes.
        let order = Reassembly::from(recv.bytes_read().unwrap_or(0));
        let recv = recv.into_unordered();
        let arriving = Arriving { recv, order, ready: Vec::new(), ended: false };
        Self { arriving, backlog: Backlog::default() }
    }

    /// Reads for a reader that is not there yet, until the stream or the far end breaks.
    pub(super) async fn breaks(&mut self, port: &FlowPort) -> io::Error {
        while !self.arriving.ended {
            if let Err(error) = self.arriving.read(port).await {
                return error;
            }
            self.backlog.push(self.arriving.taken());
            self.backlog.copy();
        }
        std::future::pending().await
    }
}

impl Arriving {
    /// Whether the far end's bytes have ended, and all have been read.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reads what has arrived, or waits for more. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the stream broke, or the far end breaks the rules.
    pub(super) async fn read(&mut self, port: &FlowPort) -> io::Result<()> {
        poll_fn(|cx| self.poll_read(cx, port)).await
    }

    /// Takes all bytes that were read and are in order.
    pub(super) fn taken(&mut self) -> impl Iterator<Item = Bytes> {
        self.ready.drain(..)
    }

    /// The same as a poll.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        port: &FlowPort,
    ) -> Poll<io::Result<()>> {
        let mut arrived = 0;
        for _ in 0..CHUNKS {
            let piece = {
                let reading = pin!(self.recv.read_chunk(PIECE));
                reading.poll(cx)
            };
            match piece {
                Poll::Ready(Ok(Some(piece))) => {
                    arrived += piece.bytes.len();
                    let taken = self.order.take(piece.offset, piece.bytes, &mut self.ready);
                    taken.map_err(io::Error::other)?;
                }
                Poll::Ready(Ok(None)) => {
                    self.ended = true;
                    break;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => break,
            }
        }
        if arrived == 0 && !self.ended {
            return Poll::Pending;
        }
        Poll::Ready(port.received(arrived).map_err(io::Error::other))
    }

    /// Takes no more; the far end gets this code.
    ///
    /// # Errors
    /// When the stream has ended.
    pub(super) fn stop(&mut self, code: VarInt) -> Result<(), ClosedStream> {
        self.recv.stop(code)
    }
}
