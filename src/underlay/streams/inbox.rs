//! Packets that arrived on streams and wait for the node's receive path.

use std::{
    io::IoSliceMut,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use noq::udp::RecvMeta;
use tokio::sync::mpsc;

use super::Arrival;
use crate::wire::frame::{self, LENGTH_LEN};

/// The receiver's end.
#[derive(Debug)]
pub(in crate::underlay) struct Inbox {
    arrivals: mpsc::Receiver<Arrival>,
    /// What is left of the last one.
    rest: Arrival,
}

impl Inbox {
    pub(super) fn new(arrivals: mpsc::Receiver<Arrival>) -> Self {
        let from = std::net::SocketAddr::from(([0; 4], 0));
        Self { arrivals, rest: Arrival { from, frames: Bytes::new() } }
    }

    /// Fills buffers. If the socket beside it `coalesces`, consecutive packets of one source and one size
    /// are in one buffer.
    pub(in crate::underlay) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        coalesces: bool,
    ) -> Poll<usize> {
        let mut filled = 0;
        while filled < bufs.len().min(meta.len()) {
            if self.rest.frames.is_empty() {
                match self.arrivals.poll_recv(cx) {
                    Poll::Ready(Some(arrival)) => self.rest = arrival,
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            if let Some(received) = self.fill(&mut bufs[filled], coalesces) {
                meta[filled] = received;
                filled += 1;
            }
        }
        if filled == 0 { Poll::Pending } else { Poll::Ready(filled) }
    }

    /// Fills one buffer with packets of one size; the last may be shorter.
    fn fill(&mut self, buffer: &mut [u8], coalesces: bool) -> Option<RecvMeta> {
        let (mut len, mut stride) = (0, 0);
        // Only whole frames are handed on.
        while let Ok(Some((packet, _))) = frame::first(&self.rest.frames) {
            let size = packet.len();
            let end = len + size;
            if len > 0 && size > stride || end > buffer.len() {
                break;
            }
            buffer[len..end].copy_from_slice(packet);
            self.rest.frames.advance(LENGTH_LEN + size);
            stride = if len == 0 { size } else { stride };
            len = end;
            if size < stride || !coalesces {
                break;
            }
        }
        if len == 0 {
            // Longer than the buffer: nobody sends such a packet.
            self.rest.frames.clear();
            return None;
        }
        let mut meta = RecvMeta::default();
        (meta.addr, meta.len, meta.stride) = (self.rest.from, len, stride);
        Some(meta)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::{underlay::streams::Streams, wire::frame::push_frame};

    #[tokio::test]
    async fn packets_of_one_size_share_a_buffer() {
        let streams = Streams::default();
        let mut inbox = streams.take_inbox().unwrap();
        let end = streams.open("192.0.2.1:443".parse().unwrap()).unwrap();
        let mut frames = Vec::new();
        for size in [100, 100, 40, 100, 200] {
            push_frame(&mut frames, &vec![1; size]);
        }
        streams.arrived(&end, frames.into()).await;
        let mut room = [[0; 300]; 4];
        let mut bufs = room.each_mut().map(|buffer| IoSliceMut::new(buffer));
        let mut meta = [RecvMeta::default(); 4];
        let cx = &mut Context::from_waker(Waker::noop());
        assert_eq!(inbox.poll_recv(cx, &mut bufs, &mut meta, true), Poll::Ready(3));
        let seen: Vec<_> = meta[..3].iter().map(|meta| (meta.len, meta.stride)).collect();
        assert_eq!(seen, [(240, 100), (100, 100), (200, 200)]);
        assert!(meta[..3].iter().all(|meta| meta.addr == end.virtual_address()));
        assert!(inbox.poll_recv(cx, &mut bufs, &mut meta, true).is_pending());
        let mut frames = Vec::new();
        (0..3).for_each(|_| assert!(push_frame(&mut frames, &[1; 50])));
        streams.arrived(&end, frames.into()).await;
        assert_eq!(inbox.poll_recv(cx, &mut bufs, &mut meta, false), Poll::Ready(3));
    }
}
