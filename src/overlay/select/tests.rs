//! Tables and model tests of the choice of routes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    identity::NodeName,
    overlay::{
        candidates::{AppValue, Exclusion},
        metrics::PathMetrics,
        units::LossRate,
    },
};

const HINTS: [&str; 4] = ["latency", "loss", "throughput", "app:page-load"];

fn hint(text: &str) -> Hint {
    text.parse().unwrap()
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `direct`, `via utah`, …; a round-trip time of 0 means unmeasured.
fn route(route: &str, rtt_ms: u64, loss_percent: u32) -> Candidate {
    let metrics = PathMetrics {
        rtt: Duration::from_millis(rtt_ms),
        loss_out: LossRate::from_percent(loss_percent),
        loss_in: LossRate::ZERO,
        exchanges: 66,
        delivered: None,
    };
    Candidate {
        route: route.parse().unwrap(),
        metrics: (rtt_ms > 0).then_some(metrics),
        app: AppValue::new(rtt_ms as f64).filter(|_| rtt_ms > 0),
        excluded: None,
    }
}

fn excluded(candidate: Candidate, reason: Exclusion) -> Candidate {
    Candidate { excluded: Some(reason), ..candidate }
}

fn down(candidate: Candidate) -> Candidate {
    excluded(candidate, Exclusion::LinkDown(name("a"), name("b")))
}

fn shown(route: Option<&Route>) -> String {
    route.map_or_else(|| "none".to_owned(), ToString::to_string)
}

struct Run {
    selector: Selector,
    now: Instant,
}

impl Run {
    fn new(text: &str) -> Self {
        Self { selector: Selector::new(hint(text)), now: Instant::now() }
    }

    /// Decides `seconds` after the last decision; the route.
    fn after(&mut self, seconds: u64, candidates: &[Candidate]) -> String {
        shown(self.decide(seconds, candidates).route.as_ref())
    }

    fn decide(&mut self, seconds: u64, candidates: &[Candidate]) -> Decision {
        self.now += s(seconds);
        self.selector.decide(self.now, candidates.to_vec())
    }
}

/// One row: hint, figures of `direct` (in use) and of `via r`, and whether the flow moves.
#[test]
fn a_change_needs_the_margin_of_its_hint() {
    let table = [
        ("latency", (100, 0), (96, 0), false),
        ("latency", (100, 0), (95, 0), true),
        ("latency", (1, 0), (1, 0), false),
        ("latency", (60, 30), (80, 0), true),
        ("latency", (60, 14), (250, 0), false),
        ("latency", (60, 20), (250, 0), true),
        ("latency", (60, 6), (60, 0), true),
        ("latency", (60, 16), (80, 5), true),
        ("latency", (60, 16), (80, 8), false),
        ("latency", (60, 30), (80, 9), true),
        ("loss", (60, 1), (60, 0), false),
        ("loss", (60, 2), (300, 0), true),
        ("loss", (60, 30), (60, 24), false),
        ("loss", (60, 30), (60, 22), true),
        ("loss", (300, 0), (60, 0), true),
        ("loss", (70, 0), (60, 0), false),
        ("loss", (300, 0), (60, 1), false),
        ("throughput", (60, 0), (41, 0), false),
        ("throughput", (60, 0), (40, 0), true),
        ("throughput", (60, 2), (60, 0), false),
        ("throughput", (60, 10), (60, 3), true),
        ("app:page-load", (100, 0), (96, 0), false),
        ("app:page-load", (100, 0), (95, 0), true),
    ];
    for (hint, (rtt, loss), (via_rtt, via_loss), moves) in table {
        let mut run = Run::new(hint);
        let direct = route("direct", rtt, loss);
        run.after(0, std::slice::from_ref(&direct));
        let got = run.after(3600, &[direct, route("via r", via_rtt, via_loss)]);
        let row = format!("{hint}: {rtt} ms {loss} % against {via_rtt} ms {via_loss} %");
        assert_eq!(got == "via r", moves, "{row}");
    }
}

#[test]
fn a_clean_detour_beats_heavy_loss_under_every_hint_but_app() {
    for text in ["latency", "loss", "throughput"] {
        let mut run = Run::new(text);
        assert_eq!(run.after(0, &[route("direct", 60, 30), route("via r", 80, 0)]), "via r");
    }
}

#[test]
fn a_lossy_route_is_used_when_there_is_no_cleaner_one() {
    let mut run = Run::new("latency");
    assert_eq!(run.after(0, &[route("direct", 60, 70), route("via r", 0, 0)]), "direct");
    assert_eq!(run.after(9, &[route("direct", 60, 70), route("via r", 900, 1)]), "via r");
}

#[test]
fn loss_that_wavers_about_the_limit_moves_nothing() {
    let mut run = Run::new("latency");
    run.after(0, &[route("direct", 60, 9), route("via r", 200, 0)]);
    for step in 0..100 {
        let direct = route("direct", 60, if step % 2 == 0 { 8 } else { 15 });
        assert_eq!(run.after(7, &[direct, route("via r", 200, 0)]), "direct");
    }
}

#[test]
fn a_recent_change_is_held_unless_the_route_is_down() {
    let mut run = Run::new("latency");
    run.after(0, &[route("direct", 60, 0), route("via r", 100, 0)]);
    let better = [route("direct", 60, 0), route("via r", 20, 0)];
    let held = run.decide(1, &better);
    assert_eq!(shown(held.route.as_ref()), "direct");
    assert_eq!(held.candidates[0].verdict, Verdict::HeldDown(s(1)));
    assert_eq!(run.after(3, &better), "via r");
    let dead = [route("direct", 60, 0), down(route("via r", 20, 0))];
    let moved = run.decide(0, &dead);
    assert_eq!(shown(moved.route.as_ref()), "direct");
    assert_eq!(moved.changed.unwrap().name(), "link-down");
}

#[test]
fn an_unmeasured_route_is_left_at_once_when_a_measured_one_appears() {
    let mut run = Run::new("latency");
    assert_eq!(run.after(0, &[route("direct", 0, 0), route("via r", 0, 0)]), "direct");
    let moved = run.decide(0, &[route("direct", 0, 0), route("via r", 500, 0)]);
    assert_eq!(shown(moved.route.as_ref()), "via r");
    assert_eq!(moved.changed.unwrap().name(), "measured");
}

#[test]
fn nothing_usable_keeps_the_route_unless_it_is_forbidden() {
    for (reason, expected) in [
        (Exclusion::LinkDown(name("a"), name("b")), "direct"),
        (Exclusion::Recovering { good: 1 }, "direct"),
        (Exclusion::Unknown, "direct"),
        (Exclusion::Pinned, "none"),
        (Exclusion::Policy("research-only".into()), "none"),
    ] {
        let mut run = Run::new("latency");
        run.after(0, &[route("direct", 60, 0)]);
        let unusable = [excluded(route("direct", 60, 0), reason.clone())];
        let decision = run.decide(1, &unusable);
        assert_eq!(shown(decision.route.as_ref()), expected, "{reason}");
        assert_eq!(decision.changed.is_none(), expected == "direct");
        assert_eq!(run.after(1, &[]), expected, "an empty list changes nothing");
    }
}

#[test]
fn a_recovering_route_is_not_taken_before_its_proof() {
    let mut run = Run::new("latency");
    run.after(0, &[route("direct", 60, 0), route("via r", 80, 0)]);
    let via = route("via r", 80, 0);
    assert_eq!(run.after(9, &[down(route("direct", 60, 0)), via.clone()]), "via r");
    let recovering = excluded(route("direct", 60, 0), Exclusion::Recovering { good: 2 });
    assert_eq!(run.after(99, &[recovering, via.clone()]), "via r");
    let up = [route("direct", 60, 0), via];
    assert_eq!(run.after(1, &up), "via r", "25 % faster, but only just");
    assert_eq!(run.after(13, &up), "direct");
}

/// How long a route has to be faster than the one in use, by how much faster it is.
#[test]
fn a_faster_route_proves_itself_the_sooner_the_faster_it_is() {
    for (via_ms, expected_s) in [(1, 3), (20, 3), (50, 5), (75, 9), (90, 27), (95, 80)] {
        let mut run = Run::new("latency");
        let both = [route("direct", 100, 0), route("via r", via_ms, 0)];
        run.after(0, &both[..1]);
        let moved = (1..1_000).find(|_| run.after(1, &both) == "via r");
        assert_eq!(moved, Some(expected_s), "{via_ms} ms");
    }
}

#[test]
fn the_time_in_which_nothing_could_be_used_proves_nothing() {
    let mut run = Run::new("latency");
    let both = [route("direct", 100, 0), route("via r", 60, 0)];
    run.after(0, &both[..1]);
    for _ in 0..100 {
        assert_eq!(run.after(1, &[down(both[0].clone()), down(both[1].clone())]), "direct");
    }
    assert_eq!(run.after(1, &both), "direct");
    assert_eq!(run.after(8, &both), "via r");
}

#[test]
fn a_route_that_is_faster_every_other_moment_is_never_taken() {
    let mut run = Run::new("latency");
    let slow = [route("direct", 100, 0), route("via r", 108, 0)];
    let fast = [route("direct", 100, 0), route("via r", 92, 0)];
    run.after(0, &slow);
    for _ in 0..1_000 {
        assert_eq!(run.after(5, &fast), "direct");
        let waits = run.decide(0, &fast);
        assert!(waits.candidates.iter().any(|e| e.verdict == Verdict::Unproven));
        assert_eq!(run.after(5, &slow), "direct");
    }
}

#[test]
fn a_flapping_route_is_returned_to_ever_more_slowly() {
    let mut run = Run::new("latency");
    let both = [route("direct", 60, 0), route("via r", 80, 0)];
    let broken = [down(route("direct", 60, 0)), route("via r", 80, 0)];
    run.after(0, &both);
    // Direct fails for 2 s in every 10 s, for an hour.
    for _ in 0..360 {
        (0..8).for_each(|_| {
            run.after(1, &both);
        });
        (0..2).for_each(|_| {
            run.after(1, &broken);
        });
    }
    let changes = run.selector.history().total();
    assert!(changes <= 65, "{changes} changes in an hour");
}

#[test]
fn the_decision_explains_every_candidate_and_names_two_alternatives() {
    let mut run = Run::new("latency");
    run.after(0, &[route("via a", 50, 0)]);
    let decision = run.decide(
        100,
        &[
            route("direct", 49, 0),
            route("via a", 50, 0),
            route("via b", 70, 0),
            route("via c", 0, 0),
            route("via d", 10, 60),
            excluded(route("via e", 1, 0), Exclusion::NotRelay),
        ],
    );
    let shown: Vec<_> = decision
        .candidates
        .iter()
        .map(|e| format!("{}: {}", e.candidate.route, e.verdict))
        .collect();
    assert_eq!(
        shown,
        [
            "direct: better, but not by the margin for a change",
            "via a: chosen",
            "via b: not as good",
            "via d: loses too much",
            "via c: not measured",
            "via e: does not relay",
        ]
    );
    let alternatives: Vec<_> = decision.alternatives.iter().map(ToString::to_string).collect();
    assert_eq!(alternatives, ["direct", "via b"]);
}

/// The routes of lanes that share `candidates`, after they have seen them.
fn shared(text: &str, lanes: &mut [Selector], candidates: &[Candidate]) -> Vec<String> {
    let now = Instant::now();
    let mut route = |lane: &mut Selector| lane.decide(now, candidates.to_vec()).route.unwrap();
    let routes: Vec<Route> = lanes.iter_mut().map(&mut route).collect();
    assert!(lanes.iter().all(|lane| *lane.hint() == hint(text)));
    routes.iter().map(ToString::to_string).collect()
}

#[test]
fn lanes_that_share_near_routes_take_different_ones_and_no_far_one() {
    for text in HINTS {
        let all = [
            route("direct", 100, 0),
            route("via a", 104, 0),
            route("via b", 109, 0),
            route("via far", 300, 0),
            down(route("via dead", 90, 0)),
        ];
        let mut lanes: Vec<_> = (0..5).map(|w| Selector::sharing(hint(text), Some(w))).collect();
        let routes = shared(text, &mut lanes, &all);
        let of = |name| routes.iter().filter(|route| *route == name).count();
        let counts = [of("direct"), of("via a"), of("via b")];
        assert_eq!((counts.iter().sum(), counts.iter().min()), (5, Some(&1)), "{text}: {routes:?}");
        let distinct: BTreeSet<_> = routes[..3].iter().collect();
        assert_eq!(distinct.len(), 3, "{text}: {routes:?}");
        // When a route dies, only its own lanes move; when measurements vary a little, none does.
        let without_b = [all[0].clone(), route("via a", 120, 0), down(all[2].clone())];
        let moved = shared(text, &mut lanes, &without_b);
        for (before, after) in routes.iter().zip(&moved) {
            assert!(before == after || before == "via b", "{text}: {routes:?} {moved:?}");
        }
    }
}

#[test]
fn a_shared_lane_leaves_its_route_when_another_one_has_proved_itself() {
    let all = [route("direct", 100, 0), route("via a", 104, 0)];
    let mut run =
        Run { selector: Selector::sharing(Hint::Latency, Some(0)), ..Run::new("latency") };
    let own = run.after(0, &all);
    let slow = all.clone().map(|c| match shown(Some(&c.route)) == own {
        true => route(&own, 200, 0),
        false => c,
    });
    // Its own queue, for two seconds.
    assert_eq!(run.after(2, &slow), own);
    assert_eq!(run.after(1, &all), own);
    let moved = (1..30).find(|_| run.after(1, &slow) != own);
    assert_eq!(moved, Some(5));
}

#[test]
fn the_routes_left_to_other_lanes_stand_by_first() {
    let all = [route("direct", 100, 0), route("via a", 104, 0), route("via far", 300, 0)];
    let decision = Selector::sharing(Hint::Latency, Some(0)).decide(Instant::now(), all.to_vec());
    let other = if decision.route == Some(Route::Direct) { "via a" } else { "direct" };
    assert_eq!(decision.alternatives[0].to_string(), other);
    let left = decision.candidates.iter().find(|c| c.candidate.route.to_string() == other);
    assert_eq!(left.unwrap().candidate.excluded, Some(Exclusion::LeftToOthers));
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let names = ["direct", "via a", "via b", "via c", "via d", "via e"];
    prop::collection::vec((0u64..400, 0u32..60, 0u8..4), names.len()).prop_map(move |figures| {
        let one = |(name, (rtt, loss, state)): (&&str, (u64, u32, u8))| {
            let candidate = route(name, rtt, loss);
            if state == 0 { down(candidate) } else { candidate }
        };
        names.iter().zip(figures).map(one).collect()
    })
}

proptest! {
    #[test]
    fn routes_that_oscillate_within_the_margin_never_flap(
        base in 10u64..500, noise in prop::collection::vec((0u64..49, 0u64..49), 1..200),
        which in 0usize..4
    ) {
        // Both move within 4.9 % above `base`, in steps of 0.1 %.
        let mut run = Run::new(HINTS[which]);
        let figures = |name: &str, tenths: u64| {
            let mut candidate = route(name, base, 0);
            let rtt = Duration::from_micros(base * (1000 + tenths));
            candidate.metrics.as_mut().unwrap().rtt = rtt;
            candidate.app = AppValue::new(rtt.as_secs_f64() * 1000.0);
            candidate
        };
        let mut first = None;
        for (direct, via) in noise {
            let got = run.after(100, &[figures("direct", direct), figures("via r", via)]);
            prop_assert_eq!(&got, first.get_or_insert(got.clone()));
        }
    }

    #[test]
    fn a_down_route_is_never_used_while_another_is_up(
        rounds in prop::collection::vec((any_candidates(), 0u64..20), 1..30), which in 0usize..4
    ) {
        let mut run = Run::new(HINTS[which]);
        for (candidates, wait) in rounds {
            let decision = run.decide(wait, &candidates);
            let usable: Vec<_> = candidates.iter().filter(|c| c.excluded.is_none()).collect();
            let chosen = usable.iter().any(|c| Some(&c.route) == decision.route.as_ref());
            prop_assert!(chosen || usable.is_empty());
            prop_assert_eq!(decision.candidates.len(), candidates.len());
            prop_assert_eq!(decision.alternatives.len(), usable.len().saturating_sub(1).min(2));
            prop_assert!(!decision.alternatives.iter().any(|r| Some(r) == decision.route.as_ref()));
        }
    }

    #[test]
    fn unchanging_figures_come_to_rest(candidates in any_candidates(), which in 0usize..4) {
        let mut run = Run::new(HINTS[which]);
        // Start from each route in turn: whatever the start, at most one change per route follows.
        for start in &candidates {
            run.selector = Selector::new(hint(HINTS[which]));
            run.after(0, std::slice::from_ref(start));
            let changes = (0..50)
                .filter(|_| run.decide(100, &candidates).changed.is_some())
                .count();
            prop_assert!(changes <= candidates.len(), "{} changes", changes);
            prop_assert!(run.decide(100, &candidates).changed.is_none());
        }
    }

    #[test]
    fn equal_routes_do_not_oscillate(
        rtt in 1u64..500, loss in 0u32..60, which in 0usize..4, order in any::<bool>()
    ) {
        let mut run = Run::new(HINTS[which]);
        let mut both = [route("direct", rtt, loss), route("via r", rtt, loss)];
        if order {
            both.reverse();
        }
        let first = run.after(0, &both);
        prop_assert_eq!(&first, "direct", "of equal routes the simpler one");
        for _ in 0..20 {
            both.reverse();
            prop_assert_eq!(run.after(100, &both), first.clone());
        }
    }
}
