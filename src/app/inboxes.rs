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

/// Packets that wait for a program: 40 ms of 200,000 packets a second, some turns of the scheduler.
const MAX_WAITING: usize = 8_192;

/// Their bytes: the same 40 ms at 400 Mbit/s.
const MAX_WAITING_BYTES: usize = 2 << 20;

/// What one sender may have in a queue: half of both, so that one that floods leaves room for others.
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
pub(super) struct Inboxes(Mutex<Table>);

#[derive(Default)]
struct Table {
    closed: bool,
    types: BTreeMap<Target, Arc<Inbox>>,
}

struct Inbox {
    queue: mpsc::Sender<Queued>,
    counts: Arc<TypeCounts>,
    /// What waits of each sender.
    senders: Mutex<BTreeMap<NodeName, Arc<Waiting>>>,
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
    waiting: Waiting,
}

/// What waits in a queue, or of a sender.
#[derive(Debug, Default)]
struct Waiting {
    packets: AtomicUsize,
    bytes: AtomicUsize,
}

/// A packet in a queue.
struct Queued {
    packet: Packet,
    _place: Place,
}

/// The place of a packet in a queue and among those of its sender; dropping it gives it back.
struct Place {
    queue: Arc<TypeCounts>,
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
        let (sender, queue) = mpsc::channel(MAX_WAITING);
        let counts = Arc::<TypeCounts>::default();
        let inbox = Inbox { queue: sender, counts: counts.clone(), senders: Mutex::default() };
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
        inbox.take(packet).inspect_err(|reason| inbox.counts.drops.count(*reason))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    fn take(&self, packet: Packet) -> Result<(), DatagramDrop> {
        let sender = self.waiting_of(packet.peer());
        let place = Place::new(self.counts.clone(), sender, packet.payload.len());
        if !place.fits() || self.queue.try_send(Queued { packet, _place: place }).is_err() {
            return Err(DatagramDrop::InboxFull);
        }
        self.counts.received.fetch_add(1, Ordering::Relaxed);
        Ok(())
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

    /// Whether it is at most this part of a queue.
    fn is_within(&self, part: usize) -> bool {
        self.packets.load(Ordering::Relaxed) <= MAX_WAITING / part
            && self.bytes.load(Ordering::Relaxed) <= MAX_WAITING_BYTES / part
    }
}

impl Place {
    fn new(queue: Arc<TypeCounts>, sender: Arc<Waiting>, len: usize) -> Self {
        let place = Self { queue, sender, len };
        place.queue.waiting.add(len);
        place.sender.add(len);
        place
    }

    fn fits(&self) -> bool {
        self.queue.waiting.is_within(1) && self.sender.is_within(SHARE)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.waiting.remove(self.len);
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
        for (len, fits) in [(1, MAX_WAITING), (2_048, MAX_WAITING_BYTES / 2_048)] {
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
            assert_eq!(inboxes.lock().types[&kind].senders.lock().unwrap().len(), 1);
            assert!(receives.try_next().unwrap().is_some());
        }
        assert_eq!(receives.counts().drops.of(DatagramDrop::InboxFull), 6);
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
