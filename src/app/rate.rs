//! How often something may happen. Pure.

use std::time::Instant;

/// So many at once, and so many a second after that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) per_second: f32,
    pub(super) burst: f32,
}

/// A token bucket: full at first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    spent: f32,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self { spent: 0.0, at: now }
    }

    /// What is spent of the burst and not refilled yet.
    pub(super) fn spent(&self, now: Instant, rate: Rate) -> f32 {
        let refilled = now.saturating_duration_since(self.at).as_secs_f32() * rate.per_second;
        (self.spent - refilled).max(0.0)
    }

    pub(super) fn take(&mut self, now: Instant, rate: Rate) -> bool {
        self.spent = self.spent(now, rate);
        self.at = self.at.max(now);
        let granted = self.spent + 1.0 <= rate.burst;
        if granted {
            self.spent += 1.0;
        }
        granted
    }
}
