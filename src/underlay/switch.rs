//! The tables of labels and slots of this node.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use serde::Serialize;

use super::{
    Neighbour, NonceInbox, PathMtu, SlotActivity, SlotId, Streams,
    askers::Askers,
    labels::{LabelMeaning, LabelTable},
    order::Order,
    pieces::Pieces,
    reorder::Packet,
    replay::Replay,
};
use crate::{
    chance::Chance,
    identity::NodeName,
    wire::{label::Label, nonce::AddressNonce},
};

/// Most lane slots a node keeps. A lane carries hundreds of flows, and a node has a few dozen
/// peers with a handful of lanes each; the cap is there for a peer that asks without end.
pub(crate) const MAX_SLOTS: usize = 4096;

/// Where a labelled packet goes: to this neighbour, under this label.
#[derive(Debug, Clone)]
pub struct NextHop {
    /// The neighbour to send to.
    pub neighbour: Arc<Neighbour>,
    /// The label the neighbour chose.
    pub label: Label,
}

/// Why the underlay dropped a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// Neither QUIC nor a labelled packet.
    Unclassified,
    /// This label is not granted, or its grant has expired.
    UnknownLabel,
    /// A relay has forwarded the packet, and the label says to forward it again.
    ForwardedTwice,
    /// The neighbour that holds the label sends faster than it may.
    RateLimited,
    /// The UDP socket, or a stream, has no room for a packet now. A relay does not queue.
    SocketFull,
    /// The packet is for a lane slot without a route, a neighbour without an address, or an address of a
    /// family that the UDP socket does not take.
    NoRoute,
    /// Larger than QUIC's receive buffer, or than the longest packet on a stream.
    Oversized,
    /// The source is the virtual address of a lane slot or a stream. No real packet has such a source.
    VirtualSource,
    /// A nonce for our address that comes under no number of a link.
    StrayNonce,
    /// TCP did not take the packet within 50 ms.
    StreamStalled,
}

impl DropReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 10] = [
        Self::Unclassified,
        Self::UnknownLabel,
        Self::ForwardedTwice,
        Self::RateLimited,
        Self::SocketFull,
        Self::NoRoute,
        Self::Oversized,
        Self::VirtualSource,
        Self::StrayNonce,
        Self::StreamStalled,
    ];

    /// The stable name, as in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unclassified => "unclassified",
            Self::UnknownLabel => "unknown-label",
            Self::ForwardedTwice => "forwarded-twice",
            Self::RateLimited => "rate-limited",
            Self::SocketFull => "socket-full",
            Self::NoRoute => "no-route",
            Self::Oversized => "oversized",
            Self::VirtualSource => "virtual-source",
            Self::StrayNonce => "stray-nonce",
            Self::StreamStalled => "stream-stalled",
        }
    }
}

/// Packets dropped so far, by reason.
pub type DropCounts = Vec<(DropReason, u64)>;

/// The tables of labels and slots. The socket, the lanes and the relay role share them.
#[derive(Default)]
pub struct Switch {
    chance: Chance,
    path_mtu: PathMtu,
    labels: RwLock<LabelTable>,
    slots: RwLock<Slots>,
    streams: Streams,
    askers: Arc<Askers>,
    dropped: [AtomicU64; DropReason::ALL.len()],
    forwarded: AtomicU64,
    forwarded_bytes: AtomicU64,
    late: AtomicU64,
    held: AtomicU64,
}

#[derive(Default)]
struct Slots {
    next: u32,
    live: HashMap<SlotId, Slot>,
}

#[derive(Clone)]
pub(super) struct Slot {
    pub(super) next_hop: Option<NextHop>,
    pub(super) activity: Arc<SlotActivity>,
    pub(super) state: Arc<SlotState>,
}

/// The state of a slot, for both directions.
#[derive(Default)]
pub(super) struct SlotState {
    pub(super) sent: Mutex<Sent>,
    pub(super) order: Mutex<Order<Packet>>,
    pub(super) pieces: Mutex<Pieces>,
}

/// The packets that a slot sent.
#[derive(Default)]
pub(super) struct Sent {
    /// The number of the next packet.
    pub(super) number: u16,
    pub(super) replay: Replay,
}

impl Switch {
    /// Tables that are empty.
    #[must_use]
    pub fn new(chance: Chance) -> Self {
        Self { chance, ..Self::default() }
    }

    /// The same on a socket whose packets may be as long as `path_mtu` says.
    #[must_use]
    pub fn with_path_mtu(self, path_mtu: PathMtu) -> Self {
        Self { path_mtu, ..self }
    }

    /// The node's source of chance, from which labels are drawn.
    #[must_use]
    pub fn chance(&self) -> &Chance {
        &self.chance
    }

    /// The streams to neighbours.
    #[must_use]
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Makes a lane slot without a route. `None` when the node has no slot left.
    #[must_use]
    pub fn open_slot(&self) -> Option<(SlotId, Arc<SlotActivity>)> {
        let slots = &mut *self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if slots.live.len() >= MAX_SLOTS {
            return None;
        }
        loop {
            slots.next = slots.next.wrapping_add(1);
            let id = SlotId(slots.next);
            if let Entry::Vacant(place) = slots.live.entry(id) {
                let activity = Arc::<SlotActivity>::default();
                let state = Arc::default();
                place.insert(Slot { next_hop: None, activity: activity.clone(), state });
                return Some((id, activity));
            }
        }
    }

    /// Sets the next hop of a slot. This is the reroute. It takes effect at the next packet.
    pub fn route_slot(&self, id: SlotId, next_hop: Option<NextHop>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.live.get_mut(&id) {
            slot.next_hop = next_hop;
        }
    }

    /// The longest QUIC packet that the first hop of a slot's route takes.
    #[must_use]
    pub fn longest_packet(&self, id: SlotId) -> u16 {
        let next_hop = self.slot(id).and_then(|slot| slot.next_hop?.neighbour.address());
        self.path_mtu.quic_packet(next_hop)
    }

    /// Sends the packets that the slot sent after `since` again, before its next packet, without
    /// those that are known to have arrived. Of many packets it sends only the first ones after
    /// each of `from`. For a reroute away from a dead route.
    pub fn send_again(&self, id: SlotId, since: Instant, from: [Instant; 2]) {
        if let Some(slot) = self.slot(id) {
            let since = slot.activity.arrived().map_or(since, |arrived| arrived.max(since));
            let mut sent = slot.state.sent.lock().unwrap_or_else(PoisonError::into_inner);
            sent.replay.rewind(since, from);
        }
    }

    /// Ends a slot and every label that leads to it.
    pub fn close_slot(&self, id: SlotId) {
        self.slots.write().unwrap_or_else(PoisonError::into_inner).live.remove(&id);
        self.with_labels(|labels| labels.withdraw_slot(id));
    }

    /// How many slots are open.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).live.len()
    }

    /// Reads or changes the label table.
    pub fn with_labels<T>(&self, act: impl FnOnce(&mut LabelTable) -> T) -> T {
        act(&mut self.labels.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The nonces of the link whose neighbour asks under `asker`.
    #[must_use]
    pub fn nonces_of(&self, asker: u64) -> NonceInbox {
        self.askers.inbox(asker)
    }

    pub(super) fn take_nonce(&self, nonce: AddressNonce) {
        if !self.askers.hand_over(nonce) {
            self.count_drop(DropReason::StrayNonce, 1);
        }
    }

    /// Packets dropped so far, by reason.
    #[must_use]
    pub fn drops(&self) -> DropCounts {
        let counts = self.dropped.iter().map(|count| count.load(Ordering::Relaxed));
        DropReason::ALL.into_iter().zip(counts).collect()
    }

    /// Packets forwarded for others so far.
    #[must_use]
    pub fn forwarded(&self) -> u64 {
        self.forwarded.load(Ordering::Relaxed)
    }

    /// Bytes forwarded for others so far, with the labels.
    #[must_use]
    pub fn forwarded_bytes(&self) -> u64 {
        self.forwarded_bytes.load(Ordering::Relaxed)
    }

    /// Packets of lanes that came out of order so far. `held`: they waited for a packet that they
    /// had overtaken. `late`: a later packet had already gone to QUIC.
    #[must_use]
    pub fn reordered(&self) -> [(&'static str, u64); 2] {
        [("held", &self.held), ("late", &self.late)]
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// Withdraws every forwarding label that `holder` holds here; returns how many. Its packets are
    /// dropped from now on (`unknown-label`). Used when the holder's membership ends.
    /// [`LaneHost::end_lanes_of`](crate::lane::LaneHost::end_lanes_of) ends the lanes that it has
    /// here.
    pub fn withdraw_holder(&self, holder: &NodeName) -> usize {
        self.with_labels(|labels| labels.withdraw_holder(holder))
    }

    pub(super) fn lookup(
        &self,
        now: Instant,
        label: Label,
        bytes: usize,
    ) -> Result<LabelMeaning, DropReason> {
        self.labels.read().unwrap_or_else(PoisonError::into_inner).lookup(now, label, bytes)
    }

    /// The same for a packet that a relay has forwarded. It may only be for a lane slot.
    pub(super) fn lookup_relayed(
        &self,
        now: Instant,
        label: Label,
    ) -> Result<LabelMeaning, DropReason> {
        self.labels.read().unwrap_or_else(PoisonError::into_inner).lookup_relayed(now, label)
    }

    pub(super) fn slot(&self, id: SlotId) -> Option<Slot> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).live.get(&id).cloned()
    }

    /// Counts packets for which a stream had no room in time.
    pub fn count_stalled(&self, packets: usize) {
        self.count_drop(DropReason::StreamStalled, packets);
    }

    pub(super) fn count_drop(&self, reason: DropReason, packets: usize) {
        self.dropped[reason as usize].fetch_add(packets as u64, Ordering::Relaxed);
    }

    pub(super) fn count_late(&self, packets: usize) {
        self.late.fetch_add(packets as u64, Ordering::Relaxed);
    }

    pub(super) fn count_held(&self, packets: usize) {
        self.held.fetch_add(packets as u64, Ordering::Relaxed);
    }

    pub(super) fn count_forwarded(&self, packets: usize, bytes: usize) {
        self.forwarded.fetch_add(packets as u64, Ordering::Relaxed);
        self.forwarded_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").field("slots", &self.slot_count()).finish_non_exhaustive()
    }
}
