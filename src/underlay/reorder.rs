//! The packets of all lanes that wait for an earlier one, and those that are ready for QUIC.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::PoisonError,
    time::Instant,
};

use noq::udp::{EcnCodepoint, RecvMeta};

use super::{
    DropReason, SlotId, Switch,
    order::{Order, Place, Run},
    pieces::Piece,
    switch::Slot,
    up::Up,
};
use crate::wire::piece;

/// Most bytes that wait in all lanes of a node. Eight fast lanes on paths that reorder by 40 ms
/// need this much.
const MAX_BYTES: usize = 8 << 20;

/// A lane's packet without its header.
#[derive(Debug)]
pub(super) struct Packet {
    slot: SlotId,
    number: u16,
    ecn: Option<EcnCodepoint>,
    bytes: Vec<u8>,
}

/// The waiting packets of all slots. The node has one receiver.
#[derive(Debug, Default)]
pub(super) struct Reorder {
    /// The slots in which packets wait, and how many bytes.
    waiting: BTreeMap<SlotId, usize>,
    bytes: usize,
    /// Packets that go to QUIC next.
    ready: VecDeque<Packet>,
}

impl Reorder {
    /// Takes the first packets of a lane's run; says how many, and whether the caller has to give
    /// them to QUIC now, before [those](Self::hand_up) that waited.
    pub(super) fn take<'a>(
        &mut self,
        now: Instant,
        switch: &Switch,
        (id, slot): (SlotId, &Slot),
        run: Run,
        (ecn, packets): (Option<EcnCodepoint>, impl Iterator<Item = &'a [u8]>),
    ) -> (usize, bool) {
        let numbers = std::iter::successors(Some(run.first), |number| Some(number.wrapping_add(1)));
        let packets = numbers.zip(packets).map(|(number, bytes)| Packet {
            slot: id,
            number,
            ecn,
            bytes: bytes.to_vec(),
        });
        let mut order = slot.state.order.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = order.take(now, run);
        if taken.late {
            switch.count_late(taken.packets);
        }
        let goes_up = taken.place == Place::Up && !run.in_pieces;
        match taken.place {
            Place::Up if run.in_pieces => {
                packets.take(taken.packets).for_each(|packet| self.make_ready(slot, packet));
            }
            Place::Up => {}
            Place::Kept(first) => {
                switch.count_held(taken.packets);
                for (number, packet) in (first..).zip(packets.take(taken.packets)) {
                    order.keep(number, packet.bytes.len(), packet);
                }
            }
        }
        self.settle((id, slot), &mut order);
        (taken.packets, goes_up)
    }

    /// A packet goes to QUIC next; a piece when the others of its packet have come.
    fn make_ready(&mut self, slot: &Slot, packet: Packet) {
        let Some((part, bytes)) = piece::parse(&packet.bytes) else {
            return self.ready.push_back(packet);
        };
        let Packet { number, ecn, .. } = packet;
        let piece = Piece { number, part, ecn, bytes: bytes.to_vec() };
        let mut pieces = slot.state.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((ecn, bytes)) = pieces.take(piece) {
            self.ready.push_back(Packet { ecn, bytes, ..packet });
        }
    }

    /// Releases packets that have waited long enough.
    pub(super) fn expire(&mut self, now: Instant, switch: &Switch) {
        let slots: Vec<SlotId> = self.waiting.keys().copied().collect();
        for id in slots {
            let Some(slot) = switch.slot(id) else {
                self.bytes -= self.waiting.remove(&id).unwrap_or(0);
                continue;
            };
            let mut order = slot.state.order.lock().unwrap_or_else(PoisonError::into_inner);
            order.expire(now);
            self.settle((id, &slot), &mut order);
        }
    }

    /// When the next packet has waited long enough.
    pub(super) fn deadline(&self, switch: &Switch) -> Option<Instant> {
        let deadline = |id: &SlotId| {
            let slot = switch.slot(*id)?;
            slot.state.order.lock().unwrap_or_else(PoisonError::into_inner).deadline()
        };
        self.waiting.keys().filter_map(deadline).min()
    }

    /// Whether no packet is ready for QUIC.
    pub(super) fn is_handed_up(&self) -> bool {
        self.ready.is_empty()
    }

    /// Gives packets that are ready to QUIC, as far as its buffers have room.
    pub(super) fn hand_up(&mut self, switch: &Switch, up: &mut Up<'_, '_>) {
        while !up.is_full()
            && let Some(first) = self.ready.pop_front()
        {
            let room = up.buffer();
            let Some(place) = room.get_mut(..first.bytes.len()) else {
                switch.count_drop(DropReason::Oversized, 1);
                continue;
            };
            place.copy_from_slice(&first.bytes);
            let stride = first.bytes.len();
            let mut filled = stride;
            // Packets of one size share a buffer, like a batch that the kernel coalesced.
            while let Some(next) = self.ready.front()
                && (next.slot, next.ecn, next.bytes.len()) == (first.slot, first.ecn, stride)
                && let Some(place) = room.get_mut(filled..filled + stride)
            {
                place.copy_from_slice(&next.bytes);
                filled += stride;
                self.ready.pop_front();
            }
            let mut meta = RecvMeta::default();
            meta.addr = first.slot.virtual_address();
            (meta.len, meta.stride, meta.ecn) = (filled, stride, first.ecn);
            up.end_buffer(meta);
        }
    }

    /// Takes the ready packets of a lane, and counts the bytes that still wait.
    fn settle(&mut self, (id, slot): (SlotId, &Slot), order: &mut Order<Packet>) {
        let before = self.waiting.get(&id).copied().unwrap_or(0);
        if before == 0 && order.bytes() == 0 {
            return;
        }
        if self.bytes - before + order.bytes() > MAX_BYTES {
            order.give_up();
        }
        while let Some(packet) = order.pop() {
            self.make_ready(slot, packet);
        }
        self.bytes = self.bytes - before + order.bytes();
        if order.bytes() == 0 {
            self.waiting.remove(&id);
        } else {
            self.waiting.insert(id, order.bytes());
        }
    }
}

#[cfg(test)]
#[path = "reorder_tests.rs"]
mod tests;
