//! The clock against which dates of certificates are checked.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rustls::time_provider::TimeProvider;
use tokio::time::Instant;

use super::UnixTime;

/// A clock with at least this difference is reported as wrong. Certificates are backdated by an
/// hour, so a smaller difference does no harm. NTP keeps clocks within a second.
pub const TOLERATED_SKEW: Duration = Duration::from_secs(300);

/// The wall clock of a node: the system's, or one that a lab set.
///
/// It is used for dates of certificates only. Timers use the monotonic clock.
#[derive(Clone, Default)]
pub struct Clock {
    lab: Option<Lab>,
    /// Seconds that the clock is wrong by; 0 outside of tests.
    wrong_by: Arc<AtomicI64>,
}

#[derive(Clone, Copy)]
struct Lab {
    start: UnixTime,
    since: Instant,
    rate: u32,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that shows `start` now, and advances `rate` seconds in one of tokio's. With virtual
    /// time and a rate above 1, a test of weeks is short.
    #[must_use]
    pub fn in_lab(start: UnixTime, rate: u32) -> Self {
        let lab = Lab { start, since: Instant::now(), rate };
        Self { lab: Some(lab), wrong_by: Arc::default() }
    }

    /// Another machine's clock. It runs like this one, and can be set independently.
    #[must_use]
    pub fn of_another_machine(&self) -> Self {
        Self { lab: self.lab, wrong_by: Arc::default() }
    }

    /// Sets the clock wrong by this many seconds: ahead if positive.
    pub fn set_wrong_by(&self, seconds: i64) {
        self.wrong_by.store(seconds, Ordering::Relaxed);
    }

    /// What the clock shows.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        let right = match self.lab {
            None => UnixTime::now().as_secs(),
            Some(lab) => lab.start.as_secs() + (lab.since.elapsed() * lab.rate).as_secs(),
        };
        let wrong_by = self.wrong_by.load(Ordering::Relaxed);
        UnixTime::since_unix_epoch(Duration::from_secs(right.saturating_add_signed(wrong_by)))
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now().as_secs())
    }
}

/// How this machine's clock compares with another, in a sentence's words: `3 days behind` or
/// `2 h ahead of`. `seconds` is positive if this machine's is ahead. `None` when they agree
/// within [`TOLERATED_SKEW`].
#[must_use]
pub fn skew_in_words(seconds: i64) -> Option<String> {
    let size = seconds.unsigned_abs();
    if size < TOLERATED_SKEW.as_secs() {
        return None;
    }
    let amount = match size {
        0..7200 => format!("{} min", size / 60),
        7200..172_800 => format!("{} h", size / 3600),
        _ => format!("{} days", size / 86_400),
    };
    Some(format!("{amount} {}", if seconds > 0 { "ahead of" } else { "behind" }))
}

/// The difference of two clocks in seconds: positive if `ours` is ahead of `theirs`.
#[must_use]
pub fn skew(ours: UnixTime, theirs: u64) -> i64 {
    let ahead = i128::from(ours.as_secs()) - i128::from(theirs);
    i64::try_from(ahead).unwrap_or(if ahead > 0 { i64::MAX } else { i64::MIN })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_support::{NOW, after};

    #[tokio::test(start_paused = true)]
    async fn a_lab_clock_has_a_rate_and_an_offset() {
        let clock = Clock::in_lab(NOW, 1000);
        let other = clock.of_another_machine();
        other.set_wrong_by(-3600);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(clock.now(), after(10_000));
        assert_eq!(other.now(), after(10_000 - 3600));
    }

    #[test]
    fn a_wrong_clock_is_told_by_how_much_and_a_small_difference_is_not() {
        assert_eq!(skew_in_words(299), None);
        assert_eq!(skew_in_words(-299), None);
        assert_eq!(skew_in_words(-3 * 86_400).unwrap(), "3 days behind");
        assert_eq!(skew_in_words(3 * 3600).unwrap(), "3 h ahead of");
        assert_eq!(skew_in_words(600).unwrap(), "10 min ahead of");
        assert_eq!(skew(NOW, u64::MAX), i64::MIN);
        assert_eq!(skew(after(5), NOW.as_secs()), 5);
    }
}
