//! How long to wait after `accept` failed, and when to say so. PURE: the caller tells the time.

use std::time::Duration;

use tokio::time::Instant;

/// First wait. Short: one descriptor closes every few milliseconds on a busy proxy.
const FIRST: Duration = Duration::from_millis(10);
/// Longest wait. A person who waits for a page notices more than a second.
const LONGEST: Duration = Duration::from_secs(1);
/// Silence between two warnings about the same trouble, so that it does not fill the disk too.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// Doubles the wait from failure to failure, and starts anew after a success.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Option<Duration>,
    warnings: WarnLimit,
}

/// Lets one warning through per interval.
#[derive(Debug, Default)]
pub(super) struct WarnLimit(Option<Instant>);

impl Backoff {
    /// `accept` failed: how long to wait, and whether to warn.
    pub(super) fn failed(&mut self, now: Instant) -> (Duration, bool) {
        let wait = self.last.map_or(FIRST, |last| (last * 2).min(LONGEST));
        self.last = Some(wait);
        (wait, self.warnings.allows(now))
    }

    /// `accept` succeeded.
    pub(super) fn succeeded(&mut self) {
        self.last = None;
    }
}

impl WarnLimit {
    /// Whether a warning at `now` is due; it counts as given.
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        let due = self.0.is_none_or(|last| now.duration_since(last) >= WARN_EVERY);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_wait_longer_up_to_a_second() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        let waits: Vec<_> = (0..9).map(|_| backoff.failed(now).0.as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        backoff.succeeded();
        assert_eq!(backoff.failed(now).0, FIRST);
    }

    #[test]
    fn one_interval_sees_one_warning() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        let warned = |backoff: &mut Backoff, after: u64| {
            backoff.failed(start + Duration::from_secs(after)).1
        };
        assert_eq!(
            [0, 1, 29, 30, 31, 60].map(|after| warned(&mut backoff, after)),
            [true, false, false, true, false, true]
        );
        backoff.succeeded();
        assert!(!warned(&mut backoff, 61), "a success between failures does not reset the silence");
    }
}
