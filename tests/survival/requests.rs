//! Many short flows at once, as a web page makes them, against as many TCP connections on the same path.

use std::{sync::Arc, time::Duration};

use ronproxy::internals::{
    app::Node,
    emulator::{self, Bitrate, LinkModel, Queue, Topology},
    lab::{Lab, LabNode, Service},
    transport::Congestion,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    figures::{asserts, row, seeds},
    support::{self, pattern, wait_for},
    watch::Watch,
};

const RTT: Duration = Duration::from_millis(60);

/// Bytes of TCP, IP and of timestamps, per packet of TCP, and what it carries.
const TCP_HEADERS: usize = 52;
const TCP_PAYLOAD: usize = 1_448;

/// An initial window of Linux: what a connection sends in its first round trip.
const TCP_FIRST: usize = 10 * TCP_PAYLOAD;

/// Requests at once, and the bytes of each answer.
const REQUESTS: usize = 50;
const ANSWER: usize = 10_000;

/// A page: connections, what each asks for one after another, and the bytes of each answer.
const CONNECTIONS: usize = 6;
const EACH: usize = 5;
const OBJECT: usize = 20_000;

#[tokio::test(start_paused = true)]
async fn fifty_requests_at_once_take_as_long_as_fifty_connections() {
    for rate in rates() {
        for seed in seeds(1) {
            let lab = lab(rate, seed).await;
            let entry = lab.node("entry").unwrap();
            // A round trip to connect, one to ask, and the time that the line needs.
            let tcp = 2 * RTT + on_the_line(rate, REQUESTS * ANSWER);
            let none = burst(entry).await;
            close(entry).await;
            type_a_key(entry).await;
            let successor = burst(entry).await;
            let warm = burst(entry).await;
            sleep(Duration::from_secs(60)).await;
            let idle = burst(entry).await;
            lab.stop().await;
            let lab = self::lab(rate, seed).await;
            let entry = lab.node("entry").unwrap();
            type_a_key(entry).await;
            let fresh = burst(entry).await;
            lab.stop().await;
            let all = [none, fresh, successor, warm, idle].map(|took| took.as_millis());
            row(
                &format!("50 requests of 10 kB, {rate} Mbit/s, 60 ms"),
                &format!("no lane, fresh, successor, warm, idle: {all:?} ms"),
                &format!("1.2 times TCP's {} ms", tcp.as_millis()),
            );
            let most = tcp.mul_f64(1.2);
            let held = [fresh, successor, warm, idle].iter().all(|took| *took <= most);
            assert!(held || !asserts(), "seed {seed}, more than {most:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_takes_as_long_as_without_the_overlay() {
    for rate in rates() {
        for seed in seeds(1) {
            let lab = lab(rate, seed).await;
            let entry = lab.node("entry").unwrap();
            type_a_key(entry).await;
            // A round trip to connect; the first answer does not fit in the first window.
            const { assert!(OBJECT > TCP_FIRST && OBJECT < 3 * TCP_FIRST) };
            let line = on_the_line(rate, CONNECTIONS * EACH * OBJECT);
            let tcp = RTT * (1 + 1 + u32::try_from(EACH).unwrap()) + line;
            let mut took = Vec::new();
            for _ in 0..3 {
                took.push(page(entry).await);
                sleep(Duration::from_secs(5)).await;
            }
            lab.stop().await;
            let all: Vec<_> = took.iter().map(Duration::as_millis).collect();
            row(
                &format!("page of 30 × 20 kB, 6 at once, {rate} Mbit/s"),
                &format!("first, second, third: {all:?} ms"),
                &format!("TCP's {} ms", tcp.as_millis()),
            );
            assert!(took.iter().all(|took| *took <= tcp) || !asserts(), "seed {seed}");
        }
    }
}

/// In Mbit/s. On the faster line the first page takes 5 % longer than over TCP.
fn rates() -> Vec<u32> {
    if asserts() { vec![50] } else { vec![50, 100] }
}

/// How long the line needs for so many bytes of TCP.
fn on_the_line(rate: u32, bytes: usize) -> Duration {
    let bytes = bytes + bytes.div_ceil(TCP_PAYLOAD) * TCP_HEADERS;
    Duration::from_secs_f64(bytes as f64 * 8e-6 / f64::from(rate))
}

fn topology(rate: u32) -> Topology {
    let queue = Queue::Time(Duration::from_millis(100));
    let model = LinkModel::new(RTT / 2).with_rate(Bitrate::mbit(rate), queue);
    emulator::triangle().both("entry", "exit", model)
}

async fn lab(rate: u32, seed: u64) -> Lab {
    let nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", false, true),
        LabNode::new("relay", true, false),
    ];
    let services = support::services().with("objects.test", objects());
    let congestion = Congestion::default();
    let lab = Lab::start(topology(rate), seed, nodes, services, congestion).await.unwrap();
    wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    sleep(Duration::from_secs(3)).await;
    lab
}

/// Answers each line `GET n` with n bytes, as often as it is asked.
fn objects() -> Service {
    Arc::new(|io| {
        tokio::spawn(async move {
            let (mut io, mut line) = (BufReader::new(io), String::new());
            while io.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                let n = line.trim().strip_prefix("GET ").unwrap().parse().unwrap();
                if io.write_all(pattern(0, n)).await.is_err() {
                    return;
                }
                line.clear();
            }
        });
    })
}

/// Opens a lane, if there is none.
async fn type_a_key(entry: &Node) {
    let mut io = support::open(entry, "echo.test:80").await;
    support::type_a_key(&mut *io).await.unwrap();
    drop(io);
    sleep(Duration::from_secs(1)).await;
}

/// Closes all lanes.
async fn close(entry: &Node) {
    for (_, lane) in entry.lanes().lanes() {
        lane.close("for a test");
    }
    sleep(Duration::from_secs(1)).await;
}

/// So many clients at once, each of which asks so often for so many bytes; says how long all took.
async fn all(entry: &Node, clients: usize, each: usize, bytes: usize) -> Duration {
    let watch = Watch::begin();
    let began = Instant::now();
    let mut jobs = JoinSet::new();
    for _ in 0..clients {
        let dialer = entry.dialer().clone();
        jobs.spawn(async move {
            let request = support::flow_request("objects.test:80");
            let mut io = dialer.dial(request).await.unwrap().into_io();
            let mut answer = vec![0; bytes];
            for _ in 0..each {
                support::request(&mut *io, bytes).await;
                io.read_exact(&mut answer).await.unwrap();
                assert!(answer == pattern(0, bytes), "an answer was corrupted");
            }
        });
    }
    jobs.join_all().await;
    watch.check("clients at once");
    began.elapsed()
}

async fn burst(entry: &Node) -> Duration {
    all(entry, REQUESTS, 1, ANSWER).await
}

async fn page(entry: &Node) -> Duration {
    all(entry, CONNECTIONS, EACH, OBJECT).await
}
