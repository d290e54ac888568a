//! Networks drawn by chance: mixtures that nobody thought of.

use std::{fmt, time::Duration};

use rand::{RngExt, seq::IndexedRandom};
use rand_pcg::Pcg64Mcg;
use ronproxy::internals::{
    emulator::{Bitrate, LinkModel, Loss, LossRate, Queue, Topology},
    flow::Route,
    lab::{Lab, LabNode},
    transport::Congestion,
};
use tokio::time::sleep;

use crate::{
    figures::{asserts, rng, row, seeds},
    support::wait_for,
    watch::Watch,
    work::{self, Arrivals, Work},
};

const PATHS: [(&str, &str); 5] = [
    ("entry", "exit"),
    ("entry", "north"),
    ("north", "exit"),
    ("entry", "south"),
    ("south", "exit"),
];

/// In Mbit/s.
const RATES: [u32; 10] = [3, 4, 6, 9, 13, 20, 30, 45, 67, 100];

/// Until then a lane has tried the routes once.
const TRIED: Duration = Duration::from_secs(50);

/// A rate is measured for so long.
const MEASURED: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn a_transfer_goes_on_in_networks_drawn_by_chance() {
    for seed in seeds(2) {
        run(seed).await;
    }
}

async fn run(seed: u64) {
    let mut rng = rng(seed);
    let paths = PATHS.map(|_| Path::draw(&mut rng));
    let work = if rng.random_bool(0.7) { Work::Download } else { Work::Upload };
    let mut alone = Vec::new();
    for only in [Some(0), Some(1), Some(2)] {
        alone.push(transfer(&paths, work, seed, only).await.0);
    }
    let (kbit, moves, route, pause) = transfer(&paths, work, seed, None).await;
    let best = *alone.iter().max().unwrap();
    let share = kbit * 100 / best.max(1);
    let list = PATHS.iter().zip(&paths).map(|((a, b), path)| format!("{a} to {b}: {path}"));
    println!("{}", list.collect::<Vec<_>>().join("\n"));
    let pause = pause.as_millis();
    let figures =
        format!("{kbit} of {alone:?} kbit/s, {share} %, {moves} moves, {route}, pause {pause} ms");
    row(&format!("drawn network {seed}, {work:?}"), &figures, "75 %, 4000 ms");
    assert!((kbit > 0 && pause < 4_000) || !asserts(), "seed {seed}");
}

/// A path between two sites.
struct Path(LinkModel);

impl Path {
    fn draw(rng: &mut Pcg64Mcg) -> Self {
        let mut log = |from: f64, to: f64| (rng.random_range(from.ln()..to.ln())).exp();
        let (delay, queue) = (log(2.0, 80.0), log(20.0, 400.0));
        let spread = Duration::from_secs_f64(log(0.5, 10.0) / 1e3);
        let loss = LossRate::from_percent(log(0.1, 5.0));
        let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let model = LinkModel::new(ms(delay))
            .with_rate(Bitrate::mbit(*RATES.choose(rng).unwrap()), Queue::Time(ms(queue)));
        let model = match rng.random_range(0..4) {
            0 => model.with_jitter(spread),
            1 => model.with_overtaking(spread),
            _ => model,
        };
        let loss = match rng.random_range(0..4) {
            0 => Loss::Bernoulli(loss),
            1 => Loss::GilbertElliott {
                good: LossRate::ZERO,
                bad: LossRate::from_percent(rng.random_range(5.0..40.0)),
                good_for: Duration::from_secs(rng.random_range(3..30)),
                bad_for: Duration::from_millis(rng.random_range(100..5_000)),
            },
            _ => Loss::None,
        };
        Self(LinkModel { loss, ..model })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LinkModel { delay, jitter, swing, loss, rate, queue, .. } = &self.0;
        write!(f, "{delay:.1?} {rate:?} {queue:?} jitter {jitter:.1?} swing {swing:.1?} {loss:?}")
    }
}

/// Kbit/s in the measured time, the moves of both ends, the route, and the pause when that is cut.
async fn transfer(
    paths: &[Path; 5],
    work: Work,
    seed: u64,
    only: Option<usize>,
) -> (usize, u64, Route, Duration) {
    let watch = Watch::begin();
    let arrivals = Arrivals::new();
    let mut topology = Topology::new(["entry", "exit", "north", "south"]);
    for ((a, b), path) in PATHS.into_iter().zip(paths) {
        topology = topology.both(a, b, path.0);
    }
    topology = topology.both("north", "south", LinkModel::new(Duration::from_millis(20)));
    let nodes = [
        ("entry", false, false),
        ("exit", false, true),
        ("north", true, false),
        ("south", true, false),
    ];
    let nodes = nodes.map(|(name, relay, exit)| LabNode::new(name, relay, exit)).to_vec();
    let lab = Lab::start(topology, seed, nodes, work::services(&arrivals), Congestion::default());
    let lab = lab.await.unwrap();
    wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    let at = |name| lab.topology().address(name);
    if let Some(only) = only {
        for (n, to) in ["exit", "north", "south"].into_iter().enumerate() {
            if n != only {
                lab.internet().cut(at("entry"), at(to));
            }
        }
    }
    sleep(Duration::from_secs(5)).await;
    let job = work::start(lab.node("entry").unwrap(), work, &arrivals).await;
    sleep(if only.is_some() { Duration::from_secs(10) } else { TRIED }).await;
    let before = arrivals.bytes();
    sleep(MEASURED).await;
    let kbit = (arrivals.bytes() - before) * 8 / MEASURED.as_millis() as usize;
    let lanes = ["entry", "exit"].into_iter().flat_map(|name| lab.node(name).unwrap().lane_facts());
    let moves = lanes.map(|lane| lane.facts.reroutes).sum();
    let route = lab.node("entry").unwrap().lanes().lanes()[0].1.end().route();
    let mut pause = Duration::ZERO;
    if only.is_none() {
        arrivals.restart();
        let first = route.relay().map_or("exit", |relay| relay.as_str());
        lab.internet().cut(at("entry"), at(first));
        sleep(Duration::from_secs(5)).await;
        pause = arrivals.longest();
    }
    assert_eq!(arrivals.wrong(), None, "seed {seed}");
    job.abort();
    lab.stop().await;
    watch.check(&format!("seed {seed}"));
    (kbit, moves, route, pause)
}
