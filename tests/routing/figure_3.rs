//! Figure 3 of "The Case for Resilient Overlay Networks": the loss between MIT and ArosNet reaches
//! 30 % for half-hours at a time, and through Utah there is little.

use std::time::Duration;

use ronproxy::internals::emulator::{Climate, Spell, Weather, paper_sites};

use crate::{
    figures::{asserts, row, seeds},
    hours,
    plot::Chart,
    sim::Sim,
    watch::{Watch, run},
};

/// The averages of the figure are over this time.
const HALF_HOUR: Duration = Duration::from_secs(1_800);
/// As often as the samples of figure 4.
const STEP: Duration = Duration::from_secs(1);
/// How long before the overlay is up, and is not looked at.
const WARM_UP: Duration = Duration::from_secs(60);

/// Half an hour of 5 to 30 % about every two hours on the direct path, each way for itself.
fn weather(seed: u64, length: Duration) -> Weather {
    let sites = paper_sites();
    let transit = (sites.address("mit"), sites.address("arosnet"));
    Weather::new(seed, length, &sites, |path| {
        let long_loss = Spell { every: Duration::from_secs(2 * 3_600), ..Spell::long_loss() };
        let lossy = Climate { own: vec![long_loss], ..Climate::research_backbone() };
        let is_direct = [(path.from, path.to), (path.to, path.from)].contains(&transit);
        if is_direct { lossy } else { Climate::research_backbone() }
    })
}

/// Percent of round trips lost, averaged over each half hour: direct, overlay, best route.
#[derive(Default)]
struct Losses {
    sums: [f64; 3],
    halves: Vec<[f64; 3]>,
    samples: u32,
    in_half: u32,
    /// Seconds, at a time, in which the overlay lost over a point more than the best route.
    behind: Vec<u32>,
    now_behind: u32,
}

impl Losses {
    fn take(&mut self, percent: [f64; 3], per_half: u32) {
        for (sum, percent) in self.sums.iter_mut().zip(percent) {
            *sum += percent;
        }
        (self.samples, self.in_half) = (self.samples + 1, self.in_half + 1);
        if percent[1] > percent[2] + 1.0 {
            self.now_behind += 1;
        } else if self.now_behind > 0 {
            self.behind.push(std::mem::take(&mut self.now_behind));
        }
        if self.in_half == per_half {
            self.halves.push(self.sums.map(|sum| sum / f64::from(per_half)));
            (self.sums, self.in_half) = ([0.0; 3], 0);
        }
    }
}

#[test]
fn long_lossy_episodes_of_the_direct_path_are_avoided() {
    let length = hours(2);
    for seed in seeds(1) {
        for hint in ["loss", "latency"] {
            let losses = measure(seed, hint, length);
            report(&losses, hint, seed);
            if asserts() {
                let worst = losses.behind.iter().max().copied().unwrap_or_default();
                assert!(worst <= 60, "{hint}, seed {seed}: behind for {worst} s at a time");
            }
        }
    }
}

fn measure(seed: u64, hint: &str, length: Duration) -> Losses {
    let mut sim = Sim::new(&paper_sites(), seed);
    sim.plan(weather(seed, length).events());
    let mut watches = [Watch::new(&sim, "mit", "arosnet", hint)];
    run(&mut sim, &mut watches, WARM_UP, STEP, |_, _| {});
    let per_half = u32::try_from(HALF_HOUR.as_secs() / STEP.as_secs()).unwrap();
    let mut losses = Losses::default();
    run(&mut sim, &mut watches, length, STEP, |sim, watches| {
        let watch = &watches[0];
        let percent = |loss: f64| 100.0 * loss;
        let loss = |path: ronproxy::internals::overlay::metrics::PathMetrics| {
            path.round_trip_loss().fraction()
        };
        let direct = watch.direct(sim).map_or(1.0, loss);
        let used = watch.truth(sim).map_or(1.0, loss);
        let best = watch.best(sim, loss).unwrap_or(1.0);
        losses.take([direct, used, best].map(percent), per_half);
    });
    losses.behind.push(losses.now_behind);
    losses
}

fn report(losses: &Losses, hint: &str, seed: u64) {
    let halves = losses.halves.len().max(1) as f64;
    let mean = |which: usize| losses.halves.iter().map(|half| half[which]).sum::<f64>() / halves;
    let worst = |which: usize| losses.halves.iter().map(|half| half[which]).fold(0.0, f64::max);
    let behind: u32 = losses.behind.iter().sum();
    let longest = losses.behind.iter().max().copied().unwrap_or_default();
    let figures = format!(
        "{:>3} half-hours | mean % direct {:5.2} overlay {:4.2} best {:4.2} | worst half-hour % direct \
         {:5.2} overlay {:4.2} best {:4.2} | over a point behind {behind} s, at most {longest} s at a time",
        losses.halves.len(),
        mean(0),
        mean(1),
        mean(2),
        worst(0),
        worst(1),
        worst(2)
    );
    row(
        &format!("figure 3, hint {hint}, seed {seed}"),
        &figures,
        "behind at most a minute at a time",
    );
    let line = |which: usize| {
        let point = |(at, half): (usize, &[f64; 3])| (0.5 * (at + 1) as f64, half[which]);
        losses.halves.iter().enumerate().map(point).collect()
    };
    let top = losses.halves.iter().map(|half| half[0]).fold(5.0, f64::max);
    Chart {
        title: "Loss of round trips MIT–ArosNet, averages over 30 minutes",
        x: "hours",
        y: "percent",
        ends: (halves * 0.5, top * 1.1),
        lines: vec![("direct", line(0)), ("overlay", line(1)), ("best one-hop route", line(2))],
    }
    .write(&format!("figure_3_{hint}"));
}
