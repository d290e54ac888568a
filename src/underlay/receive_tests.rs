//! Tests of the receive path: coalesced buffers that mix labels, links and rubbish.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use noq::{UdpSender, udp::Transmit};

use super::*;
use crate::{
    underlay::{
        Leave, Neighbour, NextHop,
        labels::{Forwarding, Meter},
        send::LabelSender,
    },
    wire::{
        label::{KIND_RELAYED, Label, push_labelled},
        nonce::AddressNonce,
    },
};

/// A received buffer and the size of the packets in it.
type Received = (Vec<u8>, usize);
/// A sent buffer: where to, and the size of the packets in it.
type Sent = (SocketAddr, Vec<u8>, Option<usize>);

/// A socket that returns prepared datagrams and keeps what is sent.
#[derive(Debug, Default, Clone)]
struct Scripted {
    incoming: Arc<Mutex<VecDeque<Received>>>,
    outgoing: Arc<Mutex<Vec<Sent>>>,
    blocked: bool,
    /// Packets that one call takes; 0: 64.
    segments: usize,
    /// Where what is received comes from, if not from 192.0.2.9.
    source: Option<SocketAddr>,
}

impl AsyncUdpSocket for Scripted {
    fn create_sender(&self) -> Pin<Box<dyn UdpSender>> {
        Box::pin(self.clone())
    }

    fn poll_recv(
        &mut self,
        _cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Some((bytes, stride)) = self.incoming.lock().unwrap().pop_front() else {
            return Poll::Pending;
        };
        bufs[0][..bytes.len()].copy_from_slice(&bytes);
        meta[0] = RecvMeta::default();
        meta[0].addr = self.source.unwrap_or_else(|| ([192, 0, 2, 9], 4600).into());
        (meta[0].len, meta[0].stride) = (bytes.len(), stride);
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(([192, 0, 2, 1], 4600).into())
    }

    fn max_receive_segments(&self) -> NonZeroUsize {
        NonZeroUsize::new(64).unwrap()
    }
}

impl UdpSender for Scripted {
    fn poll_send(
        self: Pin<&mut Self>,
        transmit: &Transmit<'_>,
        _cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.blocked {
            return Poll::Pending;
        }
        let sent = (transmit.destination, transmit.contents.to_vec(), transmit.segment_size);
        self.outgoing.lock().unwrap().push(sent);
        Poll::Ready(Ok(()))
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.segments).unwrap_or(NonZeroUsize::new(64).unwrap())
    }
}

struct Bench {
    switch: Switch,
    socket: Scripted,
    batch: Batch,
    forwarder: Forwarder,
    reorder: Reorder,
    now: Instant,
}

impl Bench {
    fn new(blocked: bool) -> Self {
        let socket = Scripted { blocked, ..Scripted::default() };
        let batch = Batch::new(socket.max_receive_segments(), None);
        let forwarder = Forwarder::new(socket.create_sender());
        let (switch, reorder) = (Switch::default(), Reorder::default());
        Self { switch, socket, batch, forwarder, reorder, now: Instant::now() }
    }

    fn grant_slot(&self, label: u64) -> SlotId {
        let (slot, _) = self.switch.open_slot().unwrap();
        let aros = "aros".parse().unwrap();
        self.switch.with_labels(|labels| labels.grant_slot(Label(label), &aros, slot)).unwrap();
        slot
    }

    fn grant_forward(&self, label: u64, next: u64, meter: Option<Arc<Meter>>) {
        let mit = Neighbour::new("mit".parse().unwrap(), Some(([192, 0, 2, 2], 4600).into()));
        let next = NextHop { neighbour: Arc::new(mit), label: Label(next) };
        let minute = Duration::from_secs(60);
        let forwarding =
            Forwarding { meter, ..Forwarding::new("aros".parse().unwrap(), next, minute) };
        self.switch
            .with_labels(|labels| labels.grant_forward(self.now, Label(label), forwarding))
            .unwrap();
    }

    /// Receives one coalesced buffer; what goes up to QUIC: address, bytes, stride.
    fn receive(&mut self, packets: &[Vec<u8>]) -> Vec<(SocketAddr, Vec<u8>, usize)> {
        let stride = packets[0].len();
        self.socket.incoming.lock().unwrap().push_back((packets.concat(), stride));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(self.batch.fill(&mut cx, &mut self.socket).is_ready());
        let mut up = Vec::new();
        while !(self.batch.is_drained() && self.reorder.is_handed_up()) {
            let mut room = vec![vec![0; 65_536]; 2];
            let mut out: Vec<_> = room.iter_mut().map(|b| IoSliceMut::new(b)).collect();
            let mut meta = [RecvMeta::default(); 2];
            let mut space = Up::new(&mut out, &mut meta);
            self.batch.deliver(
                self.now,
                &self.switch,
                &mut cx,
                &mut self.forwarder,
                &mut self.reorder,
                &mut space,
            );
            self.forwarder.flush(&self.switch, &mut cx);
            let used = space.filled();
            for (buffer, meta) in room.iter().zip(meta).take(used) {
                up.push((meta.addr, buffer[..meta.len].to_vec(), meta.stride));
            }
        }
        up
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.switch.drops().into_iter().find(|(r, _)| *r == reason).unwrap().1
    }
}

fn labelled(label: u64, payload: &[u8]) -> Vec<u8> {
    numbered(label, 0, payload)
}

fn numbered(label: u64, number: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    push_labelled(&mut packet, Label(label), number, payload);
    packet
}

/// A packet as a relay sends it on.
fn relayed(label: u64, payload: &[u8]) -> Vec<u8> {
    let mut packet = labelled(label, payload);
    packet[0] = KIND_RELAYED;
    packet
}

fn quic(len: usize) -> Vec<u8> {
    vec![0x42; len]
}

#[test]
fn a_coalesced_buffer_of_mixed_packets_is_split_into_runs() {
    let mut bench = Bench::new(false);
    let (one, two) = (bench.grant_slot(1), bench.grant_slot(2));
    bench.grant_forward(7, 70, None);
    let up = bench.receive(&[
        numbered(1, 0, b"aaaaaaaaa"),
        numbered(1, 1, b"bbbbbbbbb"),
        labelled(7, b"ccccccccc"),
        labelled(7, b"ddddddddd"),
        labelled(2, b"eeeeeeeee"),
        quic(20),
        labelled(99, b"fffffffff"),
        vec![0; 20],
        numbered(1, 2, b"short"),
    ]);
    let link: SocketAddr = "[::ffff:192.0.2.9]:4600".parse().unwrap();
    assert_eq!(
        up,
        [
            (one.virtual_address(), b"aaaaaaaaabbbbbbbbb".to_vec(), 9),
            (two.virtual_address(), b"eeeeeeeee".to_vec(), 9),
            (link, quic(20), 20),
            (one.virtual_address(), b"short".to_vec(), 5),
        ]
    );
    let forwarded = [relayed(70, b"ccccccccc"), relayed(70, b"ddddddddd")].concat();
    let to: SocketAddr = ([192, 0, 2, 2], 4600).into();
    assert_eq!(*bench.socket.outgoing.lock().unwrap(), [(to, forwarded, Some(20))]);
    assert_eq!(bench.dropped(DropReason::UnknownLabel), 1);
    assert_eq!(bench.dropped(DropReason::Unclassified), 1);
    assert_eq!(bench.switch.forwarded(), 2);
}

#[test]
fn a_coalesced_buffer_goes_up_in_order_once_packets_came_late() {
    let mut bench = Bench::new(false);
    let slot = bench.grant_slot(1).virtual_address();
    let (mut number, mut up) = (0, Vec::new());
    let packets = |numbers: &[u16]| -> Vec<_> {
        numbers
            .iter()
            .map(|number| numbered(1, *number, &(0x4000 + number).to_be_bytes()))
            .collect()
    };
    let bytes = |numbers: &[u16]| -> Vec<u8> {
        numbers.iter().flat_map(|number| (0x4000 + number).to_be_bytes()).collect()
    };
    for _ in 0..3 {
        up.push(bench.receive(&packets(&[number + 1, number + 2])));
        bench.now += Duration::from_millis(1);
        up.push(bench.receive(&packets(&[number])));
        number += 3;
    }
    assert_eq!(up[0], [(slot, bytes(&[1, 2]), 2)], "nothing had come late before");
    assert_eq!(up[1], [(slot, bytes(&[0]), 2)]);
    assert_eq!(up[2], []);
    assert_eq!(up[3], [(slot, bytes(&[3]), 2), (slot, bytes(&[4, 5]), 2)]);
    let up = bench.receive(&packets(&[9, 11, 10, 13, 12]));
    let each = [9, 10, 11, 12, 13].map(|number| (slot, bytes(&[number]), 2));
    assert_eq!(up, each);
    assert_eq!(bench.switch.reordered(), [("held", 6), ("late", 1)]);
}

/// What a lane sends to a neighbour that knows it as `label`, of packets of this size in one batch.
fn sent(leave: Leave, present: u16, packets: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (physical, switch) = (Scripted::default(), Arc::new(Switch::default()));
    let (slot, activity) = switch.open_slot().unwrap();
    let mit = Neighbour::new("mit".parse().unwrap(), Some(([192, 0, 2, 2], 4600).into()));
    let hop = NextHop { neighbour: Arc::new(mit), label: Label(1) };
    switch.route_slot(slot, Some(hop));
    activity.sizing().set(leave, present, None);
    let mut sender = Box::pin(LabelSender::new(Box::pin(physical.clone()), switch));
    let transmit = Transmit {
        destination: slot.virtual_address(),
        ecn: None,
        contents: packets,
        segment_size: Some(size),
        src_ip: None,
    };
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(sender.as_mut().poll_send(&transmit, &mut cx).is_ready());
    let outgoing = std::mem::take(&mut *physical.outgoing.lock().unwrap());
    let packets = outgoing.into_iter().flat_map(|(_, bytes, segment)| {
        let packets = bytes.chunks(segment.unwrap_or(bytes.len())).map(<[u8]>::to_vec);
        packets.collect::<Vec<_>>()
    });
    packets.collect()
}

#[test]
fn pieces_come_in_whole_and_no_datagram_has_over_1200_bytes() {
    let packets: Vec<u8> = [quic(8_941), vec![0x43; 8_941], vec![0x44; 1_189]].concat();
    for relay in [false, true] {
        let mut bench = Bench::new(false);
        let slot = bench.grant_slot(1).virtual_address();
        let mut up = Vec::new();
        for mut datagram in sent(Leave::InPieces, 8_941, &packets, 8_941) {
            assert!(datagram.len() <= piece::SURE_PAYLOAD);
            if relay {
                crate::wire::label::relay(&mut datagram, Label(1));
            }
            up.extend(bench.receive(&[datagram]));
        }
        assert!(up.iter().all(|(from, ..)| *from == slot));
        let lengths: Vec<usize> = up.iter().map(|(_, bytes, _)| bytes.len()).collect();
        assert_eq!(lengths, [8_941, 8_941, 1_189]);
        assert_eq!(up.into_iter().flat_map(|(_, bytes, _)| bytes).collect::<Vec<_>>(), packets);
    }
}

#[test]
fn pieces_among_whole_packets_in_one_buffer_go_up_in_their_place() {
    let mut bench = Bench::new(false);
    let slot = bench.grant_slot(1).virtual_address();
    let piece = |number, part: u8, byte| numbered(1, number, &[part, byte, byte]);
    let up = bench.receive(&[
        numbered(1, 0, b"aaa"),
        piece(1, 1, b'b'),
        piece(2, 2, b'c'),
        numbered(1, 3, b"ddd"),
        piece(4, 1, b'e'),
    ]);
    let expected =
        [(slot, b"aaa".to_vec(), 3), (slot, b"bbcc".to_vec(), 4), (slot, b"ddd".to_vec(), 3)];
    assert_eq!(up, expected);
    assert_eq!(bench.receive(&[piece(5, 2, b'f')]), [(slot, b"eeff".to_vec(), 4)]);
}

#[test]
fn a_lanes_first_packets_leave_both_ways_and_probes_of_quic_whole() {
    let lengths = |leave, size| -> Vec<usize> {
        sent(leave, 1_200, &quic(size), size).iter().map(Vec::len).collect()
    };
    assert_eq!(lengths(Leave::Both, 1_200), [1_211, 1_200, 24]);
    assert_eq!(lengths(Leave::InPieces, 1_200), [1_200, 24]);
    assert_eq!(lengths(Leave::InPieces, 1_201), [1_212]);
    assert_eq!(lengths(Leave::Both, 1_189), [1_200]);
    assert_eq!(lengths(Leave::Whole, 1_200), [1_211]);
}

#[test]
fn a_relayed_packet_reaches_a_lane_slot_and_is_not_forwarded_again() {
    let mut bench = Bench::new(false);
    let slot = bench.grant_slot(1);
    bench.grant_forward(7, 70, None);
    let up = bench.receive(&[
        relayed(1, b"aaa"),
        numbered(1, 1, b"bbb"),
        relayed(7, b"ccc"),
        relayed(7, b"ddd"),
        relayed(9, b"eee"),
        labelled(7, b"fff"),
    ]);
    let address = slot.virtual_address();
    assert_eq!(up, [(address, b"aaa".to_vec(), 3), (address, b"bbb".to_vec(), 3)]);
    let to: SocketAddr = ([192, 0, 2, 2], 4600).into();
    assert_eq!(*bench.socket.outgoing.lock().unwrap(), [(to, relayed(70, b"fff"), None)]);
    assert_eq!(bench.dropped(DropReason::ForwardedTwice), 2);
    assert_eq!(bench.dropped(DropReason::UnknownLabel), 1);
}

#[tokio::test]
async fn a_nonce_reaches_its_link_and_one_of_no_link_is_dropped() {
    let mut bench = Bench::new(false);
    let come = |bench: &mut Bench, asker, nonce| {
        let datagram = AddressNonce { asker, nonce }.encode().to_vec();
        assert!(bench.receive(&[datagram]).is_empty());
        bench.dropped(DropReason::StrayNonce)
    };
    assert_eq!(come(&mut bench, 7, 0), 1, "its link does not stand yet");
    let inbox = bench.switch.nonces_of(7);
    assert_eq!((come(&mut bench, 7, 1), come(&mut bench, 7, 2)), (1, 1));
    for number in 0..100 {
        assert_eq!(come(&mut bench, 8, number), 2 + number, "nobody asks under this number");
    }
    assert_eq!(inbox.next().await, 2, "the newest one counts");
    assert!(inbox.next().now_or_never().is_none());
    drop(inbox);
    assert_eq!(come(&mut bench, 7, 3), 102, "its link has ended");
}

#[test]
fn single_packets_of_many_lanes_are_forwarded_in_one_call() {
    let mut bench = Bench::new(false);
    (0..40).for_each(|label| bench.grant_forward(label, 1_000 + label, None));
    let packets: Vec<_> = (0..40).map(|label| labelled(label, &[7; 1_400])).collect();
    bench.receive(&packets);
    let sent = bench.socket.outgoing.lock().unwrap().clone();
    let to = ([192, 0, 2, 2], 4600).into();
    let forwarded = (0..40).map(|label| relayed(1_000 + label, &[7; 1_400]));
    let bytes: Vec<u8> = sent.iter().flat_map(|(_, bytes, _)| bytes.clone()).collect();
    assert_eq!(bytes, forwarded.collect::<Vec<_>>().concat());
    let calls: Vec<_> = sent.iter().map(|(to, bytes, size)| (*to, bytes.len(), *size)).collect();
    let size = HEADER_LEN + 1_400;
    assert_eq!(calls, [(to, 40 * size, Some(size))]);
}

#[test]
fn without_segmentation_each_packet_is_forwarded_by_a_call_of_its_own() {
    let mut bench = Bench::new(false);
    bench.socket.segments = 1;
    bench.forwarder = Forwarder::new(bench.socket.create_sender());
    bench.grant_forward(5, 70, None);
    bench.receive(&[labelled(5, b"aaa"), labelled(5, b"bbb"), labelled(5, b"ccc")]);
    let sent = bench.socket.outgoing.lock().unwrap().clone();
    let to = ([192, 0, 2, 2], 4600).into();
    let each = [b"aaa", b"bbb", b"ccc"].map(|payload| (to, relayed(70, payload), None));
    assert_eq!(sent, each);
}

#[test]
fn two_relays_that_lead_to_each_other_forward_a_packet_once() {
    let mut first = Bench::new(false);
    first.grant_forward(7, 8, None);
    let mut second = Bench::new(false);
    second.grant_forward(8, 7, None);
    first.receive(&[labelled(7, b"around")]);
    let (_, packet, _) = first.socket.outgoing.lock().unwrap().remove(0);
    second.receive(&[packet]);
    assert!(second.socket.outgoing.lock().unwrap().is_empty());
    assert_eq!(second.dropped(DropReason::ForwardedTwice), 1);
}

#[test]
fn a_relay_that_cannot_send_drops_and_counts() {
    let mut bench = Bench::new(true);
    bench.grant_forward(7, 70, None);
    assert!(bench.receive(&[labelled(7, b"x"), labelled(7, b"y")]).is_empty());
    assert_eq!(bench.dropped(DropReason::SocketFull), 2);
    assert_eq!(bench.switch.forwarded(), 0);
}

#[test]
fn a_neighbour_over_its_rate_is_dropped_and_others_are_not() {
    let mut bench = Bench::new(false);
    bench.grant_forward(7, 70, Some(Arc::new(Meter::new(1))));
    bench.grant_forward(8, 80, None);
    for _ in 0..100 {
        bench.receive(&[labelled(7, &[0; 1400])]);
        bench.receive(&[labelled(8, &[0; 1400])]);
    }
    let limited = bench.dropped(DropReason::RateLimited);
    assert!((40..100).contains(&limited), "{limited}");
    assert_eq!(bench.switch.forwarded(), 200 - limited);
}

#[test]
fn a_closed_slot_takes_nothing() {
    let mut bench = Bench::new(false);
    let slot = bench.grant_slot(1);
    bench.switch.close_slot(slot);
    assert!(bench.receive(&[labelled(1, b"late")]).is_empty());
    assert_eq!(bench.dropped(DropReason::UnknownLabel), 1);
}

#[test]
fn a_packet_from_a_virtual_address_is_dropped_and_counted() {
    let mut bench = Bench::new(false);
    let slot = bench.grant_slot(1);
    for source in [slot.virtual_address(), "[fd72:6f6e::ffff:1]:4600".parse().unwrap()] {
        bench.socket.source = Some(source);
        assert!(bench.receive(&[quic(20)]).is_empty());
        assert!(bench.receive(&[labelled(1, b"forged")]).is_empty());
    }
    assert_eq!(bench.dropped(DropReason::VirtualSource), 4);
    bench.socket.source = Some("[fd72:6f6f::1]:4600".parse().unwrap());
    assert_eq!(bench.receive(&[quic(20)]).len(), 1);
}

proptest::proptest! {
    #[test]
    fn random_datagrams_never_panic_and_reach_nobody_but_quic(
        packets in proptest::collection::vec(proptest::collection::vec(0u8..=255, 1..200), 1..8),
    ) {
        let mut bench = Bench::new(false);
        for packet in packets {
            // A short header, or a long one of version 1.
            let is_quic = match packet[0] {
                0x80.. => packet.get(1..5) == Some(&[0, 0, 0, 1]),
                first => first >= 0x40,
            };
            let up = bench.receive(std::slice::from_ref(&packet));
            proptest::prop_assert_eq!(up.len(), usize::from(is_quic));
        }
        proptest::prop_assert!(bench.socket.outgoing.lock().unwrap().is_empty());
    }
}

#[test]
fn mutated_batches_are_delivered_forwarded_or_dropped() {
    let (link, rubbish) = (quic(30), vec![0; 30]);
    let batch = |packets: &[Vec<u8>]| {
        let stride = u16::try_from(packets[0].len()).unwrap();
        [&stride.to_be_bytes()[..], &packets.concat()].concat()
    };
    let data = [7; 21];
    let seeds = [
        batch(&[labelled(1, &data), labelled(1, &data), labelled(7, &data), labelled(9, &data)]),
        batch(&[relayed(1, &data), relayed(7, &data), link.clone(), labelled(1, b"short")]),
        batch(&[link.clone(), rubbish.clone(), labelled(7, &data), rubbish, link]),
    ];
    let mut bench = Bench::new(false);
    let slot = bench.grant_slot(1).virtual_address();
    bench.grant_forward(7, 70, None);
    // One read from the system: at most 64 KiB, in packets of any size.
    crate::fuzz::Fuzz::new("batch", seeds).run(|bytes| {
        let Some((stride, packets)) = bytes.split_first_chunk::<2>() else { return };
        let packets = &packets[..packets.len().min(65_000)];
        if packets.is_empty() {
            return;
        }
        let stride = usize::from(u16::from_be_bytes(*stride)).clamp(1, packets.len());
        let packets: Vec<_> = packets.chunks(stride).map(<[u8]>::to_vec).collect();
        for (address, bytes, stride) in bench.receive(&packets) {
            let from_link = address.port() == 4600;
            assert!(from_link || address == slot, "{address}");
            assert!(stride >= 1 && (stride <= bytes.len() || bytes.is_empty()));
        }
        for (to, bytes, segment) in bench.socket.outgoing.lock().unwrap().drain(..) {
            assert_eq!(to, ([192, 0, 2, 2], 4600).into());
            let mut forwarded = bytes.chunks(segment.unwrap_or(bytes.len()));
            assert!(forwarded.all(|packet| packet[0] == KIND_RELAYED && packet.len() > HEADER_LEN));
        }
    });
}
