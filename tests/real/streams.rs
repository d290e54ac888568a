//! UDP is blocked, and TCP is not.

use std::time::{Duration, Instant};

use ronproxy::internals::emulator::{Bitrate, LinkModel, Queue, Topology};
use tokio::time::sleep;

use crate::{
    figures::asserts,
    overlay::{PATIENCE, json},
    processes::{Processes, Share, turn},
    scenarios::begin,
    services::Servers,
    sockets::tunnel,
    tcp::{Wire, Wires, free_port},
    trouble::Fragile as _,
    work::{Arrivals, Work},
};

/// The path: 60 ms and 100 Mbit/s.
const ONE_WAY: Duration = Duration::from_millis(30);
const MBIT: u32 = 100;

/// First flow after `run`, with UDP blocked.
const FIRST_FLOW: Duration = Duration::from_millis(2_500);

/// Longest wait of a flow when UDP is blocked in the middle.
const PAUSE: Duration = Duration::from_millis(1_500);

/// `exit`, which accepts streams, and `entry`.
struct Pair {
    overlay: Processes,
    wires: Wires,
}

impl Pair {
    async fn start(seed: u64) -> Self {
        let path = LinkModel::new(ONE_WAY)
            .with_rate(Bitrate::mbit(MBIT), Queue::Time(Duration::from_millis(80)));
        let topology = Topology::new(["entry", "exit"]).both("entry", "exit", path);
        let (inside, outside) = (free_port(), free_port());
        let listen = format!("stream_listen = \"127.0.0.1:{inside}\"");
        let port = format!("stream_port = {outside}");
        let settings =
            [("#stream_listen = \"0.0.0.0:443\"", &*listen), ("#stream_port = 443", &*port)];
        let overlay = Processes::start_with(topology, &[], seed, &settings).await;
        let at = (overlay.public("exit").ip(), outside).into();
        let wire = Wire { one_way: ONE_WAY, rate: f64::from(MBIT) * 1e6 };
        let wires = Wires::between(at, ([127, 0, 0, 1], inside).into(), wire).await;
        Self { overlay, wires }
    }

    fn block_udp(&self) {
        let at = |name| self.overlay.topology().address(name);
        self.overlay.internet().cut(at("entry"), at("exit"));
    }

    fn unblock_udp(&self) {
        let at = |name| self.overlay.topology().address(name);
        self.overlay.internet().heal(at("entry"), at("exit"));
    }

    /// What the link to the exit goes over.
    fn carrier(&self) -> String {
        let links = json(&self.overlay.dir("entry"), &["links"]);
        links[0]["carrier"].as_str().unwrap_or("none").to_owned()
    }

    async fn wait_for_carrier(&self, wanted: &str) {
        let began = Instant::now();
        while self.carrier() != wanted {
            assert!(began.elapsed() < PATIENCE, "the link is not over {wanted}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_udp_has_its_first_flow_within_2_5_s() {
    let _turn = turn(Share::All).await;
    let mut pair = Pair::start(1).await;
    pair.wait_for_carrier("udp").await;
    assert_eq!(pair.wires.accepted(), 0, "no stream while UDP passes");
    pair.overlay.crash("entry").await;
    pair.block_udp();
    let servers = Servers::start(&Arrivals::new()).await;
    let began = Instant::now();
    pair.overlay.restart("entry").await;
    let ready = began.elapsed();
    tunnel(pair.overlay.node("entry").proxy(), servers.of(Work::Keystrokes)).await.unwrap();
    let first = began.elapsed();
    println!("UDP blocked: ready after {ready:.2?}, first flow after {first:.2?}");
    assert_eq!(pair.carrier(), "tls");
    assert!(first <= FIRST_FLOW || !asserts(), "the first flow took {first:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_go_on_over_a_stream_when_udp_is_blocked_under_them() {
    for (seed, work) in
        [(1, Work::Keystrokes), (2, Work::Stream), (3, Work::Download), (4, Work::Upload)]
    {
        let _turn = turn(Share::All).await;
        let pair = Pair::start(seed).await;
        pair.wait_for_carrier("udp").await;
        let arrivals = Arrivals::new();
        let job = begin(&pair.overlay, "entry", work, &arrivals).await;
        sleep(Duration::from_millis(1_500)).await;
        arrivals.restart();
        let before = arrivals.bytes();
        pair.block_udp();
        sleep(Duration::from_secs(4)).await;
        let (pause, after) = (arrivals.longest(), arrivals.bytes());
        println!("UDP blocked in the middle, {work:?}: pause {pause:.2?}");
        assert_eq!(arrivals.wrong(), None, "{work:?}");
        assert!(after > before, "{work:?}: nothing came through any more");
        assert_eq!(pair.carrier(), "tls");
        assert!(pause <= PAUSE || !asserts(), "{work:?} paused for {pause:?}");
        job.abort();
        pair.overlay.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stalls_is_left_for_udp_that_passes_again() {
    let _turn = turn(Share::All).await;
    let mut pair = Pair::start(5).await;
    pair.wait_for_carrier("udp").await;
    pair.overlay.crash("entry").await;
    pair.block_udp();
    pair.overlay.restart("entry").await;
    pair.wait_for_carrier("tls").await;
    let arrivals = Arrivals::new();
    let job = begin(&pair.overlay, "entry", Work::Stream, &arrivals).await;
    sleep(Duration::from_millis(1_500)).await;
    arrivals.restart();
    pair.unblock_udp();
    pair.wires.cut();
    sleep(Duration::from_secs(4)).await;
    let pause = arrivals.longest();
    println!("a stream stalls while UDP passes: pause {pause:.2?}");
    assert_eq!((arrivals.wrong(), pair.carrier()), (None, "udp".to_owned()));
    assert!(pause <= PAUSE || !asserts(), "paused for {pause:?}");
    job.abort();
    pair.overlay.check();
}
