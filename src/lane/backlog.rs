//! The backlog of a flow: bytes read from its stream that its reader has not taken yet.
//!
//! While the reader takes bytes, they are written without a copy. When it takes no more, the bytes
//! are copied into blocks, because a chunk from QUIC holds the whole batch of packets with which it
//! came: up to 64 KiB for one byte.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWrite, ReadBuf};

/// Pieces written in one vectored call.
const CHUNKS: usize = 64;

/// Spare room of a new block: a quarter of the held bytes, within these bounds. So at most a
/// quarter of the memory is unused, and small pieces share blocks.
const LEAST_ROOM: usize = 256;
const MOST_ROOM: usize = 16 << 10;

/// Bytes in order: blocks of copied bytes, then chunks from QUIC.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    blocks: VecDeque<BytesMut>,
    chunks: VecDeque<Bytes>,
    /// Bytes in blocks.
    copied: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.chunks.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.copied + self.chunks.iter().map(Bytes::len).sum::<usize>()
    }

    /// Adds the bytes of `chunks`.
    pub(super) fn push(&mut self, chunks: impl IntoIterator<Item = Bytes>) {
        self.chunks.extend(chunks.into_iter().filter(|chunk| !chunk.is_empty()));
    }

    /// Adds what waits in another backlog.
    pub(super) fn append(&mut self, other: Self) {
        self.chunks.extend(other.blocks.into_iter().map(BytesMut::freeze).chain(other.chunks));
    }

    /// Writes the first bytes, one at least; returns how many. There must be some.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); CHUNKS];
        let blocks = self.blocks.iter().map(|block| &block[..]);
        let pieces = blocks.chain(self.chunks.iter().map(|chunk| &chunk[..]));
        let count =
            slices.iter_mut().zip(pieces).map(|(slice, piece)| *slice = IoSlice::new(piece));
        let count = count.count();
        let polled = Pin::new(io).poll_write_vectored(cx, &slices[..count]);
        if polled.is_pending() {
            self.copy();
        }
        let written = ready!(polled)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(written))
    }

    /// Takes the first bytes, as many as there is room for; returns how many.
    pub(super) fn read(&mut self, buf: &mut ReadBuf<'_>) -> usize {
        let before = buf.remaining();
        let blocks = self.blocks.iter().map(|block| &block[..]);
        for piece in blocks.chain(self.chunks.iter().map(|chunk| &chunk[..])) {
            if buf.remaining() == 0 {
                break;
            }
            buf.put_slice(&piece[..piece.len().min(buf.remaining())]);
        }
        let read = before - buf.remaining();
        self.advance(read);
        read
    }

    /// Copies the waiting bytes, so that they pin no batches.
    pub(super) fn copy(&mut self) {
        for chunk in self.chunks.drain(..) {
            let mut rest = &chunk[..];
            if let Some(block) = self.blocks.back_mut() {
                let fits = (block.capacity() - block.len()).min(rest.len());
                block.extend_from_slice(&rest[..fits]);
                rest = &rest[fits..];
            }
            if !rest.is_empty() {
                let room = ((self.copied + chunk.len()) / 4).clamp(LEAST_ROOM, MOST_ROOM);
                let mut block = BytesMut::with_capacity(rest.len().max(room));
                block.extend_from_slice(rest);
                self.blocks.push_back(block);
            }
            self.copied += chunk.len();
        }
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(block) = self.blocks.front_mut().filter(|_| written > 0) {
            let part = written.min(block.len());
            block.advance(part);
            (written, self.copied) = (written - part, self.copied - part);
            if block.is_empty() {
                self.blocks.pop_front();
            }
        }
        while let Some(chunk) = self.chunks.front_mut().filter(|_| written > 0) {
            let part = written.min(chunk.len());
            chunk.advance(part);
            written -= part;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
        if self.is_empty() {
            // An idle flow holds no memory.
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn memory(backlog: &Backlog) -> usize {
        backlog.blocks.iter().map(BytesMut::capacity).sum()
    }

    proptest! {
        #[test]
        fn a_reader_gets_every_byte_in_order_however_slowly_it_takes_them(
            steps in prop::collection::vec((0_usize..2_000, 0_usize..3_000), 1..100)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (mut near, mut far) = tokio::io::duplex(1_500);
            let (mut backlog, mut pushed, mut got) = (Backlog::default(), 0_usize, Vec::new());
            let mut cx = Context::from_waker(Waker::noop());
            for (push, take) in steps {
                let bytes: Vec<u8> = (pushed..pushed + push).map(|at| at.to_be_bytes()[7]).collect();
                pushed += push;
                let middle = push / 3;
                let mut arrived = Backlog::default();
                arrived.push([Bytes::copy_from_slice(&bytes[..middle])]);
                if push % 2 == 0 {
                    arrived.copy();
                }
                arrived.push([bytes[middle..].to_vec().into()]);
                backlog.append(arrived);
                while !backlog.is_empty() && backlog.poll_write(&mut cx, &mut near).is_ready() {}
                let held = backlog.copied;
                prop_assert!(memory(&backlog) <= held * 4 / 3 + 2 * MOST_ROOM, "{held} bytes");
                let mut part = vec![0; take.max(1)];
                let read = runtime.block_on(async {
                    tokio::select! { biased; read = far.read(&mut part) => read.unwrap(), () = std::future::ready(()) => 0 }
                });
                got.extend_from_slice(&part[..read]);
            }
            while got.len() < pushed {
                while !backlog.is_empty() && backlog.poll_write(&mut cx, &mut near).is_ready() {}
                let mut part = vec![0; 1_000];
                let read = runtime.block_on(far.read(&mut part)).unwrap();
                got.extend_from_slice(&part[..read]);
            }
            prop_assert!(got.iter().enumerate().all(|(at, byte)| *byte == at.to_be_bytes()[7]));
            prop_assert!(backlog.is_empty() && backlog.copied == 0);
        }
    }

    #[test]
    fn crumbs_that_nobody_takes_pin_little_more_than_themselves() {
        let (mut near, _far) = tokio::io::duplex(1);
        let mut cx = Context::from_waker(Waker::noop());
        let mut backlog = Backlog::default();
        let batch = Bytes::from(vec![7; 64 << 10]);
        for at in 0..10_000 {
            backlog.push([batch.slice(at..=at)]);
            let _ = backlog.poll_write(&mut cx, &mut near);
        }
        assert!(backlog.chunks.is_empty());
        assert!(memory(&backlog) < 16_000, "{}", memory(&backlog));
    }
}
