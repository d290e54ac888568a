//! Tests of the congestion controller that knows of reroutes.

use noq::congestion::CubicConfig;

use super::*;

const RTT: Duration = Duration::from_millis(60);

fn cubic() -> (Arc<RerouteMark>, RouteAware, Instant) {
    of_kind(OnReroute::Keeps)
}

fn of_kind(on_reroute: OnReroute) -> (Arc<RerouteMark>, RouteAware, Instant) {
    let (mark, now) = (Arc::new(RerouteMark::new(Arc::default())), Instant::now());
    let kind = Kind::Other(Arc::new(CubicConfig::default()));
    let routes = RoutesTo { memory: Arc::default(), peer: "mit".parse().unwrap() };
    let factory = RouteAwareFactory { mark: mark.clone(), kind, on_reroute, routes };
    (mark, factory.make(now, 1_200), now)
}

/// As QUIC tells of a packet's loss.
fn lose(controller: &mut RouteAware, now: Instant, sent: Instant, pn: u64) {
    controller.on_packet_lost(1_200, pn, now);
    controller.on_congestion_event(now, sent, false, false, 1_200, pn);
}

#[test]
fn a_ping_leaves_however_much_is_in_flight_on_a_dead_route() {
    let (mark, mut controller, now) = cubic();
    let in_flight = 200 * 1_200;
    (0..200).for_each(|pn| controller.on_packet_sent(now, 1_200, pn));
    assert!(controller.window() < in_flight, "the window is full");
    mark.urge();
    assert!(controller.window() >= in_flight + 1_443);
    (200..203).for_each(|pn| controller.on_packet_sent(now, 1_200, pn));
    assert!(controller.window() < in_flight, "and that was all");
    mark.rerouted(now, 1, None);
    assert!(controller.window() >= in_flight + 30 * 1_443);
}

#[test]
fn answers_from_a_faster_route_do_not_set_the_least_rtt_of_this_one() {
    let (mark, mut controller, t0) = cubic();
    let ms = |ms| t0 + Duration::from_millis(ms);
    let mut answer = |pn, sent, rtt| {
        controller.on_packet_sent(ms(sent), 1_200, pn);
        controller.answered(ms(sent + rtt), ms(sent));
        mark.least_rtt()
    };
    assert_eq!(answer(0, 0, 60), Some(RTT));
    mark.rerouted(ms(100), 1, None);
    assert_eq!(answer(1, 101, 70), Some(Duration::from_millis(70)));
    assert_eq!(answer(2, 180, 80), Some(Duration::from_millis(80)));
    assert_eq!(answer(3, 190, 79), Some(Duration::from_millis(79)));
}

#[test]
fn a_controller_with_a_least_rtt_starts_again_on_a_longer_route() {
    let longer = OnReroute::RestartsIfLonger;
    for (kind, rtt, anew) in [
        (longer, 80, true),
        (longer, 61, false),
        (longer, 40, false),
        (OnReroute::Keeps, 80, false),
    ] {
        let (mark, mut controller, t0) = of_kind(kind);
        let initial = controller.inner.window(0);
        controller.on_packet_sent(t0, 1_200, 0);
        controller.answered(t0 + RTT, t0);
        lose(&mut controller, t0 + RTT, t0, 0);
        assert!(controller.inner.window(0) < initial);
        mark.rerouted(t0 + RTT, 1, Some(Duration::from_millis(rtt)));
        mark.rerouted(t0 + RTT, 2, Some(RTT));
        controller.on_packet_sent(t0 + RTT, 1_200, 1);
        assert_eq!(controller.inner.window(0) == initial, anew, "{kind:?}, {rtt} ms");
    }
}

#[test]
fn a_window_that_losses_made_small_does_not_hold_back_a_ping() {
    assert_eq!(pace(2_400, RTT, Some(RTT)), Some(LEAST_PACING));
    assert_eq!(pace(2_400, RTT, None), Some(LEAST_PACING));
}

#[test]
fn answers_after_an_outage_do_not_set_the_pace() {
    let misled = Duration::from_secs(2);
    assert_eq!(pace(60_000, misled, Some(RTT)), Some(1_250_000));
}

#[test]
fn otherwise_the_pace_is_left_to_quic() {
    assert_eq!(pace(60_000, RTT, Some(RTT)), None);
    assert_eq!(pace(60_000, RTT, None), None);
}

#[test]
fn losses_from_before_a_reroute_do_not_shrink_the_window() {
    let (mark, mut controller, now) = cubic();
    (0..10).for_each(|pn| controller.on_packet_sent(now, 1_200, pn));
    mark.rerouted(now, 1, None);
    (10..20).for_each(|pn| controller.on_packet_sent(now, 1_200, pn));
    mark.answered(now, now);
    let before = controller.window();
    lose(&mut controller, now + RTT, now, 9);
    assert_eq!(controller.window(), before, "the old route lost it");
    lose(&mut controller, now + RTT, now + RTT / 2, 19);
    assert!(controller.window() < before, "the new one lost it");
}

#[test]
fn a_long_packet_that_was_tried_whole_and_lost_is_no_congestion() {
    let (_mark, mut controller, t0) = cubic();
    controller.on_packet_sent(t0, 1_200, 0);
    controller.sizes.acked(t0, 0, 1_200, false);
    let later = t0 + Duration::from_secs(1);
    (1..3).for_each(|pn| controller.on_packet_sent(later, 1_200, pn));
    let before = controller.inner.window(0);
    lose(&mut controller, later + RTT, later, 1);
    assert_eq!(controller.inner.window(0), before, "it was a try");
    lose(&mut controller, later + RTT, later, 2);
    assert!(controller.inner.window(0) < before, "this one left in pieces");
}
