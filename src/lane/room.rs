//! How many streams an entry may have at an exit.
//!
//! A stream costs memory from its first packet until both ends have ended it. So the streams of an entry, on
//! all its lanes, have three budgets:
//! - streams that have not yet said which flow they open: further ones are reset;
//! - open flows: further ones are refused;
//! - streams that QUIC lets the entry open. A lane begins with a few. Each open flow adds some: a thousand
//!   flows that begin together have their streams after four round trips. QUIC cannot lower this number, so a
//!   lane keeps it until it ends. The sum over all lanes of the entry has a bound.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::Poll,
    time::Duration,
};

use futures_util::poll;
use noq::{Connection, VarInt};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    identity::NodeName,
    transport::{FLOWS_PER_LANE, UNOPENED_STREAMS},
};

/// Streams of an entry that keep the exit waiting and have no flow. An honest one says what it is for with its
/// first packet, and has room for the answer.
const WAITING_PER_ENTRY: usize = 512;

/// Flows beyond those that the exit carries for an entry: they wait until their refusal has left.
const REFUSED_PER_ENTRY: usize = 1_024;

/// The streams that the lanes of an entry have gained are at most this many times its permitted flows. Each lane keeps
/// the most that it ever needed, and lanes need them at different times.
const ROOM_PER_FLOW: usize = 4;

/// The streams of each entry that has a lane.
#[derive(Debug, Default)]
pub(super) struct Rooms(Mutex<BTreeMap<NodeName, Weak<EntryRoom>>>);

/// The streams of one entry.
#[derive(Debug)]
struct EntryRoom {
    /// Open flows that it may have.
    flows: usize,
    waiting: Semaphore,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Open flows.
    opened: usize,
    /// Streams for which lanes have gained room, beyond what they had at first.
    gained: usize,
}

/// The room for streams on one lane.
#[derive(Debug)]
pub(super) struct LaneRoom {
    conn: Connection,
    entry: Arc<EntryRoom>,
    state: Mutex<LaneState>,
}

#[derive(Debug, Default)]
struct LaneState {
    /// Open flows of this lane.
    opened: usize,
    gained: usize,
}

/// The room of one open flow; dropping it gives it back.
#[derive(Debug)]
pub(super) struct FlowRoom(Arc<LaneRoom>);

impl Rooms {
    /// The room of a lane of `entry`, of which the exit carries this many flows.
    pub(super) fn lane(&self, conn: Connection, entry: &NodeName, flows: usize) -> Arc<LaneRoom> {
        let entry = self.entry(entry, flows);
        Arc::new(LaneRoom { conn, entry, state: Mutex::default() })
    }

    /// Open flows of all entries.
    pub(super) fn flow_count(&self) -> usize {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.values().filter_map(Weak::upgrade).map(|entry| entry.held().opened).sum()
    }

    fn entry(&self, name: &NodeName, flows: usize) -> Arc<EntryRoom> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(name).and_then(Weak::upgrade) {
            return entry;
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let entry = Arc::new(EntryRoom::new(flows + REFUSED_PER_ENTRY));
        entries.insert(name.clone(), Arc::downgrade(&entry));
        entry
    }
}

impl EntryRoom {
    fn new(flows: usize) -> Self {
        Self { flows, waiting: Semaphore::new(WAITING_PER_ENTRY), held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more open flow, if there may be one.
    fn open(&self) -> bool {
        let mut held = self.held();
        let has_room = held.opened < self.flows;
        held.opened += usize::from(has_room);
        has_room
    }

    /// Room for so many streams more, or for as many as there may be.
    fn gain(&self, streams: usize) -> usize {
        let mut held = self.held();
        let gained = streams.min(self.flows * ROOM_PER_FLOW - held.gained);
        held.gained += gained;
        gained
    }
}

impl LaneRoom {
    /// Goes on with a stream that has no flow. `None`: it is not done at once, and others of its entry keep the
    /// exit waiting already; or it takes longer than the limit.
    pub(super) async fn wait<T>(
        &self,
        limit: Duration,
        step: impl Future<Output = T>,
    ) -> Option<T> {
        let mut step = pin!(step);
        if let Poll::Ready(done) = poll!(step.as_mut()) {
            return Some(done);
        }
        let _permit = self.entry.waiting.try_acquire().ok()?;
        timeout(limit, step).await.ok()
    }

    /// Room for a stream whose OPEN has come. `None`: the entry has too many flows.
    pub(super) fn open(self: &Arc<Self>) -> Option<FlowRoom> {
        self.entry.open().then(|| {
            self.grow();
            FlowRoom(self.clone())
        })
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the lane room for another flow beside each open one.
    fn grow(&self) {
        let least = UNOPENED_STREAMS as usize;
        let mut state = self.state();
        state.opened += 1;
        let streams = (least + 2 * state.opened).min(FLOWS_PER_LANE as usize);
        let missing = streams.saturating_sub(least + state.gained);
        if missing > 0 {
            state.gained += self.entry.gain(missing);
            let streams = u32::try_from(least + state.gained).unwrap_or(FLOWS_PER_LANE);
            self.conn.set_max_concurrent_bi_streams(VarInt::from_u32(streams));
        }
    }
}

impl Drop for FlowRoom {
    fn drop(&mut self) {
        self.0.entry.held().opened -= 1;
        self.0.state().opened -= 1;
    }
}

impl Drop for LaneRoom {
    fn drop(&mut self) {
        let gained = self.state().gained;
        self.entry.held().gained -= gained;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_so_many_flows_on_all_its_lanes_and_others_have_theirs() {
        let rooms = Rooms::default();
        let entry = |name: &str| rooms.entry(&name.parse().unwrap(), 2);
        let (utah, mit) = (entry("utah"), entry("mit"));
        assert!((0..2 + REFUSED_PER_ENTRY).all(|_| utah.open()));
        assert!(!entry("utah").open() && mit.open());
        utah.held().opened -= 1;
        assert!(utah.open());
        assert_eq!(rooms.flow_count(), 2 + REFUSED_PER_ENTRY + 1);
    }

    #[test]
    fn streams_gained_by_an_entrys_lanes_are_bounded_until_these_end() {
        let entry = EntryRoom::new(1_000);
        assert_eq!(entry.gain(3_900), 3_900);
        assert_eq!((entry.gain(3_900), entry.gain(1)), (100, 0));
        entry.held().gained -= 3_900;
        assert_eq!(entry.gain(10), 10);
    }

    #[test]
    fn an_entry_without_a_lane_is_forgotten() {
        let rooms = Rooms::default();
        drop(rooms.entry(&"utah".parse().unwrap(), 1));
        let _mit = rooms.entry(&"mit".parse().unwrap(), 1);
        assert_eq!(rooms.0.lock().unwrap().len(), 1);
    }
}
