//! Decides when a controller that restarts on a new route may see acknowledgements. Pure: time is
//! an argument.
//!
//! BBR takes its first round trip from the connection's smoothed round-trip time (noq-proto 1.4.0,
//! `Bbr3::on_ack`), which is still that of the old route. The first answers also come on the old
//! route, until the far end follows. If the old route was faster, BBR keeps that route's least round
//! trip for ten seconds, and sends too little: two thirds of the rate that it had. So the controller
//! sees acknowledgements only after the far end had time to follow, and after the smoothed round-trip
//! time is that of the new route.

use std::time::{Duration, Instant};

/// The smoothed round-trip time counts as the new route's when it is within this part of the least
/// one seen. BBR empties a queue at nine tenths of the rate, so it reaches this.
const CLOSE: u32 = 32;

/// After so many round trips, acknowledgements count whatever the smoothed round-trip time is.
const MOST: u32 = 5;

/// Whether the far end had time to follow the reroute at `at` before it answered a packet. The
/// packet was sent at `sent` and has just been acknowledged.
pub(super) fn is_followed(at: Instant, now: Instant, sent: Instant) -> bool {
    sent >= at + now.saturating_duration_since(sent)
}

/// The condition for which a restarted controller waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct FirstRtt {
    began: Instant,
    /// The least round trip since the far end had the time to follow.
    least: Option<Duration>,
}

impl FirstRtt {
    /// For a controller that restarted at this time.
    pub(super) fn of_one_that_began(began: Instant) -> Self {
        Self { began, least: None }
    }

    /// Whether the controller may see the acknowledgement of a packet that was sent at `sent`.
    /// `smoothed` is then a round trip of the route in use.
    pub(super) fn is_known(
        &mut self,
        now: Instant,
        sent: Instant,
        smoothed: Option<Duration>,
    ) -> bool {
        if !is_followed(self.began, now, sent) {
            return false;
        }
        let sample = now.saturating_duration_since(sent);
        let least = self.least.map_or(sample, |least| least.min(sample));
        self.least = Some(least);
        let is_close = smoothed.is_none_or(|smoothed| smoothed + least / CLOSE >= least);
        is_close || now >= self.began + MOST * least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a controller that began at 0 takes notice of packets that were acknowledged then and took
    /// so long, while the smoothed round-trip time was that; all in milliseconds.
    fn ready(acknowledged: &[(u64, u64, u64)]) -> Vec<bool> {
        let (t0, ms) = (Instant::now(), Duration::from_millis);
        let mut first = FirstRtt::of_one_that_began(t0);
        let looks = acknowledged.iter();
        looks
            .map(|&(at, rtt, smoothed)| {
                first.is_known(t0 + ms(at), t0 + ms(at - rtt), Some(ms(smoothed)))
            })
            .collect()
    }

    #[test]
    fn answers_from_a_faster_route_are_not_the_first_round_trip() {
        let mixed = [(70, 70, 62), (80, 70, 63), (165, 80, 72), (170, 80, 75), (180, 80, 78)];
        assert_eq!(ready(&mixed), [false, false, false, false, true]);
    }

    #[test]
    fn on_a_shorter_route_two_round_trips_are_waited_for() {
        assert_eq!(ready(&[(60, 60, 80), (119, 60, 79), (120, 60, 79)]), [false, false, true]);
    }

    #[test]
    fn it_does_not_wait_for_ever() {
        let slow = [(200, 100, 20), (400, 100, 30), (500, 100, 30), (501, 100, 30)];
        assert_eq!(ready(&slow), [false, false, true, true]);
    }
}
