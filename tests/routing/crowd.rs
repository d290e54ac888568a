//! Twenty nodes, and everything changes at once.

use std::time::Duration;

use rand::RngExt;
use ronproxy::internals::emulator::{Event, Topology};

use crate::{
    figures::{Stalls, asserts, rng, row, seeds},
    shapes::{Plan, rtt, s, story},
    sim::Sim,
    watch::{STEER, Watch, run},
};

const NODES: usize = 20;
/// When a third of the paths is cut and another third changes its delay.
const STORM: Duration = s(90);
const END: Duration = s(150);

fn names() -> Vec<String> {
    (0..NODES).map(|at| format!("n{at:02}")).collect()
}

/// Random delays; at [`STORM`] each path is cut, or gets another delay, or is left alone.
fn world(seed: u64) -> (Topology, Vec<Event>) {
    let names = names();
    let mut chance = rng(seed);
    let pairs = || (0..NODES).flat_map(|a| (a + 1..NODES).map(move |b| (a, b)));
    let topology = pairs()
        .fold(Topology::new(names.iter().map(String::as_str)), |topology, (a, b)| {
            topology.both(&names[a], &names[b], rtt(chance.random_range(20..200)))
        });
    let plan = Plan(&topology);
    let storm = pairs().filter_map(|(a, b)| {
        let (a, b) = (&names[a], &names[b]);
        match chance.random_range(0..3) {
            0 => Some(plan.cut(STORM, a, b)),
            1 => Some(plan.set(STORM, a, b, rtt(chance.random_range(20..200)))),
            _ => None,
        }
    });
    let storm = storm.collect();
    (topology, storm)
}

#[test]
fn twenty_nodes_find_routes_with_bounded_advertisements_in_a_storm() {
    for seed in seeds(1) {
        let (topology, storm) = world(seed);
        let mut sim = Sim::new(&topology, seed);
        sim.plan(storm);
        let names = names();
        // A ring of pairs, so that each node is an entry and an exit once.
        let mut watches: Vec<_> = (0..NODES)
            .map(|at| Watch::new(&sim, &names[at], &names[(at + 1) % NODES], "latency"))
            .collect();
        run(&mut sim, &mut watches, STORM - s(30), s(1), |_, _| {});
        let spent = |sim: &Sim| (0..NODES).map(|at| sim.spent(at).notices).sum::<usize>();
        let start = spent(&sim);
        run(&mut sim, &mut watches, STORM, s(1), |_, _| {});
        let calm = (spent(&sim) - start) / NODES / 30;
        let mut healed = vec![Duration::ZERO; NODES];
        let start = spent(&sim);
        let mut worst_second = 0;
        let mut last = start;
        run(&mut sim, &mut watches, END, STEER, |sim, watches| {
            for (healed, watch) in healed.iter_mut().zip(watches) {
                if watch.truth(sim).is_none() {
                    *healed = sim.time() - STORM;
                }
            }
            if sim.time().subsec_millis() == 0 {
                worst_second = worst_second.max((spent(sim) - last) / NODES);
                last = spent(sim);
            }
        });
        let storm =
            (spent(&sim) - start) / NODES / usize::try_from((END - STORM).as_secs()).unwrap();
        let figures = format!(
            "byte/s per node, sent and received: calm {calm}, in the minute after {storm}, worst second {worst_second}"
        );
        row(
            &format!("20 nodes, a third of 190 paths cut, seed {seed}"),
            &figures,
            "14 times the calm",
        );
        let healed = Stalls::new(healed);
        healed.print("20 nodes: last moment on a dead path", "5 s");
        if asserts() {
            assert!(storm <= 14 * calm.max(100), "{storm} against {calm} byte/s");
            assert!(healed.worst() <= s(5), "{}", story(seed, &watches[0]));
        }
    }
}
