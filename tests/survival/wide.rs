//! Paths that hold many megabytes, where windows can be the limit.

use std::{pin::pin, task::Poll, time::Duration};

use futures_util::poll;

use ronproxy::internals::{
    emulator::{self, Bitrate, LinkModel, Queue, Topology},
    lab::Lab,
    transport::Congestion::{self, Adaptive, Bbr3, Cubic},
};
use tokio::{io::AsyncReadExt, time::sleep};

use crate::{
    cut::triangle,
    figures::{asserts, row, seeds},
    support,
    watch::Watch,
    work::{self, Arrivals, Work},
};

/// The mesh and the figures of its links.
const CALM: Duration = Duration::from_secs(3);

/// Flows over one path.
struct Case {
    rate: u32,
    rtt_ms: u64,
    flows: usize,
    work: Work,
    /// After so long the path's rate is found.
    settle: Duration,
    measured: Duration,
    /// In Mbit/s.
    aim: f64,
}

#[tokio::test(start_paused = true)]
async fn eight_flows_fill_200_mbit_at_200_ms() {
    let (settle, measured) = (Duration::from_secs(8), Duration::from_secs(4));
    let case = |work| Case { rate: 200, rtt_ms: 200, flows: 8, work, settle, measured, aim: 180.0 };
    let controllers: &[_] = if asserts() { &[Adaptive] } else { &[Adaptive, Bbr3, Cubic] };
    for &congestion in controllers {
        check(&case(Work::Download), congestion).await;
        check(&case(Work::Upload), congestion).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_flow_fills_100_mbit_at_100_ms() {
    let (settle, measured) = (Duration::from_secs(5), Duration::from_secs(1));
    // At 1 Gbit/s an upload has half of what the exit keeps for an entry.
    let rates: &[_] = if asserts() { &[100] } else { &[100, 1_000] };
    for &rate in rates {
        for work in [Work::Download, Work::Upload] {
            let aim = 0.9 * f64::from(rate);
            let case = Case { rate, rtt_ms: 100, flows: 1, work, settle, measured, aim };
            check(&case, Adaptive).await;
        }
    }
}

/// QUIC ends a connection of which one stream has as many unread packets.
const UNREAD: usize = 2_048 * 1_500;

#[tokio::test(start_paused = true)]
async fn a_fast_reader_that_stops_keeps_its_lane_and_its_bytes() {
    let watch = Watch::begin();
    let case = Case {
        rate: 1_000,
        rtt_ms: 100,
        flows: 1,
        work: Work::Download,
        settle: Duration::from_secs(4),
        measured: Duration::from_secs(10),
        aim: 0.0,
    };
    let lab = lone_path(&case, Adaptive, 7, &Arrivals::new()).await;
    let entry = lab.node("entry").unwrap();
    let mut flow = support::open(entry, "source.test:80").await;
    support::request(&mut *flow, usize::MAX >> 1).await;
    let (mut read, mut piece) = (0, vec![0; 64 << 10]);
    let stop = tokio::time::Instant::now() + case.settle;
    while tokio::time::Instant::now() < stop {
        read += flow.read(&mut piece).await.unwrap();
    }
    // All that the far end may send arrives.
    sleep(case.measured).await;
    let mut other = support::open(entry, "source.test:80").await;
    support::request(&mut *other, 1_000).await;
    other.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(entry.lane_facts().len(), 1, "the same lane");
    // No time passes meanwhile.
    let before = read;
    while let Poll::Ready(got) = poll!(pin!(flow.read(&mut piece))) {
        let got = got.unwrap();
        assert!(piece[..got] == *support::pattern(read, got), "at {read}");
        read += got;
    }
    println!("{} bytes waited for the reader", read - before);
    assert!(read - before > UNREAD, "{}", read - before);
    // And it goes on.
    flow.read_exact(&mut piece).await.unwrap();
    assert!(piece[..] == *support::pattern(read, piece.len()), "at {read}");
    lab.stop().await;
    watch.check("a reader that stops");
}

async fn check(case: &Case, congestion: Congestion) {
    let Case { rate, rtt_ms, flows, work, aim, .. } = case;
    for seed in seeds(1) {
        let mbit = goodput(case, congestion, seed).await;
        row(
            &format!("{flows} × {work:?}, {rate} Mbit/s, {rtt_ms} ms, {congestion:?}"),
            &format!("{mbit:>6.1} Mbit/s"),
            &format!("{aim} Mbit/s"),
        );
        assert!(mbit >= *aim || !asserts(), "{work:?}, seed {seed}: {mbit}");
    }
}

async fn goodput(case: &Case, congestion: Congestion, seed: u64) -> f64 {
    let watch = Watch::begin();
    let arrivals = Arrivals::new();
    let lab = lone_path(case, congestion, seed, &arrivals).await;
    let entry = lab.node("entry").unwrap();
    let mut jobs = Vec::new();
    for _ in 0..case.flows {
        jobs.push(work::start(entry, case.work, &arrivals).await);
    }
    sleep(case.settle).await;
    let before = arrivals.bytes();
    sleep(case.measured).await;
    let got = arrivals.bytes() - before;
    assert_eq!(arrivals.wrong(), None, "seed {seed}");
    jobs.iter().for_each(tokio::task::JoinHandle::abort);
    lab.stop().await;
    watch.check(&format!("seed {seed}"));
    got as f64 * 8.0 / 1e6 / case.measured.as_secs_f64()
}

async fn lone_path(case: &Case, congestion: Congestion, seed: u64, arrivals: &Arrivals) -> Lab {
    let lab = triangle(topology(case), seed, arrivals, congestion).await;
    let address = |name: &str| lab.topology().address(name);
    lab.internet().cut(address("entry"), address("relay"));
    sleep(CALM).await;
    lab
}

/// The direct path as the case has it; there is no other.
fn topology(case: &Case) -> Topology {
    let one_way = Duration::from_millis(case.rtt_ms / 2);
    let queue = Queue::Time(Duration::from_millis(100));
    let direct = LinkModel::new(one_way).with_rate(Bitrate::mbit(case.rate), queue);
    emulator::triangle().both("entry", "exit", direct)
}
