//! What a lane's own packets say about the loss of the route beneath it: pure, time is an argument.
//!
//! Probes see one packet a second; a lane under load sees thousands. But congestion control loses
//! packets on purpose to find the path's rate: a slow start that overshoots may lose a third of a
//! round trip's packets on a perfectly clean path. Such bursts pass within a second, and a bad path
//! does not. So loss counts in windows of half a second, and only what persists is believed: the
//! least of the last three windows, or the mean of the last six without the worst two.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::overlay::units::LossRate;

/// Length of a window: some round trips, so that packets and their losses fall into the same one.
const WINDOW: Duration = Duration::from_millis(500);

/// A window with fewer packets stays open: one loss of ten says nothing.
const MIN_PACKETS: u64 = 40;

/// A window that did not fill within this time is dropped, and all before it: what they said is
/// too old by now.
const STALE: Duration = Duration::from_secs(5);

/// Windows whose least loss is believed: high loss is noticed after a second and a half.
const FEW: usize = 3;

/// Windows whose mean, without the worst two, is believed: low loss takes three
/// seconds.
const MANY: usize = 6;

/// Windows that bursts may spoil among [`MANY`].
const SPOILT: usize = 2;

/// After a reroute, losses of packets sent before it are still found for about this long.
const GRACE: Duration = Duration::from_secs(1);

/// Packets sent and lost since a lane began, as its QUIC connection counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) lost: u64,
    /// Packets of any kind that came in.
    pub(super) received: u64,
    pub(super) sent_bytes: u64,
    pub(super) lost_bytes: u64,
}

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(before.sent),
            lost: self.lost.saturating_sub(before.lost),
            received: self.received.saturating_sub(before.received),
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            lost_bytes: self.lost_bytes.saturating_sub(before.lost_bytes),
        }
    }

    fn loss(self) -> f64 {
        if self.sent == 0 { 0.0 } else { (self.lost as f64 / self.sent as f64).min(1.0) }
    }
}

/// One window that was just closed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Closed {
    /// What was counted in it.
    pub(super) counts: Counts,
    /// How long it was.
    pub(super) over: Duration,
    /// The loss that persists; `None` while there are too few windows.
    pub(super) sustained: Option<LossRate>,
}

/// Sustained outbound loss of the route in use.
#[derive(Debug)]
pub(super) struct Evidence {
    opened: Instant,
    at_opening: Counts,
    windows: VecDeque<Counts>,
}

impl Evidence {
    /// Starts counting now.
    pub(super) fn new(now: Instant, counts: Counts) -> Self {
        Self { opened: now, at_opening: counts, windows: VecDeque::new() }
    }

    /// Starts over on a new route.
    pub(super) fn rerouted(&mut self, now: Instant, counts: Counts) {
        *self = Self::new(now + GRACE, counts);
    }

    /// Looks at the counters; call it a few times per window.
    pub(super) fn look(&mut self, now: Instant, counts: Counts) -> Option<Closed> {
        let over = now.checked_duration_since(self.opened);
        let Some(over) = over else {
            self.at_opening = counts;
            return None;
        };
        if over < WINDOW {
            return None;
        }
        let window = counts.since(self.at_opening);
        if window.sent < MIN_PACKETS {
            if over >= STALE {
                *self = Self::new(now, counts);
            }
            return None;
        }
        self.windows.truncate(MANY - 1);
        self.windows.push_front(window);
        (self.opened, self.at_opening) = (now, counts);
        Some(Closed { counts: window, over, sustained: self.sustained() })
    }

    fn sustained(&self) -> Option<LossRate> {
        if self.windows.len() < FEW {
            return None;
        }
        let least = self.windows.iter().take(FEW).map(|w| w.loss()).fold(1.0, f64::min);
        Some(LossRate::new(least.max(self.mean_without_bursts())))
    }

    fn mean_without_bursts(&self) -> f64 {
        if self.windows.len() < MANY {
            return 0.0;
        }
        let mut windows: Vec<Counts> = self.windows.iter().copied().collect();
        windows.sort_by(|a, b| a.loss().total_cmp(&b.loss()));
        let kept = &windows[..MANY - SPOILT];
        let total = |of: fn(&Counts) -> u64| kept.iter().map(of).sum();
        Counts { sent: total(|w| w.sent), lost: total(|w| w.lost), ..Counts::default() }.loss()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds windows of (sent, lost) half a second apart; returns the last verdict.
    fn after(windows: impl IntoIterator<Item = (u64, u64)>) -> Option<f64> {
        let mut now = Instant::now();
        let mut counts = Counts::default();
        let mut evidence = Evidence::new(now, counts);
        let mut last = None;
        for (sent, lost) in windows {
            now += WINDOW;
            (counts.sent, counts.lost) = (counts.sent + sent, counts.lost + lost);
            last = evidence.look(now, counts).and_then(|closed| closed.sustained);
        }
        last.map(LossRate::fraction)
    }

    #[test]
    fn a_burst_on_a_clean_path_is_not_believed() {
        assert_eq!(after([(4000, 0), (4000, 1500), (4000, 900), (4000, 0)]), Some(0.0));
        let steady = std::iter::repeat_n((4000, 0), 6);
        assert_eq!(after(steady.chain([(4000, 1500), (4000, 900)])), Some(0.0));
    }

    #[test]
    fn high_loss_is_believed_after_three_windows_of_it() {
        let clean = || std::iter::repeat_n((4000, 0), 20);
        let lossy = |n| std::iter::repeat_n((400, 120), n);
        assert_eq!(after(clean().chain(lossy(2))), Some(0.0));
        assert_eq!(after(clean().chain(lossy(3))), Some(0.3));
    }

    #[test]
    fn low_loss_is_believed_when_it_lasts() {
        // Two in a hundred; by chance some windows lose nothing.
        let windows = [(75, 2), (75, 0), (75, 3), (75, 1), (75, 0), (75, 2), (75, 3), (75, 1)];
        let sustained = after(windows).unwrap();
        assert!((0.01..0.02).contains(&sustained), "{sustained}");
    }

    #[test]
    fn a_quiet_lane_says_nothing() {
        assert_eq!(after(std::iter::repeat_n((3, 1), 100)), None);
    }

    #[test]
    fn what_was_lost_on_the_old_route_is_not_held_against_the_new_one() {
        let t0 = Instant::now();
        let mut evidence = Evidence::new(t0, Counts::default());
        let mut counts = Counts { sent: 1000, ..Counts::default() };
        evidence.rerouted(t0, counts);
        (counts.sent, counts.lost) = (1100, 700);
        assert_eq!(evidence.look(t0 + GRACE / 2, counts), None);
        counts.sent += 4000;
        let closed = evidence.look(t0 + GRACE + WINDOW, counts).unwrap();
        assert_eq!(closed.counts.lost, 0);
    }
}
