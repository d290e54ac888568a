//! The throughput estimators: the paper's score, and the rate that lanes delivered.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::units::{Bitrate, LossRate, saturating_u64};

/// The least loss rate in the score: the paper's 2 % (SOSP 2001, section 5.2). Without it, a path
/// that lost none of 100 probes would look infinitely fast.
const LOSS_FLOOR: LossRate = LossRate::from_percent(2);

/// The least round-trip time in the score, so that the score is finite: a packet's time through two
/// kernels on one machine.
const RTT_FLOOR: Duration = Duration::from_micros(10);

/// The throughput score of the paper, √1.5 / (rtt·√p), in packets per 1,000 s; larger is better.
///
/// It is the rate of a Reno-like TCP in packets/s (Padhye's simplified form), used to compare
/// paths, not to predict a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThroughputScore(u64);

impl ThroughputScore {
    /// The score of a path with round-trip time `rtt` and loss rate `loss`, floored at 2 %.
    #[must_use]
    pub fn of(rtt: Duration, loss: LossRate) -> Self {
        let loss = loss.max(LOSS_FLOOR).fraction();
        let rtt = rtt.max(RTT_FLOOR).as_secs_f64();
        Self(saturating_u64(1000.0 * 1.5_f64.sqrt() / (rtt * loss.sqrt())))
    }

    /// The score in packets per second.
    #[must_use]
    pub fn packets_per_second(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// A number that is smaller for a better score.
    pub(super) fn descending(self) -> u64 {
        u64::MAX - self.0
    }
}

impl fmt::Display for ThroughputScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} packet/s", self.packets_per_second())
    }
}

/// How long a delivered rate is remembered. BBR's bandwidth window is ten round trips, at most a
/// few seconds. Ten seconds bridge the pauses of a page load, and are short enough for a path that
/// changes.
const MEMORY: Duration = Duration::from_secs(10);

/// The shortest time over which a rate is computed. Over less, one GRO batch looks like 10 Gbit/s.
const MIN_SPAN: Duration = Duration::from_millis(20);

/// The largest delivered rate of the last 10 to 20 s.
///
/// A lane sends only what its applications offer, so this is a lower bound of the link's rate.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeliveredRate {
    /// The maxima of the current period and of the one before it.
    current: Option<(Instant, Bitrate)>,
    previous: Option<(Instant, Bitrate)>,
}

impl DeliveredRate {
    /// Takes `bytes` acknowledged within `over`. Spans under 20 ms are ignored.
    pub fn record(&mut self, now: Instant, bytes: u64, over: Duration) {
        let Some(rate) = Bitrate::from_bytes(bytes, over.max(MIN_SPAN)) else { return };
        if over < MIN_SPAN || bytes == 0 {
            return;
        }
        match &mut self.current {
            Some((start, best)) if now.saturating_duration_since(*start) < MEMORY => {
                *best = rate.max(*best);
            }
            _ => {
                self.previous = self.current;
                self.current = Some((now, rate));
            }
        }
    }

    /// The largest rate remembered; `None` when no data was carried lately.
    #[must_use]
    pub fn rate(&self, now: Instant) -> Option<Bitrate> {
        [self.current, self.previous]
            .into_iter()
            .flatten()
            .filter(|(start, _)| now.saturating_duration_since(*start) < MEMORY * 2)
            .map(|(_, rate)| rate)
            .max()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_score_is_the_papers_formula() {
        // √1.5 / (0.1 s · √0.04) = 61.2 packets/s.
        let score = ThroughputScore::of(Duration::from_millis(100), LossRate::from_percent(4));
        assert!((score.packets_per_second() - 61.237).abs() < 0.01, "{score}");
    }

    #[test]
    fn loss_under_two_percent_makes_no_difference() {
        let rtt = Duration::from_millis(60);
        let clean = ThroughputScore::of(rtt, LossRate::ZERO);
        assert_eq!(clean, ThroughputScore::of(rtt, LossRate::from_percent(2)));
        assert!(clean > ThroughputScore::of(rtt, LossRate::from_percent(3)));
    }

    #[test]
    fn the_delivered_rate_is_the_recent_maximum_and_is_forgotten() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut delivered = DeliveredRate::default();
        assert_eq!(delivered.rate(start), None);
        delivered.record(start, 1_000_000, second);
        delivered.record(start + second, 10, second);
        delivered.record(start + second, 1_000_000, Duration::from_micros(1));
        assert_eq!(delivered.rate(start + second), Some(Bitrate::from_kbps(8000)));
        delivered.record(start + MEMORY, 1000, second);
        assert_eq!(delivered.rate(start + MEMORY), Some(Bitrate::from_kbps(8000)));
        assert_eq!(delivered.rate(start + MEMORY * 2), Some(Bitrate::from_kbps(8)));
        assert_eq!(delivered.rate(start + MEMORY * 4), None);
    }

    proptest! {
        #[test]
        fn a_longer_or_lossier_path_never_scores_better(
            rtt in 0u64..10_000_000, more in 0u64..10_000_000, loss in 0.0f64..1.0, worse in 0.0f64..1.0
        ) {
            let base = ThroughputScore::of(Duration::from_micros(rtt), LossRate::new(loss));
            let longer = ThroughputScore::of(Duration::from_micros(rtt + more), LossRate::new(loss));
            let lossier =
                ThroughputScore::of(Duration::from_micros(rtt), LossRate::new(loss + worse));
            prop_assert!(longer <= base && lossier <= base);
        }
    }
}
