//! The least round-trip time of the last seconds: pure, time is an argument.

use std::time::{Duration, Instant};

/// A round trip within this part of the least one confirms it: one in so many.
const CLOSE: u32 = 16;

/// If no round trip confirmed it for this long, the queue may not have been empty since (BBR's
/// `ProbeRTT` interval).
const STALE: Duration = Duration::from_secs(10);

/// The least round trip of one to two intervals.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LeastRtt {
    /// The least one of the present interval, and when that began.
    now: Option<(Duration, Instant)>,
    before: Option<Duration>,
    /// When a round trip close to the least one was last seen.
    seen: Option<Instant>,
}

impl LeastRtt {
    /// `None` before the first sample.
    pub(super) fn get(&self) -> Option<Duration> {
        let now = self.now.map(|(least, _)| least);
        now.into_iter().chain(self.before).min()
    }

    /// Records a round trip; `kept` is the length of an interval.
    pub(super) fn sample(&mut self, now: Instant, rtt: Duration, kept: Duration) {
        if self.get().is_none_or(|least| rtt <= least + least / CLOSE) {
            self.seen = Some(now);
        }
        match &mut self.now {
            Some((least, began)) if now < *began + kept => *least = rtt.min(*least),
            present => {
                self.before = present.map(|(least, _)| least);
                *present = Some((rtt, now));
            }
        }
    }

    /// Whether the last confirmation is so old that the sender should look for the least round
    /// trip.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.seen.is_some_and(|seen| now > seen + STALE)
    }

    /// The sender looks for it now.
    pub(super) fn look(&mut self, now: Instant) {
        self.seen = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Duration = Duration::from_secs(15);

    #[test]
    fn the_least_of_the_last_seconds_is_kept_and_then_forgotten() {
        let (t0, mut rtt) = (Instant::now(), LeastRtt::default());
        let ms = Duration::from_millis;
        assert_eq!(rtt.get(), None);
        for (second, sample, least) in
            [(0, 50, 50), (1, 40, 40), (14, 60, 40), (16, 60, 40), (29, 55, 40), (32, 60, 55)]
        {
            rtt.sample(t0 + Duration::from_secs(second), ms(sample), KEPT);
            assert_eq!(rtt.get(), Some(ms(least)), "after {second} s");
        }
    }

    #[test]
    fn ten_seconds_without_a_round_trip_close_to_the_least_make_it_stale() {
        let (t0, mut rtt) = (Instant::now(), LeastRtt::default());
        let s = |s| t0 + Duration::from_secs(s);
        rtt.sample(s(0), Duration::from_millis(40), KEPT);
        rtt.sample(s(8), Duration::from_millis(42), KEPT);
        rtt.sample(s(12), Duration::from_millis(60), KEPT);
        assert!(!rtt.is_stale(s(18)) && rtt.is_stale(s(19)));
        rtt.look(s(19));
        assert!(!rtt.is_stale(s(20)));
    }
}
