//! What happens to a node, as a program reads it.

use std::{collections::VecDeque, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::events::{self, Page, Query, Record};

/// Events that are copied at once out of the node's history, which a reader must lock for it.
const BATCH: usize = 64;

/// A reader of what happens to a node; see [`Node::events`](crate::Node::events).
///
/// Readers are independent: each one sees every event. The node keeps the last 1,024 events of each of four
/// classes for a day (routes; links, members and the like; flows; refusals), so a reader costs it nothing. A
/// slow one misses the oldest and is told how many, by [`Lagged`]. It does not keep the node running.
///
/// ```no_run
/// # async fn watch(node: &ronproxy::Node) {
/// use ronproxy::{Event, Lagged};
///
/// let mut events = node.events();
/// while let Some(news) = events.next().await {
///     match news.map(|record| record.event) {
///         Ok(Event::Rerouted { lane, from, to, why, stall_ms, .. }) => {
///             println!("lane {lane} left {from} for {to}: {why}; it stood still for {stall_ms:?} ms");
///         }
///         Ok(other) => println!("{other}"),
///         Err(Lagged { missed }) => println!("{missed} events were missed"),
///     }
/// }
/// # }
/// ```
pub struct Events {
    source: Arc<events::Events>,
    stopped: CancellationToken,
    /// The number of the last event that was taken out of the history.
    last: u64,
    taken: VecDeque<Record>,
}

/// Events that were gone before they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{missed} events were dropped before they were read")]
pub struct Lagged {
    /// How many, between the event that was read last and the one that is next.
    pub missed: u64,
}

impl Events {
    pub(super) fn from_now_on(source: Arc<events::Events>, stopped: CancellationToken) -> Self {
        let last = source.last();
        Self { source, stopped, last, taken: VecDeque::new() }
    }

    /// The same reader, which begins with the oldest event that the node keeps.
    #[must_use]
    pub fn from_the_start(self) -> Self {
        Self { last: 0, taken: VecDeque::new(), ..self }
    }

    /// The next event, or how many were missed before it. `None`: the node has stopped, and there is no more.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Record, Lagged>> {
        loop {
            if let Some(news) = self.try_next() {
                return Some(news);
            }
            let query = self.query();
            tokio::select! {
                biased;
                page = self.source.news(&query) => {
                    if let Some(lagged) = self.take(page) {
                        return Some(Err(lagged));
                    }
                }
                () = self.stopped.cancelled() => return None,
            }
        }
    }

    /// The same without waiting. `None`: nothing has happened since.
    pub fn try_next(&mut self) -> Option<Result<Record, Lagged>> {
        if self.taken.is_empty() {
            let page = self.source.read(&self.query());
            if let Some(lagged) = self.take(page) {
                return Some(Err(lagged));
            }
        }
        self.taken.pop_front().map(Ok)
    }

    fn query(&self) -> Query {
        Query { since: Some(self.last), limit: Some(BATCH), ..Query::default() }
    }

    fn take(&mut self, page: Page) -> Option<Lagged> {
        self.last = page.next;
        self.taken.extend(page.events);
        (page.dropped > 0).then_some(Lagged { missed: page.dropped })
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("last", &self.last).finish_non_exhaustive()
    }
}
