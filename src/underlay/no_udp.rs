//! The socket of a node that uses no UDP.

use std::{
    io::{self, IoSliceMut},
    net::{Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    pin::Pin,
    task::{Context, Poll},
};

use noq::{
    AsyncUdpSocket, UdpSender,
    udp::{RecvMeta, Transmit},
};

/// Packets that QUIC hands over, or takes, in one call: as many as a real socket of Linux.
const SEGMENTS: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");

/// A socket that takes packets and loses them, and never has one. The node's links go over streams.
#[must_use]
pub fn no_udp() -> Box<dyn AsyncUdpSocket> {
    Box::new(NoUdp)
}

#[derive(Debug)]
struct NoUdp;

impl AsyncUdpSocket for NoUdp {
    fn create_sender(&self) -> Pin<Box<dyn UdpSender>> {
        Box::pin(Self)
    }

    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv6Addr::UNSPECIFIED, 0).into())
    }

    fn max_receive_segments(&self) -> NonZeroUsize {
        SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl UdpSender for NoUdp {
    fn poll_send(
        self: Pin<&mut Self>,
        _: &Transmit<'_>,
        _: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        SEGMENTS
    }
}
