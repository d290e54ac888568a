//! The direct path becomes slow, and a detour is faster: the lane moves, and comes back.

use std::time::Duration;

use crate::{
    figures::{Stalls, asserts, moment, rng, seeds},
    shapes::{Plan, rtt, s, story, triangle},
    sim::Sim,
    watch::{STEER, Watch, run},
};

/// From 60 to 300 ms at about a minute, back two minutes later; the detour has 80 ms.
const SLOW_MS: u64 = 300;

struct Moves {
    away: Duration,
    back: Duration,
    story: String,
    changes: u64,
}

#[test]
fn a_lane_moves_to_a_detour_that_became_better_and_back_again() {
    let moves: Vec<_> = seeds(20).into_iter().map(measure).collect();
    let away = Stalls::new(moves.iter().map(|run| run.away).collect());
    let back = Stalls::new(moves.iter().map(|run| run.back).collect());
    away.print("direct slows from 60 to 300 ms: moved", "15 s");
    back.print("direct is at 60 ms again: back", "60 s, no flapping");
    if asserts() {
        for run in &moves {
            assert!(run.away <= s(15) && run.back <= s(60), "{}", run.story);
            assert_eq!(run.changes, 2, "{}", run.story);
        }
    }
}

fn measure(seed: u64) -> Moves {
    let topology = triangle(rtt(60), 80);
    let mut chance = rng(seed);
    let slows = moment(&mut chance, 55_000, 70_000);
    let heals = slows + moment(&mut chance, 115_000, 130_000);
    let plan = Plan(&topology);
    let mut sim = Sim::new(&topology, seed);
    sim.plan(vec![plan.set(slows, "a", "b", rtt(SLOW_MS)), plan.set(heals, "a", "b", rtt(60))]);
    let mut watches = [Watch::new(&sim, "a", "b", "latency")];
    let never = Duration::from_secs(999);
    let (mut away, mut back) = (never, never);
    run(&mut sim, &mut watches, slows + s(360), STEER, |sim, watches| {
        let (now, route) = (sim.time(), watches[0].route());
        if now > slows && route == "via r" {
            away = away.min(now - slows);
        }
        if now > heals && route == "direct" {
            back = back.min(now - heals);
        }
    });
    let watch = &watches[0];
    Moves { away, back, story: story(seed, watch), changes: watch.changes() }
}
