//! The gain in latency of each other route over the route in use, summed over time.

use std::{collections::BTreeMap, time::Instant};

use super::rank::Rank;
use crate::flow::{Hint, Route};

/// The sum at which a faster route has proved itself, in seconds: 2 s of taking no time at all, or
/// 9 s at 25 % less than the route in use, or 80 s at the least gain worth a change.
///
/// Estimates do not vary by chance much, so the sum only has to reject gains that do not last.
const PROOF_S: f64 = 2.0;

/// The sums, each at least 0, since the last change of route.
#[derive(Debug, Clone, Default)]
pub(super) struct Merit {
    at: Option<Instant>,
    sums: BTreeMap<Route, f64>,
}

impl Merit {
    /// Adds the gains since the last call. The sum of a route that is no longer usable restarts.
    pub(super) fn add(&mut self, now: Instant, hint: &Hint, ranked: &[Rank], current: &Rank) {
        let passed = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.at = Some(now);
        let sums = ranked.iter().map(|rank| {
            let sum = self.sums.get(rank.route()).copied().unwrap_or_default();
            let sum = rank.gain(hint, current).mul_add(passed, sum);
            (rank.route().clone(), sum.max(0.0))
        });
        self.sums = sums.collect();
    }

    /// Whether the sum of `route` suffices.
    pub(super) fn proves(&self, route: &Route) -> bool {
        self.sums.get(route).is_some_and(|sum| *sum >= PROOF_S)
    }

    /// Restarts all sums: the route in use is another one at `now`.
    pub(super) fn clear(&mut self, now: Instant) {
        *self = Self { at: Some(now), sums: BTreeMap::new() };
    }
}
