//! How many streams an entry may have at an exit.
//!
//! A stream costs memory before it says what it is for, and while the exit answers it. So a lane has room for
//! a few of these at first, and for as many more as flows are open on it: a thousand that begin together have
//! it in four round trips. All lanes of an entry together have so many open flows.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use noq::{Connection, VarInt};

use crate::{
    identity::NodeName,
    transport::{FLOWS_PER_LANE, UNOPENED_STREAMS},
};

/// Opened flows of one entry, on all of its lanes: more than an exit carries of one entry by default (2,048),
/// so that the exit's own limit is the one that is met.
const OPENED_PER_ENTRY: usize = 3_072;

/// The opened flows of each entry. Entries without one are not kept.
#[derive(Debug, Default)]
pub(super) struct OpenedFlows(Mutex<BTreeMap<NodeName, usize>>);

/// The room for streams on one lane.
#[derive(Debug)]
pub(super) struct LaneRoom {
    conn: Connection,
    entry: NodeName,
    all: Arc<OpenedFlows>,
    /// Opened flows of this lane.
    opened: Mutex<u32>,
}

/// The room of one opened flow; dropping it gives it back.
#[derive(Debug)]
pub(super) struct FlowRoom(Arc<LaneRoom>);

impl OpenedFlows {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of all entries.
    pub(super) fn count(&self) -> usize {
        self.lock().values().sum()
    }

    fn take(&self, entry: &NodeName) -> bool {
        let mut opened = self.lock();
        let held = opened.entry(entry.clone()).or_default();
        let has_room = *held < OPENED_PER_ENTRY;
        *held += usize::from(has_room);
        has_room
    }

    fn give_back(&self, entry: &NodeName) {
        let mut opened = self.lock();
        if let Some(held) = opened.get_mut(entry) {
            *held -= 1;
            if *held == 0 {
                opened.remove(entry);
            }
        }
    }
}

impl LaneRoom {
    /// The room of a lane of `entry`.
    pub(super) fn new(conn: Connection, entry: NodeName, all: Arc<OpenedFlows>) -> Arc<Self> {
        Arc::new(Self { conn, entry, all, opened: Mutex::default() })
    }

    /// Gives a stream that has said what it is for its room. `None`: the entry has too many flows.
    pub(super) fn open(self: &Arc<Self>) -> Option<FlowRoom> {
        self.all.take(&self.entry).then(|| {
            self.change(|opened| opened + 1);
            FlowRoom(self.clone())
        })
    }

    fn change(&self, to: impl Fn(u32) -> u32) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        *opened = to(*opened);
        let streams = (UNOPENED_STREAMS + 2 * *opened).min(FLOWS_PER_LANE);
        self.conn.set_max_concurrent_bi_streams(VarInt::from_u32(streams));
    }
}

impl Drop for FlowRoom {
    fn drop(&mut self) {
        self.0.all.give_back(&self.0.entry);
        self.0.change(|opened| opened - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_so_many_flows_on_all_its_lanes_and_others_have_theirs() {
        let (flows, utah, mit) =
            (OpenedFlows::default(), "utah".parse().unwrap(), "mit".parse().unwrap());
        assert!((0..OPENED_PER_ENTRY).all(|_| flows.take(&utah)));
        assert!(!flows.take(&utah) && flows.take(&mit));
        flows.give_back(&utah);
        assert!(flows.take(&utah));
        (0..OPENED_PER_ENTRY).for_each(|_| flows.give_back(&utah));
        flows.give_back(&mit);
        assert!(flows.lock().is_empty());
    }
}
