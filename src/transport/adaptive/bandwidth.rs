//! The rate that a path delivers, the highest of the last rounds: pure, time is an argument.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::as_f64;

/// The bandwidth is the highest delivery rate of this many rounds: a cycle of probing, and a little more
/// (BBR's `BBRBandwidthFilterLen`).
pub(super) const BANDWIDTH_ROUNDS: usize = 10;

/// Where round trips vary by more than a round lasts, a rate is measured over the present round and up to so
/// many before: how much of it is acknowledged in a single round is chance.
const EARLIER_ROUNDS: usize = 3;

/// The bytes acknowledged so far in the present round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) now: Instant,
    /// When the round began.
    pub(super) began: Instant,
    pub(super) bytes: u64,
    /// The least round trip of the path.
    pub(super) least: Duration,
    /// The time within which all packets come that were sent at one moment.
    pub(super) spread: Duration,
}

/// The bandwidth of one direction of a lane, in bytes per second.
#[derive(Debug, Clone)]
pub(super) struct Bandwidth {
    /// The delivery rates of the last rounds, and their maximum.
    rates: [f64; BANDWIDTH_ROUNDS],
    next: usize,
    highest: f64,
    /// The delivery rate of the present round so far.
    so_far: f64,
    /// A rate that was not measured here, and for how many more rounds it is believed.
    assumed: (f64, usize),
    /// When the newest acknowledged packet was sent, now and at the beginning of the round.
    newest: Option<Instant>,
    newest_before: Option<Instant>,
    /// The last rounds that the application did not limit, the newest at the end.
    earlier: VecDeque<Past>,
}

/// A round that is over.
#[derive(Debug, Clone, Copy)]
struct Past {
    bytes: u64,
    began: Instant,
    newest_before: Option<Instant>,
}

impl Default for Bandwidth {
    fn default() -> Self {
        Self {
            rates: [0.0; BANDWIDTH_ROUNDS],
            next: 0,
            highest: 0.0,
            so_far: 0.0,
            assumed: (0.0, 0),
            newest: None,
            newest_before: None,
            earlier: VecDeque::with_capacity(EARLIER_ROUNDS),
        }
    }
}

impl Bandwidth {
    /// 0 before the first round.
    pub(super) fn get(&self) -> f64 {
        self.highest
    }

    /// The same, or the rate of the present round so far.
    pub(super) fn so_far(&self) -> f64 {
        self.highest.max(self.so_far)
    }

    /// Whether it was measured on this path.
    pub(super) fn is_measured(&self) -> bool {
        self.assumed.1 == 0 && self.highest > 0.0
    }

    /// Assumes this rate for this many rounds that the application does not limit.
    pub(super) fn assume(&mut self, rate: f64, rounds: usize) {
        self.assumed = (rate, rounds);
        self.highest = self.highest.max(rate);
    }

    /// A packet that was sent then is acknowledged.
    pub(super) fn acked(&mut self, sent: Instant) {
        self.newest = self.newest.max(Some(sent));
    }

    /// Takes notice of the present round's rate before its end.
    pub(super) fn look(&mut self, round: Sample) {
        self.so_far = self.so_far.max(self.rate(round));
    }

    /// The round is over.
    pub(super) fn end_round(&mut self, round: Sample, app_limited: bool) {
        let rate = self.rate(round);
        if app_limited {
            self.earlier.clear();
        } else {
            if self.earlier.len() == EARLIER_ROUNDS {
                self.earlier.pop_front();
            }
            let Sample { bytes, began, .. } = round;
            self.earlier.push_back(Past { bytes, began, newest_before: self.newest_before });
        }
        self.newest_before = self.newest;
        self.so_far = 0.0;
        if app_limited && rate < self.highest {
            return;
        }
        self.rates[self.next] = rate;
        self.next = (self.next + 1) % BANDWIDTH_ROUNDS;
        if !app_limited {
            self.assumed.1 = self.assumed.1.saturating_sub(1);
        }
        let assumed = if self.assumed.1 > 0 { self.assumed.0 } else { 0.0 };
        self.highest = self.rates.iter().copied().fold(assumed, f64::max);
    }

    /// A delivery rate (draft-cheng-iccrg-delivery-rate-estimation): neither faster than the packets were
    /// sent, nor than their acknowledgements came.
    fn rate(&self, round: Sample) -> f64 {
        let Sample { now, mut began, mut bytes, least, spread } = round;
        let mut before = self.newest_before;
        for past in self.earlier.iter().rev() {
            if now.saturating_duration_since(began) >= spread {
                break;
            }
            (bytes, began, before) = (bytes + past.bytes, past.began, past.newest_before);
        }
        let sending = self
            .newest
            .zip(before)
            .map_or(Duration::ZERO, |(newest, before)| newest.saturating_duration_since(before));
        let took = now.saturating_duration_since(began).max(least).max(sending);
        as_f64(bytes) / took.as_secs_f64().max(1e-6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The bandwidth after rounds of so many milliseconds, in each of which 1,000 bytes are acknowledged.
    fn after(rounds: &[u32], spread: Duration) -> f64 {
        let (mut now, mut bandwidth) = (Instant::now(), Bandwidth::default());
        for ms in rounds {
            let began = now;
            now += *ms * MS;
            bandwidth.acked(now - 10 * MS);
            let round = Sample { now, began, bytes: 1_000, least: MS, spread };
            bandwidth.end_round(round, false);
        }
        bandwidth.get()
    }

    #[test]
    fn a_short_round_counts_alone_only_where_round_trips_hardly_vary() {
        let rounds = [40, 40, 10, 70, 40];
        assert!((after(&rounds, 2 * MS) - 100_000.0).abs() < 1.0, "1,000 bytes in 10 ms");
        assert!((after(&rounds, 90 * MS) - 100_000.0 / 3.0).abs() < 1.0, "3,000 bytes in 90 ms");
    }
}
