//! The socket that QUIC sees.

use std::{
    io::{self, IoSliceMut},
    net::{Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use noq::{AsyncUdpSocket, Runtime, TokioRuntime, UdpSender, udp::RecvMeta};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Sleep;

use super::{
    Switch, forward::Forwarder, outside::OutsideSender, receive::Batch, reorder::Reorder,
    send::LabelSender, up::Up,
};

/// Receive and send buffers asked of the kernel, in bytes.
///
/// At 4 Gbit/s, 2 MB arrive in a scheduling pause of 4 ms. The kernel may give less
/// (`net.core.rmem_max`).
const SOCKET_BUFFER: usize = 4 << 20;

/// Batches of pure forwarding after which other tasks get a turn.
const MAX_FORWARDING_ROUNDS: usize = 16;

/// Opens the node's UDP socket.
///
/// An IPv6 wildcard address also serves IPv4 where the system allows it.
///
/// # Errors As `bind(2)`: the port is in use, the address is not of this machine, or permission is
/// missing.
pub fn bind_udp(address: SocketAddr) -> io::Result<Box<dyn AsyncUdpSocket>> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6()
        && let Err(error) = socket.set_only_v6(false)
    {
        tracing::debug!(%error, "the UDP socket receives IPv6 only");
    }
    for (set, what) in [
        (socket.set_recv_buffer_size(SOCKET_BUFFER), "receive"),
        (socket.set_send_buffer_size(SOCKET_BUFFER), "send"),
    ] {
        if let Err(error) = set {
            tracing::debug!(%error, "cannot enlarge the socket's {what} buffer");
        }
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    TokioRuntime.wrap_udp_socket(socket.into())
}

/// A UDP socket with label switching, virtual addresses, and the node's streams beside it.
///
/// It always reports an IPv6 address, so that QUIC accepts the virtual addresses of lanes. Real
/// IPv4 addresses appear in their IPv4-mapped form (RFC 4291, section 2.5.5.2).
#[derive(Debug)]
pub struct LabelSocket {
    physical: Box<dyn AsyncUdpSocket>,
    switch: Arc<Switch>,
    forwarder: Forwarder,
    batch: Batch,
    reorder: Reorder,
    /// When the batch was received.
    received: Instant,
    /// The timer for packets that wait. It needs a runtime, so it is made at first use.
    timer: Option<Pin<Box<Sleep>>>,
}

impl LabelSocket {
    /// Puts label switching in front of `physical`.
    #[must_use]
    pub fn new(physical: Box<dyn AsyncUdpSocket>, switch: Arc<Switch>) -> Self {
        let forwarder = Forwarder::new(outside(physical.as_ref(), &switch));
        let batch = Batch::new(physical.max_receive_segments(), switch.streams().take_inbox());
        let received = tokio::time::Instant::now().into_std();
        let reorder = Reorder::default();
        Self { physical, switch, forwarder, batch, reorder, received, timer: None }
    }

    /// Receives a batch, or ends the waiting of packets.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = tokio::time::Instant::now().into_std();
        let received = self.batch.fill(cx, self.physical.as_mut());
        // A missing packet may be in the system's buffer already. So the time-outs apply only when
        // that buffer is empty.
        let seen = if received.is_pending() { now } else { self.received };
        self.reorder.expire(seen, &self.switch);
        if received.is_ready() {
            self.received = now;
            return received;
        }
        if self.reorder.is_handed_up() {
            ready!(self.poll_timer(cx));
        }
        Poll::Ready(Ok(()))
    }

    /// Hands packets up, and takes those of others for forwarding.
    fn poll_runs(&mut self, cx: &mut Context<'_>, up: &mut Up<'_, '_>) -> Poll<io::Result<usize>> {
        for _ in 0..MAX_FORWARDING_ROUNDS {
            if self.batch.is_drained() && self.reorder.is_handed_up() {
                self.forwarder.flush(&self.switch, cx);
                ready!(self.poll_more(cx))?;
            }
            let Self { switch, forwarder, batch, reorder, received, .. } = &mut *self;
            batch.deliver(*received, switch, cx, forwarder, reorder, up);
            if up.filled() > 0 {
                return Poll::Ready(Ok(up.filled()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits until a packet has waited long enough.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.reorder.deadline(&self.switch) else { return Poll::Pending };
        let at = tokio::time::Instant::from_std(at);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at || timer.is_elapsed() {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx)
    }
}

impl AsyncUdpSocket for LabelSocket {
    fn create_sender(&self) -> Pin<Box<dyn UdpSender>> {
        let outside = outside(self.physical.as_ref(), &self.switch);
        Box::pin(LabelSender::new(outside, self.switch.clone()))
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.poll_runs(cx, &mut Up::new(bufs, meta));
        self.forwarder.flush(&self.switch, cx);
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let port = self.physical.local_addr()?.port();
        Ok((Ipv6Addr::UNSPECIFIED, port).into())
    }

    fn max_receive_segments(&self) -> NonZeroUsize {
        self.physical.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.physical.may_fragment()
    }
}

/// What sends to real addresses and to streams.
fn outside(physical: &dyn AsyncUdpSocket, switch: &Arc<Switch>) -> Pin<Box<dyn UdpSender>> {
    let ipv4 = physical.local_addr().is_ok_and(|address| address.is_ipv4());
    Box::pin(OutsideSender::new(physical.create_sender(), switch.clone(), ipv4))
}

/// The IPv4-mapped form of an IPv4 address; an IPv6 address as it is.
pub(super) fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        v6 @ SocketAddr::V6(_) => v6,
    }
}

/// The address in the family that a socket of ours takes; `None` if it takes none of that family.
pub(super) fn for_family(address: SocketAddr, ipv4: bool) -> Option<SocketAddr> {
    if ipv4 {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        address.is_ipv4().then_some(address)
    } else {
        Some(mapped(address))
    }
}
