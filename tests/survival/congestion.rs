//! What the congestion controllers make of ordinary bad lines with nothing beside them: the evidence for
//! the default. Their arithmetic beside TCP is in `transport/adaptive/tests.rs`.

use std::time::Duration;

use ronproxy::internals::{
    emulator::{self, Bitrate, LinkModel, Loss, LossRate, Queue, Topology},
    transport::Congestion::{self, Adaptive, Bbr3, Cubic},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};

use crate::{
    cut::triangle,
    figures::{asserts, row, seeds},
    support,
    watch::Watch,
    work::{self, Arrivals, Work},
};

/// Slow start and the search for the path's rate are over after this.
const SETTLE: Duration = Duration::from_secs(5);

/// How long goodput is measured.
const MEASURED: Duration = Duration::from_secs(10);

/// In Mbit/s.
const RATE: u32 = 50;

#[tokio::test(start_paused = true)]
async fn loss_without_a_way_round_costs_only_what_is_lost() {
    let (losses, controllers): (&[_], &[_]) = if asserts() {
        (&[1.0, 3.0], &[Adaptive])
    } else {
        (&[0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0], &[Adaptive, Bbr3, Cubic])
    };
    for percent in losses {
        let loss = Loss::Bernoulli(LossRate::from_percent(*percent));
        lossy(
            &format!("{percent} % loss"),
            loss,
            controllers,
            0.9 * f64::from(RATE) * (1.0 - percent / 100.0),
        )
        .await;
    }
    let bursts = Loss::GilbertElliott {
        good: LossRate::ZERO,
        bad: LossRate::from_percent(30.0),
        good_for: Duration::from_millis(300),
        bad_for: Duration::from_millis(20),
    };
    lossy("bursts of 20 ms, 2 % in all", bursts, controllers, 0.7 * f64::from(RATE)).await;
}

/// With a TCP connection of its own a key that is lost waits for a probe after two round trips (RFC 8985,
/// section 7.2), so those that lose nothing take 60 ms and the others 240.
#[tokio::test(start_paused = true)]
async fn a_lost_key_beside_a_download_waits_less_than_over_tcp() {
    let losses: &[_] = if asserts() { &[3.0] } else { &[1.0, 2.0, 3.0] };
    for percent in losses {
        let loss = Loss::Bernoulli(LossRate::from_percent(*percent));
        let line = Line { rate: RATE, queue_ms: 50, loss, swing_ms: 0 };
        let (goodput, keys) = run(line, Adaptive, seeds(1)[0]).await;
        row(
            &format!("keys beside a download, {percent} % loss"),
            &format!("{goodput:.1} Mbit/s | median {} ms | 95 % {} ms", keys.0, keys.1),
            "70 ms, 240 ms",
        );
        assert!(!asserts() || keys.0 <= 70 && keys.1 <= 240, "{percent} %: {keys:?}");
    }
}

async fn lossy(name: &str, loss: Loss, controllers: &[Congestion], aim: f64) {
    let mut figures = Vec::new();
    for &congestion in controllers {
        let mut runs = Vec::new();
        for seed in seeds(1) {
            let line = Line { rate: RATE, queue_ms: 50, loss, swing_ms: 0 };
            runs.push(run(line, congestion, seed).await.0);
        }
        runs.sort_by(f64::total_cmp);
        let median = runs[runs.len() / 2];
        figures.push(format!("{congestion:?} {median:>5.1} Mbit/s"));
        assert!(!asserts() || median > aim, "{name}: {median:.1} Mbit/s");
    }
    row(&format!("{name}, {RATE} Mbit/s, 60 ms"), &figures.join(" | "), &format!("{aim:.0}"));
}

#[tokio::test(start_paused = true)]
async fn keys_beside_a_download_do_not_wait_in_its_queue() {
    let controllers: &[_] = if asserts() { &[Adaptive] } else { &[Adaptive, Bbr3, Cubic] };
    for rate in [10, 50].into_iter().take(if asserts() { 1 } else { 2 }) {
        for &congestion in controllers {
            let line = Line { rate, queue_ms: 500, loss: Loss::None, swing_ms: 0 };
            let (goodput, keys) = run(line, congestion, seeds(1)[0]).await;
            row(
                &format!("keys beside a download, {rate} Mbit/s, queue of 500 ms, {congestion:?}"),
                &format!("{goodput:.1} Mbit/s | median {} ms | 95 % {} ms", keys.0, keys.1),
                "90 %, 120 ms",
            );
            assert!(
                !asserts() || (goodput > 0.9 * f64::from(rate) && keys.0 < 120),
                "{goodput} {keys:?}"
            );
        }
    }
}

/// A packet waits for those that it overtook, each way for `swing_ms` more than the mean at most. All beyond that the keys
/// wait in the queue.
#[tokio::test(start_paused = true)]
async fn keys_do_not_wait_in_a_queue_where_packets_overtake_each_other() {
    let swings: &[_] = if asserts() { &[10, 20] } else { &[0, 1, 3, 10, 20] };
    for &swing_ms in swings {
        let held = u128::from(60 + 2 * swing_ms);
        for seed in seeds(1) {
            let line = Line { rate: RATE, queue_ms: 100, loss: Loss::None, swing_ms };
            let (goodput, keys) = run(line, Adaptive, seed).await;
            row(
                &format!("keys beside a download, ±{swing_ms} ms, packets overtake"),
                &format!("{goodput:.1} Mbit/s | median {} ms | 95 % {} ms", keys.0, keys.1),
                &format!("47 Mbit/s, {held} ms"),
            );
            let holds = goodput > 0.85 * f64::from(RATE) && keys.0 < held + 20;
            assert!(!asserts() || holds, "±{swing_ms} ms: {goodput} {keys:?}");
        }
    }
}

struct Line {
    rate: u32,
    queue_ms: u64,
    loss: Loss,
    /// By how much the delay varies to both sides, from packet to packet.
    swing_ms: u64,
}

/// A download on the direct path alone, and keys beside it: its goodput in Mbit/s, and the keys' median
/// and 95th percentile in milliseconds.
async fn run(line: Line, congestion: Congestion, seed: u64) -> (f64, (u128, u128)) {
    let watch = Watch::begin();
    let arrivals = Arrivals::new();
    let lab = triangle(topology(&line), seed, &arrivals, congestion).await;
    let address = |name: &str| lab.topology().address(name);
    lab.internet().cut(address("entry"), address("relay"));
    sleep(SETTLE).await;
    let entry = lab.node("entry").unwrap();
    let job = work::start(entry, Work::Download, &arrivals).await;
    sleep(SETTLE).await;
    let before = arrivals.bytes();
    let began = Instant::now();
    let keys = type_keys(entry, began).await;
    tokio::time::sleep_until(began + MEASURED).await;
    let got = arrivals.bytes() - before;
    assert_eq!(arrivals.wrong(), None, "seed {seed}");
    job.abort();
    lab.stop().await;
    watch.check(&format!("seed {seed}"));
    (got as f64 * 8.0 / 1e6 / MEASURED.as_secs_f64(), keys)
}

fn topology(line: &Line) -> Topology {
    let queue = Queue::Time(Duration::from_millis(line.queue_ms));
    let model = LinkModel::new(Duration::from_millis(30))
        .with_rate(Bitrate::mbit(line.rate), queue)
        .with_overtaking(Duration::from_millis(line.swing_ms));
    emulator::triangle().both("entry", "exit", LinkModel { loss: line.loss, ..model })
}

/// A key every 100 ms or when the last one is back, for as long as a rate is measured.
pub(crate) async fn type_keys(
    entry: &ronproxy::internals::app::Node,
    began: Instant,
) -> (u128, u128) {
    let mut io = support::open(entry, "echo.test:80").await;
    let mut waits = Vec::new();
    while began.elapsed() < MEASURED {
        let (typed, mut key) = (Instant::now(), [0]);
        io.write_all(b"x").await.unwrap();
        io.read_exact(&mut key).await.unwrap();
        waits.push(typed.elapsed().as_millis());
        tokio::time::sleep_until(typed + Duration::from_millis(100)).await;
    }
    waits.sort_unstable();
    (waits[waits.len() / 2], waits[waits.len() * 95 / 100])
}
