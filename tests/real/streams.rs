//! UDP is blocked, and TCP is not.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ronproxy::internals::emulator::{Bitrate, LinkModel, Loss, LossRate, Queue, Topology};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

use crate::{
    figures::asserts,
    overlay::{PATIENCE, free_tcp, json, run},
    processes::{Processes, Share, turn},
    scenarios::{begin, triangle},
    services::Servers,
    sockets::tunnel,
    tcp::{Bottleneck, Wire, Wires},
    trouble::Fragile as _,
    work::{self, Arrivals, Work},
};

/// The path: 60 ms and 100 Mbit/s. A debug build carries that only on a machine without other work.
const ONE_WAY: Duration = Duration::from_millis(30);
const MBIT: u32 = if cfg!(debug_assertions) { 40 } else { 100 };

const WIRE: Wire = Wire { one_way: ONE_WAY, rate: MBIT as f64 * 1e6, loss: 0.0 };

/// First flow after `run`, with UDP blocked.
const FIRST_FLOW: Duration = Duration::from_millis(2_500);

/// Longest wait of a flow when UDP is blocked in the middle.
const PAUSE: Duration = Duration::from_millis(1_500);

/// Until another carrier is measured: the longest of the first pauses, a minute, trials of 30 s, and a busy machine.
const TRIED_WITHIN: Duration = Duration::from_secs(200);

/// What a transfer takes to find its rate, and how long that is measured.
const SLOW_START: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(4);

/// `exit`, which accepts streams, and `entry`.
struct Pair {
    overlay: Processes,
    wires: Wires,
}

impl Pair {
    async fn start(seed: u64) -> Self {
        Self::start_on(seed, WIRE).await
    }

    async fn start_on(seed: u64, wire: Wire) -> Self {
        let path = LinkModel::new(ONE_WAY)
            .with_rate(Bitrate::mbit(MBIT), Queue::Time(Duration::from_millis(80)));
        let topology = Topology::new(["entry", "exit"]).both("entry", "exit", path);
        let (inside, outside) = (free_tcp(), free_tcp().port());
        let listen = format!("stream_listen = \"{inside}\"");
        let port = format!("stream_port = {outside}");
        let settings =
            [("#stream_listen = \"[::]:443\"", &*listen), ("#stream_port = 443", &*port)];
        let overlay = Processes::start_with(topology, &[], seed, &settings).await;
        let at = (overlay.public("exit").ip(), outside).into();
        let wires = Wires::between(at, inside, (wire, Bottleneck::default()));
        Self { overlay, wires }
    }

    /// The same, with the link over a stream, as UDP is blocked.
    async fn over_a_stream(seed: u64) -> Self {
        let mut pair = Self::start(seed).await;
        pair.wait_for_carrier("udp").await;
        pair.overlay.crash("entry").await;
        pair.block_udp();
        pair.overlay.restart("entry").await;
        pair.wait_for_carrier("tls").await;
        pair
    }

    fn block_udp(&self) {
        let at = |name| self.overlay.topology().address(name);
        self.overlay.internet().cut(at("entry"), at("exit"));
    }

    fn unblock_udp(&self) {
        let at = |name| self.overlay.topology().address(name);
        self.overlay.internet().heal(at("entry"), at("exit"));
    }

    /// UDP loses this share of its packets each way.
    fn lose(&self, percent: f64) {
        let [entry, exit] = ["entry", "exit"].map(|name| self.overlay.topology().address(name));
        let loss = Loss::Bernoulli(LossRate::from_percent(percent));
        self.overlay.internet().update_both(entry, exit, |model| model.loss = loss);
    }

    /// The link to the exit.
    fn link(&self) -> Value {
        self.link_at("entry")
    }

    /// The link, as this node shows it.
    fn link_at(&self, name: &str) -> Value {
        json(&self.overlay.dir(name), &["links"])[0].take()
    }

    /// What the link to the exit goes over.
    fn carrier(&self) -> String {
        self.link()["carrier"].as_str().unwrap_or("none").to_owned()
    }

    /// Waits until this carrier was measured and the link goes over the other one, as `name` shows it.
    async fn wait_for_figures_of(&self, carrier: &str, name: &str) {
        let began = Instant::now();
        while self.link_at(name)["other_carrier"]["carrier"] != carrier {
            assert!(began.elapsed() < TRIED_WITHIN, "{carrier} was not measured");
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn wait_for_carrier(&self, wanted: &str) {
        self.wait_long_for_carrier(wanted, PATIENCE).await;
    }

    async fn wait_long_for_carrier(&self, wanted: &str, patience: Duration) {
        let began = Instant::now();
        while self.carrier() != wanted {
            assert!(began.elapsed() < patience, "the link is not over {wanted}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_udp_has_its_first_flow_within_2_5_s() {
    let _turn = turn(Share::All).await;
    let mut pair = Pair::start(1).await;
    pair.wait_for_carrier("udp").await;
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
async fn netcheck_says_that_udp_does_not_pass_and_tls_does() {
    let _turn = turn(Share::Some).await;
    let pair = Pair::over_a_stream(8).await;
    let report = pair.overlay.facts("entry", "netcheck");
    assert_eq!((&report["udp"], &report["tcp"]), (&false.into(), &true.into()), "{report}");
    assert!(report["nat"].is_null() && report["packet_bytes"].is_null(), "{report}");
    assert_eq!(report["members"][0]["carrier"], "tls");
}

#[tokio::test(flavor = "multi_thread")]
async fn netcheck_finds_a_nat_that_keeps_strangers_out() {
    let _turn = turn(Share::Some).await;
    let topology = triangle(Duration::from_millis(60));
    let overlay = Processes::start(topology, &["relay"], 9).await;
    overlay.routes("entry", 2, "direct").await;
    let report = overlay.facts("entry", "netcheck");
    assert_eq!(report["nat"], "endpoint-independent", "{report}");
    assert_eq!(report["outside"][0], overlay.public("entry").to_string());
    assert_eq!((&report["udp"], &report["reachable_by_udp"]), (&true.into(), &false.into()));
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
    let pair = Pair::over_a_stream(5).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn udp_that_loses_a_fifth_is_left_for_a_stream_and_taken_again() {
    let _turn = turn(Share::Some).await;
    let pair = Pair::start(10).await;
    pair.wait_for_carrier("udp").await;
    let arrivals = Arrivals::new();
    let job = begin(&pair.overlay, "entry", Work::Keystrokes, &arrivals).await;
    let began = Instant::now();
    pair.lose(20.0);
    pair.wait_long_for_carrier("tls", TRIED_WITHIN).await;
    let left = began.elapsed();
    // A lane may have found UDP silent, and the link gone over unmeasured. Then UDP is measured, and found wanting.
    pair.wait_for_figures_of("udp", "entry").await;
    let link = pair.link();
    assert_eq!(link["carrier"], "tls", "{link:#}");
    assert!(link["other_carrier"]["loss_percent"].as_f64() > Some(10.0), "{link:#}");
    assert!(link["up"] == true && link["loss_out_percent"].as_f64() < Some(5.0), "{link:#}");
    let why = pair.overlay.facts("entry", "routes");
    assert_eq!(why[0]["candidates"][0]["other_carrier"]["carrier"], "udp", "{why:#}");
    let report = pair.overlay.facts("entry", "netcheck");
    assert!(report["members"][0]["udp_loss_percent"].as_f64() > Some(10.0), "{report:#}");
    sleep(SLOW_START).await;
    arrivals.restart();
    sleep(MEASURED).await;
    let pause = arrivals.longest();
    // The end that answered the trial has figures of its own. It waits for its end where that got lost.
    pair.wait_for_figures_of("udp", "exit").await;
    let link = pair.link_at("exit");
    assert!(link["other_carrier"]["loss_percent"].as_f64() > Some(10.0), "{link:#}");
    for name in ["entry", "exit"] {
        let doctor = run(&pair.overlay.dir(name), &["doctor"]).stdout;
        let doctor = String::from_utf8(doctor).unwrap();
        assert!(doctor.contains("passes, but lost round trips when it was measured"), "{doctor}");
    }
    pair.lose(0.0);
    let began = Instant::now();
    pair.wait_long_for_carrier("udp", TRIED_WITHIN).await;
    println!(
        "UDP loses 20 %: left after {left:.1?}, longest pause then {pause:.2?}; taken again {:.1?} after it lost nothing",
        began.elapsed()
    );
    assert_eq!(arrivals.wrong(), None);
    job.abort();
    pair.overlay.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_stays_where_tcp_loses_as_much() {
    let _turn = turn(Share::Some).await;
    let pair = Pair::start_on(11, Wire { loss: 0.2, ..WIRE }).await;
    pair.wait_for_carrier("udp").await;
    let arrivals = Arrivals::new();
    let job = begin(&pair.overlay, "entry", Work::Keystrokes, &arrivals).await;
    pair.lose(20.0);
    pair.wait_for_figures_of("tls", "entry").await;
    let link = pair.link();
    println!("UDP and TCP lose 20 %: {} and {}", link["loss_out_percent"], link["other_carrier"]);
    assert!(link["other_carrier"]["loss_percent"].as_f64() > Some(10.0), "{link:#}");
    assert_eq!((&link["carrier"], arrivals.wrong()), (&"udp".into(), None), "{link:#}");
    job.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_carries_85_percent_of_what_udp_does() {
    let _turn = turn(Share::All).await;
    let udp = goodput(Pair::start(6).await, "udp").await;
    let stream = goodput(Pair::over_a_stream(6).await, "tls").await;
    println!(
        "a download on a path of {MBIT} Mbit/s: UDP {udp:.1} Mbit/s, stream {stream:.1} Mbit/s"
    );
    assert!(stream >= 0.85 * udp || !asserts(), "UDP {udp}, stream {stream}");
}

/// The rate of a download in Mbit/s.
async fn goodput(pair: Pair, carrier: &str) -> f64 {
    pair.wait_for_carrier(carrier).await;
    let arrivals = Arrivals::new();
    let job = begin(&pair.overlay, "entry", Work::Download, &arrivals).await;
    sleep(SLOW_START).await;
    let before = arrivals.bytes();
    sleep(MEASURED).await;
    let mbit = (arrivals.bytes() - before) as f64 * 8e-6 / MEASURED.as_secs_f64();
    assert_eq!((arrivals.wrong(), &*pair.carrier()), (None, carrier));
    job.abort();
    mbit
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_beside_a_download_over_a_stream_wait_no_longer_than_over_tcp() {
    let _turn = turn(Share::All).await;
    let arrivals = Arrivals::new();
    let servers = Servers::start(&arrivals).await;
    // Plain TCP: both connections share the path.
    let (path, [bulk, keys]) = (Bottleneck::default(), [(); 2].map(|()| free_tcp()));
    let _wires = [(bulk, servers.source), (keys, servers.echo)]
        .map(|(at, to)| Wires::between(at, to, (WIRE, path.clone())));
    let download = work::begin(Box::new(connect(bulk).await), Work::Download, &arrivals);
    sleep(SLOW_START).await;
    let plain = type_keys(connect(keys).await).await;
    download.abort();

    let pair = Pair::over_a_stream(7).await;
    let proxy = pair.overlay.node("entry").proxy();
    let flow = tunnel(proxy, servers.source).await.unwrap();
    let download = work::begin(Box::new(flow), Work::Download, &arrivals);
    sleep(SLOW_START).await;
    let flow = tunnel(proxy, servers.echo).await.unwrap();
    flow.set_nodelay(true).unwrap();
    let stream = type_keys(flow).await;
    download.abort();
    let of = |times: &[Duration]| (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "keys beside a download, median and worst: TCP {:.0?}, stream {:.0?}",
        of(&plain),
        of(&stream)
    );
    assert_eq!(pair.carrier(), "tls");
    assert!(of(&stream).0 <= of(&plain).0 || !asserts(), "{stream:?} {plain:?}");
}

/// The times from a key to its echo, in order.
async fn type_keys(mut stream: TcpStream) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..30 {
        let began = Instant::now();
        stream.write_all(b"k").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        times.push(began.elapsed());
        sleep(Duration::from_millis(100)).await;
    }
    times.sort();
    times
}

async fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}
