//! The measurements.

use std::{
    env,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, exit},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ronproxy::internals::emulator::{Bitrate, LinkModel, Loss, LossRate, Queue};

use crate::{
    cable::Cable,
    nodes::{ECHO, Nodes, SEND},
    run::setting,
};

/// The path: 60 ms and 100 Mbit/s, with a queue that is a bit longer than a round trip.
const ONE_WAY: Duration = Duration::from_millis(30);
const MBIT: u32 = 100;
const QUEUE: Duration = Duration::from_millis(80);

/// What a transfer takes to find its rate, and how long that is measured.
const WARM: Duration = Duration::from_secs(4);
const MEASURED: Duration = Duration::from_secs(8);

/// Loss in each direction.
const LOSSES: [f64; 2] = [0.0, 0.01];

/// Keys that are typed, and how often.
const KEYS: u32 = 40;
const KEY_EVERY: Duration = Duration::from_millis(100);

/// Marks the process inside of the namespaces.
const INSIDE: &str = "RON_BENCH_INSIDE";

/// Measures, in namespaces of its own.
pub(crate) fn all() {
    if env::var_os(INSIDE).is_none() {
        return inside();
    }
    let congestion = env::var("RON_BENCH_CONGESTION").unwrap_or_else(|_| "cubic".to_owned());
    let model = LinkModel::new(ONE_WAY).with_rate(Bitrate::mbit(MBIT), Queue::Time(QUEUE));
    let mut nodes = Nodes::set(Cable::lay(model, &congestion));
    println!("{MBIT} Mbit/s, round trip {:?}", ONE_WAY * 2);
    println!("TCP without ronproxy by {congestion}; streams ask the kernel for BBR");
    let runs = setting("RON_BENCH_RUNS", 3);
    first_flow(&mut nodes, runs);
    pauses(&mut nodes, runs);
    for loss in LOSSES {
        let rate = LossRate::from_fraction(loss);
        nodes.cable.change(|model| model.loss = Loss::Bernoulli(rate));
        downloads(&mut nodes, loss, runs);
        keys(&mut nodes, loss);
    }
}

/// Runs this program again in namespaces of its own, and fails as that does.
fn inside() {
    let namespaces = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net"]);
        unshare
    };
    let made = namespaces().args(["ip", "tuntap", "add", "mode", "tun", "name", "cable"]).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("nothing was measured: it needs user namespaces, unshare, ip and /dev/net/tun");
        return;
    }
    let mut again = namespaces();
    again.arg(env::current_exe().unwrap()).arg("--bench").env(INSIDE, "1");
    let status = again.status().unwrap();
    if !status.success() {
        exit(status.code().unwrap_or(1));
    }
}

/// Rounds of downloads in turn.
fn downloads(nodes: &mut Nodes, loss: f64, runs: usize) {
    let mut rates = [vec![], vec![], vec![]];
    for _ in 0..runs {
        rates[0].push(rate(nodes.direct(SEND)));
        for (way, carrier) in [(1, "udp"), (2, "tls")] {
            nodes.start_over(carrier);
            rates[way].push(rate(nodes.flow(SEND)));
            assert_eq!(nodes.carrier(), carrier);
        }
    }
    for (name, rates) in ["TCP without ronproxy", "UDP", "stream"].into_iter().zip(rates) {
        println!("download at {:.1} % loss, {name}: {} Mbit/s", loss * 100.0, spread(rates));
    }
}

/// The rate of a download in Mbit/s.
fn rate(mut stream: TcpStream) -> f64 {
    let mut buffer = vec![0; 256 << 10];
    let began = Instant::now();
    let mut bytes = 0;
    while began.elapsed() < WARM + MEASURED {
        let read = stream.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "a download has ended");
        if began.elapsed() > WARM {
            bytes += read;
        }
    }
    bytes as f64 * 8e-6 / MEASURED.as_secs_f64()
}

/// Keys beside a download over the stream, and beside one of plain TCP.
fn keys(nodes: &mut Nodes, loss: f64) {
    nodes.start_over("tls");
    for (name, bulk, keys) in [
        ("TCP without ronproxy", nodes.direct(SEND), nodes.direct(ECHO)),
        ("stream", nodes.flow(SEND), nodes.flow(ECHO)),
    ] {
        let over = Arc::<AtomicBool>::default();
        let load = download_until(bulk, over.clone());
        thread::sleep(WARM);
        let mut times = type_keys(keys);
        over.store(true, Ordering::Relaxed);
        load.join().unwrap();
        times.sort_by(f64::total_cmp);
        println!(
            "keys beside a download at {:.1} % loss, {name}: median {:.0} ms, worst {:.0} ms",
            loss * 100.0,
            times[times.len() / 2],
            times[times.len() - 1]
        );
    }
}

/// The times from a key to its echo, in ms.
fn type_keys(mut stream: TcpStream) -> Vec<f64> {
    let typed = (0..KEYS).map(|_| {
        let began = Instant::now();
        stream.write_all(b"k").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let took = began.elapsed();
        thread::sleep(KEY_EVERY);
        took.as_secs_f64() * 1e3
    });
    typed.collect()
}

/// Downloads until it is over; returns the longest pause.
fn download_until(mut stream: TcpStream, over: Arc<AtomicBool>) -> thread::JoinHandle<Duration> {
    thread::spawn(move || {
        let (mut buffer, mut last, mut longest) =
            (vec![0; 256 << 10], Instant::now(), Duration::ZERO);
        while !over.load(Ordering::Relaxed) {
            assert_ne!(stream.read(&mut buffer).unwrap(), 0, "a download has ended");
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    })
}

/// The time from the start of a node without UDP to the first byte of its first flow.
fn first_flow(nodes: &mut Nodes, runs: usize) {
    let mut times = Vec::new();
    for _ in 0..runs {
        nodes.end_entry();
        nodes.cable.block_udp(true);
        let began = Instant::now();
        nodes.start_entry();
        let mut flow = nodes.flow(ECHO);
        flow.write_all(b"k").unwrap();
        flow.read_exact(&mut [0]).unwrap();
        times.push(began.elapsed().as_secs_f64());
    }
    println!("first flow, UDP blocked from the start: {} s", spread(times));
}

/// The longest pause of a download when UDP is blocked in the middle.
fn pauses(nodes: &mut Nodes, runs: usize) {
    let mut times = Vec::new();
    for _ in 0..runs {
        nodes.start_over("udp");
        let over = Arc::<AtomicBool>::default();
        let load = download_until(nodes.flow(SEND), over.clone());
        thread::sleep(WARM);
        nodes.cable.block_udp(true);
        thread::sleep(WARM);
        over.store(true, Ordering::Relaxed);
        times.push(load.join().unwrap().as_secs_f64());
        assert_eq!(nodes.carrier(), "tls");
    }
    println!("pause of a download, UDP blocked in the middle: {} s", spread(times));
}

/// The median, the least and the most.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("{:.2} ({least:.2} to {most:.2})", values[values.len() / 2])
}
