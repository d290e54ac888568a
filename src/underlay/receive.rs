//! Receiving: a batch from the socket is split into runs. Each run goes to QUIC or to the next hop.

use std::{
    fmt,
    io::{self, IoSliceMut},
    num::NonZeroUsize,
    task::{Context, Poll},
    time::Instant,
};

use noq::{
    AsyncUdpSocket,
    udp::{BATCH_SIZE, RecvMeta},
};

use super::{
    DropReason, SlotId, Switch, forward::Forwarder, labels::LabelMeaning, order, reorder::Reorder,
    socket::mapped, streams::Inbox, up::Up, virtual_address::is_virtual,
};
use crate::wire::{
    label::{Class, HEADER_LEN, classify, number},
    piece,
};

/// Room for one datagram, or for one batch that the kernel coalesced (GRO): up to 64 KiB.
const COALESCED_BUFFER: usize = 65_536;
/// Room for one datagram where the socket does not coalesce: a jumbo frame.
const SINGLE_BUFFER: usize = 9216;

/// Datagrams received in one call, and how far they have been handled.
///
/// A coalesced buffer may mix labels, and mix labelled packets with packets of links, so it is
/// handled run by run: consecutive packets of one class.
pub(super) struct Batch {
    buffers: Vec<Box<[u8]>>,
    meta: [RecvMeta; BATCH_SIZE],
    filled: usize,
    buffer: usize,
    offset: usize,
    /// Packets from streams. A socket that is made while the node has another one gets none.
    streams: Option<Inbox>,
    coalesces: bool,
    /// Whether these came on streams, which are asked first in every other turn.
    from_streams: bool,
}

/// Consecutive packets of one class within a coalesced buffer.
struct Run {
    class: Class,
    start: usize,
    end: usize,
    stride: usize,
}

impl Run {
    fn packets(&self) -> usize {
        (self.end - self.start).div_ceil(self.stride)
    }
}

impl Batch {
    pub(super) fn new(max_segments: NonZeroUsize, streams: Option<Inbox>) -> Self {
        let coalesces = max_segments.get() > 1;
        let size = if coalesces { COALESCED_BUFFER } else { SINGLE_BUFFER };
        Self {
            buffers: (0..BATCH_SIZE).map(|_| vec![0; size].into_boxed_slice()).collect(),
            meta: [RecvMeta::default(); BATCH_SIZE],
            filled: 0,
            buffer: 0,
            offset: 0,
            streams,
            coalesces,
            from_streams: false,
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.buffer >= self.filled
    }

    pub(super) fn fill(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut dyn AsyncUdpSocket,
    ) -> Poll<io::Result<()>> {
        let mut buffers = self.buffers.iter_mut();
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| {
            IoSliceMut::new(buffers.next().map_or(&mut [], |buffer| &mut buffer[..]))
        });
        let streams_first = !self.from_streams;
        for from_streams in [streams_first, !streams_first] {
            let received = match &mut self.streams {
                Some(streams) if from_streams => {
                    streams.poll_recv(cx, &mut slices, &mut self.meta, self.coalesces).map(Ok)
                }
                _ if from_streams => Poll::Pending,
                _ => socket.poll_recv(cx, &mut slices, &mut self.meta),
            };
            if let Poll::Ready(received) = received {
                self.filled = received?;
                (self.buffer, self.offset, self.from_streams) = (0, 0, from_streams);
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// Handles runs until QUIC's buffers are full or the batch is drained.
    pub(super) fn deliver(
        &mut self,
        now: Instant,
        switch: &Switch,
        cx: &mut Context<'_>,
        forwarder: &mut Forwarder,
        reorder: &mut Reorder,
        up: &mut Up<'_, '_>,
    ) {
        loop {
            reorder.hand_up(switch, up);
            if up.is_full() {
                break;
            }
            let Some(run) = self.next_run() else { break };
            let meta = self.meta[self.buffer];
            if !self.from_streams && is_virtual(meta.addr) {
                // QUIC would treat it as a packet of that slot's lane, or of a link on that stream.
                switch.count_drop(DropReason::VirtualSource, run.packets());
                self.advance(run.end);
                continue;
            }
            let bytes = &mut self.buffers[self.buffer][run.start..run.end];
            let meaning = match run.class {
                Class::Quic => {
                    pass_up(switch, &run, bytes, meta, up);
                    self.advance(run.end);
                    continue;
                }
                Class::Nonce(nonce) => {
                    switch.take_nonce(nonce);
                    self.advance(run.end);
                    continue;
                }
                Class::Unknown => Err(DropReason::Unclassified),
                Class::Labelled(label) => switch.lookup(now, label, bytes.len()),
                Class::Relayed(label) => switch.lookup_relayed(now, label),
            };
            match meaning {
                Ok(LabelMeaning::Slot(slot)) => {
                    let handled =
                        pass_to_slot((now, switch), slot, &run, (bytes, meta), reorder, up);
                    self.advance(run.start + handled);
                    continue;
                }
                Ok(LabelMeaning::Forward(next)) => {
                    forwarder.take(switch, &next, (bytes, run.stride, meta), cx);
                }
                Err(reason) => switch.count_drop(reason, run.packets()),
            }
            self.advance(run.end);
        }
    }

    fn next_run(&self) -> Option<Run> {
        if self.is_drained() {
            return None;
        }
        let meta = &self.meta[self.buffer];
        let data = &self.buffers[self.buffer][..meta.len];
        let stride = meta.stride.max(1);
        let mut packets = data[self.offset..].chunks(stride);
        let first = packets.next().unwrap_or(&[]);
        let class = classify(first);
        let more: usize =
            packets.take_while(|packet| classify(packet) == class).map(<[u8]>::len).sum();
        let end = self.offset + first.len() + more;
        Some(Run { class, start: self.offset, end, stride })
    }

    fn advance(&mut self, end: usize) {
        self.offset = end;
        if end >= self.meta[self.buffer].len {
            self.buffer += 1;
            self.offset = 0;
        }
    }
}

/// Copies a run of link packets to QUIC as they came.
fn pass_up(switch: &Switch, run: &Run, bytes: &[u8], meta: RecvMeta, up: &mut Up<'_, '_>) {
    let Some(room) = up.buffer().get_mut(..bytes.len()) else {
        switch.count_drop(DropReason::Oversized, run.packets());
        return;
    };
    room.copy_from_slice(bytes);
    let mut out = RecvMeta::default();
    out.addr = mapped(meta.addr);
    out.len = bytes.len();
    out.stride = run.stride.min(bytes.len());
    out.ecn = meta.ecn;
    out.dst_ip = meta.dst_ip;
    up.end_buffer(out);
}

/// Takes the packets with consecutive numbers from the beginning of a run of lane packets; returns
/// their bytes. Packets in order go to QUIC, without headers, from the slot's virtual address.
fn pass_to_slot(
    (now, switch): (Instant, &Switch),
    id: SlotId,
    run: &Run,
    (bytes, meta): (&[u8], RecvMeta),
    reorder: &mut Reorder,
    up: &mut Up<'_, '_>,
) -> usize {
    let Some(slot) = switch.slot(id) else {
        switch.count_drop(DropReason::UnknownLabel, run.packets());
        return bytes.len();
    };
    let numbered = consecutive(run, bytes);
    let payloads = bytes.chunks(run.stride).map(|packet| &packet[HEADER_LEN..]);
    let packets = (meta.ecn, payloads.clone());
    let (taken, goes_up) = reorder.take(now, switch, (id, &slot), numbered, packets);
    slot.activity.add_received(taken);
    if !numbered.in_pieces && run.stride.min(bytes.len()) > piece::SURE_PAYLOAD {
        slot.activity.sizing().note_whole();
    }
    let handled = bytes.len().min(taken * run.stride);
    let payload = handled - taken * HEADER_LEN;
    if !goes_up {
        return handled;
    }
    let Some(room) = up.buffer().get_mut(..payload) else {
        switch.count_drop(DropReason::Oversized, taken);
        return handled;
    };
    let mut filled = 0;
    for packet in payloads.take(taken) {
        room[filled..filled + packet.len()].copy_from_slice(packet);
        filled += packet.len();
    }
    let mut out = RecvMeta::default();
    out.addr = id.virtual_address();
    out.len = payload;
    out.stride = (run.stride.min(bytes.len()) - HEADER_LEN).max(1);
    out.ecn = meta.ecn;
    up.end_buffer(out);
    handled
}

/// The packets at the beginning of a run whose numbers follow each other, all of them pieces or all
/// whole.
fn consecutive(run: &Run, bytes: &[u8]) -> order::Run {
    let is_piece = |packet: &[u8]| piece::parse(&packet[HEADER_LEN..]).is_some();
    let mut packets = bytes.chunks(run.stride).map(|packet| (number(packet), is_piece(packet)));
    let (first, in_pieces) = packets.next().unwrap_or((0, false));
    let mut last = first;
    let more = packets.take_while(|next| {
        last = last.wrapping_add(1);
        *next == (last, in_pieces)
    });
    let packets = 1 + more.count();
    order::Run { first, packets, relayed: matches!(run.class, Class::Relayed(_)), in_pieces }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("filled", &self.filled).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
