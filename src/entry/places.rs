//! The clients that the entry serves, and the choice of the one that ends when a place is needed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::flow::{Activity, Carried};

/// A client with traffic within this time keeps its place. It is longer than a pause in typing or a
/// server's response time.
const ACTIVE: Duration = Duration::from_secs(10);

/// The clients that are served.
#[derive(Debug, Default)]
pub(super) struct Places {
    next: AtomicU64,
    taken: Mutex<HashMap<u64, Arc<ClientActivity>>>,
}

/// One client's place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    places: Arc<Places>,
    activity: Arc<ClientActivity>,
}

/// What a client does: its own requests, and its flows.
#[derive(Debug, Default)]
pub(super) struct ClientActivity {
    own: Activity,
    flows: Mutex<Vec<Weak<Carried>>>,
}

impl ClientActivity {
    /// Records a flow that the client has opened.
    pub(super) fn add(&self, flow: &Arc<Carried>) {
        self.own.touch();
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        flows.retain(|flow| flow.strong_count() > 0);
        flows.push(Arc::downgrade(flow));
    }

    /// Waits until the place is needed for another client.
    pub(super) async fn evicted(&self) {
        self.own.evicted().await;
    }

    fn last(&self) -> Instant {
        let flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        let flows = flows.iter().filter_map(Weak::upgrade).map(|flow| flow.activity().last());
        flows.fold(self.own.last(), Instant::max)
    }
}

impl Places {
    /// A place for a client that has just connected.
    pub(super) fn take(self: &Arc<Self>) -> Place {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let activity = Arc::<ClientActivity>::default();
        self.lock().insert(number, activity.clone());
        Place { number, places: self.clone(), activity }
    }

    /// Ends the client that has been idle for longest; false if none has been for some seconds.
    pub(super) fn evict(&self) -> bool {
        let mut taken = self.lock();
        let idle = taken.iter().filter(|(_, client)| client.last().elapsed() >= ACTIVE);
        let longest = idle.min_by_key(|(_, client)| client.last()).map(|(number, _)| *number);
        let Some(client) = longest.and_then(|number| taken.remove(&number)) else { return false };
        client.own.evict();
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<ClientActivity>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn activity(&self) -> Arc<ClientActivity> {
        self.activity.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_client_goes_first_and_an_active_one_never() {
        let places = Arc::<Places>::default();
        let (first, flow) = (places.take(), Arc::<Carried>::default());
        first.activity().add(&flow);
        advance(Duration::from_secs(5)).await;
        let second = places.take();
        assert!(!places.evict());
        advance(Duration::from_secs(20)).await;
        flow.add_received(1);
        assert!(places.evict());
        let evicted = |place: &Place| place.activity.evicted().now_or_never().is_some();
        assert!(!evicted(&first) && evicted(&second));
        assert!(!places.evict());
        advance(ACTIVE).await;
        assert!(places.evict());
        drop((first, second));
        assert!(places.lock().is_empty());
    }
}
