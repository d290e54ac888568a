//! The last changes of route of one destination and hint, for `why`.

use std::{collections::VecDeque, time::Instant};

use super::select::ChangeReason;
use crate::flow::Route;

/// How many changes are kept: enough to show a flapping link, and a screenful.
pub const MAX_CHANGES: usize = 32;

/// A change of route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    /// When.
    pub at: Instant,
    /// The route before; `None` when there was none.
    pub from: Option<Route>,
    /// The route after; `None` when none was left.
    pub to: Option<Route>,
    /// Why.
    pub reason: ChangeReason,
}

/// The last 32 changes, oldest first.
#[derive(Debug, Clone, Default)]
pub struct RouteHistory {
    changes: VecDeque<RouteChange>,
    total: u64,
}

impl RouteHistory {
    /// Adds a change; the oldest of 32 is dropped.
    pub fn push(&mut self, change: RouteChange) {
        if self.changes.len() >= MAX_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
        self.total += 1;
    }

    /// The changes kept, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &RouteChange> {
        self.changes.iter().rev()
    }

    /// How many changes there ever were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_changes_are_kept_newest_first() {
        let mut history = RouteHistory::default();
        for n in 0..100 {
            let to = Some(Route::Via(format!("n{n}").parse().unwrap()));
            let reason = ChangeReason::First;
            history.push(RouteChange { at: Instant::now(), from: None, to, reason });
        }
        assert_eq!(history.newest_first().count(), MAX_CHANGES);
        let newest = history.newest_first().next().unwrap();
        assert_eq!(newest.to.as_ref().unwrap().to_string(), "via n99");
        assert_eq!(history.total(), 100);
    }
}
