//! Whether a flow sends so little that it goes before the other flows of its lane. PURE: time is an
//! argument.
//!
//! So keystrokes and short requests do not wait behind a bulk flow, and cost it next to nothing. Each flow has a
//! bucket of bytes that refills with time. While the bucket covers what the flow writes, the flow is
//! sparse.

use std::time::{Duration, Instant};

/// What a flow may send at once as a sparse one: about the first window of a TCP connection, which is
/// also what a short answer needs.
const CAPACITY: u64 = 16 << 10;

/// The bucket refills in this time: 131 kbit/s, more than a terminal shows.
const REFILL: Duration = Duration::from_secs(1);

/// The bytes that a flow may still send as a sparse one.
#[derive(Debug)]
pub(super) struct Sparse {
    used: u64,
    at: Instant,
}

impl Sparse {
    /// A flow that has sent nothing.
    pub(super) fn new(now: Instant) -> Self {
        Self { used: 0, at: now }
    }

    /// Whether the flow is sparse when it writes so many bytes.
    pub(super) fn covers(&self, now: Instant, bytes: u64) -> bool {
        self.used_at(now).saturating_add(bytes) <= CAPACITY
    }

    /// Records what it wrote.
    pub(super) fn wrote(&mut self, now: Instant, bytes: u64) {
        // A bulk flow is sparse again one refill after its end.
        self.used = self.used_at(now).saturating_add(bytes).min(2 * CAPACITY);
        self.at = now;
    }

    fn used_at(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.at).min(4 * REFILL);
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.used.saturating_sub(CAPACITY * micros / 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many writes, each so long after the one before, were sparse.
    fn sparse_of(count: u32, bytes: u64, every: Duration) -> u32 {
        let t0 = Instant::now();
        let mut flow = Sparse::new(t0);
        let mut sparse = 0;
        for n in 0..count {
            let now = t0 + n * every;
            sparse += u32::from(flow.covers(now, bytes));
            flow.wrote(now, bytes);
        }
        sparse
    }

    #[test]
    fn keys_and_screens_are_sparse_and_a_download_is_not() {
        let ms = Duration::from_millis;
        assert_eq!(sparse_of(1_000, 40, ms(30)), 1_000, "keys");
        assert_eq!(sparse_of(100, 4_000, ms(500)), 100, "screens of text");
        assert!(sparse_of(1_000, 14_000, ms(2)) <= 2, "a download");
        assert!(sparse_of(1_000, 1_400, ms(50)) <= 40, "a stream of 224 kbit/s");
    }

    #[test]
    fn a_flow_is_sparse_again_after_a_rest() {
        let t0 = Instant::now();
        let mut flow = Sparse::new(t0);
        flow.wrote(t0, 100 << 20);
        assert!(!flow.covers(t0 + REFILL / 2, 100));
        assert!(flow.covers(t0 + REFILL + REFILL / 2, 100));
    }
}
