//! Means that forget, by what they are of. Pure.
//!
//! A value counts half as much after each half-life, and a mean to which nobody adds is gone after eight.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Means of one metric: four for each node of an overlay of 256. The one without a new value for longest goes.
pub(super) const MAX_VALUES: usize = 1024;

/// The half-life where none is declared: a page that a person loads now and then keeps its value.
pub(super) const DEFAULT_HALF_LIFE: Duration = Duration::from_secs(600);

/// Half-lives after which a mean is gone: what is left of its last value is 1/256.
const FORGOTTEN_AFTER: u32 = 8;

/// The means of one metric.
#[derive(Debug)]
pub(super) struct Means<K> {
    /// After how long a value counts half as much.
    pub(super) half_life: Duration,
    values: BTreeMap<K, Mean>,
}

#[derive(Debug, Clone, Copy)]
struct Mean {
    /// Of the values, each by its age. Kept instead of a sum, which large values would make infinite.
    value: f64,
    weight: f64,
    at: Instant,
}

impl<K> Default for Means<K> {
    fn default() -> Self {
        Self::new(DEFAULT_HALF_LIFE)
    }
}

impl<K> Means<K> {
    /// Means whose values count half as much after each `half_life`.
    pub(super) fn new(half_life: Duration) -> Self {
        Self { half_life, values: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Means<K> {
    /// Adds a value.
    pub(super) fn add(&mut self, now: Instant, key: K, value: f64) {
        if self.values.len() >= MAX_VALUES && !self.values.contains_key(&key) {
            let oldest = self.values.iter().min_by_key(|(_, mean)| mean.at);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.and_then(|key| self.values.remove(&key));
        }
        let half_life = self.half_life.as_secs_f64();
        let mean = self.values.entry(key).or_insert(Mean { value, weight: 0.0, at: now });
        let age = now.saturating_duration_since(mean.at).as_secs_f64();
        let kept = (-age / half_life).exp2();
        let weight = mean.weight * kept + 1.0;
        *mean = Mean { value: mean.value + (value - mean.value) / weight, weight, at: now };
    }

    /// The mean of `key`; `None` without a value lately.
    pub(super) fn mean(&self, now: Instant, key: &K) -> Option<f64> {
        self.values.get(key).filter(|mean| self.holds(now, mean)).map(|mean| mean.value)
    }

    /// Whether there is any.
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        self.values.values().any(|mean| self.holds(now, mean))
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.values.clear();
    }

    fn holds(&self, now: Instant, mean: &Mean) -> bool {
        now.saturating_duration_since(mean.at) < self.half_life * FORGOTTEN_AFTER
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }
}
