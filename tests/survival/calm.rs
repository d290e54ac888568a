//! Nothing is wrong, and nothing moves.

use std::time::Duration;

use ronproxy::internals::{
    emulator::{self, Bitrate, LinkModel, Queue, Topology},
    lab::Lab,
    transport::Congestion::{self, Adaptive, Cubic},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use crate::{
    cut::triangle,
    figures::{asserts, row, seeds},
    support::{self, fetch},
    watch::Watch,
    work::{self, Arrivals, Work},
};

#[tokio::test(start_paused = true)]
async fn an_hour_of_typing_on_jittery_paths_moves_nothing() {
    for seed in seeds(1) {
        let arrivals = Arrivals::new();
        let lab = triangle(jittery(100), seed, &arrivals, Adaptive).await;
        sleep(Duration::from_secs(5)).await;
        let job = work::start(lab.node("entry").unwrap(), Work::Keystrokes, &arrivals).await;
        sleep(Duration::from_secs(minutes(20) * 60)).await;
        job.abort();
        nothing_moved(lab, "typing, jitter of 8 ms").await;
    }
}

#[tokio::test(start_paused = true)]
async fn saturated_paths_move_nothing() {
    for congestion in [Adaptive, Cubic] {
        for (work, name) in [(Work::Download, "download"), (Work::Upload, "upload")] {
            for seed in seeds(1) {
                saturate(work, name, congestion, seed).await;
            }
        }
    }
}

async fn saturate(work: Work, name: &str, congestion: Congestion, seed: u64) {
    let arrivals = Arrivals::new();
    let lab = triangle(jittery(10), seed, &arrivals, congestion).await;
    sleep(Duration::from_secs(5)).await;
    let job = work::start(lab.node("entry").unwrap(), work, &arrivals).await;
    sleep(Duration::from_secs(minutes(2) * 60)).await;
    job.abort();
    nothing_moved(lab, &format!("saturated {name}, {congestion:?}")).await;
}

#[tokio::test(start_paused = true)]
async fn slow_starts_and_pauses_and_a_slow_reader_move_nothing() {
    for congestion in [Adaptive, Cubic] {
        let watch = Watch::begin();
        let arrivals = Arrivals::new();
        let lab = triangle(emulator::triangle(), 1, &arrivals, congestion).await;
        sleep(Duration::from_secs(5)).await;
        let entry = lab.node("entry").unwrap();
        let mut slow = support::open(entry, "source.test:80").await;
        support::request(&mut *slow, 64 << 20).await;
        for pause in [0, 1, 3, 10, 40, 100, 300] {
            let several = (0..4).map(|_| fetch(entry, 1 << 20));
            futures_util::future::join_all(several).await;
            slow.read_exact(&mut vec![0; 100_000]).await.unwrap();
            slow.flush().await.unwrap();
            sleep(Duration::from_secs(pause)).await;
        }
        drop(slow);
        nothing_moved(lab, &format!("slow starts, pauses, slow reader, {congestion:?}")).await;
        watch.check("calm");
    }
}

/// Minutes of virtual time: an hour when many runs are asked for.
fn minutes(default: u64) -> u64 {
    if seeds(0).len() >= 50 { 60 } else { default }
}

/// The triangle with 8 ms of mean jitter (40 ms at most) on every path and queues of 50 ms.
fn jittery(mbit: u32) -> Topology {
    let path = |ms| {
        LinkModel::new(Duration::from_millis(ms))
            .with_jitter(Duration::from_millis(8))
            .with_rate(Bitrate::mbit(mbit), Queue::Time(Duration::from_millis(50)))
    };
    Topology::new(["entry", "exit", "relay"])
        .both("entry", "exit", path(30))
        .both("entry", "relay", path(20))
        .both("relay", "exit", path(20))
}

async fn nothing_moved(lab: Lab, name: &str) {
    let nodes = [lab.node("entry").unwrap(), lab.node("exit").unwrap()];
    let mut history = Vec::new();
    for (_, lane) in nodes[0].lanes().lanes() {
        history.extend(lane.end().history().into_iter().map(|r| format!("{} {}", r.to, r.reason)));
    }
    // A lane that is limited by its route tries another one now and then, and returns.
    let moves = nodes.iter().flat_map(|node| node.lane_facts()).flat_map(|l| l.facts.history);
    let moves: Vec<_> = moves.collect();
    let trials = moves.iter().filter(|moved| moved.reason == "a trial").count();
    let reroutes = moves.len() - 2 * trials;
    row(name, &format!("{reroutes} reroutes, {trials} trials"), "none");
    assert!(reroutes == 0 || !asserts(), "{name}: {history:#?}");
    lab.stop().await;
}
