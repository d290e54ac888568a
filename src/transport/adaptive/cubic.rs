//! CUBIC's congestion avoidance (RFC 9438) from a given window: pure, time is an argument.
//!
//! noq's own implementation begins with slow start, and cannot begin with a given window.

use std::time::{Duration, Instant};

/// The part of the window that is left after congestion (RFC 9438, section 4.6).
const BETA: f64 = 0.7;

/// How fast the window grows, in packets per second cubed (section 5.1).
const C: f64 = 0.4;

/// The least window, in packets (section 4.6). Growth is divided by the window.
const LEAST: f64 = 2.0;

/// Windows are in packets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cubic {
    window: f64,
    /// The window at the last congestion, lowered if it shrinks from one congestion to the next.
    w_max: f64,
    /// The window that a Reno sender would have (section 4.3).
    w_est: f64,
    /// When the window was last set, and how long it takes from then to reach `w_max` (section 4.2), in
    /// seconds.
    epoch: Instant,
    k: f64,
}

impl Cubic {
    /// Begins with a window that has just caused congestion.
    pub(super) fn after_congestion_at(now: Instant, window: f64) -> Self {
        let mut cubic = Self::growing_to(now, window, 0.0);
        cubic.on_congestion(now);
        cubic
    }

    /// Begins with a window on its way to another one.
    pub(super) fn growing_to(now: Instant, window: f64, w_max: f64) -> Self {
        let window = window.max(LEAST);
        let k = ((w_max - window).max(0.0) / C).cbrt();
        Self { window, w_max, w_est: window, epoch: now, k }
    }

    /// The window, in packets.
    pub(super) fn window(&self) -> f64 {
        self.window
    }

    /// Packets were acknowledged while the window was the limit.
    pub(super) fn on_ack(&mut self, now: Instant, packets: f64, smoothed_rtt: Duration) {
        let since = now.saturating_duration_since(self.epoch);
        let at = |t: Duration| C * (t.as_secs_f64() - self.k).powi(3) + self.w_max;
        // Section 4.3, with α until the window before the congestion is reached.
        let alpha = if self.w_est < self.w_max { 3.0 * (1.0 - BETA) / (1.0 + BETA) } else { 1.0 };
        self.w_est += alpha * packets / self.window;
        if at(since) < self.w_est {
            self.window = self.window.max(self.w_est);
            return;
        }
        // Sections 4.4 and 4.5: towards where the curve is in a round trip, by half at most.
        let target = at(since + smoothed_rtt).clamp(self.window, 1.5 * self.window);
        self.window += (target - self.window) / self.window * packets;
    }

    /// Goes on after a time in which the window was not used: the curve begins where it is, as time alone must not
    /// make it steeper.
    pub(super) fn go_on(&mut self, now: Instant) {
        *self = Self::growing_to(now, self.window, self.w_max.max(self.window));
    }

    /// There was congestion. Call it once per round trip.
    pub(super) fn on_congestion(&mut self, now: Instant) {
        // Section 4.7: a flow whose window shrinks leaves room for others.
        let shrinks = self.window < self.w_max;
        let w_max = if shrinks { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        *self = Self::growing_to(now, BETA * self.window, w_max);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    /// A window's worth of acknowledgements in each round trip, until then.
    fn run(cubic: &mut Cubic, from: Instant, seconds: f64) -> Instant {
        let mut now = from;
        while now < from + Duration::from_secs_f64(seconds) {
            now += RTT;
            cubic.on_ack(now, cubic.window(), RTT);
        }
        now
    }

    #[test]
    fn after_k_it_is_at_the_window_before_and_then_grows_faster() {
        // K = ∛(400 · 0.3 / 0.4) = 6.7 s
        let t0 = Instant::now();
        let mut cubic = Cubic::after_congestion_at(t0, 400.0);
        assert!((cubic.window() - 280.0).abs() < 1e-9);
        let now = run(&mut cubic, t0, 6.7);
        assert!((cubic.window() - 400.0).abs() < 8.0, "{}", cubic.window());
        run(&mut cubic, now, 6.7);
        assert!(cubic.window() > 480.0, "{}", cubic.window());
    }

    #[test]
    fn a_pause_makes_it_grow_no_faster() {
        let t0 = Instant::now();
        let mut cubic = Cubic::growing_to(t0, 70.0, 70.0);
        let later = t0 + Duration::from_secs(6);
        cubic.go_on(later);
        run(&mut cubic, later, 1.0);
        // 0.4 packets after a second of the curve, and one in a round trip as a Reno sender; not 86 packets of six seconds.
        assert!(cubic.window() < 100.0, "{}", cubic.window());
    }

    #[test]
    fn on_a_short_path_it_grows_as_reno_does() {
        let t0 = Instant::now();
        let mut cubic = Cubic::after_congestion_at(t0, 10.0);
        run(&mut cubic, t0, 0.4);
        // Ten round trips: first at 0.53 packets each, and at one from the window before on.
        assert!((12.0..=15.0).contains(&cubic.window()), "{}", cubic.window());
    }

    #[test]
    fn a_window_that_shrinks_from_time_to_time_aims_lower() {
        let t0 = Instant::now();
        let mut cubic = Cubic::after_congestion_at(t0, 100.0);
        cubic.on_congestion(t0);
        assert!((cubic.window() - 49.0).abs() < 1e-9 && (cubic.w_max - 59.5).abs() < 1e-9);
    }

    proptest! {
        /// Each step: milliseconds since the one before, and packets that were acknowledged, or none: congestion.
        #[test]
        fn no_window_vanishes_or_grows_by_more_than_was_acknowledged(
            window in prop_oneof![Just(0.0), 0.0..10_000.0],
            goal in 0.0..10_000.0,
            steps in prop::collection::vec((0_u64..500, 0_u32..200), 1..300),
        ) {
            let mut now = Instant::now();
            let mut cubic = Cubic::growing_to(now, window, goal);
            for (ms, packets) in steps {
                now += Duration::from_millis(ms);
                let before = cubic.window();
                match packets {
                    0 => cubic.on_congestion(now),
                    packets => cubic.on_ack(now, packets.into(), RTT),
                }
                let most = before + f64::from(packets);
                prop_assert!((LEAST..=most.max(LEAST)).contains(&cubic.window()), "{before}, then {cubic:?}");
            }
        }
    }
}
