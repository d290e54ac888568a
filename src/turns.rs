//! Things done for others, a bounded number at once: a fair share for each of them.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many may be under way or wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Under way for one asker.
    pub each: usize,
    /// Waiting of one asker.
    pub waiting: usize,
    /// Under way in all.
    pub in_all: usize,
}

/// The turns of askers.
#[derive(Debug)]
pub(crate) struct Turns<K: Eq + Hash> {
    limits: Limits,
    in_all: Arc<Semaphore>,
    /// Askers without a turn are not kept.
    askers: Arc<Mutex<HashMap<K, Share>>>,
}

#[derive(Debug)]
struct Share {
    places: Arc<Semaphore>,
    users: usize,
}

/// One turn. Dropping it gives the turn to the next one.
#[derive(Debug)]
pub(crate) struct Turn<K: Eq + Hash> {
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    asker: K,
    askers: Arc<Mutex<HashMap<K, Share>>>,
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Nobody has a turn yet.
    #[must_use]
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, in_all: Arc::new(Semaphore::new(limits.in_all)), askers: Arc::default() }
    }

    /// Waits for a turn of `asker`; dropping the future leaves the queue. `None`: too many of it wait.
    pub(crate) async fn next(&self, asker: &K) -> Option<Turn<K>> {
        let (places, mut turn) = self.enter(asker)?;
        let own = places.acquire_owned().await.ok()?;
        let any = self.in_all.clone().acquire_owned().await.ok()?;
        turn.permits = Some((own, any));
        Some(turn)
    }

    fn enter(&self, asker: &K) -> Option<(Arc<Semaphore>, Turn<K>)> {
        let Limits { each, waiting, .. } = self.limits;
        let mut askers = lock(&self.askers);
        let share = askers
            .entry(asker.clone())
            .or_insert_with(|| Share { places: Arc::new(Semaphore::new(each)), users: 0 });
        if share.users >= each + waiting {
            return None;
        }
        share.users += 1;
        let turn = Turn { permits: None, asker: asker.clone(), askers: self.askers.clone() };
        Some((share.places.clone(), turn))
    }
}

impl<K: Eq + Hash> Drop for Turn<K> {
    fn drop(&mut self) {
        let mut askers = lock(&self.askers);
        if let Some(share) = askers.get_mut(&self.asker) {
            share.users -= 1;
            if share.users == 0 {
                askers.remove(&self.asker);
            }
        }
    }
}

fn lock<K>(askers: &Mutex<HashMap<K, Share>>) -> MutexGuard<'_, HashMap<K, Share>> {
    askers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_asker_has_its_turns_and_a_bounded_queue() {
        let turns = Turns::new(Limits { each: 16, waiting: 64, in_all: 256 });
        let mut held: Vec<_> = Vec::new();
        for _ in 0..16 {
            held.push(turns.next(&"mit").await.unwrap());
        }
        let mut waiting: Vec<_> = (0..64).map(|_| Box::pin(turns.next(&"mit"))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        assert!(turns.next(&"mit").await.is_none());
        // Another asker does not wait, and one that gives up leaves the queue.
        drop(turns.next(&"utah").await.unwrap());
        drop(waiting.split_off(1));
        drop(held.pop());
        assert!(waiting[0].as_mut().now_or_never().unwrap().is_some());
        drop((held, waiting));
        assert!(lock(&turns.askers).is_empty());
    }

    #[tokio::test]
    async fn all_askers_together_have_a_bounded_number_of_turns() {
        let turns = Turns::new(Limits { each: 2, waiting: 2, in_all: 3 });
        let mut held = Vec::new();
        for asker in [1, 1, 2] {
            held.push(turns.next(&asker).await.unwrap());
        }
        assert!(Box::pin(turns.next(&3)).now_or_never().is_none());
        drop(held.pop());
        assert!(Box::pin(turns.next(&3)).now_or_never().unwrap().is_some());
    }
}
