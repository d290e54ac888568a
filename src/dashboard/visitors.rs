//! The connections of the dashboard, and which one ends when another needs its place.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, Weak,
    atomic::{AtomicUsize, Ordering},
};

use crate::flow::Activity;

/// One connection.
#[derive(Debug, Default)]
pub(super) struct Visitor {
    activity: Activity,
    /// Requests that are being answered.
    asking: AtomicUsize,
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub(super) struct Asking(Arc<Visitor>);

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Visitors(Mutex<Vec<Weak<Visitor>>>);

impl Visitors {
    /// A connection that has just come.
    pub(super) fn add(&self) -> Arc<Visitor> {
        let visitor = Arc::<Visitor>::default();
        let mut all = self.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&visitor));
        visitor
    }

    /// Ends the connection that has asked nothing for longest; false if each one waits for an answer.
    pub(super) fn evict(&self) -> bool {
        let mut all = self.lock();
        let idle = all.iter().filter_map(Weak::upgrade);
        let idle = idle.filter(|visitor| visitor.asking.load(Ordering::Relaxed) == 0);
        let Some(longest) = idle.min_by_key(|visitor| visitor.activity.last()) else {
            return false;
        };
        all.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&longest)));
        longest.activity.evict();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Visitor>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visitor {
    /// Notes a request.
    pub(super) fn asks(self: &Arc<Self>) -> Asking {
        self.asking.fetch_add(1, Ordering::Relaxed);
        Asking(self.clone())
    }

    /// Waits until the place is needed for another connection.
    pub(super) async fn evicted(&self) {
        self.activity.evicted().await;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.activity.touch();
        self.0.asking.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_gives_way_and_one_that_waits_never() {
        let visitors = Visitors::default();
        let [first, second, third] = std::array::from_fn(|_| visitors.add());
        let evicted = |visitor: &Visitor| visitor.evicted().now_or_never().is_some();
        let waits = first.asks();
        advance(Duration::from_secs(1)).await;
        drop(second.asks());
        assert!(visitors.evict() && evicted(&third));
        assert!(visitors.evict() && evicted(&second));
        assert!(!visitors.evict() && !evicted(&first), "it waits for an answer");
        drop(waits);
        assert!(visitors.evict() && evicted(&first));
        assert!(!visitors.evict());
    }
}
