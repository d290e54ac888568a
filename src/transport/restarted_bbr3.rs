//! BBR3 as it begins anew in the middle of a connection.
//!
//! BBR takes its first round trip from the connection's smoothed round-trip time (noq-proto 1.4.0,
//! `Bbr3::on_ack`), which is still that of the route before; and the first answers come on that route, until
//! the far end follows. Where it was faster, BBR believes for ten seconds in a least round trip that
//! the new route never reaches, and lowers its rate in vain until so little is in flight: to two
//! thirds. So it learns of acknowledgements only once the far end has had the time to follow, and the
//! smoothed round-trip time has become the new route's.

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use noq::congestion::{Bbr3Config, Controller, ControllerFactory, ControllerMetrics};
use noq_proto::RttEstimator;

/// The smoothed round-trip time counts as the new route's when it is short of the least one seen by no
/// more than this part of it. BBR empties a queue at nine tenths of the rate, so it gets that far.
const CLOSE: u32 = 32;

/// After so many round trips, acknowledgements count whatever the smoothed round-trip time is.
const MOST: u32 = 5;

/// Makes BBR3 controllers that may begin at any time.
#[derive(Debug, Default)]
pub(super) struct RestartedBbr3(Arc<Bbr3Config>);

impl ControllerFactory for RestartedBbr3 {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Restarted {
            inner: self.0.clone().build(now, current_mtu),
            began: now,
            least: None,
            ready: false,
        })
    }
}

#[derive(Debug)]
struct Restarted {
    inner: Box<dyn Controller>,
    began: Instant,
    /// The least round trip since the far end had the time to follow.
    least: Option<Duration>,
    ready: bool,
}

impl Restarted {
    /// Whether the controller may take `smoothed` for a round trip of the route in use, on which a packet
    /// has just taken `sample`.
    fn is_ready(&mut self, now: Instant, sample: Duration, smoothed: Duration) -> bool {
        if now < self.began + 2 * sample {
            return false;
        }
        let least = self.least.map_or(sample, |least| least.min(sample));
        self.least = Some(least);
        self.ready |= smoothed + least / CLOSE >= least || now >= self.began + MOST * least;
        self.ready
    }
}

impl Controller for Restarted {
    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        let sample = now.saturating_duration_since(sent);
        if self.ready || self.is_ready(now, sample, rtt.get()) {
            self.inner.on_ack(now, sent, bytes, pn, app_limited, rtt);
        }
    }

    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.inner.on_sent(now, bytes, largest_pn);
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.inner.on_packet_sent(now, bytes, pn);
    }

    fn on_cwnd_limited(&mut self) {
        self.inner.on_cwnd_limited();
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        is_ecn: bool,
        lost_bytes: u64,
        largest_lost_pn: u64,
    ) {
        self.inner.on_congestion_event(
            now,
            sent,
            is_persistent_congestion,
            is_ecn,
            lost_bytes,
            largest_lost_pn,
        );
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.inner.on_packet_lost(lost_bytes, pn, now);
    }

    fn on_spurious_congestion_event(&mut self) {
        self.inner.on_spurious_congestion_event();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn on_ack_frequency_update(&mut self, threshold: u64, max_ack_delay: Duration) {
        self.inner.on_ack_frequency_update(threshold, max_ack_delay);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            began: self.began,
            least: self.least,
            ready: self.ready,
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.inner.into_any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a controller that began at 0 takes notice of packets that were acknowledged then and took
    /// so long, while the smoothed round-trip time was that; all in milliseconds.
    fn ready(acknowledged: &[(u64, u64, u64)]) -> Vec<bool> {
        let (t0, ms) = (Instant::now(), Duration::from_millis);
        let inner = Arc::new(Bbr3Config::default()).build(t0, 1_200);
        let mut restarted = Restarted { inner, began: t0, least: None, ready: false };
        let looks = acknowledged.iter();
        looks
            .map(|&(at, rtt, smoothed)| restarted.is_ready(t0 + ms(at), ms(rtt), ms(smoothed)))
            .collect()
    }

    #[test]
    fn what_the_far_end_answered_on_a_faster_route_and_a_mean_with_such_answers_are_no_measure() {
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
