//! Sending out of the process: to real addresses by the UDP socket, to the others by streams.

use std::{
    io,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use noq::{UdpSender, udp::Transmit};

use super::{DropReason, StreamId, Switch, socket::for_family};

/// Sends packets to the addresses of neighbours.
#[derive(Debug)]
pub(super) struct OutsideSender {
    udp: Pin<Box<dyn UdpSender>>,
    switch: Arc<Switch>,
    /// The UDP socket takes IPv4 addresses only.
    ipv4: bool,
}

impl OutsideSender {
    pub(super) fn new(udp: Pin<Box<dyn UdpSender>>, switch: Arc<Switch>, ipv4: bool) -> Self {
        Self { udp, switch, ipv4 }
    }
}

impl UdpSender for OutsideSender {
    fn poll_send(
        mut self: Pin<&mut Self>,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(stream) = StreamId::from_address(transmit.destination) else {
            let destination = for_family(transmit.destination, self.ipv4);
            return self.udp.as_mut().poll_send(&Transmit { destination, ..transmit.clone() }, cx);
        };
        match ready!(self.switch.streams().poll_send(stream, transmit, cx)) {
            Some(oversized) => self.switch.count_drop(DropReason::Oversized, oversized),
            // QUIC sees lost packets until the neighbour has another link.
            None => {
                let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
                let packets = transmit.contents.len().div_ceil(segment);
                self.switch.count_drop(DropReason::NoRoute, packets);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        self.udp.max_transmit_segments()
    }
}
