//! The measurements.

use std::{
    env,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use ronproxy::internals::emulator::{Bitrate, LinkModel, Loss, LossRate, Queue};

use crate::{
    cable::{Cable, in_own_namespaces},
    nodes::{ECHO, Nodes, SEND, Server},
    run::setting,
    transfer::{Bulk, quantile, spread, type_key},
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

/// Keys that are typed.
const KEYS: u32 = 40;

/// Measures, in namespaces of its own.
pub(crate) fn all() {
    if !in_own_namespaces() {
        return;
    }
    let congestion = env::var("RON_BENCH_CONGESTION").unwrap_or_else(|_| "cubic".to_owned());
    let model = LinkModel::new(ONE_WAY).with_rate(Bitrate::mbit(MBIT), Queue::Time(QUEUE));
    let listen = ("#stream_listen = \"[::]:443\"", "stream_listen = \"0.0.0.0:443\"");
    let mut nodes = Nodes::set(Cable::lay(model), &[listen]);
    let server = nodes.serve(&congestion);
    println!("{MBIT} Mbit/s, round trip {:?}", ONE_WAY * 2);
    println!("TCP without ronproxy by {congestion}; streams ask the kernel for BBR");
    let runs = setting("RON_BENCH_RUNS", 3);
    first_flow(&mut nodes, &server, runs);
    pauses(&mut nodes, &server, runs);
    for loss in LOSSES {
        let rate = LossRate::from_fraction(loss);
        nodes.cable.change(|model| model.loss = Loss::Bernoulli(rate));
        downloads(&mut nodes, &server, loss, runs);
        keys(&mut nodes, &server, loss);
    }
}

/// Rounds of downloads in turn.
fn downloads(nodes: &mut Nodes, server: &Server, loss: f64, runs: usize) {
    let mut rates = [vec![], vec![], vec![]];
    for _ in 0..runs {
        rates[0].push(rate(nodes.direct(server, SEND)));
        for (way, carrier) in [(1, "udp"), (2, "tls")] {
            nodes.start_over(carrier);
            rates[way].push(rate(nodes.flow(server, SEND)));
            assert_eq!(nodes.carrier(), carrier);
        }
    }
    for (name, mut rates) in ["TCP without ronproxy", "UDP", "stream"].into_iter().zip(rates) {
        println!(
            "download at {:.1} % loss, {name}: {} Mbit/s",
            loss * 100.0,
            spread(&mut rates, 2)
        );
    }
}

/// The rate of a download in Mbit/s.
fn rate(stream: TcpStream) -> f64 {
    let bulk = Bulk::download(stream);
    thread::sleep(WARM);
    let rate = bulk.rate(MEASURED);
    bulk.end();
    rate
}

/// Keys beside a download over the stream, and beside one of plain TCP.
fn keys(nodes: &mut Nodes, server: &Server, loss: f64) {
    nodes.start_over("tls");
    for (name, bulk, mut keys) in [
        ("TCP without ronproxy", nodes.direct(server, SEND), nodes.direct(server, ECHO)),
        ("stream", nodes.flow(server, SEND), nodes.flow(server, ECHO)),
    ] {
        let load = Bulk::download(bulk);
        thread::sleep(WARM);
        let mut times: Vec<_> = (0..KEYS).map(|_| type_key(&mut keys)).collect();
        load.end();
        println!(
            "keys beside a download at {:.1} % loss, {name}: median {:.0} ms, worst {:.0} ms",
            loss * 100.0,
            quantile(&mut times, 0.5),
            quantile(&mut times, 1.0)
        );
    }
}

/// The time from the start of a node without UDP to the first byte of its first flow.
fn first_flow(nodes: &mut Nodes, server: &Server, runs: usize) {
    let mut times = Vec::new();
    for _ in 0..runs {
        nodes.end_entry();
        nodes.cable.block_udp(true);
        let began = Instant::now();
        nodes.start_entry();
        let mut flow = nodes.flow(server, ECHO);
        flow.write_all(b"k").unwrap();
        flow.read_exact(&mut [0]).unwrap();
        times.push(began.elapsed().as_secs_f64());
    }
    println!("first flow, UDP blocked from the start: {} s", spread(&mut times, 2));
}

/// The longest pause of a download when UDP is blocked in the middle.
fn pauses(nodes: &mut Nodes, server: &Server, runs: usize) {
    let mut times = Vec::new();
    for _ in 0..runs {
        nodes.start_over("udp");
        let load = Bulk::download(nodes.flow(server, SEND));
        thread::sleep(WARM);
        nodes.cable.block_udp(true);
        thread::sleep(WARM);
        times.push(load.end().as_secs_f64());
        assert_eq!(nodes.carrier(), "tls");
    }
    println!("pause of a download, UDP blocked in the middle: {} s", spread(&mut times, 2));
}
