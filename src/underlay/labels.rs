//! The label table: pure, time is an argument.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{DropReason, NextHop, SlotId};
use crate::{identity::NodeName, wire::label::Label};

/// Most forwarding labels that one node may have asked for here.
///
/// A node needs one per lane end and destination behind us: 50 nodes, four lanes each, twice.
pub const MAX_PER_PAYER: usize = 512;

/// Most forwarding labels that one node may hold towards one other. An exit has at most 64 lanes of one
/// entry; labels of lanes that have ended last two minutes more.
pub const MAX_PER_PAIR: usize = 128;

/// Most forwarding labels in all. 128 neighbours that each use up their share fill it; it then
/// takes about 20 MB.
pub const MAX_LABELS: usize = 65_536;

/// What a label means at this node.
#[derive(Debug, Clone)]
pub enum LabelMeaning {
    /// The packet belongs to the lane in this slot.
    Slot(SlotId),
    /// The packet is to be forwarded.
    Forward(NextHop),
}

/// A label cannot be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// The node that asked has asked for as many labels as it may.
    #[error("{MAX_PER_PAYER} labels were granted at the request of this node, the maximum")]
    PayerFull,
    /// The holder has as many labels towards this destination as it may.
    #[error("this node already holds {MAX_PER_PAIR} labels towards that destination")]
    PairFull,
    /// The node's table is full.
    #[error("this node has granted {MAX_LABELS} labels, its maximum")]
    TableFull,
    /// The drawn label is in use; draw another.
    #[error("the label is in use")]
    InUse,
}

/// What a forwarding label allows, and to whom.
#[derive(Debug, Clone)]
pub struct Forwarding {
    /// The neighbour that may send under the label and renew it.
    pub holder: NodeName,
    /// The node whose request led to the grant; the label counts against its share.
    pub payer: NodeName,
    /// The traffic class of the lane's flows, for the policy.
    pub class: Option<String>,
    /// Where the packets go.
    pub next: NextHop,
    /// How long the label lasts unless renewed.
    pub lifetime: Duration,
    /// The pace of the holder's packets; `None`: no limit.
    pub meter: Option<Arc<Meter>>,
}

impl Forwarding {
    /// Forwarding for a holder that asks for itself, at any pace.
    #[must_use]
    pub fn new(holder: NodeName, next: NextHop, lifetime: Duration) -> Self {
        Self { payer: holder.clone(), holder, class: None, next, lifetime, meter: None }
    }

    /// Whether `node` holds it or the packets go to it.
    fn has_end(&self, node: &NodeName) -> bool {
        self.holder == *node || self.next.neighbour.name() == node
    }

    fn accounts(&self) -> [Account; 3] {
        let destination = self.next.neighbour.name().clone();
        [
            Account::Payer(self.payer.clone()),
            Account::Pair(self.holder.clone(), destination),
            Account::Holder(self.holder.clone()),
        ]
    }
}

/// Labels are counted per asker, and per holder and destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Account {
    Payer(NodeName),
    /// A holder and a destination.
    Pair(NodeName, NodeName),
    Holder(NodeName),
}

/// What was forwarded from one node to another.
struct Carried {
    since: Instant,
    bytes: AtomicU64,
}

/// What this node forwards from one node to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    /// Who sends.
    pub from: NodeName,
    /// Where it goes.
    pub to: NodeName,
    /// Labels for it that are in force: one for each lane end.
    pub labels: usize,
    /// Bytes since it began: since no label for it was in force.
    pub bytes: u64,
    /// When it began.
    pub since: Instant,
}

enum Grant {
    /// Until the slot closes.
    Slot {
        slot: SlotId,
        holder: NodeName,
    },
    Forward {
        forwarding: Forwarding,
        expires: Instant,
        carried: Arc<Carried>,
    },
}

/// The labels this node has granted. Every operation but [`LabelTable::withdraw_holder`] takes a time
/// that does not grow with the table: relays forward under the same lock.
#[derive(Default)]
pub struct LabelTable {
    grants: HashMap<Label, Grant>,
    slots: HashMap<SlotId, Label>,
    counts: HashMap<Account, usize>,
    /// By holder and destination; as long as there is a label for the two.
    carried: HashMap<(NodeName, NodeName), Arc<Carried>>,
    /// Each forwarding label once, at or before the time when it expires.
    expiring: BinaryHeap<Reverse<(Instant, Label)>>,
}

impl LabelTable {
    /// Grants `holder` a label that leads into a slot. It lasts until the slot closes or gets
    /// another label. The number of slots bounds the number of these labels.
    ///
    /// # Errors
    /// When the label is in use.
    pub fn grant_slot(
        &mut self,
        label: Label,
        holder: &NodeName,
        slot: SlotId,
    ) -> Result<(), GrantError> {
        if self.grants.contains_key(&label) {
            return Err(GrantError::InUse);
        }
        self.withdraw_slot(slot);
        self.slots.insert(slot, label);
        self.grants.insert(label, Grant::Slot { slot, holder: holder.clone() });
        Ok(())
    }

    /// Grants forwarding.
    ///
    /// # Errors
    /// When a cap is reached or the label is in use.
    pub fn grant_forward(
        &mut self,
        now: Instant,
        label: Label,
        forwarding: Forwarding,
    ) -> Result<(), GrantError> {
        self.sweep(now);
        if self.grants.contains_key(&label) {
            return Err(GrantError::InUse);
        }
        if self.forwarding_labels() >= MAX_LABELS {
            return Err(GrantError::TableFull);
        }
        let accounts = forwarding.accounts();
        let [payer, pair, _] = &accounts;
        if self.count(payer) >= MAX_PER_PAYER {
            return Err(GrantError::PayerFull);
        }
        if self.count(pair) >= MAX_PER_PAIR {
            return Err(GrantError::PairFull);
        }
        for account in accounts {
            *self.counts.entry(account).or_default() += 1;
        }
        let ends = (forwarding.holder.clone(), forwarding.next.neighbour.name().clone());
        let begin = || Arc::new(Carried { since: now, bytes: AtomicU64::new(0) });
        let carried = self.carried.entry(ends).or_insert_with(begin).clone();
        let expires = now + forwarding.lifetime;
        self.expiring.push(Reverse((expires, label)));
        self.grants.insert(label, Grant::Forward { forwarding, expires, carried });
        Ok(())
    }

    /// Extends a grant that `holder` holds; false if it holds none. A label of a slot needs no
    /// extension; for it the answer says whether the lane still exists here.
    pub fn renew(
        &mut self,
        now: Instant,
        label: Label,
        holder: &NodeName,
        lifetime: Duration,
    ) -> bool {
        match self.grants.get_mut(&label) {
            Some(Grant::Forward { forwarding, expires, .. })
                if forwarding.holder == *holder && *expires > now =>
            {
                // The queue keeps the earlier time. `sweep` checks this grant at that time, and
                // queues it again.
                *expires = (*expires).max(now + lifetime);
                true
            }
            Some(Grant::Slot { holder: entitled, .. }) => entitled == holder,
            _ => false,
        }
    }

    /// The forwarding grant of `label`, if it is one and in force.
    #[must_use]
    pub fn forwarding(&self, now: Instant, label: Label) -> Option<&Forwarding> {
        match self.grants.get(&label)? {
            Grant::Forward { forwarding, expires, .. } if *expires > now => Some(forwarding),
            _ => None,
        }
    }

    /// The meaning of `label` for a packet of `bytes` bytes that no relay has forwarded yet.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn lookup(
        &self,
        now: Instant,
        label: Label,
        bytes: usize,
    ) -> Result<LabelMeaning, DropReason> {
        match self.grants.get(&label) {
            Some(Grant::Slot { slot, .. }) => Ok(LabelMeaning::Slot(*slot)),
            Some(Grant::Forward { forwarding, expires, carried }) if *expires > now => {
                if forwarding.meter.as_ref().is_some_and(|meter| !meter.admit(now, bytes)) {
                    return Err(DropReason::RateLimited);
                }
                carried.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                Ok(LabelMeaning::Forward(forwarding.next.clone()))
            }
            _ => Err(DropReason::UnknownLabel),
        }
    }

    /// The same for a packet that a relay has forwarded. Such a packet is not forwarded again.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn lookup_relayed(&self, now: Instant, label: Label) -> Result<LabelMeaning, DropReason> {
        match self.grants.get(&label) {
            Some(Grant::Slot { slot, .. }) => Ok(LabelMeaning::Slot(*slot)),
            Some(Grant::Forward { expires, .. }) if *expires > now => {
                Err(DropReason::ForwardedTwice)
            }
            _ => Err(DropReason::UnknownLabel),
        }
    }

    /// Withdraws the label that leads into `slot`.
    pub fn withdraw_slot(&mut self, slot: SlotId) {
        if let Some(label) = self.slots.remove(&slot) {
            self.grants.remove(&label);
        }
    }

    /// Withdraws every forwarding label that `holder` holds, and every one that leads to it; returns
    /// how many. It looks at the whole table, so it is for a revocation.
    pub fn withdraw_holder(&mut self, holder: &NodeName) -> usize {
        let concerned: Vec<Label> = self
            .grants
            .iter()
            .filter(|(_, grant)| match grant {
                Grant::Slot { .. } => false,
                Grant::Forward { forwarding, .. } => forwarding.has_end(holder),
            })
            .map(|(label, _)| *label)
            .collect();
        for label in &concerned {
            self.forget(*label);
        }
        concerned.len()
    }

    /// Forgets the forwarding labels that have expired.
    pub fn sweep(&mut self, now: Instant) {
        while let Some(Reverse((when, label))) = self.expiring.peek().copied() {
            if when > now {
                return;
            }
            self.expiring.pop();
            match self.grants.get(&label) {
                // It was renewed meanwhile.
                Some(Grant::Forward { expires, .. }) if *expires > now => {
                    self.expiring.push(Reverse((*expires, label)));
                }
                Some(Grant::Forward { .. }) => self.forget(label),
                Some(Grant::Slot { .. }) | None => {}
            }
        }
    }

    fn forget(&mut self, label: Label) {
        let Some(Grant::Forward { forwarding, .. }) = self.grants.remove(&label) else { return };
        for account in forwarding.accounts() {
            let Some(count) = self.counts.get_mut(&account) else { continue };
            *count -= 1;
            if *count > 0 {
                continue;
            }
            self.counts.remove(&account);
            if let Account::Pair(holder, destination) = account {
                self.carried.remove(&(holder, destination));
            }
        }
    }

    fn count(&self, account: &Account) -> usize {
        self.counts.get(account).copied().unwrap_or(0)
    }

    fn forwarding_labels(&self) -> usize {
        self.grants.len() - self.slots.len()
    }

    /// What is forwarded, by who sends and where it goes.
    #[must_use]
    pub fn relayed(&self) -> Vec<Relayed> {
        let of = |((from, to), carried): (&(NodeName, NodeName), &Arc<Carried>)| Relayed {
            labels: self.count(&Account::Pair(from.clone(), to.clone())),
            from: from.clone(),
            to: to.clone(),
            bytes: carried.bytes.load(Ordering::Relaxed),
            since: carried.since,
        };
        let mut relayed: Vec<_> = self.carried.iter().map(of).collect();
        relayed.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        relayed
    }

    /// How many forwarding labels `holder` has here.
    #[must_use]
    pub fn held_by(&self, holder: &NodeName) -> usize {
        self.count(&Account::Holder(holder.clone()))
    }

    /// How many labels of any kind `node` holds, has asked for, or gets packets by. It looks at the
    /// whole table, so it is for tests.
    #[must_use]
    pub fn that_name(&self, node: &NodeName) -> usize {
        let names = |grant: &&Grant| match grant {
            Grant::Slot { holder, .. } => holder == node,
            Grant::Forward { forwarding, .. } => {
                forwarding.has_end(node) || forwarding.payer == *node
            }
        };
        self.grants.values().filter(names).count()
    }

    /// How many labels are granted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// Whether no label is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }
}

/// A token bucket: the pace at which a neighbour's packets are forwarded.
#[derive(Debug)]
pub struct Meter {
    bytes_per_second: f64,
    bucket: Mutex<(f64, Option<Instant>)>,
}

impl Meter {
    /// How much may pass at once after a pause: enough for one full receive batch at any rate.
    const BURST: Duration = Duration::from_millis(250);

    /// A meter of `bytes_per_second`.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
        let bytes_per_second = bytes_per_second as f64;
        Self { bytes_per_second, bucket: Mutex::new((0.0, None)) }
    }

    fn admit(&self, now: Instant, bytes: usize) -> bool {
        let (tokens, last) = &mut *self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let capacity = (self.bytes_per_second * Self::BURST.as_secs_f64()).max(65_536.0);
        let elapsed = last.map_or(Self::BURST, |last| now.saturating_duration_since(last));
        *tokens = (*tokens + elapsed.as_secs_f64() * self.bytes_per_second).min(capacity);
        if last.is_none() {
            *tokens = capacity;
        }
        *last = Some(now);
        #[expect(clippy::cast_precision_loss, reason = "a batch is at most 64 KiB")]
        let cost = bytes as f64;
        if *tokens < cost {
            return false;
        }
        *tokens -= cost;
        true
    }
}

#[cfg(test)]
#[path = "labels_tests.rs"]
mod tests;
