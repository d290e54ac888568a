//! The loss of the route in use, by the lane's own packets.
//!
//! Probes are about one packet a second; a lane under load has thousands. But congestion control
//! causes losses to find the path's rate: a slow start that overshoots may lose a third of a round
//! trip's packets on a clean path, for two seconds. Such losses come with a full queue, which shows
//! in the round-trip time, or end within a second. Losses of a bad path do neither. So loss is
//! counted in windows of half a second, and only sustained loss counts: the least of the last three
//! windows, or the mean of the last six without the worst two. A packet does not count there if it was lost
//! while the packets that arrived waited in a queue. The least loss of ten seconds counts with any
//! queue, because by then the queue is not the lane's own.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Timing;
use crate::overlay::units::LossRate;

/// Windows whose least loss counts: high loss is found after a second and a half.
const FEW: usize = 3;

/// Windows whose mean, without the worst third, counts: low loss is found after three seconds.
const MANY: usize = 2 * FEW;

/// Windows whose least loss counts with a full queue: a congestion controller finds the path's rate
/// in a fraction of this time.
const LONG: usize = 20;

/// Packets sent and lost since a lane began, as its QUIC connection counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Packets sent, without probes for a larger packet size.
    pub sent: u64,
    /// Those of them that were lost.
    pub lost: u64,
    /// Those of these that were lost while others waited in a queue.
    pub lost_in_queue: u64,
    /// Packets of any kind that came in.
    pub received: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes lost.
    pub lost_bytes: u64,
}

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(before.sent),
            lost: self.lost.saturating_sub(before.lost),
            lost_in_queue: self.lost_in_queue.saturating_sub(before.lost_in_queue),
            received: self.received.saturating_sub(before.received),
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            lost_bytes: self.lost_bytes.saturating_sub(before.lost_bytes),
        }
    }

    fn loss(self) -> f64 {
        if self.sent == 0 { 0.0 } else { (self.lost as f64 / self.sent as f64).min(1.0) }
    }

    /// Without the loss that congestion probably caused.
    fn without_congestion(self) -> Self {
        Self { lost: self.lost.saturating_sub(self.lost_in_queue), ..self }
    }
}

/// Round trips on the route in use, since they were last taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Trips {
    /// The smallest; `None` without one.
    pub least: Option<Duration>,
    /// How many there were, one for each acknowledgement.
    pub all: u64,
    /// How many of them came while the congestion window, not the application, was the limit.
    pub limited: u64,
}

impl Trips {
    fn add(&mut self, more: Self) {
        self.least = match (self.least, more.least) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.all += more.all;
        self.limited += more.limited;
    }

    fn mostly_limited(self) -> bool {
        2 * self.limited > self.all
    }
}

/// One window that was just closed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Closed {
    /// Its counts.
    pub(super) counts: Counts,
    /// The least round trip in it.
    pub(super) least_rtt: Option<Duration>,
    /// Whether the congestion window was the limit, not the application.
    pub(super) limited: bool,
    /// How long it was.
    pub(super) over: Duration,
    /// The loss that persists; `None` while there are too few windows.
    pub(super) sustained: Option<LossRate>,
}

/// Sustained outbound loss of the route in use.
#[derive(Debug)]
pub(super) struct Loss {
    opened: Instant,
    at_opening: Counts,
    trips: Trips,
    windows: VecDeque<Counts>,
    quiet: bool,
}

impl Loss {
    /// Starts counting now.
    pub(super) fn new(now: Instant, counts: Counts) -> Self {
        let (trips, windows) = (Trips::default(), VecDeque::new());
        Self { opened: now, at_opening: counts, trips, windows, quiet: false }
    }

    /// Whether the lane sends too little to measure the loss. It is known a few seconds after a move.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Starts over on a new route, when the losses of packets sent before have been found.
    pub(super) fn rerouted(&mut self, now: Instant, timing: &Timing, counts: Counts) {
        *self = Self::new(now + timing.longest_answer, counts);
    }

    /// Takes the counters, and the round trips since the last call. Call it a few times per window.
    pub(super) fn look(
        &mut self,
        now: Instant,
        timing: &Timing,
        counts: Counts,
        trips: Trips,
    ) -> Option<Closed> {
        let Some(over) = now.checked_duration_since(self.opened) else {
            self.at_opening = counts;
            return None;
        };
        self.trips.add(trips);
        if over < timing.loss_window {
            return None;
        }
        let window = counts.since(self.at_opening);
        if window.sent < timing.loss_packets && window.lost < timing.loss_many {
            if over >= timing.loss_stale {
                *self = Self { quiet: true, ..Self::new(now, counts) };
            }
            return None;
        }
        self.quiet = false;
        let trips = std::mem::take(&mut self.trips);
        self.windows.truncate(LONG - 1);
        self.windows.push_front(window);
        (self.opened, self.at_opening) = (now, counts);
        Some(Closed {
            counts: window,
            least_rtt: trips.least,
            limited: trips.mostly_limited(),
            over,
            sustained: self.sustained(),
        })
    }

    fn sustained(&self) -> Option<LossRate> {
        if self.windows.len() < FEW {
            return None;
        }
        let few = self.windows.iter().take(FEW);
        let least = few.map(|window| window.without_congestion().loss()).fold(1.0, f64::min);
        let believed = [least, self.mean_without_bursts(), self.least_of_long()];
        Some(LossRate::new(believed.into_iter().fold(0.0, f64::max)))
    }

    fn mean_without_bursts(&self) -> f64 {
        if self.windows.len() < MANY {
            return 0.0;
        }
        let windows = self.windows.iter().take(MANY);
        let mut windows: Vec<_> = windows.map(|window| window.without_congestion()).collect();
        windows.sort_by(|a, b| a.loss().total_cmp(&b.loss()));
        let kept = &windows[..MANY - MANY / 3];
        let sent: u64 = kept.iter().map(|window| window.sent).sum();
        let lost: u64 = kept.iter().map(|window| window.lost).sum();
        Counts { sent, lost, ..Counts::default() }.loss()
    }

    fn least_of_long(&self) -> f64 {
        if self.windows.len() < LONG {
            return 0.0;
        }
        self.windows.iter().map(|window| window.loss()).fold(1.0, f64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds windows of (sent, lost) half a second apart; returns the last verdict.
    fn after(windows: impl IntoIterator<Item = (u64, u64)>) -> Option<f64> {
        after_queued(windows.into_iter().map(|(sent, lost)| (sent, lost, false)))
    }

    /// The same of (sent, lost, whether in a queue).
    fn after_queued(windows: impl IntoIterator<Item = (u64, u64, bool)>) -> Option<f64> {
        let mut now = Instant::now();
        let mut counts = Counts::default();
        let mut loss = Loss::new(now, counts);
        let mut last = None;
        for (sent, lost, queued) in windows {
            now += Timing::default().loss_window;
            (counts.sent, counts.lost) = (counts.sent + sent, counts.lost + lost);
            counts.lost_in_queue += if queued { lost } else { 0 };
            let closed = loss.look(now, &Timing::default(), counts, Trips::default());
            last = closed.and_then(|closed| closed.sustained);
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
    fn a_slow_start_that_overflows_the_queue_is_not_believed() {
        // As measured between processes: 100 Mbit/s, 80 ms, a queue of 50 ms.
        let begins = [(650, 205, false), (3667, 95, false), (5057, 1330, true), (4271, 711, true)];
        let drains = [(3798, 240, false), (4300, 0, false), (4300, 3, false)];
        for n in 3..=7 {
            let windows = begins.into_iter().chain(drains).take(n);
            let believed = after_queued(windows).unwrap_or_default();
            assert!(believed < 0.006, "{believed} after {n} windows");
        }
    }

    #[test]
    fn endless_loss_in_a_full_queue_is_believed() {
        let congested = |n| std::iter::repeat_n((4000, 120, true), n);
        assert_eq!(after_queued(congested(LONG - 1)), Some(0.0));
        assert_eq!(after_queued(congested(LONG)), Some(0.03));
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
    fn high_loss_shows_in_few_packets() {
        assert_eq!(after(std::iter::repeat_n((20, 6), 3)), Some(0.3));
        assert_eq!(after(std::iter::repeat_n((20, 5), 3)), None, "they make one window and a half");
    }

    #[test]
    fn a_quiet_lane_says_nothing() {
        assert_eq!(after(std::iter::repeat_n((3, 0), 100)), None);
        assert_eq!(after((0..100).map(|n| (2, n % 2))), None, "five lost in five seconds");
    }

    #[test]
    fn losses_on_the_old_route_do_not_count_on_the_new_one() {
        let t0 = Instant::now();
        let mut loss = Loss::new(t0, Counts::default());
        let mut counts = Counts { sent: 1000, ..Counts::default() };
        let (timing, none) = (Timing::default(), Trips::default());
        loss.rerouted(t0, &timing, counts);
        (counts.sent, counts.lost) = (1100, 700);
        assert_eq!(loss.look(t0 + timing.longest_answer / 2, &timing, counts, none), None);
        counts.sent += 4000;
        let later = t0 + timing.longest_answer + timing.loss_window;
        let closed = loss.look(later, &timing, counts, none).unwrap();
        assert_eq!(closed.counts.lost, 0);
    }
}
