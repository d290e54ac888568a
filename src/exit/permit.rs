//! How many flows the exit carries, in total and for each entry.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    flow::{Refusal, RefusalKind},
    identity::NodeName,
};

/// Counts flows against the exit's limits. Clones share the counts.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    total: usize,
    per_entry: usize,
    counts: Arc<Mutex<Counts>>,
}

/// Entries without a flow are not kept, so the map is bounded by the total limit.
#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_entry: HashMap<NodeName, usize>,
}

/// One flow's place at the exit; dropping it gives the place back.
#[derive(Debug)]
#[must_use = "dropping the permit gives the flow's place to another"]
pub struct ExitPermit {
    entry: NodeName,
    counts: Arc<Mutex<Counts>>,
}

impl Limits {
    pub(super) fn new(total: usize, per_entry: usize) -> Self {
        Self { total, per_entry, counts: Arc::default() }
    }

    /// A place for a flow of `entry`.
    pub(super) fn admit(&self, entry: &NodeName) -> Result<ExitPermit, Refusal> {
        let mut counts = lock(&self.counts);
        let of_entry = counts.by_entry.get(entry).copied().unwrap_or(0);
        if of_entry >= self.per_entry {
            return Err(full(format!("{} flows for {entry}", self.per_entry)));
        }
        if counts.total >= self.total {
            return Err(full(format!("{} flows", self.total)));
        }
        counts.total += 1;
        counts.by_entry.insert(entry.clone(), of_entry + 1);
        Ok(ExitPermit { entry: entry.clone(), counts: self.counts.clone() })
    }

    /// How many places are taken.
    pub(super) fn taken(&self) -> usize {
        lock(&self.counts).total
    }
}

fn full(limit: String) -> Refusal {
    Refusal::new(RefusalKind::Overloaded, format!("the exit carries its limit of {limit}"))
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for ExitPermit {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.total -= 1;
        if let Some(of_entry) = counts.by_entry.get_mut(&self.entry) {
            *of_entry -= 1;
            if *of_entry == 0 {
                counts.by_entry.remove(&self.entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_entry_cannot_take_every_place() {
        let (utah, mit): (NodeName, NodeName) = ("utah".parse().unwrap(), "mit".parse().unwrap());
        let limits = Limits::new(3, 2);
        let held = [limits.admit(&utah).unwrap(), limits.admit(&utah).unwrap()];
        let refusal = limits.admit(&utah).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Overloaded);
        assert_eq!(refusal.detail, "the exit carries its limit of 2 flows for utah");
        let other = limits.admit(&mit).unwrap();
        assert_eq!(limits.admit(&mit).unwrap_err().detail, "the exit carries its limit of 3 flows");
        drop((held, other));
        assert_eq!(limits.taken(), 0);
        assert!(lock(&limits.counts).by_entry.is_empty());
    }
}
