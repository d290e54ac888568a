//! The label table: pure, time is an argument.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{DropReason, NextHop, SlotId};
use crate::{identity::NodeName, wire::label::Label};

/// Most labels one neighbour may hold here.
///
/// A neighbour needs one per lane end and destination behind us: 50 nodes, four lanes each, twice.
pub const MAX_PER_HOLDER: usize = 512;

/// Most labels in all; it bounds the table when every one of 200 neighbours asks without end.
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
    /// The neighbour holds as many labels as it may.
    #[error("this neighbour already holds {MAX_PER_HOLDER} labels")]
    HolderFull,
    /// The node's table is full.
    #[error("this node has granted {MAX_LABELS} labels, its maximum")]
    TableFull,
    /// The drawn label is in use; draw another.
    #[error("the label is in use")]
    InUse,
}

struct Grant {
    holder: NodeName,
    meaning: LabelMeaning,
    /// `None`: until the slot closes.
    expires: Option<Instant>,
    meter: Option<Arc<Meter>>,
}

/// The labels this node has granted.
#[derive(Default)]
pub struct LabelTable {
    grants: HashMap<Label, Grant>,
}

impl LabelTable {
    /// Grants the way into a slot; it lasts until the slot closes.
    ///
    /// # Errors
    /// When a cap is reached or the label is in use.
    pub fn grant_slot(
        &mut self,
        now: Instant,
        label: Label,
        holder: &NodeName,
        slot: SlotId,
    ) -> Result<(), GrantError> {
        let meaning = LabelMeaning::Slot(slot);
        self.insert(
            now,
            label,
            Grant { holder: holder.clone(), meaning, expires: None, meter: None },
        )
    }

    /// Grants forwarding to `next` for `lifetime`, at the pace of `meter` if there is one.
    ///
    /// # Errors
    /// When a cap is reached or the label is in use.
    pub fn grant_forward(
        &mut self,
        now: Instant,
        label: Label,
        holder: &NodeName,
        next: NextHop,
        lifetime: Duration,
        meter: Option<Arc<Meter>>,
    ) -> Result<(), GrantError> {
        let meaning = LabelMeaning::Forward(next);
        let expires = Some(now + lifetime);
        self.insert(now, label, Grant { holder: holder.clone(), meaning, expires, meter })
    }

    fn insert(&mut self, now: Instant, label: Label, grant: Grant) -> Result<(), GrantError> {
        self.sweep(now);
        if self.grants.contains_key(&label) {
            return Err(GrantError::InUse);
        }
        if self.grants.len() >= MAX_LABELS {
            return Err(GrantError::TableFull);
        }
        if self.held_by(&grant.holder) >= MAX_PER_HOLDER {
            return Err(GrantError::HolderFull);
        }
        self.grants.insert(label, grant);
        Ok(())
    }

    /// Extends a forwarding grant that `holder` holds; false if there is none (any more).
    pub fn renew(
        &mut self,
        now: Instant,
        label: Label,
        holder: &NodeName,
        lifetime: Duration,
    ) -> bool {
        match self.grants.get_mut(&label) {
            Some(grant) if grant.holder == *holder && !grant.expired(now) => {
                grant.expires = grant.expires.map(|_| now + lifetime);
                true
            }
            _ => false,
        }
    }

    /// What to do with a packet of `bytes` bytes under `label`.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn lookup(
        &self,
        now: Instant,
        label: Label,
        bytes: usize,
    ) -> Result<LabelMeaning, DropReason> {
        let grant = self.grants.get(&label).filter(|grant| !grant.expired(now));
        let grant = grant.ok_or(DropReason::UnknownLabel)?;
        match &grant.meter {
            Some(meter) if !meter.admit(now, bytes) => Err(DropReason::RateLimited),
            _ => Ok(grant.meaning.clone()),
        }
    }

    /// Withdraws every label that leads into `slot`.
    pub fn withdraw_slot(&mut self, slot: SlotId) {
        self.grants.retain(|_, grant| !matches!(grant.meaning, LabelMeaning::Slot(s) if s == slot));
    }

    /// Withdraws every label that `node` holds, and every one under which packets go to it.
    pub fn withdraw_node(&mut self, node: &NodeName) {
        self.grants.retain(|_, grant| {
            let toward = matches!(&grant.meaning, LabelMeaning::Forward(next) if next.neighbour.name() == node);
            grant.holder != *node && !toward
        });
    }

    /// Forgets what has expired.
    fn sweep(&mut self, now: Instant) {
        self.grants.retain(|_, grant| !grant.expired(now));
    }

    /// How many labels `holder` has here.
    #[must_use]
    pub fn held_by(&self, holder: &NodeName) -> usize {
        self.grants.values().filter(|grant| grant.holder == *holder).count()
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

impl Grant {
    fn expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
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
mod tests {
    use super::*;
    use crate::underlay::Neighbour;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn toward(node: &str) -> NextHop {
        NextHop { neighbour: Arc::new(Neighbour::new(name(node), None)), label: Label(99) }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_forwarding_label_works_until_it_expires_and_longer_if_renewed() {
        let (mut table, t0) = (LabelTable::default(), Instant::now());
        table.grant_forward(t0, Label(1), &name("aros"), toward("mit"), MINUTE, None).unwrap();
        assert!(matches!(table.lookup(t0, Label(1), 100), Ok(LabelMeaning::Forward(_))));
        assert!(table.renew(t0 + MINUTE / 2, Label(1), &name("aros"), MINUTE));
        assert!(table.lookup(t0 + MINUTE, Label(1), 100).is_ok());
        let late = t0 + 2 * MINUTE;
        assert_eq!(table.lookup(late, Label(1), 100).unwrap_err(), DropReason::UnknownLabel);
        assert!(!table.renew(late, Label(1), &name("aros"), MINUTE));
    }

    #[test]
    fn only_the_holder_renews() {
        let (mut table, t0) = (LabelTable::default(), Instant::now());
        table.grant_forward(t0, Label(1), &name("aros"), toward("mit"), MINUTE, None).unwrap();
        assert!(!table.renew(t0, Label(1), &name("eve"), MINUTE));
    }

    #[test]
    fn a_holder_that_asks_without_end_harms_only_itself() {
        let (mut table, t0) = (LabelTable::default(), Instant::now());
        for label in 0..MAX_PER_HOLDER as u64 {
            table
                .grant_forward(t0, Label(label), &name("eve"), toward("mit"), MINUTE, None)
                .unwrap();
        }
        let more = table.grant_forward(t0, Label(9999), &name("eve"), toward("mit"), MINUTE, None);
        assert_eq!(more, Err(GrantError::HolderFull));
        table.grant_forward(t0, Label(9999), &name("aros"), toward("mit"), MINUTE, None).unwrap();
        table
            .grant_forward(t0 + MINUTE, Label(1), &name("eve"), toward("mit"), MINUTE, None)
            .expect("expired grants make room");
    }

    #[test]
    fn the_table_never_grows_past_its_cap() {
        let (mut table, t0) = (LabelTable::default(), Instant::now());
        let mut refused = 0;
        for holder in 0..=(MAX_LABELS / MAX_PER_HOLDER) as u64 {
            let holder_name = name(&format!("n{holder}"));
            // One probe of the cap per holder is enough; a full fill is quadratic in the holders.
            for i in 0..MAX_PER_HOLDER as u64 {
                let label = Label(holder << 32 | i);
                let grant = Grant {
                    holder: holder_name.clone(),
                    meaning: LabelMeaning::Slot(SlotId(0)),
                    expires: None,
                    meter: None,
                };
                if table.grants.len() < MAX_LABELS {
                    table.grants.insert(label, grant);
                } else {
                    refused +=
                        usize::from(table.insert(t0, label, grant) == Err(GrantError::TableFull));
                }
            }
        }
        assert_eq!((table.len(), refused), (MAX_LABELS, MAX_PER_HOLDER));
    }

    #[test]
    fn a_label_in_use_is_not_granted_twice() {
        let (mut table, t0) = (LabelTable::default(), Instant::now());
        table.grant_slot(t0, Label(1), &name("aros"), SlotId(1)).unwrap();
        assert_eq!(table.grant_slot(t0, Label(1), &name("eve"), SlotId(2)), Err(GrantError::InUse));
    }

    #[test]
    fn closing_a_slot_withdraws_its_labels_only() {
        let (mut table, t0) = (LabelTable::default(), Instant::now());
        table.grant_slot(t0, Label(1), &name("aros"), SlotId(1)).unwrap();
        table.grant_slot(t0, Label(2), &name("aros"), SlotId(2)).unwrap();
        table.withdraw_slot(SlotId(1));
        assert!(table.lookup(t0, Label(1), 1).is_err());
        assert!(table.lookup(t0, Label(2), 1).is_ok());
    }

    #[test]
    fn the_labels_of_a_node_and_towards_it_are_withdrawn_and_no_others() {
        let (mut table, t0) = (LabelTable::default(), Instant::now());
        let mut grant = |label, holder: &str, to: &str| {
            table.grant_forward(t0, Label(label), &name(holder), toward(to), MINUTE, None).unwrap();
        };
        grant(1, "eve", "mit");
        grant(2, "aros", "eve");
        grant(3, "aros", "mit");
        table.withdraw_node(&name("eve"));
        let left: Vec<_> = (1..=3).map(|label| table.lookup(t0, Label(label), 1).is_ok()).collect();
        assert_eq!(left, [false, false, true]);
    }

    #[test]
    fn a_meter_holds_a_holder_to_its_rate() {
        let t0 = Instant::now();
        let meter = Meter::new(1_000_000);
        let admitted = (0..10_000u64)
            .filter(|i| meter.admit(t0 + Duration::from_micros(i * 500), 1400))
            .count();
        // 5 s at 1 MB/s plus the burst of 250 ms, in packets of 1400 bytes.
        assert!((3_700..=3_760).contains(&admitted), "{admitted}");
    }
}
