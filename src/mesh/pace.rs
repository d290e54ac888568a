//! How many requests a neighbour may have passed on, or pass on to us. PURE: time is an argument.

use std::time::Instant;

/// Requests at once. An entry that comes back after an outage asks for one lane for each exit and hint
/// in use, and needs this way only to exits that it has no link to.
const BURST: f64 = 32.0;

/// Requests a second after that.
const PER_SECOND: f64 = 4.0;

/// The price of a request that its entry did not sign, or that is about another lane: no honest
/// neighbour passes one on, and checking it took a signature check.
const FAULT: f64 = 8.0;

/// The pace of one neighbour.
#[derive(Debug)]
pub(super) struct Pace {
    left: f64,
    counted: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { left: BURST, counted: None }
    }
}

impl Pace {
    /// Admits one request; false if the neighbour has to wait.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        self.refill(now);
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }

    /// Makes the neighbour pay for a request that was forged, if need be with what it gets later.
    pub(super) fn charge(&mut self, now: Instant) {
        self.refill(now);
        self.left -= FAULT;
    }

    fn refill(&mut self, now: Instant) {
        let passed = self.counted.map(|then| now.saturating_duration_since(then));
        self.counted = Some(self.counted.map_or(now, |then| then.max(now)));
        let gained = passed.unwrap_or_default().as_secs_f64() * PER_SECOND;
        self.left = (self.left + gained).min(BURST);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many requests are admitted of one each 10 ms for a minute.
    fn admitted(faulty: bool) -> usize {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let requests = (0..6000u64).filter(|i| {
            let now = start + Duration::from_millis(10 * i);
            let admitted = pace.admit(now);
            if admitted && faulty {
                pace.charge(now);
            }
            admitted
        });
        requests.count()
    }

    #[test]
    fn a_neighbour_is_held_to_its_pace_and_to_less_if_it_passes_on_forged_requests() {
        let (honest, forger) = (admitted(false), admitted(true));
        assert!((32..=32 + 242).contains(&honest), "{honest}");
        assert!((28..=34).contains(&forger), "{forger}");
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert!((0..32).all(|_| pace.admit(now)) && !pace.admit(now));
    }
}
