//! Trouble near an end, in the lane's own queue, or none at all, where moving helps nobody; and a narrow path, where it helps.

use std::time::Duration;

use ronproxy::internals::{
    emulator::{Bitrate, LinkModel, Queue, Topology},
    flow::Route,
    lab::Lab,
    transport::Congestion::{self, Adaptive, Cubic},
};
use tokio::time::{Instant, sleep};

use crate::{
    cut::triangle,
    figures::{asserts, row, seeds},
    watch::Watch,
    work::{self, Arrivals, Work},
};

#[tokio::test(start_paused = true)]
async fn a_pausing_access_line_keeps_the_lane_on_its_route() {
    for (name, every, long) in [
        ("line silent for 1.5 s every 20 s", 20_000, 1_500),
        ("scans of 150 to 400 ms every 2 s", 2_000, 150),
    ] {
        for work in [Work::Keystrokes, Work::Stream, Work::Download] {
            for seed in seeds(1) {
                pause(name, work, seed, (every, long)).await;
            }
        }
    }
}

/// Cuts all paths of the entry for a while, again and again, for two minutes.
async fn pause(name: &str, work: Work, seed: u64, (every, long): (u64, u64)) {
    let watch = Watch::begin();
    let arrivals = Arrivals::new();
    let lab = triangle(ronproxy::internals::emulator::triangle(), seed, &arrivals, Cubic).await;
    sleep(Duration::from_secs(5)).await;
    let job = work::start(lab.node("entry").unwrap(), work, &arrivals).await;
    let (began, mut elsewhere) = (Instant::now(), Duration::ZERO);
    let mut scan = 0;
    while began.elapsed() < Duration::from_secs(120) {
        let at = |name| lab.topology().address(name);
        let others = ["exit", "relay"];
        others.iter().for_each(|other| lab.internet().cut(at("entry"), at(other)));
        // Scans differ in length: 150, 275 and 400 ms.
        let scanned = if long < 1_000 { long + 125 * (scan % 3) } else { long };
        scan += 1;
        sleep(Duration::from_millis(scanned)).await;
        others.iter().for_each(|other| lab.internet().heal(at("entry"), at(other)));
        for _ in 0..(every - scanned) / 100 {
            sleep(Duration::from_millis(100)).await;
            let route = lab.node("entry").unwrap().lanes().lanes()[0].1.end().route();
            if route != Route::Direct {
                elsewhere += Duration::from_millis(100);
            }
        }
    }
    job.abort();
    assert_eq!(arrivals.wrong(), None, "{name}");
    let better = 100 - elsewhere.as_millis() * 100 / began.elapsed().as_millis();
    row(
        &format!("{name}, {work:?}"),
        &format!("{better} % on the better route, {} reroutes", reroutes(&lab)),
        "95 %",
    );
    // Short scans that follow each other fall short of the aim: docs/figures.md.
    assert!(better >= 95 || long < 1_000 || !asserts(), "{name}: {better} %");
    lab.stop().await;
    watch.check(name);
}

#[tokio::test(start_paused = true)]
async fn a_download_does_not_flee_its_own_queue() {
    for congestion in [Cubic, Adaptive] {
        for seed in seeds(1) {
            let name = format!("own queue, {congestion:?}");
            let rates = download(&name, (100, 5), congestion, seed).await;
            assert!(rates.iter().skip(1).all(|mbit| *mbit >= 75) || !asserts(), "{rates:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_finds_a_wide_detour_of_a_narrow_path() {
    for seed in seeds(1) {
        let rates = download("narrow path, wide detour", (5, 100), Adaptive, seed).await;
        assert!(rates[3..].iter().all(|mbit| *mbit >= 75) || !asserts(), "{rates:?}");
    }
}

/// Downloads for a minute, directly at 60 ms or via the relay at 80 ms, which carry so many Mbit/s. Returns the goodput of
/// each ten seconds in Mbit/s.
async fn download(
    name: &str,
    (direct, relayed): (u32, u32),
    congestion: Congestion,
    seed: u64,
) -> Vec<usize> {
    let watch = Watch::begin();
    let arrivals = Arrivals::new();
    let topology = Topology::new(["entry", "exit", "relay"])
        .both("entry", "exit", path(30, direct, 100))
        .both("entry", "relay", path(20, relayed, 100))
        .both("relay", "exit", path(20, relayed, 100));
    let lab = triangle(topology, seed, &arrivals, congestion).await;
    sleep(Duration::from_secs(5)).await;
    let job = work::start(lab.node("entry").unwrap(), Work::Download, &arrivals).await;
    let mut rates = Vec::new();
    for _ in 0..6 {
        let before = arrivals.bytes();
        sleep(Duration::from_secs(10)).await;
        rates.push((arrivals.bytes() - before) * 8 / 10_000_000);
    }
    job.abort();
    let shown: Vec<String> = rates.iter().map(ToString::to_string).collect();
    row(
        name,
        &format!("{} Mbit/s in each 10 s, {} reroutes", shown.join(" "), reroutes(&lab)),
        "75",
    );
    lab.stop().await;
    watch.check(name);
    rates
}

fn path(ms: u64, mbit: u32, queue_ms: u64) -> LinkModel {
    LinkModel::new(Duration::from_millis(ms))
        .with_rate(Bitrate::mbit(mbit), Queue::Time(Duration::from_millis(queue_ms)))
}

#[tokio::test(start_paused = true)]
async fn an_idle_lane_is_silent() {
    let arrivals = Arrivals::new();
    let lab = triangle(ronproxy::internals::emulator::triangle(), 1, &arrivals, Cubic).await;
    sleep(Duration::from_secs(5)).await;
    let job = work::start(lab.node("entry").unwrap(), Work::Keystrokes, &arrivals).await;
    sleep(Duration::from_secs(10)).await;
    job.abort();
    sleep(Duration::from_secs(5)).await;
    let packets = || {
        let lanes = ["entry", "exit"].map(|name| lab.node(name).unwrap().lane_facts());
        lanes.iter().flatten().map(|lane| lane.facts.packets.0).sum::<u64>()
    };
    let before = packets();
    sleep(Duration::from_secs(60)).await;
    let sent = packets() - before;
    row("idle lane for a minute", &format!("{sent} packets, both ends"), "40");
    // QUIC's keep-alive each 15 s, with its acknowledgement, and one ping and answer for it.
    assert!(sent <= 40 || !asserts(), "{sent}");
    lab.stop().await;
}

fn reroutes(lab: &Lab) -> u64 {
    let nodes = ["entry", "exit"].map(|name| lab.node(name).unwrap());
    nodes.iter().flat_map(|node| node.lane_facts()).map(|lane| lane.facts.reroutes).sum()
}
