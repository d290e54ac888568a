//! Packets overtake each other on every path: that is not loss, neither for the congestion control nor for
//! the choice of routes.

use std::time::Duration;

use ronproxy::internals::{
    emulator::{Bitrate, LinkModel, Loss, LossRate, Queue, Topology},
    lab::Lab,
    transport::Congestion::{self, Adaptive, Cubic},
};
use tokio::time::sleep;

use crate::{
    cut::triangle,
    figures::{asserts, moment, rng, row, seeds},
    watch::Watch,
    work::{self, Arrivals, Work},
};

/// Slow start, and learning how late packets come, are over after this.
const SETTLE: Duration = Duration::from_secs(5);

/// How long goodput is measured.
const MEASURED: Duration = Duration::from_secs(5);

/// What the paths do.
#[derive(Debug, Clone, Copy)]
struct Paths {
    /// By how much the delay of 20 ms varies to both sides, from packet to packet.
    swing_ms: u64,
    loss_percent: f64,
}

/// What a download saw.
struct Seen {
    mbit: f64,
    /// What the sender sent on top of what arrived at the application: headers, and what it sent again.
    extra_percent: f64,
    moves: usize,
    held: u64,
    late: u64,
}

#[tokio::test(start_paused = true)]
async fn a_path_is_filled_on_which_packets_overtake_each_other() {
    let swings = [(20, 40.0), (10, 44.0), (3, 44.0), (1, 44.0)];
    for (swing_ms, least) in swings.into_iter().take(if asserts() { 2 } else { 4 }) {
        overtaking(swing_ms, Adaptive, least).await;
    }
    overtaking(10, Cubic, 45.0).await;
}

async fn overtaking(swing_ms: u64, congestion: Congestion, least: f64) {
    for seed in seeds(1) {
        let seen = download(Paths { swing_ms, loss_percent: 0.0 }, congestion, seed).await;
        let what = format!("±{swing_ms} ms, packets overtake, {congestion:?}");
        seen.print(&what, &format!("{least} Mbit/s, nothing sent again, no move"));
        let held = seen.mbit >= least && seen.extra_percent < 6.0 && seen.moves == 0;
        assert!(held || !asserts(), "{what}, seed {seed}");
    }
}

/// CUBIC has 2 Mbit/s.
#[tokio::test(start_paused = true)]
async fn a_path_that_loses_and_reorders_carries_more_than_with_cubic() {
    for seed in seeds(1) {
        for swing_ms in [0, 3, 10] {
            let seen = download(Paths { swing_ms, loss_percent: 2.0 }, Adaptive, seed).await;
            seen.print(&format!("±{swing_ms} ms and 2 % loss"), "47 Mbit/s");
            // Where packets are only lost nothing waits for them. (A move to another route lets
            // packets overtake, too.)
            let none = seen.held + seen.late == 0 || seen.moves > 0;
            assert!(swing_ms > 0 || none || !asserts(), "seed {seed}");
            assert!(seen.mbit > 40.0 || !asserts(), "±{swing_ms} ms, seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flow_goes_on_after_a_cut_among_paths_that_reorder() {
    for work in [Work::Download, Work::Keystrokes] {
        let mut stalls = Vec::new();
        for seed in seeds(2) {
            stalls.push(stall(work, seed).await);
        }
        stalls.sort_unstable();
        let worst = stalls[stalls.len() - 1];
        row(&format!("cut, ±10 ms, packets overtake, {work:?}"), &format!("{stalls:?}"), "600 ms");
        assert!(worst <= Duration::from_millis(600) || !asserts(), "{work:?}");
    }
}

async fn stall(work: Work, seed: u64) -> Duration {
    let watch = Watch::begin();
    let arrivals = Arrivals::new();
    let paths = Paths { swing_ms: 10, loss_percent: 0.0 };
    let lab = triangle(topology(paths), seed, &arrivals, Adaptive).await;
    sleep(SETTLE).await;
    let job = work::start(lab.node("entry").unwrap(), work, &arrivals).await;
    sleep(moment(&mut rng(seed), 2_000, 3_000)).await;
    arrivals.restart();
    let at = |name| lab.topology().address(name);
    lab.internet().cut(at("entry"), at("exit"));
    sleep(SETTLE).await;
    assert_eq!(arrivals.wrong(), None, "seed {seed}");
    let stall = arrivals.longest();
    job.abort();
    lab.stop().await;
    watch.check(&format!("{work:?}, seed {seed}"));
    stall
}

impl Seen {
    fn print(&self, what: &str, aim: &str) {
        let Self { mbit, extra_percent, moves, held, late } = self;
        let figures = format!(
            "{mbit:>5.1} Mbit/s | {extra_percent:>5.1} % more sent | {held:>6} held, {late:>4} late | {moves} moves"
        );
        row(what, &figures, aim);
    }
}

/// A triangle of equal paths of 50 Mbit/s and 40 ms.
fn topology(paths: Paths) -> Topology {
    let loss = Loss::Bernoulli(LossRate::from_percent(paths.loss_percent));
    let model = LinkModel::new(Duration::from_millis(20))
        .with_rate(Bitrate::mbit(50), Queue::Time(Duration::from_millis(100)))
        .with_overtaking(Duration::from_millis(paths.swing_ms));
    let model = LinkModel { loss, ..model };
    Topology::new(["entry", "exit", "relay"])
        .both("entry", "exit", model)
        .both("entry", "relay", model)
        .both("relay", "exit", model)
}

async fn download(paths: Paths, congestion: Congestion, seed: u64) -> Seen {
    let watch = Watch::begin();
    let arrivals = Arrivals::new();
    let lab = triangle(topology(paths), seed, &arrivals, congestion).await;
    sleep(SETTLE).await;
    let job = work::start(lab.node("entry").unwrap(), Work::Download, &arrivals).await;
    sleep(SETTLE).await;
    let at = |name| lab.topology().address(name);
    let so_far = || {
        let sent = lab.internet().counters(at("exit"), at("entry")).sent_bytes;
        (arrivals.bytes() as f64, sent as f64)
    };
    let before = so_far();
    sleep(MEASURED).await;
    let after = so_far();
    let (got, sent) = (after.0 - before.0, after.1 - before.1);
    assert_eq!(arrivals.wrong(), None, "seed {seed}");
    job.abort();
    let mbit = got * 8.0 / 1e6 / MEASURED.as_secs_f64();
    let status = lab.node("entry").unwrap().status();
    let [held, late] = [0, 1].map(|index| status.reordered[index].1);
    let extra_percent = (sent / got - 1.0) * 100.0;
    let seen = Seen { mbit, extra_percent, moves: moves(&lab), held, late };
    lab.stop().await;
    watch.check(&format!("{paths:?}, seed {seed}"));
    seen
}

/// How often the ends moved to another route.
fn moves(lab: &Lab) -> usize {
    let ends = ["entry", "exit"].map(|name| lab.node(name).unwrap());
    let facts = ends.iter().flat_map(|node| node.lane_facts());
    facts.map(|lane| lane.facts.history.len()).sum()
}
