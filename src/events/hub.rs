//! Where a node's roles record events, and readers find them.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{Event, History, Moment, Page, Query, Totals};

/// The events of one node.
pub struct Events {
    started: Instant,
    state: Mutex<State>,
    /// The number of the last event.
    last: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    history: History,
    totals: Totals,
}

impl Default for Events {
    fn default() -> Self {
        Self { started: Instant::now(), state: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl Events {
    /// Records what happens now.
    pub fn record(&self, event: Event) {
        self.record_ago(Duration::ZERO, event);
    }

    /// Records what happened some time ago.
    pub fn record_ago(&self, ago: Duration, event: Event) {
        let now = self.now();
        let last = {
            let mut state = self.state();
            state.totals.count(&event);
            state.history.add(now, ago, event)
        };
        self.last.send_replace(last);
    }

    /// Puts what an earlier process kept before what is recorded already.
    #[cfg(feature = "cli")]
    pub(crate) fn restore(&self, earlier: Vec<super::Record>) {
        let now = self.now();
        let last = {
            let mut state = self.state();
            state.history.restore(now, earlier);
            state.history.last()
        };
        self.last.send_replace(last);
    }

    /// Counts bytes that a flow carried; see [`Totals::carried`].
    pub fn carried(&self, exit: &str, route: Option<&str>, bytes: (u64, u64)) {
        self.state().totals.carried(exit, route, bytes);
    }

    /// What `query` asks for, as it is now.
    pub fn read(&self, query: &Query) -> Page {
        self.state().history.read(self.now(), query)
    }

    /// The number of the last event; 0 before the first.
    #[must_use]
    pub fn last(&self) -> u64 {
        *self.last.borrow()
    }

    /// The same, after waiting for `patience` at most until there is something.
    pub async fn read_next(&self, query: &Query, patience: Duration) -> Page {
        match timeout(patience, self.news(query)).await {
            Ok(page) => page,
            Err(_) => self.read(query),
        }
    }

    /// The same, after waiting until there is something.
    pub async fn news(&self, query: &Query) -> Page {
        let mut last = self.last.subscribe();
        let mut query = query.clone();
        loop {
            last.mark_unchanged();
            let page = self.read(&query);
            if !page.events.is_empty() || page.dropped > 0 {
                return page;
            }
            query.since = Some(page.next);
            // An error would mean that the sender is gone, which lives as long as `self`.
            if last.changed().await.is_err() {
                return page;
            }
        }
    }

    /// The counters as they are now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.state().totals.clone()
    }

    fn now(&self) -> Moment {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        Moment { since_start: self.started.elapsed(), unix_ms }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("last", &*self.last.borrow()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_waits_for_news_and_not_for_ever() {
        let events = Arc::new(Events::default());
        let query = Query { since: Some(0), ..Query::default() };
        let started = Instant::now();
        let page = events.read_next(&query, Duration::from_secs(4)).await;
        assert!(page.events.is_empty() && started.elapsed() == Duration::from_secs(4));
        let reader = {
            let events = events.clone();
            tokio::spawn(async move { events.read_next(&query, Duration::from_secs(4)).await })
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
        events.record(Event::LinkUp { peer: "utah".parse().unwrap() });
        let page = reader.await.unwrap();
        assert_eq!((page.events.len(), page.next), (1, 1));
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }
}
