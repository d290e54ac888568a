//! Routes on the round trips that people measured between their machines: how near the routes in use are
//! to the best ones.
//!
//! The data is not in the repository: see [`Measured::read`]. Each ordered pair of `RON_MACHINES` (12)
//! machines, drawn by the seed, has a lane in use with the hint `latency`, for five minutes, or
//! `RON_ROUTING_HOURS` (the data has 3). A direction of a path takes half of the round trip that its sender measured.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use rand::seq::SliceRandom;
use ronproxy::internals::emulator::{Change, Event, LinkModel, Topology};

use crate::{
    figures::{asserts, rng, row, seeds},
    sim::Sim,
    watch::{Watch, run},
};

/// A slice of the data.
const SLICE: Duration = Duration::from_secs(16);

/// How often the routes in use are compared with the others.
const STEP: Duration = Duration::from_secs(1);

/// The mesh has formed, and measures.
const SETTLED: Duration = Duration::from_secs(120);

/// A slower round trip is an outage to a person.
const OUTAGE: Duration = Duration::from_secs(1);

/// Round trips between machines: each holds from its slice until that of the next.
struct Measured {
    changes: BTreeMap<(usize, usize), Vec<(u32, Duration)>>,
    slices: u32,
}

impl Measured {
    /// Reads `seattle_changes.csv.gz` (`slice,src,dst,rtt_ms`; Zhu, Liu, et al., NetLatency-Data) in the
    /// folder `RON_DATA`, or in `../shared/data` beside the repository. `None` where it is not.
    fn read() -> Option<Self> {
        let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
        let folder = std::env::var_os("RON_DATA").map_or_else(beside, PathBuf::from);
        let file = folder.join("seattle_changes.csv.gz");
        if !file.is_file() {
            println!("skipped: {} is not there; set RON_DATA to its folder", file.display());
            return None;
        }
        let unpacked = Command::new("gzip").arg("-dc").arg(&file).output().unwrap();
        let text = String::from_utf8(unpacked.stdout).unwrap();
        let mut measured = Self { changes: BTreeMap::new(), slices: 0 };
        for line in text.lines().skip(1) {
            let numbers: Vec<u32> = line.split(',').map(|field| field.parse().unwrap()).collect();
            let [slice, from, to, ms] = numbers[..] else { panic!("{line:?}") };
            let rtt = Duration::from_millis(ms.max(1).into());
            measured.slices = measured.slices.max(slice);
            measured.changes.entry((from as usize, to as usize)).or_default().push((slice, rtt));
        }
        Some(measured)
    }

    fn machines(&self) -> Vec<usize> {
        let all: BTreeSet<usize> = self.changes.keys().map(|pair| pair.0).collect();
        all.into_iter().collect()
    }
}

/// What a lane's packets went through, of all pairs and moments together.
#[derive(Default)]
struct Seen {
    trips: Vec<Duration>,
}

impl Seen {
    fn add(&mut self, trip: Option<Duration>) {
        self.trips.push(trip.unwrap_or(Duration::from_secs(60)));
    }

    fn mean_ms(&self) -> f64 {
        self.trips.iter().map(Duration::as_secs_f64).sum::<f64>() * 1e3 / self.trips.len() as f64
    }

    fn percentile(&mut self, percent: usize) -> Duration {
        self.trips.sort_unstable();
        self.trips[(self.trips.len() * percent / 100).min(self.trips.len() - 1)]
    }

    fn outages(&self) -> f64 {
        let over = self.trips.iter().filter(|trip| **trip > OUTAGE).count();
        over as f64 * 100.0 / self.trips.len() as f64
    }

    fn shown(&mut self) -> String {
        let (mean, most) = (self.mean_ms(), self.percentile(99).as_millis());
        format!("{mean:4.0} ms, 99 % {most:>4} ms, {:.2} % over 1 s", self.outages())
    }
}

#[test]
fn lanes_go_by_routes_near_the_best_on_measured_round_trips() {
    let Some(measured) = Measured::read() else { return };
    let machines = std::env::var("RON_MACHINES").ok().and_then(|text| text.parse().ok());
    let machines = machines.unwrap_or(12);
    for seed in seeds(1) {
        let mut outcome = replay(&measured, machines, seed);
        outcome.print(seed);
        outcome.check();
    }
}

struct Outcome {
    direct: Seen,
    ours: Seen,
    last_slice: Seen,
    oracle: Seen,
    changes_an_hour: f64,
    /// What a node sends as probes, and as advertisements.
    kbps: (f64, f64),
}

impl Outcome {
    fn print(&mut self, seed: u64) {
        let over = self.ours.mean_ms() / self.oracle.mean_ms() * 100.0 - 100.0;
        let (changes, (probes, adverts)) = (self.changes_an_hour, self.kbps);
        for (name, seen, aim) in [
            ("direct", &mut self.direct, ""),
            ("best of the slice before", &mut self.last_slice, ""),
            ("best", &mut self.oracle, ""),
            ("route in use", &mut self.ours, "within 10 % of the best"),
        ] {
            row(&format!("measured, seed {seed}: {name}"), &seen.shown(), aim);
        }
        let figures = format!(
            "{over:.1} % over the best, {changes:.0} changes an hour, {probes:.1} + {adverts:.1} kbit/s"
        );
        row(&format!("measured, seed {seed}: route in use"), &figures, "within 10 %, 32 kbit/s");
    }

    fn check(&mut self) {
        if !asserts() {
            return;
        }
        let over = self.ours.mean_ms() / self.oracle.mean_ms();
        assert!(over <= 1.1, "{over:.3} of the best");
        assert!(self.ours.percentile(99) < self.direct.percentile(99));
        let kbps = self.kbps.0 + self.kbps.1;
        assert!(kbps <= 32.0, "{kbps:.1} kbit/s");
    }
}

fn replay(measured: &Measured, machines: usize, seed: u64) -> Outcome {
    let mut drawn = measured.machines();
    drawn.shuffle(&mut rng(seed));
    drawn.truncate(machines);
    let names: Vec<String> = drawn.iter().map(|machine| format!("m{machine}")).collect();
    let topology = Topology::new(names.iter().map(String::as_str));
    let length = match crate::hours(0) {
        Duration::ZERO => SETTLED + Duration::from_secs(300),
        asked => asked.min(SLICE * measured.slices),
    };
    let mut sim = Sim::new(&topology, seed);
    sim.plan(events(measured, &drawn, &topology));
    let mut watches = Vec::new();
    for from in &names {
        let others = names.iter().filter(|to| *to != from);
        watches.extend(others.map(|to| Watch::new(&sim, from, to, "latency")));
    }
    run(&mut sim, &mut watches, SETTLED, STEP, |_, _| {});
    let spent = |sim: &Sim| {
        let all = (0..machines).map(|at| sim.spent(at));
        all.fold((0, 0), |sum, spent| (sum.0 + spent.probes, sum.1 + spent.notices))
    };
    let (before, began) = (spent(&sim), sim.time());
    let changes = |watches: &[Watch]| watches.iter().map(Watch::changes).sum::<u64>();
    let changed = changes(&watches);
    let mut outcome = Outcome {
        direct: Seen::default(),
        ours: Seen::default(),
        last_slice: Seen::default(),
        oracle: Seen::default(),
        changes_an_hour: 0.0,
        kbps: (0.0, 0.0),
    };
    let mut kept = vec![None; watches.len()];
    run(&mut sim, &mut watches, length, STEP, |sim, watches| {
        let late = sim.time().as_secs() % SLICE.as_secs() == SLICE.as_secs() - 1;
        for (watch, kept) in watches.iter().zip(&mut kept) {
            let rtt = |route| sim.truth(watch.from, watch.to, route).map(|path| path.rtt);
            let routes = sim.routes(watch.from, watch.to);
            let best = routes.iter().filter_map(|route| Some((rtt(route)?, route.clone()))).min();
            outcome.direct.add(watch.direct(sim).map(|path| path.rtt));
            outcome.ours.add(watch.truth(sim).map(|path| path.rtt));
            outcome.oracle.add(best.as_ref().map(|best| best.0));
            outcome.last_slice.add(kept.as_ref().and_then(rtt));
            if late || kept.is_none() {
                *kept = best.map(|best| best.1);
            }
        }
    });
    let passed = sim.time() - began;
    let hours = passed.as_secs_f64() / 3_600.0;
    outcome.changes_an_hour = (changes(&watches) - changed) as f64 / watches.len() as f64 / hours;
    let after = spent(&sim);
    // What is sent is received by another node, and counted there as well.
    let kbps = |bytes: usize| bytes as f64 * 4e-3 / passed.as_secs_f64() / machines as f64;
    outcome.kbps = (kbps(after.0 - before.0), kbps(after.1 - before.1));
    outcome
}

/// The changes of the paths between the drawn machines. A pair that was never measured stays cut.
fn events(measured: &Measured, drawn: &[usize], topology: &Topology) -> Vec<Event> {
    let mut events = Vec::new();
    let at = |index: usize| topology.sites()[index].address;
    for (i, from) in drawn.iter().enumerate() {
        for (j, to) in drawn.iter().enumerate().filter(|(j, _)| *j != i) {
            for (slice, rtt) in measured.changes.get(&(*from, *to)).into_iter().flatten() {
                let model = LinkModel { delay: *rtt / 2, ..LinkModel::default() };
                let change = Change::Set { from: at(i), to: at(j), model };
                events.push(Event { at: SLICE * (*slice - 1), change });
            }
        }
    }
    events
}
