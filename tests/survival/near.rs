//! Trouble near an end, in the lane's own queue, or none at all, where moving helps nobody; and a narrow path, where it helps.

use std::time::Duration;

use ronproxy::internals::{
    emulator::{Bitrate, LinkModel, Loss, LossRate, Queue, Topology},
    flow::{FlowRequest, Hint, Route},
    lab::Lab,
    transport::Congestion::{self, Adaptive, Cubic},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    congestion::type_keys,
    cut::triangle,
    figures::{Stalls, asserts, row, seeds},
    support,
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
            let (rates, moves) = download(&name, (100, 5), congestion, seed).await;
            assert!(rates.iter().skip(1).all(|mbit| *mbit >= 75) || !asserts(), "{rates:?}");
            // There and back, of the end that tries; the other end stays.
            assert!(moves <= 3 || !asserts(), "{moves} moves");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_finds_a_wide_detour_of_a_narrow_path() {
    for seed in seeds(1) {
        let (rates, _) = download("narrow path, wide detour", (5, 100), Adaptive, seed).await;
        assert!(rates[3..].iter().all(|mbit| *mbit >= 75) || !asserts(), "{rates:?}");
    }
}

/// Downloads for a minute, directly at 60 ms or via the relay at 80 ms, which carry so many Mbit/s. Returns the goodput of
/// each ten seconds in Mbit/s, and the moves of both ends.
async fn download(
    name: &str,
    mbit: (u32, u32),
    congestion: Congestion,
    seed: u64,
) -> (Vec<usize>, u64) {
    let watch = Watch::begin();
    let arrivals = Arrivals::new();
    let lab = triangle(topology(mbit, 20), seed, &arrivals, congestion).await;
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
    let moves = reroutes(&lab);
    row(name, &format!("{} Mbit/s in each 10 s, {moves} reroutes", shown.join(" ")), "75");
    lab.stop().await;
    watch.check(name);
    (rates, moves)
}

#[tokio::test(start_paused = true)]
async fn a_download_finds_and_keeps_a_wide_path_that_loses_in_bursts() {
    let (mut with, mut without, mut pauses) = (0, 0, Vec::new());
    for seed in seeds(3) {
        without += bursts(seed, false).await.0;
        let (kbit, pause) = bursts(seed, true).await;
        with += kbit;
        pauses.push(pause);
    }
    Stalls::new(pauses).print("losses in bursts: longest pause", "worst 1000 ms");
    let share = with * 100 / without;
    // It begins on the detour, which is nearer, and tries another route after 20 s: 90 % would be perfect.
    row("losses in bursts: of the rate without the detour", &format!("{share} %"), "75 %");
    assert!(share >= 75 || !asserts(), "{share} %");
}

/// Downloads for two minutes over a path of 10 Mbit/s that loses a fifth of the packets for five seconds now and then; the
/// detour, if it is there, is nearer and has 4 Mbit/s. Returns the goodput in kbit/s, and the longest pause.
async fn bursts(seed: u64, detour: bool) -> (usize, Duration) {
    let watch = Watch::begin();
    let arrivals = Arrivals::new();
    let loss = Loss::GilbertElliott {
        good: LossRate::from_percent(0.5),
        bad: LossRate::from_percent(20.0),
        good_for: Duration::from_secs(25),
        bad_for: Duration::from_secs(5),
    };
    let direct = LinkModel { loss, ..path(43, 10, 100).with_jitter(Duration::from_millis(5)) };
    let topology = topology((10, 4), 17).both("entry", "exit", direct);
    let lab = triangle(topology, seed, &arrivals, Adaptive).await;
    if !detour {
        let at = |name| lab.topology().address(name);
        lab.internet().cut(at("entry"), at("relay"));
    }
    sleep(Duration::from_secs(5)).await;
    let job = work::start(lab.node("entry").unwrap(), Work::Download, &arrivals).await;
    sleep(Duration::from_secs(120)).await;
    job.abort();
    let (kbit, pause) = (arrivals.bytes() * 8 / 120_000, arrivals.longest());
    assert_eq!(arrivals.wrong(), None, "seed {seed}");
    lab.stop().await;
    watch.check("losses in bursts");
    (kbit, pause)
}

/// A direct path of 5 Mbit/s and 60 ms, a detour of 100 Mbit/s and 130 to 200 ms, and a download that has taken the detour.
struct WideDetour {
    watch: Watch,
    lab: Lab,
    first: Arrivals,
    download: JoinHandle<()>,
}

impl WideDetour {
    /// The first download has gone over to the detour.
    async fn begin(seed: u64) -> Self {
        let (watch, first) = (Watch::begin(), Arrivals::new());
        let lab = triangle(topology((5, 100), 50), seed, &first, Adaptive).await;
        sleep(Duration::from_secs(5)).await;
        let download = work::start(lab.node("entry").unwrap(), Work::Download, &first).await;
        sleep(Duration::from_secs(40)).await;
        Self { watch, lab, first, download }
    }

    /// Mbit/s of the first download and of `second` in so many seconds.
    async fn rates(&self, second: &Arrivals, seconds: u64) -> [u64; 2] {
        let bytes = || [&self.first, second].map(|arrivals| arrivals.bytes() as u64);
        let before = bytes();
        sleep(Duration::from_secs(seconds)).await;
        let after = bytes();
        assert_eq!([self.first.wrong(), second.wrong()], [None, None]);
        [0, 1].map(|at| (after[at] - before[at]) * 8 / 1_000_000 / seconds)
    }

    async fn end(self, second: JoinHandle<()>, what: &str) {
        self.download.abort();
        second.abort();
        self.lab.stop().await;
        self.watch.check(what);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_download_shares_the_wide_detour_of_the_first_at_once() {
    for seed in seeds(1) {
        let wide = WideDetour::begin(seed).await;
        let entry = wide.lab.node("entry").unwrap();
        let keys = type_keys(entry, Instant::now()).await;
        let arrivals = Arrivals::new();
        let second = work::start(entry, Work::Download, &arrivals).await;
        let rates = wide.rates(&arrivals, 2).await;
        row(
            "a second download beside one on a wide detour",
            &format!("{rates:?} Mbit/s | keys before: median {} ms", keys.0),
            "30 Mbit/s each, 150 ms",
        );
        let shared = rates.iter().all(|mbit| *mbit >= 30) && keys.0 < 150;
        assert!(shared || !asserts(), "{rates:?}, {keys:?}");
        wide.end(second, "two downloads in a lane").await;
    }
}

/// The second lane comes while the first one fills the queue.
#[tokio::test(start_paused = true)]
async fn downloads_in_two_lanes_share_a_wide_detour() {
    for seed in seeds(1) {
        let wide = WideDetour::begin(seed).await;
        let entry = wide.lab.node("entry").unwrap();
        let hint = Some(Hint::Loss);
        let request = FlowRequest { hint, ..support::flow_request("source.test:80") };
        let io = entry.dialer().dial(request).await.unwrap().into_io();
        let arrivals = Arrivals::new();
        let second = work::begin(io, Work::Download, &arrivals);
        // It tries the detour after 20 s. The first one need not go away.
        let mut rates = Vec::new();
        for _ in 0..4 {
            rates.push(wide.rates(&arrivals, 10).await);
        }
        row(
            "downloads in two lanes, a wide detour",
            &format!("{rates:?} Mbit/s in each 10 s, {} reroutes", reroutes(&wide.lab)),
            "each 24 of 96, 3 reroutes",
        );
        let shared = rates[3].iter().all(|mbit| *mbit >= 24) && reroutes(&wide.lab) <= 3;
        assert!(shared || !asserts(), "{rates:?}");
        wide.end(second, "two downloads in two lanes").await;
    }
}

/// A direct path of 60 ms and a relay, each leg to which has this delay; they carry so many Mbit/s.
fn topology((direct, relayed): (u32, u32), leg_ms: u64) -> Topology {
    Topology::new(["entry", "exit", "relay"])
        .both("entry", "exit", path(30, direct, 100))
        .both("entry", "relay", path(leg_ms, relayed, 100))
        .both("relay", "exit", path(leg_ms, relayed, 100))
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
