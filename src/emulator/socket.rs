//! A UDP socket on the emulated Internet.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use noq::{
    AsyncUdpSocket, UdpSender,
    udp::{RecvMeta, Transmit},
};
use tokio::time::Sleep;

use super::{
    inbox::SocketId,
    internet::{Internet, now},
    world::Received,
};

/// Datagrams per transmit. Batches save calls, but a big one leaves no gaps for other senders; noq
/// itself stops at ten per transmit.
const MAX_SEGMENTS: NonZeroUsize = NonZeroUsize::new(10).expect("ten is not zero");

/// A socket that is bound to an address of an [`Internet`].
pub(super) struct EmulatedSocket {
    binding: Arc<Binding>,
    /// The timer for the next packet, made when first needed: that takes a runtime.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Holds the address as long as the socket or one of its senders lives, as a file descriptor would.
struct Binding {
    internet: Internet,
    id: SocketId,
    first_address: SocketAddr,
}

struct EmulatedSender {
    binding: Arc<Binding>,
}

impl EmulatedSocket {
    pub(super) fn new(internet: Internet, id: SocketId, address: SocketAddr) -> Self {
        let binding = Arc::new(Binding { internet, id, first_address: address });
        Self { binding, timer: None }
    }

    fn poll_timer(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let at = tokio::time::Instant::from_std(at);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at || timer.is_elapsed() {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx)
    }
}

impl AsyncUdpSocket for EmulatedSocket {
    fn create_sender(&self) -> Pin<Box<dyn UdpSender>> {
        Box::pin(EmulatedSender { binding: Arc::clone(&self.binding) })
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let Binding { internet, id, .. } = &*self.binding;
            let received = internet.world().receive(now(), *id, cx.waker(), bufs, meta);
            match received {
                Received::Packets(count) => return Poll::Ready(Ok(count)),
                Received::NextAt(at) => ready!(self.poll_timer(at, cx)),
                Received::Nothing => return Poll::Pending,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.binding.address())
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl UdpSender for EmulatedSender {
    fn poll_send(
        self: Pin<&mut Self>,
        transmit: &Transmit<'_>,
        _cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Binding { internet, id, .. } = &*self.binding;
        let reader = internet.world().send(now(), *id, transmit);
        if let Some(reader) = reader {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        MAX_SEGMENTS
    }
}

impl Binding {
    fn address(&self) -> SocketAddr {
        self.internet.world().address_of(self.id).unwrap_or(self.first_address)
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        self.internet.world().detach(now(), self.id);
    }
}

impl fmt::Debug for EmulatedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EmulatedSocket").field(&self.binding.first_address).finish()
    }
}

impl fmt::Debug for EmulatedSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EmulatedSender").field(&self.binding.first_address).finish()
    }
}
