//! A node that starts at a site whose nodes share what they measure: is its first choice of a route right?

use std::time::Duration;

use rand::{RngExt, seq::IndexedRandom};
use ronproxy::internals::{
    emulator::{LinkModel, LossRate, Topology},
    flow::{Route, RouteWish},
    overlay::{metrics::PathMetrics, select::Selector},
};

use crate::{
    figures::{asserts, rng, row, seeds},
    shapes::s,
    sim::Sim,
};

const SITE: usize = 10;
const REMOTE: usize = 10;

/// The mesh has formed, its hot start is over, and everyone was told.
const SETTLED: Duration = s(150);

/// Between the starts of two nodes.
const BETWEEN: Duration = s(20);

/// A choice must be right so soon after the start.
const SOON: Duration = s(1);

/// The loss of the paths between the site and members elsewhere, each way, in percent.
const LOSSES: [f64; 6] = [0.0, 0.0, 0.0, 5.0, 15.0, 30.0];

/// Members at random distances; the site's nodes are 1 ms apart, and their paths to a member nearly the same.
fn topology(seed: u64) -> Topology {
    let (mut rng, sites) = (rng(seed), SITE + REMOTE);
    let names: Vec<String> = (0..sites).map(|n| format!("n{n}")).collect();
    let mut topology = Topology::new(names.iter().map(String::as_str));
    let path = |us: u64| {
        LinkModel::new(Duration::from_micros(us)).with_jitter(Duration::from_micros(us / 20))
    };
    for far in SITE..sites {
        let one_way = rng.random_range(10_000..80_000);
        let loss = LossRate::from_percent(*LOSSES.choose(&mut rng).unwrap());
        for host in 0..SITE {
            let own = one_way + rng.random_range(0..500);
            topology = topology.both(&names[host], &names[far], path(own).with_loss(loss));
        }
        for other in far + 1..sites {
            let one_way = rng.random_range(5_000..60_000);
            topology = topology.both(&names[far], &names[other], path(one_way));
        }
    }
    for host in 0..SITE {
        for other in host + 1..SITE {
            topology = topology.both(&names[host], &names[other], path(500));
        }
    }
    topology
}

/// Whether no other route is really better than this one by what a lane would change for.
fn is_right(sim: &Sim, from: usize, to: usize, hint: &str, route: Option<&Route>) -> bool {
    let routes = sim.routes(from, to);
    let best = |figure: fn(PathMetrics) -> f64| {
        let figures = routes.iter().filter_map(|route| sim.truth(from, to, route)).map(figure);
        figures.fold(f64::INFINITY, f64::min)
    };
    let Some(taken) = route.and_then(|route| sim.truth(from, to, route)) else { return false };
    match hint {
        "loss" => {
            let loss = |path: PathMetrics| path.round_trip_loss().fraction();
            loss(taken) <= best(loss) + 0.02
        }
        _ => {
            let latency = |path: PathMetrics| path.expected_latency().as_secs_f64();
            latency(taken) <= best(latency) * 1.05 + 0.001
        }
    }
}

/// Starts each node of the site anew, one after the other. The shares of right first choices, by `latency` and
/// by `loss`.
fn first_choices(seed: u64, shares: bool) -> [(usize, usize); 2] {
    let mut sim = Sim::new(&topology(seed), seed);
    if shares {
        sim.site(&(0..SITE).collect::<Vec<_>>());
    }
    let mut right = [(0, 0); 2];
    for host in 0..SITE {
        let start = SETTLED + BETWEEN * u32::try_from(host).unwrap();
        sim.run_until(start);
        sim.restart(host, 2);
        sim.run_until(start + SOON);
        for (hint, (right, all)) in ["latency", "loss"].into_iter().zip(&mut right) {
            for exit in SITE..SITE + REMOTE {
                let wish = RouteWish { hint: hint.parse().unwrap(), ..RouteWish::default() };
                let candidates = sim.router(host).candidates(sim.now(), sim.name(exit), &wish, &[]);
                let mut selector = Selector::new(wish.hint);
                let route = selector.decide(sim.now(), candidates).route;
                *right += usize::from(is_right(&sim, host, exit, hint, route.as_ref()));
                *all += 1;
            }
        }
    }
    right
}

#[test]
fn a_first_choice_at_a_site_is_right_within_a_second() {
    for shares in [false, true] {
        let mut sums = [(0, 0); 2];
        for seed in seeds(2) {
            for (sum, (right, all)) in sums.iter_mut().zip(first_choices(seed, shares)) {
                *sum = (sum.0 + right, sum.1 + all);
            }
        }
        for (hint, (right, all)) in ["latency", "loss"].into_iter().zip(sums) {
            let percent = right as f64 / all as f64 * 100.0;
            let scenario =
                format!("first choice, {hint}, {}", if shares { "shared" } else { "alone" });
            row(&scenario, &format!("right {right} of {all} ({percent:.1} %)"), "95 % if shared");
            assert!(!shares || !asserts() || right * 100 >= all * 95, "{hint}: {percent:.1} %");
        }
    }
}
