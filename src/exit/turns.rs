//! Look-ups under way: a fair share for each entry.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    flow::{Refusal, RefusalKind},
    identity::NodeName,
};

/// Look-ups of one entry under way: a page of 16 sites at once. Each holds up to four sockets.
const PER_ENTRY: usize = 16;

/// Flows of one entry whose look-ups wait for their turn. Behind 16 silent names of 7 s each, the
/// last one would wait longer than the flow does.
const WAITING_PER_ENTRY: usize = 64;

/// Look-ups under way in all: 16 entries may use their whole share at once. One whose 16 are all
/// silent holds them for 7 s.
const IN_ALL: usize = 256;

/// Counts of look-ups, per entry.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    in_all: Arc<Semaphore>,
    /// Entries without a look-up are not kept.
    entries: Arc<Mutex<HashMap<NodeName, Share>>>,
}

#[derive(Debug)]
struct Share {
    places: Arc<Semaphore>,
    users: usize,
}

/// The turn of one look-up. Dropping it gives the turn to the next one.
#[derive(Debug)]
pub(super) struct Turn {
    _permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    entry: NodeName,
    turns: Turns,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self { in_all: Arc::new(Semaphore::new(IN_ALL)), entries: Arc::default() }
    }

    /// Waits for a turn of `entry`; dropping the future leaves the queue.
    pub(super) async fn next(&self, entry: &NodeName) -> Result<Turn, Refusal> {
        let (places, mut turn) = self.enter(entry)?;
        let closed = |_| full(entry);
        let own = places.acquire_owned().await.map_err(closed)?;
        let any = self.in_all.clone().acquire_owned().await.map_err(closed)?;
        turn._permits = Some((own, any));
        Ok(turn)
    }

    fn enter(&self, entry: &NodeName) -> Result<(Arc<Semaphore>, Turn), Refusal> {
        let mut entries = self.lock();
        let share = entries
            .entry(entry.clone())
            .or_insert_with(|| Share { places: Arc::new(Semaphore::new(PER_ENTRY)), users: 0 });
        if share.users >= PER_ENTRY + WAITING_PER_ENTRY {
            return Err(full(entry));
        }
        share.users += 1;
        let turn = Turn { _permits: None, entry: entry.clone(), turns: self.clone() };
        Ok((share.places.clone(), turn))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeName, Share>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut entries = self.turns.lock();
        if let Some(share) = entries.get_mut(&self.entry) {
            share.users -= 1;
            if share.users == 0 {
                entries.remove(&self.entry);
            }
        }
    }
}

fn full(entry: &NodeName) -> Refusal {
    let detail = format!("the exit resolves its limit of names for {entry}");
    Refusal::new(RefusalKind::Overloaded, detail)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_entry_has_16_look_ups_and_80_with_those_that_wait() {
        let (mit, utah): (NodeName, NodeName) = ("mit".parse().unwrap(), "utah".parse().unwrap());
        let turns = Turns::new();
        let mut held: Vec<_> = Vec::new();
        for _ in 0..PER_ENTRY {
            held.push(turns.next(&mit).await.unwrap());
        }
        let mut waiting: Vec<_> =
            (0..WAITING_PER_ENTRY).map(|_| Box::pin(turns.next(&mit))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        assert_eq!(turns.next(&mit).await.unwrap_err().kind, RefusalKind::Overloaded);
        // Another entry does not wait, and a flow that ends leaves the queue.
        drop(turns.next(&utah).await.unwrap());
        drop(waiting.split_off(1));
        drop(held.pop());
        assert!(waiting[0].as_mut().now_or_never().unwrap().is_ok());
        drop((held, waiting));
        assert!(turns.lock().is_empty());
    }
}
