//! The controller on modelled lines, alone and beside others, and at the beginning of a lane.

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::*;

mod fate;
mod model;

use model::{Control, LINE, Line, MTU, Outcome, World, adaptive, run, tcp};

fn alone(line: Line) -> Outcome {
    let result = run(line, 30, vec![(adaptive(), 0)])[0];
    eprintln!("{line:?}: {result:.1?}");
    result
}

#[test]
fn alone_it_fills_the_line_and_not_the_queue() {
    for (mbps, queue_ms) in [(50.0, 500.0), (10.0, 500.0), (1.0, 1_000.0)] {
        let result = alone(Line { mbps, queue_ms, ..LINE });
        assert!(result.mbps > 0.92 * mbps, "{mbps} Mbit/s: {result:.1?}");
        assert!(result.queue_ms.1 < 25.0, "{mbps} Mbit/s: {result:.1?}");
    }
}

#[test]
fn loss_that_is_the_paths_own_costs_only_what_is_lost() {
    for (loss, aim) in [(0.01, 0.9), (0.03, 0.9), (0.1, 0.8), (0.4, 0.45)] {
        let result = alone(Line { loss, ..LINE });
        assert!(result.mbps > aim * LINE.mbps, "{loss}: {result:.1?}");
    }
}

#[test]
fn loss_does_not_keep_it_from_finding_the_rate_of_a_long_path() {
    let line = Line { mbps: 200.0, rtt_ms: 249.0, ..LINE };
    assert!(alone(Line { loss: 0.42, ..line }).mbps > 60.0);
}

/// Whether all parameters are run, of which a part suffices to assert.
fn measures() -> bool {
    std::env::var_os("RON_MEASURE").is_some()
}

/// Our part of what both carried, over starts that differ, from the least to the largest.
fn shares(line: Line) -> Vec<f64> {
    // All take minutes without optimisation.
    let starts = [(0, 0), (2, 0), (5, 0), (0, 3), (1, 0), (3, 0), (0, 1), (0, 2), (0, 5)];
    let starts = starts.into_iter().take(if measures() { 9 } else { 2 });
    let mut shares: Vec<f64> = starts
        .map(|(ours, theirs)| {
            let results = run(line, 60, vec![(adaptive(), ours), (tcp(), theirs)]);
            results[0].mbps / (results[0].mbps + results[1].mbps)
        })
        .collect();
    shares.sort_by(f64::total_cmp);
    shares
}

#[test]
fn beside_tcp_both_get_between_a_third_and_two_thirds() {
    let lines = [
        (20.0, 40.0, 50.0),
        (20.0, 40.0, 10.0),
        (10.0, 100.0, 50.0),
        (50.0, 40.0, 20.0),
        (100.0, 20.0, 200.0),
    ];
    for (mbps, rtt_ms, queue_ms) in lines.into_iter().take(if measures() { 5 } else { 3 }) {
        let line = Line { mbps, rtt_ms, queue_ms, ..LINE };
        let shares = shares(line);
        eprintln!("{line:?}: {shares:.2?}");
        let median = shares[shares.len() / 2];
        assert!((0.33..=0.67).contains(&median), "{line:?}: {shares:.2?}");
        assert!(shares[0] > 0.1, "{line:?}: {shares:.2?}");
    }
}

/// One start of nine gives us 71 %.
#[test]
fn beside_tcp_on_a_slow_line_with_a_long_queue_neither_starves() {
    let line = Line { mbps: 1.0, queue_ms: 1_000.0, ..LINE };
    let shares = shares(line);
    eprintln!("{line:?}: {shares:.2?}");
    assert!(shares[0] > 0.33 && shares[shares.len() - 1] < 0.75, "{shares:.2?}");
}

#[test]
fn two_lanes_share_the_line() {
    // In a queue of a quarter of the round trip one may get 70 %.
    for (queue_ms, most) in [(10.0, 3.0), (50.0, 2.0), (500.0, 2.0)] {
        let results = run(Line { queue_ms, ..LINE }, 60, vec![(adaptive(), 0), (adaptive(), 5)]);
        let (one, two) = (results[0].mbps, results[1].mbps);
        assert!(one < most * two && two < most * one, "{queue_ms} ms: {one} {two}");
    }
}

/// A lane that sends a packet each millisecond.
struct Steady {
    adaptive: Adaptive,
    origin: Instant,
}

impl Steady {
    /// It has come by a reroute to a path whose round trip was that, the last time.
    fn rerouted(remembered: Duration) -> Self {
        let origin = Instant::now();
        let mut adaptive = Adaptive::new(origin, 1_250);
        adaptive.enter(origin, Phase::Cruise { left: CRUISE_ROUNDS });
        adaptive.rerouted(origin, Some(Carried { rate: 1.25e6, rtt: remembered }));
        Self { adaptive, origin }
    }

    /// Three rounds, in which one packet in `loses` is lost.
    fn run(&mut self, rtt_ms: u64, loses: u64, app_limited: bool) {
        let at = |ms| self.origin + Duration::from_millis(ms);
        let adaptive = &mut self.adaptive;
        for ms in 0..4 * rtt_ms {
            adaptive.on_packet_sent(at(ms), 1_250, ms);
            let Some(pn) = ms.checked_sub(rtt_ms) else { continue };
            if pn % loses == 0 {
                adaptive.on_packet_lost(1_250, pn, at(ms));
            } else {
                adaptive.acked(at(ms), at(pn), 1_250, pn, app_limited);
                adaptive.on_end_acks(at(ms), 1_250 * rtt_ms, app_limited, Some(pn));
            }
        }
    }
}

#[test]
fn much_loss_on_a_path_that_was_shorter_is_that_of_a_queue() {
    let ms = Duration::from_millis;
    for (remembered, loses, shares) in [(ms(40), 4, true), (ms(40), 50, false), (ms(100), 4, false)]
    {
        let mut lane = Steady::rerouted(remembered);
        lane.run(100, loses, false);
        assert_eq!(lane.adaptive.sharing.is_some(), shares, "{remembered:?}, one in {loses}");
    }
}

#[test]
fn a_probe_ends_although_the_application_limits_its_rounds() {
    let mut lane = Steady::rerouted(Duration::from_millis(40));
    lane.adaptive.enter(lane.origin, Phase::ProbeUp { gain: UP });
    lane.run(40, u64::MAX, true);
    assert!(!matches!(lane.adaptive.phase, Phase::ProbeUp { .. }), "{:?}", lane.adaptive.phase);
}

#[test]
fn jitter_is_not_taken_for_a_queue() {
    for (jitter_ms, aim) in [(5.0, 46.0), (20.0, 43.0), (40.0, 36.0)] {
        let result = alone(Line { jitter_ms, ..LINE });
        assert!(result.mbps > aim, "{jitter_ms} ms: {result:.1?}");
    }
}

#[test]
fn it_follows_a_line_whose_rate_changes() {
    const CHANGES: [&[f64]; 3] = [&[50.0, 2.0], &[50.0, 10.0], &[50.0, 100.0]];
    for rates in CHANGES {
        let result = alone(Line { varies: (rates, 15_000.0), queue_ms: 200.0, ..LINE });
        assert!(result.mbps > 0.9 * rates[1], "{rates:?} Mbit/s: {result:.1?}");
    }
}

#[test]
fn it_follows_a_line_whose_rate_varies_as_well_as_tcp() {
    const STEPS: &[f64] = &[50.0, 15.0, 80.0, 30.0];
    const TWO: &[f64] = &[10.0, 100.0];
    const WIRELESS: &[f64] =
        &[20.0, 35.0, 12.0, 8.0, 22.0, 60.0, 45.0, 30.0, 10.0, 25.0, 5.0, 16.0, 40.0];
    let lines = [
        (STEPS, 1_000.0, 40.0, 100.0),
        (WIRELESS, 300.0, 40.0, 200.0),
        (TWO, 2_000.0, 40.0, 100.0),
        (STEPS, 1_000.0, 20.0, 50.0),
        (STEPS, 1_000.0, 40.0, 300.0),
        (STEPS, 1_000.0, 100.0, 100.0),
        (STEPS, 3_000.0, 40.0, 100.0),
        (WIRELESS, 1_000.0, 40.0, 200.0),
        (WIRELESS, 300.0, 60.0, 500.0),
    ];
    for (rates, each_ms, rtt_ms, queue_ms) in lines.into_iter().take(if measures() { 9 } else { 3 })
    {
        let line = Line { varies: (rates, each_ms), rtt_ms, queue_ms, ..LINE };
        let [ours, tcp] = [adaptive(), tcp()].map(|sender| run(line, 40, vec![(sender, 0)])[0]);
        eprintln!("{line:?}: {ours:.1?}; TCP: {tcp:.1?}");
        assert!(ours.mbps > 0.9 * tcp.mbps, "{line:?}: {ours:.1?}; TCP: {tcp:.1?}");
    }
}

#[test]
fn a_policer_without_a_queue_is_not_flooded() {
    let line = Line { queue_ms: 2.0, ..LINE };
    let result = alone(line);
    assert!(result.mbps > 0.85 * LINE.mbps, "{result:.1?}");
}

/// A lane whose first packet, of ten bytes of handshake, took that long.
fn after_a_round_trip(carried: Option<Carried>, rtt: Duration) -> Adaptive {
    let t0 = Instant::now();
    let mut adaptive = Adaptive::new(t0, MTU);
    carried.into_iter().for_each(|carried| adaptive.resume(carried));
    adaptive.on_packet_sent(t0, 10, 0);
    adaptive.acked(t0 + rtt, t0, 10, 0, true);
    adaptive.on_end_acks(t0 + rtt, 0, true, Some(0));
    adaptive
}

#[test]
fn a_lane_begins_with_what_the_route_lately_carried() {
    let (ms, rate) = (Duration::from_millis, 6.25e6);
    let carried = Carried { rate, rtt: ms(60) };
    // Startup sends more than it knows of.
    for (rtt, window) in [(60, STARTUP * (RESUMED * rate * 0.06)), (200, 14_720.0), (20, 14_720.0)]
    {
        let resumed = after_a_round_trip(Some(carried), ms(rtt));
        assert_eq!(resumed.window(), as_u64(window), "{rtt} ms");
        // What is believed was not measured.
        assert_eq!(resumed.carries().is_none(), rtt == 60, "{rtt} ms");
    }
}

#[test]
fn a_line_that_carries_less_than_before_is_not_flooded_for_long() {
    let mut resumed = Adaptive::new(Instant::now(), MTU);
    resumed.resume(Carried { rate: 12.5e6, rtt: Duration::from_millis(40) });
    let line = Line { mbps: 5.0, queue_ms: 200.0, ..LINE };
    let result = run(line, 4, vec![(Control::Adaptive(Box::new(resumed)), 0)])[0];
    assert!(result.mbps > 0.9 * line.mbps && result.queue_ms.1 < 50.0, "{result:.1?}");
}

#[test]
fn flows_that_begin_together_bring_a_window_each() {
    let (rtt, first) = (Duration::from_millis(60), INITIAL_WINDOW);
    let mut adaptive = after_a_round_trip(None, rtt);
    let windows = [0, 3, 50, 500].map(|flows| adaptive.window_with(flows * first) / first);
    assert_eq!(windows, [1, 3, 50, FLOWS_AT_ONCE]);
    let pace = adaptive.pacing_rate(50 * first).unwrap() * rtt.as_secs_f64();
    assert!((50.0..=65.0).contains(&(pace / as_f64(first))), "all within a round trip");
    // Two rounds later they are acknowledged.
    adaptive.set_opened(50 * first);
    for pn in 1..=2 {
        let sent = Instant::now() + 10 * rtt * u32::try_from(pn).unwrap();
        adaptive.on_packet_sent(sent, 10, pn);
        adaptive.acked(sent + rtt, sent, 10, pn, true);
        adaptive.on_end_acks(sent + rtt, 0, true, Some(pn));
    }
    assert_eq!(adaptive.window_with(50 * first), first);
}

/// Round trips then vary by up to twice the least one, and most are far from it.
#[test]
fn a_path_whose_packets_overtake_each_other_is_filled() {
    let paths = [(20.0, 0.0, 34.0), (10.0, 0.0, 38.0), (3.0, 0.0, 43.0), (3.0, 0.02, 30.0)];
    let seeds = if measures() { 1..=5 } else { 1..=2 };
    for (overtake_ms, loss, aim) in paths {
        let line = Line { overtake_ms, loss, ..LINE };
        let mbps: Vec<f64> = seeds
            .clone()
            .map(|seed| {
                let mut world = World::new(line, 10, vec![(adaptive(), 0)]);
                world.rng = Pcg64Mcg::seed_from_u64(seed);
                world.run()[0].mbps
            })
            .collect();
        eprintln!("±{overtake_ms} ms, loss {loss}: {mbps:.1?}");
        assert!(mbps.iter().all(|mbps| *mbps > aim), "±{overtake_ms} ms, {loss}: {mbps:.1?}");
    }
}
