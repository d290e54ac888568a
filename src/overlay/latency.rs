//! The latency estimator of one link.

use std::time::Duration;

/// Weight of the old value in the smoothed round-trip time, in tenths.
///
/// 0.9 is the paper's (SOSP 2001, section 5.2). One outlier moves the estimate by a tenth of its
/// size, and after ten samples two thirds of the old value are gone.
const OLD_TENTHS: u32 = 9;

/// The longest round-trip time that counts: two minutes, the largest segment lifetime in use. A
/// longer one comes from a machine that slept while its probe was out.
const MAX_SAMPLE: Duration = Duration::from_secs(120);

/// The least round trip is that of the last 100 to 200 samples, the paper's window of probes, so
/// that it follows a path that has become longer.
const LEAST_OF: u32 = 100;

/// The bounds of the time-out of a probe.
///
/// Below 100 ms, late wake-ups of a busy machine look like loss. Above 3 s, the paper's fixed
/// time-out, an application gives up before the outage is found.
const TIMEOUT_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// The time-out before the first measurement: the initial retransmission time-out of RFC 6298. It
/// is above every terrestrial round trip, and shorter than the 3 s.
const INITIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The least allowance above the smoothed round-trip time: a path without any jitter must not lose
/// a probe to one late wake-up of the peer.
const MIN_SLACK: Duration = Duration::from_millis(50);

/// An exponentially weighted moving average of round-trip times, and their variation.
#[derive(Debug, Clone, Default)]
pub struct LatencyEstimator {
    smoothed: Option<Duration>,
    variation: Duration,
    /// The least of the present window of [`LEAST_OF`] samples, and of the previous one.
    least: [Option<Duration>; 2],
    samples: u32,
}

impl LatencyEstimator {
    /// Takes one round-trip time; the first one is the estimate.
    pub fn record(&mut self, sample: Duration) {
        let sample = sample.min(MAX_SAMPLE);
        if self.samples == LEAST_OF {
            self.least = [None, self.least[0]];
            self.samples = 0;
        }
        self.samples += 1;
        self.least[0] = Some(self.least[0].map_or(sample, |least| least.min(sample)));
        let Some(old) = self.smoothed else {
            self.smoothed = Some(sample);
            // RFC 6298, 2.2: with one sample, the variation is taken as half of it.
            self.variation = sample / 2;
            return;
        };
        // RFC 6298, 2.3: weight one quarter for the variation, from the estimate before this sample.
        self.variation = (self.variation * 3 + old.abs_diff(sample)) / 4;
        self.smoothed = Some((old * OLD_TENTHS + sample * (10 - OLD_TENTHS)) / 10);
    }

    /// The smoothed round-trip time; `None` before the first sample.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The least round-trip time lately, about that of empty queues; `None` before the first sample.
    #[must_use]
    pub fn least(&self) -> Option<Duration> {
        self.least.into_iter().flatten().min()
    }

    /// The smoothed mean deviation of the round-trip time (RFC 6298's RTTVAR).
    #[must_use]
    pub fn variation(&self) -> Duration {
        self.variation
    }

    /// When a probe counts as lost: srtt + max(4·variation, 50 ms), between 100 ms and 3 s; 1 s
    /// before the first sample.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        let Some(rtt) = self.smoothed else { return INITIAL_TIMEOUT };
        let (least, most) = TIMEOUT_BOUNDS;
        (rtt + (self.variation * 4).max(MIN_SLACK)).clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn the_first_sample_is_the_estimate_and_later_ones_weigh_a_tenth() {
        let mut latency = LatencyEstimator::default();
        assert_eq!(latency.rtt(), None);
        latency.record(ms(100));
        assert_eq!(latency.rtt(), Some(ms(100)));
        latency.record(ms(200));
        assert_eq!(latency.rtt(), Some(ms(110)));
    }

    #[test]
    fn the_timeout_is_bounded_on_both_sides() {
        let mut latency = LatencyEstimator::default();
        assert_eq!(latency.timeout(), INITIAL_TIMEOUT);
        latency.record(ms(1));
        assert_eq!(latency.timeout(), ms(100));
        let mut asleep = LatencyEstimator::default();
        asleep.record(Duration::MAX);
        assert_eq!(asleep.timeout(), Duration::from_secs(3));
    }

    #[test]
    fn a_steady_link_times_out_soon_after_its_round_trip() {
        let mut latency = LatencyEstimator::default();
        (0..50).for_each(|_| latency.record(ms(60)));
        assert_eq!(latency.timeout(), ms(110));
    }

    #[test]
    fn the_least_round_trip_is_remembered_for_one_to_two_hundred_samples() {
        let mut latency = LatencyEstimator::default();
        assert_eq!(latency.least(), None);
        latency.record(ms(60));
        (0..100).for_each(|_| latency.record(ms(110)));
        assert_eq!(latency.least(), Some(ms(60)));
        (0..100).for_each(|_| latency.record(ms(110)));
        assert_eq!(latency.least(), Some(ms(110)));
    }

    proptest! {
        #[test]
        fn the_estimate_stays_between_the_least_and_the_largest_sample(
            samples in prop::collection::vec(0u64..100_000, 1..200)
        ) {
            let mut latency = LatencyEstimator::default();
            samples.iter().for_each(|&s| latency.record(ms(s)));
            let rtt = latency.rtt().unwrap();
            prop_assert!(rtt + Duration::from_micros(1) >= ms(*samples.iter().min().unwrap()));
            prop_assert!(rtt <= ms(*samples.iter().max().unwrap()));
        }
    }
}
