//! Paths that work only in part: never between two of the nodes, or in one direction.

use std::time::Duration;

use ronproxy::internals::emulator::Topology;

use crate::{
    figures::{Stalls, asserts, moment, rng, row, seeds},
    shapes::{Plan, rtt, s, story, triangle},
    sim::Sim,
    watch::{STEER, Watch, run},
};

/// `a` and `b` never reach each other; `r` and `q` reach everyone.
fn kite() -> Topology {
    Topology::new(["a", "b", "q", "r"])
        .both("a", "r", rtt(30))
        .both("r", "b", rtt(30))
        .both("a", "q", rtt(60))
        .both("q", "b", rtt(60))
        .both("q", "r", rtt(20))
}

#[test]
fn nodes_that_never_reach_each_other_are_routed_through_a_third() {
    let mut ready = Vec::new();
    for seed in seeds(5) {
        let topology = kite();
        let mut sim = Sim::new(&topology, seed);
        // The relay in use fails after five minutes, and is back five minutes later.
        let plan = Plan(&topology);
        sim.plan(vec![plan.cut(s(300), "a", "r"), plan.heal(s(600), "a", "r")]);
        let mut watches = [Watch::new(&sim, "a", "b", "latency")];
        let mut routed = None;
        run(&mut sim, &mut watches, s(290), STEER, |sim, watches| {
            if watches[0].truth(sim).is_some() && routed.is_none() {
                routed = Some(sim.time());
            }
        });
        ready.push(routed.unwrap());
        let heard = |sim: &Sim| {
            let version = sim.router(0).digest(sim.now());
            version.into_iter().find(|(name, _)| name.as_str() == "b").map(|(_, v)| v.sequence)
        };
        let before = heard(&sim).unwrap();
        assert_eq!(watches[0].route(), "via r", "{}", story(seed, &watches[0]));
        run(&mut sim, &mut watches, s(590), STEER, |_, _| {});
        assert!(heard(&sim).unwrap() > before, "advertisements of b arrive by way of q, too");
        assert_eq!(watches[0].route(), "via q", "{}", story(seed, &watches[0]));
        run(&mut sim, &mut watches, s(900), STEER, |_, _| {});
        assert_eq!(watches[0].route(), "via r", "{}", story(seed, &watches[0]));
    }
    Stalls::new(ready).print("a and b never reach each other: routed", "soon after the start");
}

#[test]
fn a_path_that_fails_in_one_direction_is_left_whichever_it_is() {
    for hint in ["latency", "loss", "throughput"] {
        let mut left = Vec::new();
        for seed in seeds(6) {
            let topology = triangle(rtt(60), 80);
            let fails = moment(&mut rng(seed), 60_000, 70_000);
            let (from, to) = if seed % 2 == 0 { ("a", "b") } else { ("b", "a") };
            let mut sim = Sim::new(&topology, seed);
            sim.plan(vec![Plan(&topology).cut_one_way(fails, from, to)]);
            let mut watches = [Watch::new(&sim, "a", "b", hint)];
            let mut moved = None;
            run(&mut sim, &mut watches, s(300), STEER, |sim, watches| {
                if sim.time() > fails && watches[0].route() == "via r" {
                    moved.get_or_insert(sim.time() - fails);
                }
            });
            assert_eq!(watches[0].route(), "via r", "{}", story(seed, &watches[0]));
            assert!(watches[0].changes() <= 1, "{}", story(seed, &watches[0]));
            left.push(moved.unwrap_or(Duration::MAX));
        }
        let left = Stalls::new(left);
        left.print(&format!("direct fails one way, hint {hint}: left"), "5 s");
        assert!(!asserts() || left.worst() <= s(5));
    }
}

#[test]
fn loss_in_one_direction_counts_whichever_it_is() {
    for (from, to) in [("a", "b"), ("b", "a")] {
        let mut moved = Vec::new();
        for seed in seeds(4) {
            let lossy =
                rtt(60).with_loss(ronproxy::internals::emulator::LossRate::from_percent(30.0));
            let topology = triangle(rtt(60), 80).one_way(from, to, lossy);
            let mut sim = Sim::new(&topology, seed);
            let mut watches = [Watch::new(&sim, "a", "b", "latency")];
            run(&mut sim, &mut watches, s(120), STEER, |_, _| {});
            let early = watches[0].changes();
            run(&mut sim, &mut watches, s(900), STEER, |_, _| {});
            assert_eq!(watches[0].route(), "via r", "{}", story(seed, &watches[0]));
            assert_eq!(watches[0].changes(), early, "{}", story(seed, &watches[0]));
            moved.push(early);
        }
        row(
            &format!("30 % loss {from} → {to}: stays on the detour"),
            &format!("{moved:?} changes"),
            "none after 2 min",
        );
    }
}
