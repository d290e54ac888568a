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

    fn no_route(&self, transmit: &Transmit<'_>) {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let packets = transmit.contents.len().div_ceil(segment);
        self.switch.count_drop(DropReason::NoRoute, packets);
    }
}

impl UdpSender for OutsideSender {
    fn poll_send(
        mut self: Pin<&mut Self>,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(stream) = StreamId::from_address(transmit.destination) else {
            // The kernel would refuse the other family, and QUIC log each of its refusals.
            let Some(destination) = for_family(transmit.destination, self.ipv4) else {
                self.no_route(transmit);
                return Poll::Ready(Ok(()));
            };
            return self.udp.as_mut().poll_send(&Transmit { destination, ..transmit.clone() }, cx);
        };
        match ready!(self.switch.streams().poll_send(stream, transmit, cx)) {
            Some(oversized) => self.switch.count_drop(DropReason::Oversized, oversized),
            // QUIC sees lost packets until the neighbour has another link.
            None => self.no_route(transmit),
        }
        Poll::Ready(Ok(()))
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        self.udp.max_transmit_segments()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::underlay::bind_udp;

    #[tokio::test]
    async fn packets_to_ipv6_are_dropped_and_counted_without_an_ipv6_socket() {
        let switch = Arc::<Switch>::default();
        let udp = bind_udp("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut sender = OutsideSender::new(udp.create_sender(), switch.clone(), true);
        let mut send = async |to: &str| {
            let destination = to.parse().unwrap();
            let (contents, segment_size) = (&[0x40; 100][..], Some(40));
            let transmit =
                Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
            poll_fn(|cx| Pin::new(&mut sender).poll_send(&transmit, cx)).await.unwrap();
        };
        let dropped =
            || switch.drops().iter().find(|(why, _)| *why == DropReason::NoRoute).unwrap().1;
        send("[::ffff:127.0.0.1]:9").await;
        assert_eq!(dropped(), 0);
        send("[2001:db8::1]:53").await;
        assert_eq!(dropped(), 3);
    }
}
