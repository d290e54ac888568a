//! The latency estimator of one link.

use std::time::Duration;

/// The average is that of all samples so far, and from so many on an exponentially weighted one: a new
/// sample weighs 1/32. The paper's weight of 0.1 (SOSP 2001, §5.2) has to follow changes of the path; here
/// two samples show them.
const AVERAGE_OF: u32 = 32;

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

/// Two samples in a row that both differ from the average by more than six times the mean deviation, and by
/// this, are a path that has changed: the average begins anew with them. One such sample is chance.
const STEP: Duration = Duration::from_millis(2);

/// The estimate is told anew when the average has left it by half the deviation, by this, and by a fortieth:
/// half of what routes need for a change.
const STEADY: Duration = Duration::from_micros(500);

/// An exponentially weighted moving average of round-trip times, and their variation.
///
/// The estimate is the average as it was when it last left the estimate by more than chance does: so it
/// stays the same on a steady path, however it jitters, and follows a path that changes within two samples.
#[derive(Debug, Clone, Default)]
pub struct LatencyEstimator {
    smoothed: Option<Duration>,
    steady: Option<Duration>,
    variation: Duration,
    /// The mean deviation over more samples: how far one is off by chance.
    deviation: Duration,
    /// Samples in the average since it began, at most [`AVERAGE_OF`].
    taken: u32,
    /// The last sample, if it was out of line and has not been taken into the average.
    odd: Option<Duration>,
    /// Of the samples since the last time that [`LEAST_OF`] were complete, and of those before.
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
            self.begin(sample, sample / 2);
            return;
        };
        let line = (self.deviation * 6).max(STEP);
        let is_odd = |sample: Duration| sample.abs_diff(old) > line;
        match self.odd.take() {
            Some(odd) if is_odd(sample) && (odd > old) == (sample > old) => {
                let variation = odd.abs_diff(sample) / 2;
                self.begin((odd + sample) / 2, variation.max(self.deviation));
            }
            odd => {
                odd.into_iter().for_each(|odd| self.average(odd));
                match is_odd(sample) {
                    true => self.odd = Some(sample),
                    false => self.average(sample),
                }
            }
        }
    }

    fn begin(&mut self, average: Duration, variation: Duration) {
        // RFC 6298, 2.2: with one sample, the variation is taken as half of it.
        (self.smoothed, self.steady) = (Some(average), Some(average));
        (self.variation, self.deviation) = (variation, variation);
        self.taken = 1;
    }

    fn average(&mut self, sample: Duration) {
        let old = self.smoothed.unwrap_or(sample);
        // RFC 6298, 2.3: weight one quarter for the variation, from the estimate before this sample.
        self.variation = (self.variation * 3 + old.abs_diff(sample)) / 4;
        self.taken = (self.taken + 1).min(AVERAGE_OF);
        self.deviation = (self.deviation * (self.taken - 1) + old.abs_diff(sample)) / self.taken;
        let smoothed = (old * (self.taken - 1) + sample) / self.taken;
        self.smoothed = Some(smoothed);
        let band = (self.deviation / 2).max(STEADY).max(smoothed / 40);
        if self.steady.is_none_or(|steady| steady.abs_diff(smoothed) > band) {
            self.steady = Some(smoothed);
        }
    }

    /// Whether the last sample was out of line, so that another one tells whether the path has changed.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        self.odd.is_some()
    }

    /// The estimate of the round-trip time; `None` before the first sample.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.steady
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
        let Some(rtt) = self.smoothed.max(self.odd) else { return INITIAL_TIMEOUT };
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

    /// An estimator of a path of 60 ms that jitters by up to 5 ms.
    fn of_60_ms() -> LatencyEstimator {
        let mut latency = LatencyEstimator::default();
        (0..200).for_each(|n| latency.record(ms(58 + n % 5)));
        latency
    }

    #[test]
    fn the_estimate_stays_the_same_on_a_path_that_jitters() {
        let mut latency = of_60_ms();
        let told = latency.rtt();
        assert!(told.unwrap().abs_diff(ms(60)) <= ms(2), "{told:?}");
        for n in 0..1_000 {
            latency.record(ms(58 + (n * 7) % 5));
            assert_eq!(latency.rtt(), told, "sample {n}");
        }
    }

    #[test]
    fn two_samples_show_that_the_path_has_changed_and_one_does_not() {
        for changed in [20, 90, 300] {
            let mut latency = of_60_ms();
            let told = latency.rtt();
            latency.record(ms(changed));
            assert_eq!((latency.rtt(), latency.is_unsure()), (told, true));
            latency.record(ms(changed + 2));
            assert_eq!((latency.rtt(), latency.is_unsure()), (Some(ms(changed + 1)), false));
        }
        let mut alone = of_60_ms();
        alone.record(ms(300));
        (0..3).for_each(|_| alone.record(ms(60)));
        assert!(!alone.is_unsure() && alone.rtt().unwrap() < ms(70), "{:?}", alone.rtt());
    }

    #[test]
    fn a_slow_change_is_told_in_steps() {
        let (mut latency, mut told) = (of_60_ms(), Vec::new());
        for n in 0..400 {
            latency.record(ms(60 + n / 10));
            told.extend(latency.rtt().filter(|rtt| told.last() != Some(rtt)));
        }
        assert!(told.len() <= 25 && told.last().unwrap() >= &ms(90), "{told:?}");
        assert!(told.is_sorted());
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
