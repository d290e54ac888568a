//! The rates that routes carried while the lane was limited by its route and not by its
//! application.
//!
//! Round-trip time and loss predict a rate badly: a near relay may have a narrow line. So a
//! delivered rate counts more than a prediction. A lane does not leave a route on which it delivers
//! more than the other one ever carried. A [`Trial`] finds the rate of an untried route: the lane
//! sends on it for a moment, stays if it delivers half as much again, and otherwise returns. The
//! pauses between trials grow.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{MAX_ROUTES, Timing};
use crate::{flow::Route, overlay::units::Bitrate};

/// Windows in which the route must have been the limit before its rate counts: two seconds, because
/// slow start takes about one.
const WINDOWS: usize = 4;

/// Windows whose mean counts when the lane might leave the route for one that carried less: ten seconds. A burst of
/// loss is over by then.
const LASTING: usize = 20;

/// A route that is being tried.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    /// The route that was in use.
    pub(super) from: Route,
    /// Packets that were acknowledged on it, and in which time.
    before: (u64, Duration),
    /// When the far end's answers on the tried route are all of packets sent on it.
    counts_from: Instant,
    /// Packets acknowledged in all, at the looks of the last second.
    looks: VecDeque<(Instant, u64)>,
}

/// The outcome of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is not decided yet.
    Open,
    /// The tried route carries clearly more.
    Stay,
    /// It does not. It is `narrow`: it does not carry half as much.
    Return { narrow: bool },
}

impl Trial {
    /// A trial that begins at `now` on a route of this round-trip time. `before` it, so many packets
    /// were acknowledged in that time.
    pub(super) fn new(now: Instant, from: Route, rtt: Duration, before: (u64, Duration)) -> Self {
        Self { from, before, counts_from: now + 2 * rtt, looks: VecDeque::new() }
    }

    /// Packets acknowledged on the tried route in the last second, or what there is of it, and in which time.
    fn lately(&self) -> (u64, Duration) {
        let Some((first, last)) = self.looks.front().zip(self.looks.back()) else {
            return (0, Duration::ZERO);
        };
        (last.1.saturating_sub(first.1), last.0.saturating_duration_since(first.0))
    }

    /// The rate on the tried route at the last look, if it was `carried` on the one before.
    pub(super) fn rate(&self, carried: Bitrate) -> Bitrate {
        let ((before, over_before), (packets, over)) = (self.before, self.lately());
        let more = u128::from(carried.bps()) * u128::from(packets) * over_before.as_micros();
        let rate = more / (u128::from(before) * over.as_micros()).max(1);
        Bitrate::from_bps(u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// Judges the tried route by the packets `answered` so far.
    pub(super) fn judge(&mut self, now: Instant, timing: &Timing, answered: u64) -> Outcome {
        if now < self.counts_from {
            return Outcome::Open;
        }
        // The rate may still grow, so only the last second counts, or what there is of it.
        while self.looks.get(1).is_some_and(|(at, _)| now >= *at + timing.slow_tick) {
            self.looks.pop_front();
        }
        self.looks.push_back((now, answered));
        let lately = self.lately();
        if lately.1 < timing.tick {
            return Outcome::Open;
        }
        let (rate, before) = (a_second(lately), a_second(self.before));
        if rate >= before * timing.capacity_factor {
            return Outcome::Stay;
        }
        // A route that is far behind from the start is narrow. One that is close may be in slow
        // start, and one that falls behind later has a bad moment.
        let since = now.saturating_duration_since(self.counts_from);
        let begins = (2 * timing.tick..timing.slow_tick).contains(&since);
        let narrow = begins && rate < before / 2.0;
        let is_over = since >= timing.trial;
        if narrow || is_over { Outcome::Return { narrow } } else { Outcome::Open }
    }
}

/// So many packets in that time, as packets a second.
fn a_second((packets, over): (u64, Duration)) -> f64 {
    packets as f64 / over.as_secs_f64().max(1e-3)
}

/// What is known of a route's rate.
#[derive(Debug, Clone, Copy)]
struct Known {
    rate: Bitrate,
    at: Instant,
    /// The route carries no more, by a try that found it neither better nor narrow. It may carry more another time.
    at_most: bool,
}

/// Whether a try of a route may show more than is known of it. In the order in which routes are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// Nothing is known of it.
    Unknown,
    /// It was tried then, and turned out neither better nor narrow.
    Again(Instant),
    /// It is known what it carries.
    Nothing,
}

/// The rate of each route.
#[derive(Debug, Default)]
pub(super) struct Capacity {
    carried: BTreeMap<Route, Known>,
    /// The rates of the last windows on the route in use while the lane was limited by it, the newest first.
    now: VecDeque<Bitrate>,
    /// In the last window the application was the limit.
    paused: bool,
}

impl Capacity {
    /// A window on the route in use has ended. `delivered` is `None` where the application was the
    /// limit.
    pub(super) fn window(&mut self, now: Instant, route: &Route, delivered: Option<Bitrate>) {
        let Some(rate) = delivered else {
            // One such window is a pause of the sender.
            if std::mem::replace(&mut self.paused, true) {
                self.now.clear();
            }
            return;
        };
        self.paused = false;
        self.now.truncate(LASTING - 1);
        self.now.push_front(rate);
        if let Some(rate) = self.delivered() {
            self.learn(route, Known { rate, at: now, at_most: false });
        }
    }

    /// Keeps what is known of a route; where there are too many, instead of what is known longest.
    fn learn(&mut self, route: &Route, known: Known) {
        if self.carried.len() >= MAX_ROUTES && !self.carried.contains_key(route) {
            let oldest = self.carried.iter().min_by_key(|(_, known)| known.at);
            if let Some(oldest) = oldest.map(|(route, _)| route.clone()) {
                self.carried.remove(&oldest);
            }
        }
        self.carried.insert(route.clone(), known);
    }

    /// Another route is in use now, or the lane carries little.
    pub(super) fn begins_anew(&mut self) {
        self.now.clear();
    }

    /// Deletes the rate of `route`, because it failed since.
    pub(super) fn forget(&mut self, route: &Route) {
        self.carried.remove(route);
    }

    /// A trial has shown that `route` carries no more than `most`: what it carried, if it is `narrow`, else what the other
    /// one carries. It may carry more another time, then.
    pub(super) fn tried(&mut self, now: Instant, route: &Route, (most, narrow): (Bitrate, bool)) {
        self.learn(route, Known { rate: most, at: now, at_most: !narrow });
    }

    /// Whether a trial of `route` may show more than is known.
    pub(super) fn worth(&self, now: Instant, timing: &Timing, route: &Route) -> Worth {
        match self.carried.get(route).filter(|known| now < known.at + timing.memory) {
            None => Worth::Unknown,
            Some(known) if known.at_most => Worth::Again(known.at),
            Some(_) => Worth::Nothing,
        }
    }

    /// Whether the lane is limited by its route.
    pub(super) fn is_limited(&self) -> bool {
        self.now.len() >= WINDOWS
    }

    /// The rate of the lane while its route is the limit: the best of the last windows, and no less than in the long run.
    pub(super) fn delivered(&self) -> Option<Bitrate> {
        let best = self.now.iter().take(WINDOWS).max().copied()?;
        self.is_limited().then(|| best.max(self.mean()))
    }

    /// The mean rate of the last windows, or since the route is in use.
    fn mean(&self) -> Bitrate {
        let sum: u64 = self.now.iter().map(|rate| rate.bps()).sum();
        Bitrate::from_bps(sum / (self.now.len() as u64).max(1))
    }

    /// The recent rate of `route`.
    pub(super) fn carried(&self, now: Instant, timing: &Timing, route: &Route) -> Option<Bitrate> {
        let known = self.carried.get(route)?;
        (now < known.at + timing.memory).then_some(known.rate)
    }

    /// Whether `route` carried less than the lane delivers here. That counts from the first window on.
    pub(super) fn is_less(&self, now: Instant, timing: &Timing, route: &Route) -> bool {
        self.carried(now, timing, route).is_some_and(|carried| carried < self.mean())
    }

    /// Whether `route` carried enough more than the lane delivers now to justify a move.
    pub(super) fn is_more(&self, now: Instant, timing: &Timing, route: &Route) -> bool {
        let measured = self.carried.get(route).is_some_and(|known| !known.at_most);
        let carried = self.carried(now, timing, route).filter(|_| measured);
        carried.zip(self.delivered()).is_some_and(|(carried, delivered)| {
            carried.bps() as f64 >= delivered.bps() as f64 * timing.capacity_factor
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(capacity: &mut Capacity, now: Instant, route: &Route, mbit: u64) {
        for _ in 0..WINDOWS {
            capacity.window(now, route, Some(Bitrate::from_bps(mbit * 1_000_000)));
        }
    }

    #[test]
    fn a_rate_is_believed_after_two_seconds_at_the_limit() {
        let (mut capacity, t0) = (Capacity::default(), Instant::now());
        for n in 1..WINDOWS {
            capacity.window(t0, &Route::Direct, Some(Bitrate::from_bps(n as u64)));
            assert!(!capacity.is_limited());
        }
        capacity.window(t0, &Route::Direct, Some(Bitrate::from_bps(9)));
        assert_eq!(capacity.delivered(), Some(Bitrate::from_bps(9)));
        capacity.window(t0, &Route::Direct, None);
        assert!(capacity.is_limited(), "one pause is none");
        capacity.window(t0, &Route::Direct, None);
        assert!(!capacity.is_limited(), "the application is the limit");
    }

    #[test]
    fn the_route_that_carried_half_as_much_again_is_worth_a_move() {
        let (mut capacity, timing, t0) = (Capacity::default(), Timing::default(), Instant::now());
        let utah = Route::Via("utah".parse().unwrap());
        fill(&mut capacity, t0, &Route::Direct, 90);
        capacity.begins_anew();
        fill(&mut capacity, t0, &utah, 5);
        assert!(capacity.is_more(t0, &timing, &Route::Direct));
        assert!(!capacity.is_less(t0, &timing, &Route::Direct));
        capacity.begins_anew();
        fill(&mut capacity, t0, &Route::Direct, 80);
        assert!(capacity.is_less(t0, &timing, &utah));
        let later = t0 + timing.memory;
        assert!(!capacity.is_less(later, &timing, &utah), "forgotten");
    }

    /// What becomes of a trial after 1,000 packets a second, at `rate` packets a second.
    fn outcome(rate: u64) -> (u128, Outcome) {
        outcome_of(|ms| rate * ms / 1_000)
    }

    /// The same with so many packets after a time.
    fn outcome_of(answered: impl Fn(u64) -> u64) -> (u128, Outcome) {
        let (timing, t0) = (Timing::default(), Instant::now());
        let rtt = Duration::from_millis(50);
        let before = (500, Duration::from_millis(500));
        let mut trial = Trial::new(t0, Route::Direct, rtt, before);
        for ms in (0..10_000).step_by(50) {
            let now = t0 + Duration::from_millis(ms);
            let outcome = trial.judge(now, &timing, answered(ms));
            if outcome != Outcome::Open {
                return ((now - t0).as_millis(), outcome);
            }
        }
        panic!("no outcome")
    }

    #[test]
    fn a_trial_on_a_narrow_route_is_short() {
        let (ms, outcome) = outcome(50);
        assert_eq!(outcome, Outcome::Return { narrow: true });
        assert!(ms <= 650, "{ms}");
    }

    #[test]
    fn a_trial_on_a_wide_route_ends_at_once() {
        let (ms, outcome) = outcome(2_000);
        assert_eq!(outcome, Outcome::Stay);
        assert!(ms <= 400, "{ms}");
    }

    #[test]
    fn a_trial_on_an_equal_route_returns_after_its_time() {
        let (ms, outcome) = outcome(1_000);
        assert_eq!(outcome, Outcome::Return { narrow: false });
        assert!((3_000..3_300).contains(&ms), "{ms}");
    }

    #[test]
    fn a_trial_whose_rate_grows_is_judged_by_its_last_second() {
        // 900 packets a second at first, and 400 more in each.
        let (ms, outcome) = outcome_of(|ms| 900 * ms / 1_000 + 200 * ms * ms / 1_000_000);
        assert_eq!(outcome, Outcome::Stay);
        assert!((1_900..2_300).contains(&ms), "{ms}");
    }

    #[test]
    fn a_route_that_has_a_bad_moment_in_its_trial_is_not_narrow() {
        // 1,000 packets a second, but none for a second.
        let (ms, outcome) = outcome_of(|ms| ms.min(1_200).max(ms.saturating_sub(1_000)));
        assert_eq!(outcome, Outcome::Return { narrow: false });
        assert!((3_000..3_300).contains(&ms), "{ms}");
    }

    #[test]
    fn a_lane_stays_where_it_delivers_more_in_the_long_run() {
        let (mut capacity, timing, t0) = (Capacity::default(), Timing::default(), Instant::now());
        let utah = Route::Via("utah".parse().unwrap());
        let mbit = |mbit: u64| Bitrate::from_bps(mbit * 1_000_000);
        capacity.tried(t0, &utah, (mbit(10), false));
        capacity.window(t0, &Route::Direct, Some(mbit(40)));
        assert!(capacity.is_less(t0, &timing, &utah), "one window is enough");
        (0..LASTING / 4).for_each(|_| fill(&mut capacity, t0, &Route::Direct, 40));
        fill(&mut capacity, t0, &Route::Direct, 5);
        assert!(capacity.is_less(t0, &timing, &utah), "two bad seconds of ten");
        assert!(
            !capacity.is_more(t0, &timing, &utah),
            "what a route carries at most is no measurement"
        );
        (0..LASTING / 4).for_each(|_| fill(&mut capacity, t0, &Route::Direct, 5));
        assert!(!capacity.is_less(t0, &timing, &utah));
        capacity.tried(t0, &utah, (mbit(10), true));
        assert!(capacity.is_more(t0, &timing, &utah));
    }

    #[test]
    fn a_trial_tells_what_a_narrow_route_carries() {
        let (timing, t0) = (Timing::default(), Instant::now());
        let before = (500, Duration::from_millis(500));
        let mut trial = Trial::new(t0, Route::Direct, Duration::ZERO, before);
        let at = |ms| t0 + Duration::from_millis(ms);
        trial.judge(at(0), &timing, 0);
        assert_eq!(trial.judge(at(500), &timing, 50), Outcome::Return { narrow: true });
        assert_eq!(trial.rate(Bitrate::from_bps(1_000_000)), Bitrate::from_bps(100_000));
    }

    #[test]
    fn a_route_that_was_not_narrow_is_tried_again_after_the_others() {
        let (mut capacity, timing, t0) = (Capacity::default(), Timing::default(), Instant::now());
        let worth = |capacity: &Capacity, now| capacity.worth(now, &timing, &Route::Direct);
        let most = Bitrate::from_bps(1);
        assert_eq!(worth(&capacity, t0), Worth::Unknown);
        capacity.tried(t0, &Route::Direct, (most, false));
        assert_eq!(worth(&capacity, t0), Worth::Again(t0));
        assert!(Worth::Unknown < Worth::Again(t0));
        capacity.tried(t0, &Route::Direct, (most, true));
        assert_eq!(worth(&capacity, t0), Worth::Nothing);
        assert_eq!(worth(&capacity, t0 + timing.memory), Worth::Unknown, "forgotten");
        // What it carried is no guess.
        capacity.tried(t0, &Route::Direct, (most, false));
        fill(&mut capacity, t0, &Route::Direct, 1);
        assert_eq!(worth(&capacity, t0), Worth::Nothing);
    }

    #[test]
    fn routes_without_end_fill_no_more_than_the_cap() {
        let (mut capacity, t0) = (Capacity::default(), Instant::now());
        let timing = Timing::default();
        let via = |n: usize| Route::Via(format!("n{n}").parse().unwrap());
        for n in 0..2 * MAX_ROUTES {
            let now = t0 + Duration::from_secs(n as u64);
            fill(&mut capacity, now, &via(n), 1);
            capacity.tried(now, &via(n), (Bitrate::from_bps(1), false));
            assert!(capacity.carried.len() <= MAX_ROUTES);
            assert_eq!(capacity.worth(now, &timing, &via(n)), Worth::Again(now));
        }
        assert_eq!(capacity.carried.len(), MAX_ROUTES);
        assert_eq!(capacity.worth(t0, &timing, &via(0)), Worth::Unknown);
    }
}
