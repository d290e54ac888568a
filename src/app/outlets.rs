//! Packets that programs in this process send: one association for each node and label.
//!
//! An association opens its flow when a packet needs it, over a lane for datagrams to that node. So packets of
//! one label are on one flow, and take the same route.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use tokio::time::Instant;

use super::{
    association::{Associated, REFUSED_FOR, ToNode},
    dialer::Dialer,
    inboxes::{Inboxes, MAX_TYPES, TypeCounts},
};
use crate::{
    flow::{
        AssociationRequest, DatagramDrop, DatagramSink, FlowLabel, Hint, Host, IN_PROCESS,
        MAX_DATAGRAM, PACKET_FITS, Refusal, Target,
    },
    identity::NodeName,
};

/// Nodes and labels whose flows are kept: as many as members of an overlay. The one that was not used for
/// longest ends.
const MAX_WAYS: usize = 256;

/// What a sender wants of the way of its packets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    /// Packets with one label to one node share a flow.
    pub(crate) label: Option<FlowLabel>,
    /// Which quality of the route matters. With a label, the first packet of it says so.
    pub(crate) hint: Option<Hint>,
}

/// Why a packet was not sent.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// This node dropped it.
    Dropped(DatagramDrop),
    /// The rules, the overlay or the other node take no such packets.
    Refused(Refusal),
}

/// Sends packets to other nodes.
pub(crate) struct Outlets {
    dialer: Arc<Dialer>,
    inboxes: Arc<Inboxes>,
    ways: Mutex<Ways>,
}

#[derive(Default)]
struct Ways {
    ways: BTreeMap<(NodeName, Sharing), Way>,
    uses: u64,
}

/// What packets to one node have in common that share a flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Sharing {
    Label(FlowLabel),
    Hint(Option<Hint>),
}

#[derive(Clone)]
struct Way {
    association: Arc<Associated>,
    told: Arc<Told>,
    used: u64,
}

/// What a node tells of packets that it was sent.
struct Told {
    inboxes: Arc<Inboxes>,
    dialer: Arc<Dialer>,
    /// Types that are refused until then.
    refused: Mutex<BTreeMap<Target, (Instant, Refusal)>>,
}

impl Outlets {
    pub(super) fn new(dialer: Arc<Dialer>, inboxes: Arc<Inboxes>) -> Self {
        Self { dialer, inboxes, ways: Mutex::default() }
    }

    /// Sends a packet of type `kind` to node `to`, or lets it wait for a flow to open.
    pub(crate) fn send(
        &self,
        (kind, counts): (&Target, &TypeCounts),
        (to, wish): (&NodeName, &Wish),
        payload: &[u8],
    ) -> Result<(), Unsent> {
        let sent = self.try_send(kind, (to, wish), payload);
        match &sent {
            Ok(()) => _ = counts.sent.fetch_add(1, Ordering::Relaxed),
            Err(Unsent::Dropped(reason)) => counts.drops.count(*reason),
            Err(Unsent::Refused(_)) => counts.drops.count(DatagramDrop::Refused),
        }
        sent
    }

    fn try_send(
        &self,
        kind: &Target,
        (to, wish): (&NodeName, &Wish),
        payload: &[u8],
    ) -> Result<(), Unsent> {
        if payload.len() > MAX_DATAGRAM {
            self.dialer.dropped(DatagramDrop::TooLarge);
            return Err(Unsent::Dropped(DatagramDrop::TooLarge));
        }
        let way = self.way(to, wish);
        if let Some(refusal) = way.told.refusal(kind) {
            self.dialer.dropped(DatagramDrop::Refused);
            return Err(Unsent::Refused(refusal));
        }
        way.association.send(kind, payload).map_err(|reason| match reason {
            DatagramDrop::Refused => {
                way.told.latest().map_or(Unsent::Dropped(reason), Unsent::Refused)
            }
            _ => Unsent::Dropped(reason),
        })
    }

    /// The longest packet of type `kind` that the path to `to` carries at present.
    pub(crate) fn room(&self, kind: &Target, to: &NodeName, wish: &Wish) -> usize {
        let way = self.lock().ways.get(&(to.clone(), Sharing::of(wish))).cloned();
        way.and_then(|way| way.association.room(kind)).unwrap_or(PACKET_FITS)
    }

    /// Ends all flows.
    pub(super) fn close(&self) {
        drop(std::mem::take(&mut *self.lock()));
    }

    fn way(&self, to: &NodeName, wish: &Wish) -> Way {
        let mut ways = self.lock();
        ways.uses += 1;
        let (key, used) = ((to.clone(), Sharing::of(wish)), ways.uses);
        if let Some(way) = ways.ways.get_mut(&key) {
            way.used = used;
            return way.clone();
        }
        let displaced = ways.make_room();
        let way = self.begin(to, wish, used);
        ways.ways.insert(key, way.clone());
        drop(ways);
        drop(displaced);
        way
    }

    fn begin(&self, to: &NodeName, wish: &Wish, used: u64) -> Way {
        let request = AssociationRequest {
            hint: wish.hint.clone(),
            exit: Some(to.clone()),
            user: None,
            client: IN_PROCESS,
        };
        let target = Target { host: Host::Name(to.to_string()), port: 0 };
        let to = ToNode { target, label: wish.label };
        let told = Arc::new(Told {
            inboxes: self.inboxes.clone(),
            dialer: self.dialer.clone(),
            refused: Mutex::default(),
        });
        let association = Associated::begin(self.dialer.clone(), request, Some(to), told.clone());
        Way { association, told, used }
    }

    fn lock(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sharing {
    fn of(wish: &Wish) -> Self {
        wish.label.map_or_else(|| Self::Hint(wish.hint.clone()), Self::Label)
    }
}

impl Ways {
    /// Takes out the way that was not used for longest if there are too many.
    fn make_room(&mut self) -> Option<Way> {
        if self.ways.len() < MAX_WAYS {
            return None;
        }
        let oldest = self.ways.iter().min_by_key(|(_, way)| way.used)?.0.clone();
        self.ways.remove(&oldest)
    }
}

impl Told {
    /// Why a type is refused now.
    fn refusal(&self, kind: &Target) -> Option<Refusal> {
        let mut refused = self.lock();
        let (until, refusal) = refused.get(kind)?;
        if Instant::now() < *until {
            return Some(refusal.clone());
        }
        refused.remove(kind);
        None
    }

    fn latest(&self) -> Option<Refusal> {
        let refused = self.lock();
        refused.values().max_by_key(|(until, _)| *until).map(|(_, refusal)| refusal.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Target, (Instant, Refusal)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DatagramSink for Told {
    fn deliver(&self, _: &Target, _: &[u8]) {
        self.dialer.dropped(DatagramDrop::Unsolicited);
    }

    fn refused(&self, kind: &Target, refusal: Refusal) {
        let (now, mut refused) = (Instant::now(), self.lock());
        if refused.len() >= MAX_TYPES {
            refused.retain(|_, (until, _)| now < *until);
        }
        // More types than a program can send are the other node's invention.
        if refused.len() < MAX_TYPES {
            refused.insert(kind.clone(), (now + REFUSED_FOR, refusal));
        }
    }

    fn dropped(&self, kind: &Target, reason: DatagramDrop) {
        if let Some(counts) = self.inboxes.counts(kind) {
            counts.drops.count(reason);
        }
    }
}

impl fmt::Debug for Outlets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.lock().ways.keys()).finish()
    }
}
