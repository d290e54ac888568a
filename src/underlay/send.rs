//! Sending: QUIC's packets to virtual addresses get a label and a real address.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
};

use noq::{
    UdpSender,
    udp::{EcnCodepoint, Transmit},
};

use super::{
    DropReason, Leave, SlotId, Switch,
    burst::{MAX_UDP_PAYLOAD, SharedBurst, Towards},
    switch::Sent,
};
use crate::wire::{
    label::{HEADER_LEN, Label, push_labelled},
    piece::{SURE_PACKET, SURE_PAYLOAD, push_pieces},
};

/// Largest QUIC packet we ever send, and where path MTU discovery stops: with our header it fills a
/// jumbo frame over IPv6, 9000 − 40 (IP) − 8 (UDP) − 11 (label).
pub(crate) const MAX_QUIC_PACKET: u16 = 8941;

/// Gives each packet for a virtual address the label and the real address of its slot's route.
#[derive(Debug)]
pub(super) struct LabelSender {
    burst: SharedBurst,
    switch: Arc<Switch>,
    pieces: Vec<u8>,
    /// The size of the last packets. It decides how many fit into one system call.
    packet: usize,
}

impl LabelSender {
    pub(super) fn new(physical: Pin<Box<dyn UdpSender>>, switch: Arc<Switch>) -> Self {
        let packet = usize::from(MAX_QUIC_PACKET);
        Self { burst: SharedBurst::new(physical), switch, pieces: Vec::new(), packet }
    }

    fn poll_send_to_slot(
        &mut self,
        slot: SlotId,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let packets = transmit.contents.len().div_ceil(segment);
        let route = self.switch.slot(slot).and_then(|slot| {
            let hop = slot.next_hop?;
            Some((hop.neighbour.address()?, hop.label, slot.activity, slot.state))
        });
        let Some((address, label, activity, state)) = route else {
            // QUIC sees a lost packet, and sends it again until a route exists.
            self.switch.count_drop(DropReason::NoRoute, packets);
            return Poll::Ready(Ok(()));
        };
        let destination = address;
        let now = tokio::time::Instant::now().into_std();
        let mut state = state.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let Sent { number, replay } = &mut *state;
        let sizing = activity.sizing();
        while let Some(packet) = replay.next() {
            let to = (destination, label, None);
            let leave = if packet.len() > SURE_PACKET { sizing.leave() } else { Leave::Whole };
            match self.poll_send_packet(to, number, &packet, leave, cx) {
                Poll::Ready(Ok(())) => activity.add_sent(now, 1),
                unsent => {
                    replay.put_back(packet);
                    return unsent;
                }
            }
        }
        self.packet = segment;
        let to = (destination, label, transmit.ecn);
        let sent = if segment <= SURE_PACKET || sizing.all_whole() {
            self.poll_send_batch(to, number, transmit, cx)
        } else {
            let leave = |packet: &[u8]| match packet.len() {
                ..=SURE_PACKET => Leave::Whole,
                len => sizing.leave_next(len),
            };
            self.poll_send_one_by_one(to, number, transmit, leave, cx)
        };
        if sent.is_pending() {
            return sent;
        }
        activity.add_sent(now, packets);
        replay.record(now, transmit.contents, segment, activity.arrived());
        sent
    }

    /// Sends the packets of a batch as they are.
    fn poll_send_batch(
        &mut self,
        to: (SocketAddr, Label, Option<EcnCodepoint>),
        number: &mut u16,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let segment = self.packet;
        let fitting = self.fitting() * segment;
        let (first, rest) = transmit.contents.split_at(transmit.contents.len().min(fitting));
        let sent = self.poll_send_labelled(to, number, first, transmit.segment_size, cx);
        if sent.is_pending() {
            return sent;
        }
        // There is a rest only when QUIC has just raised its packet size. The first part is sent,
        // so the call cannot fail as a whole. If the socket does not take the rest now, QUIC sees
        // it as lost.
        for part in rest.chunks(fitting) {
            let sent = self.poll_send_labelled(to, number, part, transmit.segment_size, cx);
            if sent.is_pending() {
                self.switch.count_drop(DropReason::SocketFull, part.len().div_ceil(segment));
            }
        }
        sent
    }

    /// Sends the packets of a batch, of which some may have to leave in pieces. As with a batch, only
    /// the first one waits for room in the socket.
    fn poll_send_one_by_one(
        &mut self,
        to: (SocketAddr, Label, Option<EcnCodepoint>),
        number: &mut u16,
        transmit: &Transmit<'_>,
        leave: impl Fn(&[u8]) -> Leave,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut packets = transmit.contents.chunks(self.packet);
        let first = packets.next().unwrap_or_default();
        let sent = self.poll_send_packet(to, number, first, leave(first), cx);
        if sent.is_pending() {
            return sent;
        }
        for packet in packets {
            if self.poll_send_packet(to, number, packet, leave(packet), cx).is_pending() {
                self.switch.count_drop(DropReason::SocketFull, 1);
            }
        }
        sent
    }

    /// Sends one packet as it is, in pieces, or both.
    fn poll_send_packet(
        &mut self,
        to: (SocketAddr, Label, Option<EcnCodepoint>),
        number: &mut u16,
        packet: &[u8],
        leave: Leave,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if leave == Leave::InPieces {
            return self.poll_send_pieces(to, number, packet, cx);
        }
        let sent = self.poll_send_labelled(to, number, packet, None, cx);
        if leave == Leave::Both && !sent.is_pending() {
            return self.poll_send_pieces(to, number, packet, cx).map(|_| Ok(()));
        }
        sent
    }

    /// Sends one packet in pieces. The far end needs all of them: those that the socket does not take
    /// after the first ones are lost with them.
    fn poll_send_pieces(
        &mut self,
        (destination, label, ecn): (SocketAddr, Label, Option<EcnCodepoint>),
        number: &mut u16,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.pieces.clear();
        push_pieces(&mut self.pieces, label, *number, packet);
        let at_once = self.burst.lock().max_segments().get() * SURE_PAYLOAD;
        let towards = Towards { destination, ecn };
        for (sent, contents) in self.pieces.chunks(at_once).enumerate() {
            let sizes = (contents.len(), SURE_PAYLOAD.min(contents.len()));
            let write = |burst: &mut Vec<u8>| burst.extend_from_slice(contents);
            match self.burst.poll_send(&self.switch, towards, sizes, write, cx) {
                Poll::Ready(Ok(())) => {
                    for _ in contents.chunks(SURE_PAYLOAD) {
                        *number = number.wrapping_add(1);
                    }
                }
                Poll::Pending if sent > 0 => {
                    self.switch.count_drop(DropReason::SocketFull, 1);
                    break;
                }
                unsent => return unsent,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends packets with numbers from `number` on, and counts those that were taken. A number without a packet would look
    /// like an overtaken packet: only one that the socket refuses later leaves such a gap.
    fn poll_send_labelled(
        &mut self,
        (destination, label, ecn): (SocketAddr, Label, Option<EcnCodepoint>),
        number: &mut u16,
        contents: &[u8],
        segment_size: Option<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let segment = segment_size.unwrap_or(contents.len()).max(1);
        let packets = contents.len().div_ceil(segment);
        let len = contents.len() + packets * HEADER_LEN;
        let mut next = *number;
        let write = |burst: &mut Vec<u8>| {
            for packet in contents.chunks(segment) {
                push_labelled(burst, label, next, packet);
                next = next.wrapping_add(1);
            }
        };
        let towards = Towards { destination, ecn };
        let sent =
            self.burst.poll_send(&self.switch, towards, (len, segment + HEADER_LEN), write, cx);
        if matches!(sent, Poll::Ready(Ok(()))) {
            *number = next;
        }
        sent
    }

    /// How many packets of the present size fit into one system call.
    fn fitting(&self) -> usize {
        (MAX_UDP_PAYLOAD / (self.packet + HEADER_LEN)).max(1)
    }
}

impl UdpSender for LabelSender {
    fn poll_send(
        mut self: Pin<&mut Self>,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match SlotId::from_address(transmit.destination) {
            Some(slot) => self.poll_send_to_slot(slot, transmit, cx),
            None => self.burst.lock().poll_send(transmit, cx),
        }
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        let fitting = NonZeroUsize::new(self.fitting()).unwrap_or(NonZeroUsize::MIN);
        self.burst.lock().max_segments().min(fitting)
    }
}
