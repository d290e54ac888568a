//! Packets for programs in this process: a bounded queue for each packet type.
//!
//! ```text
//!  LaneHost ──receive──► Inward ──type is taken──► Inbox ──► the program
//!                          └─────any other───────► told to the sender, once a second
//! ```
//!
//! Nothing waits for a program. What its queue does not hold is dropped and counted.

use std::{
    collections::BTreeMap,
    fmt,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc::{self, error::TryRecvError},
    time::Instant,
};

use crate::{
    flow::{
        Carried, DatagramDrop, DatagramDrops, DatagramSink, FlowLabel, OutwardDatagrams, Refusal,
        RefusalKind, Target, is_class,
    },
    identity::{NodeName, Peer},
    lane,
};

/// Packet types of one node: more than programs have kinds of media. Each may have a thread for its callback.
pub(super) const MAX_TYPES: usize = 64;

/// What waits for a program: 40 ms of 200,000 packets a second, some turns of the scheduler; the same 40 ms at
/// 400 Mbit/s.
const OF_TYPE: Limit = Limit { packets: 8_192, bytes: 2 << 20 };

/// What waits for all programs of a node: as much as four programs that do not read let wait.
const OF_ALL: Limit = Limit { packets: 4 * OF_TYPE.packets, bytes: 4 * OF_TYPE.bytes };

/// What a type may have though the others have used up [`OF_ALL`]: so programs that do not read hold up no other.
const SURE: Limit = OF_ALL.part(MAX_TYPES);

/// What one sender may have of the first two: half, so that one that floods leaves room for others.
const SHARE: usize = 2;

/// How often the sender of a flow is told of types that nobody takes.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A packet of another node's program.
#[derive(Clone)]
pub struct Packet {
    from: Arc<Peer>,
    label: FlowLabel,
    payload: Box<[u8]>,
}

/// Why packets of a type cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConduitError {
    /// The name is not the name of a packet type.
    #[error("{0:?} is no packet type; use 1 to 32 characters of a-z, 0-9, '-' and '_'")]
    Type(String),
    /// The process receives them already.
    #[error("this program receives packets of type {0} already")]
    Taken(String),
    /// Too many types.
    #[error("this program receives packets of {MAX_TYPES} types, the maximum")]
    TooMany,
    /// No other node can send to this one.
    #[error(
        "no node can send packets to this one: it needs a certificate that grants it to be an exit, and [exit] enabled = true"
    )]
    NotAnExit,
    /// The system gives no thread for the callback.
    #[error("no thread for the callback: {0}")]
    Thread(String),
    /// The node has stopped.
    #[error("this node has stopped; open it again")]
    Stopped,
}

/// The packet types that programs in this process receive.
#[derive(Default)]
pub(super) struct Inboxes {
    table: Mutex<Table>,
    /// What waits in all queues.
    room: Arc<Room>,
}

#[derive(Default)]
struct Table {
    closed: bool,
    types: BTreeMap<Target, Arc<Inbox>>,
}

struct Inbox {
    queue: mpsc::Sender<Queued>,
    counts: Arc<TypeCounts>,
    room: Arc<Room>,
}

/// What this node counts of a packet type.
#[derive(Debug, Default)]
pub(crate) struct TypeCounts {
    /// Given to a lane, or waiting for one to open.
    pub(crate) sent: AtomicU64,
    /// Put into the queue.
    pub(crate) received: AtomicU64,
    /// Dropped here.
    pub(crate) drops: DatagramDrops,
}

/// So many packets may wait, with so many bytes.
#[derive(Debug, Clone, Copy)]
struct Limit {
    packets: usize,
    bytes: usize,
}

/// What waits in a queue, or in all.
#[derive(Default)]
struct Room {
    waiting: Waiting,
    senders: Mutex<BTreeMap<NodeName, Arc<Waiting>>>,
}

/// What waits in some place, or there of one sender.
#[derive(Debug, Default)]
struct Waiting {
    packets: AtomicUsize,
    bytes: AtomicUsize,
}

/// A packet in a queue.
struct Queued {
    packet: Packet,
    _places: [Place; 2],
}

/// The place of a packet among those that wait, and among those of its sender; dropping it gives it back.
struct Place {
    room: Arc<Room>,
    sender: Arc<Waiting>,
    len: usize,
}

/// The packets of one type, as its program takes them. Dropping it ends that.
pub(crate) struct Receives {
    inboxes: Arc<Inboxes>,
    kind: Target,
    counts: Arc<TypeCounts>,
    queue: mpsc::Receiver<Queued>,
    /// The next packet, which [`readable`](Self::readable) has seen.
    next: Option<Queued>,
}

/// The name of a packet type as frames have it: a host without a port.
pub(crate) fn packet_type(name: &str) -> Result<Target, ConduitError> {
    let valid = is_class(name).then(|| name.parse().ok()).flatten();
    let host = valid.ok_or_else(|| ConduitError::Type(name.chars().take(64).collect()))?;
    Ok(Target { host, port: 0 })
}

impl Inboxes {
    /// From now on packets of type `kind` are taken.
    pub(super) fn open(self: &Arc<Self>, kind: Target) -> Result<Receives, ConduitError> {
        let mut table = self.lock();
        if table.closed {
            return Err(ConduitError::Stopped);
        }
        if table.types.contains_key(&kind) {
            return Err(ConduitError::Taken(kind.host.to_string()));
        }
        if table.types.len() >= MAX_TYPES {
            return Err(ConduitError::TooMany);
        }
        let (sender, queue) = mpsc::channel(OF_TYPE.packets);
        let counts = Arc::<TypeCounts>::default();
        let inbox = Inbox { queue: sender, counts: counts.clone(), room: Arc::default() };
        table.types.insert(kind.clone(), Arc::new(inbox));
        Ok(Receives { inboxes: self.clone(), kind, counts, queue, next: None })
    }

    /// Takes no more packets. Programs get what waits, and then hear that the node has stopped.
    pub(super) fn close(&self) {
        let types = {
            let mut table = self.lock();
            table.closed = true;
            std::mem::take(&mut table.types)
        };
        drop(types);
    }

    /// Opens a flow of `entry`, which is to arrive at `place`.
    pub(super) fn receive(
        self: &Arc<Self>,
        (entry, label): (&Peer, FlowLabel),
        (back, drops): (Arc<dyn DatagramSink>, Arc<DatagramDrops>),
        place: lane::Place,
    ) -> OutwardDatagrams {
        let lane::Place { carried, permit } = place;
        let sink = Inward {
            inboxes: self.clone(),
            from: Arc::new(entry.clone()),
            label,
            back,
            drops,
            carried: carried.clone(),
            told: Mutex::default(),
        };
        OutwardDatagrams {
            sink: Arc::new(sink),
            local: (Ipv4Addr::LOCALHOST, 0).into(),
            carried,
            permit: Box::new(permit),
        }
    }

    /// Why no flow with packets is to be opened: no program takes any.
    pub(super) fn judge(&self, us: &NodeName) -> Result<(), Refusal> {
        match self.lock().types.is_empty() {
            true => {
                let detail = format!("no program of {us} takes packets");
                Err(Refusal::new(RefusalKind::ConnectionRefused, detail))
            }
            false => Ok(()),
        }
    }

    /// What is counted of a type; `None`: no program takes it.
    pub(super) fn counts(&self, kind: &Target) -> Option<Arc<TypeCounts>> {
        self.lock().types.get(kind).map(|inbox| inbox.counts.clone())
    }

    fn take(&self, kind: &Target, packet: Packet) -> Result<(), DatagramDrop> {
        let inbox = self.lock().types.get(kind).cloned().ok_or(DatagramDrop::UnknownType)?;
        inbox.take(packet, &self.room).inspect_err(|reason| inbox.counts.drops.count(*reason))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    fn take(&self, packet: Packet, all: &Arc<Room>) -> Result<(), DatagramDrop> {
        let enter = |room: &Arc<Room>| room.enter(packet.peer(), packet.payload.len());
        let places = [&self.room, all].map(enter);
        let [own, among_all] = &places;
        let fits = own.is_within(OF_TYPE)
            && (among_all.is_within(OF_ALL) || self.room.waiting.is_within(SURE));
        if !fits || self.queue.try_send(Queued { packet, _places: places }).is_err() {
            return Err(DatagramDrop::InboxFull);
        }
        self.counts.received.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Limit {
    const fn part(self, of: usize) -> Self {
        Self { packets: self.packets / of, bytes: self.bytes / of }
    }
}

impl Room {
    /// A place for so many bytes of `sender`, whether or not there is one.
    fn enter(self: &Arc<Self>, sender: &NodeName, len: usize) -> Place {
        let place = Place { room: self.clone(), sender: self.waiting_of(sender), len };
        place.room.waiting.add(len);
        place.sender.add(len);
        place
    }

    fn waiting_of(&self, sender: &NodeName) -> Arc<Waiting> {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = senders.get(sender) {
            return waiting.clone();
        }
        senders.retain(|_, waiting| Arc::strong_count(waiting) > 1);
        senders.entry(sender.clone()).or_default().clone()
    }
}

impl Waiting {
    fn add(&self, len: usize) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(len, Ordering::Relaxed);
    }

    fn remove(&self, len: usize) {
        self.packets.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(len, Ordering::Relaxed);
    }

    fn is_within(&self, limit: Limit) -> bool {
        self.packets.load(Ordering::Relaxed) <= limit.packets
            && self.bytes.load(Ordering::Relaxed) <= limit.bytes
    }
}

impl Place {
    /// Whether what waits is within `limit`, and what waits of this sender within its share.
    fn is_within(&self, limit: Limit) -> bool {
        self.room.waiting.is_within(limit) && self.sender.is_within(limit.part(SHARE))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.waiting.remove(self.len);
        self.sender.remove(self.len);
    }
}

/// The packets of one flow that come in.
struct Inward {
    inboxes: Arc<Inboxes>,
    from: Arc<Peer>,
    label: FlowLabel,
    back: Arc<dyn DatagramSink>,
    drops: Arc<DatagramDrops>,
    carried: Arc<Carried>,
    /// When the sender was told of a type that nobody takes.
    told: Mutex<Option<Instant>>,
}

impl Inward {
    fn tell(&self, kind: &Target) {
        let now = Instant::now();
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_some_and(|told| now < told + TELL_EVERY) {
                return;
            }
            *told = Some(now);
        }
        let detail = format!("no program of that node takes packets of type {}", kind.host);
        self.back.refused(kind, Refusal::new(RefusalKind::ConnectionRefused, detail));
    }
}

impl DatagramSink for Inward {
    fn deliver(&self, kind: &Target, payload: &[u8]) {
        self.carried.add_sent(payload.len());
        let (from, label) = (self.from.clone(), self.label);
        // A copy: what arrived is a piece of the batch that its packet came in, and would pin all of it.
        let packet = Packet { from, label, payload: payload.into() };
        if let Err(reason) = self.inboxes.take(kind, packet) {
            self.drops.count(reason);
            if reason == DatagramDrop::UnknownType {
                self.tell(kind);
            }
        }
    }

    fn refused(&self, _: &Target, _: Refusal) {}
}

impl Receives {
    /// The packet type.
    pub(crate) fn kind(&self) -> &Target {
        &self.kind
    }

    /// What is counted of it.
    pub(crate) fn counts(&self) -> Arc<TypeCounts> {
        self.counts.clone()
    }

    /// Waits for the next packet; `None`: the node has stopped.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        self.readable().await;
        self.taken()
    }

    /// The same outside the runtime: it blocks the thread.
    pub(crate) fn next_blocking(&mut self) -> Option<Packet> {
        if self.next.is_none() {
            self.next = self.queue.blocking_recv();
        }
        self.taken()
    }

    /// Waits until there is a packet; false: the node has stopped.
    pub(crate) async fn readable(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.queue.recv().await;
        }
        self.next.is_some()
    }

    /// The next packet if there is one; the outer `None`: the node has stopped.
    pub(crate) fn try_next(&mut self) -> Option<Option<Packet>> {
        if self.next.is_none() {
            match self.queue.try_recv() {
                Ok(packet) => self.next = Some(packet),
                Err(TryRecvError::Empty) => return Some(None),
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        Some(self.taken())
    }

    fn taken(&mut self) -> Option<Packet> {
        self.next.take().map(|queued| queued.packet)
    }
}

impl Drop for Receives {
    fn drop(&mut self) {
        self.inboxes.lock().types.remove(&self.kind);
    }
}

impl Packet {
    /// The node that sent it, as its certificate says.
    #[must_use]
    pub fn peer(&self) -> &NodeName {
        &self.from.name
    }

    /// That node's groups, as its certificate says.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        &self.from.groups
    }

    /// The label of the flow that carried it: the one that the sender named, unless another flow had it.
    #[must_use]
    pub fn label(&self) -> FlowLabel {
        self.label
    }

    /// What was sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.payload
    }

    /// The same without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.payload.into_vec()
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Packet");
        shown.field("peer", self.peer()).field("label", &self.label);
        shown.field("len", &self.payload.len()).finish()
    }
}

impl fmt::Debug for Inboxes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.lock().types.keys()).finish()
    }
}

impl fmt::Debug for Receives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receives").field(&self.kind).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_support::{NOW, Overlay};

    #[test]
    fn a_queue_holds_so_many_packets_and_bytes_and_half_of_one_sender() {
        let inboxes = Arc::<Inboxes>::default();
        let kind = packet_type("voice").unwrap();
        let mut receives = inboxes.open(kind.clone()).unwrap();
        let overlay = Overlay::new();
        let peers =
            ["a", "b", "c", "d"].map(|name| Arc::new(overlay.node(name, NOW).peer().clone()));
        let take = |from: &Arc<Peer>, len| {
            let (from, label, payload) = (from.clone(), FlowLabel(1), vec![0; len].into());
            inboxes.take(&kind, Packet { from, label, payload })
        };
        for (len, fits) in [(1, OF_TYPE.packets), (2_048, OF_TYPE.bytes / 2_048)] {
            for peer in &peers[..2] {
                (0..fits / SHARE).for_each(|_| take(peer, len).unwrap());
                assert_eq!(take(peer, len), Err(DatagramDrop::InboxFull));
            }
            assert_eq!(take(&peers[2], len), Err(DatagramDrop::InboxFull), "no place is left");
            // A place that is free again is used again.
            assert!(receives.try_next().unwrap().is_some());
            take(&peers[2], len).unwrap();
            while receives.try_next().unwrap().is_some() {}
            // Senders of whom nothing waits are not kept.
            take(&peers[3], len).unwrap();
            assert_eq!(inboxes.lock().types[&kind].room.senders.lock().unwrap().len(), 1);
            assert!(receives.try_next().unwrap().is_some());
        }
        assert_eq!(receives.counts().drops.of(DatagramDrop::InboxFull), 6);
    }

    #[test]
    fn packets_of_all_types_are_bounded_and_each_type_has_some_places() {
        let inboxes = Arc::<Inboxes>::default();
        let kinds: Vec<_> =
            (0..MAX_TYPES).map(|n| packet_type(&format!("t{n}")).unwrap()).collect();
        let open = |kind: &Target| inboxes.open(kind.clone()).unwrap();
        let overlay = Overlay::new();
        let peers = ["a", "b"].map(|name| Arc::new(overlay.node(name, NOW).peer().clone()));
        for len in [0, 2_000] {
            let mut held: Vec<_> = kinds.iter().map(open).collect();
            let take = |from: &Arc<Peer>, kind: &Target| {
                let (from, label, payload) = (from.clone(), FlowLabel(1), vec![0; len].into());
                inboxes.take(kind, Packet { from, label, payload }).is_ok()
            };
            // The last program reads, and no other one.
            let (last, others) = kinds.split_last().unwrap();
            for kind in others {
                for peer in &peers {
                    while take(peer, kind) {}
                }
            }
            let sure = (1..).take_while(|_| take(&peers[0], last)).count();
            assert!(sure > 60, "{sure} packets of {len} bytes");
            let waiting = &inboxes.room.waiting;
            let most = |of_all: usize, sure: usize| of_all + MAX_TYPES * sure;
            let packets = waiting.packets.load(Ordering::Relaxed);
            let bytes = waiting.bytes.load(Ordering::Relaxed);
            assert!(packets <= most(OF_ALL.packets, SURE.packets), "{packets}");
            assert!(bytes <= most(OF_ALL.bytes, SURE.bytes), "{bytes}");
            // A program that reads gets what comes.
            while held[MAX_TYPES - 1].try_next().unwrap().is_some() {}
            assert!(take(&peers[1], last));
            held.clear();
            assert_eq!(waiting.packets.load(Ordering::Relaxed), 0);
            assert_eq!(waiting.bytes.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn types_are_bounded_and_each_is_taken_once() {
        let inboxes = Arc::<Inboxes>::default();
        let open = |n: usize| inboxes.open(packet_type(&format!("type-{n}")).unwrap());
        let mut held: Vec<_> = (0..MAX_TYPES).map(|n| open(n).unwrap()).collect();
        assert_eq!(open(0).unwrap_err(), ConduitError::Taken("type-0".into()));
        assert_eq!(open(MAX_TYPES).unwrap_err(), ConduitError::TooMany);
        held.clear();
        open(0).unwrap();
        inboxes.close();
        assert_eq!(open(0).unwrap_err(), ConduitError::Stopped);
        for name in ["", "Voice", "a.b", "a b", &"v".repeat(33)] {
            assert!(matches!(packet_type(name), Err(ConduitError::Type(_))), "{name}");
        }
    }
}
