//! The figures of a whole overlay on this machine's loopback interface, beside its rivals.
//!
//! `cargo bench --bench figures` prints one table: a large download by curl direct, through an entry
//! and an exit, through a forced relay, through `ssh -D` and through shadowsocks where they are
//! installed; the cost of a new connection on a warm lane; resident memory.
//!
//! Settings by environment: `RON_BENCH_MIB` (size of the download, default 2048), `RON_BENCH_RUNS`
//! (rounds, default 3). As root it runs in a network namespace of its own whose TCP uses Cubic.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops at any surprise")]

mod overlay;
mod rivals;
mod server;

use std::{
    env,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use overlay::Overlay;
use server::Server;

/// Rounds of the small measurements.
const CONNECTIONS: usize = 200;
/// Idle flows for the memory figure.
const IDLE_FLOWS: usize = 1000;

fn main() {
    // `cargo test --benches` and listings run every bench with other arguments: nothing to do then.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    if in_own_namespace() {
        return;
    }
    let mib: usize = setting("RON_BENCH_MIB", 2048);
    let runs: usize = setting("RON_BENCH_RUNS", 3);
    let server = Server::start(mib);
    let overlay = Overlay::start("");
    memory(&overlay);
    connections(&overlay, &server);
    let jumbo = Overlay::start("max_packet = 8941");
    let bbr3 = Overlay::start("max_packet = 8941\ncongestion = \"bbr3\"");
    downloads(&[&overlay, &jumbo, &bbr3], &server, mib, runs);
}

fn setting(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Runs this program again in a namespace of its own; false where that is not possible.
fn in_own_namespace() -> bool {
    const INSIDE: &str = "RON_BENCH_INSIDE";
    if env::var_os(INSIDE).is_some() {
        return false;
    }
    let script = "ip link set lo up
        for to in 127.0.0.0/8 127.0.0.1; do
            ip route replace local $to dev lo proto kernel scope host src 127.0.0.1 \\
                table local congctl cubic || exit 9
        done
        exec \"$0\" --bench";
    let inside = Command::new("unshare")
        .args(["-n", "sh", "-c", script])
        .arg(env::current_exe().unwrap())
        .env(INSIDE, "1")
        .status();
    let done = inside.is_ok_and(|status| status.success());
    if !done {
        println!(
            "no network namespace (needs root, unshare and ip): using this machine's loopback as it is"
        );
    }
    done
}

fn downloads([overlay, jumbo, bbr3]: &[&Overlay; 3], server: &Server, mib: usize, runs: usize) {
    let mut ways: Vec<(&str, Option<String>)> = vec![
        ("direct, no proxy", None),
        ("ronproxy, direct", Some(overlay.proxy("direct"))),
        ("ronproxy, forced relay", Some(overlay.proxy("relayed"))),
        ("the same, jumbo packets", Some(jumbo.proxy("direct"))),
        ("  forced relay", Some(jumbo.proxy("relayed"))),
        ("jumbo packets and BBR3", Some(bbr3.proxy("direct"))),
        ("  forced relay", Some(bbr3.proxy("relayed"))),
    ];
    let rivals = rivals::start();
    ways.extend(rivals.iter().map(|rival| (rival.name, Some(rival.proxy()))));
    let mut rates = vec![Vec::new(); ways.len()];
    for _ in 0..runs {
        for ((_, proxy), rates) in ways.iter().zip(&mut rates) {
            rates.push(download(&server.url(), proxy.as_deref(), mib));
        }
    }
    println!("\n{mib} MiB by curl over loopback, median of {runs} rounds");
    let direct = median(&mut rates[1].clone());
    for ((name, _), rates) in ways.iter().zip(&mut rates) {
        let rate = median(rates);
        println!("  {name:<26} {rate:>6.2} Gbit/s   {:>5.2} × ronproxy direct", rate / direct);
    }
}

/// One download; its rate in Gbit/s.
fn download(url: &str, proxy: Option<&str>, mib: usize) -> f64 {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{size_download} %{time_total}", url]);
    if let Some(proxy) = proxy {
        curl.args(["--proxy", proxy]);
    }
    let output = curl.stderr(Stdio::inherit()).output().expect("curl is needed");
    let text = String::from_utf8(output.stdout).unwrap();
    let (bytes, seconds) = text.split_once(' ').expect("curl's answer");
    assert_eq!(bytes.parse::<usize>().unwrap(), mib << 20, "curl did not get it all");
    (mib << 20) as f64 * 8.0 / seconds.parse::<f64>().unwrap() / 1e9
}

/// What a new connection costs on a warm lane, beyond the same through no proxy at all: loopback
/// has next to no round-trip time, so this is the overhead itself.
fn connections(overlay: &Overlay, server: &Server) {
    let direct = each(CONNECTIONS, || {
        first_byte(TcpStream::connect(server.address()).unwrap());
    });
    let proxied = each(CONNECTIONS, || first_byte(overlay.connect(server.address())));
    println!(
        "\na new connection and its first byte, median of {CONNECTIONS}: direct {:.2} ms, by a warm lane {:.2} ms",
        direct * 1e3,
        proxied * 1e3
    );
}

fn each(times: usize, mut act: impl FnMut()) -> f64 {
    act();
    let mut seconds: Vec<f64> = (0..times)
        .map(|_| {
            let start = Instant::now();
            act();
            start.elapsed().as_secs_f64()
        })
        .collect();
    median(&mut seconds)
}

fn first_byte(mut stream: TcpStream) {
    stream.write_all(b"GET /small HTTP/1.0\r\nHost: bench\r\n\r\n").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

fn memory(overlay: &Overlay) {
    let sink = server::silent();
    let idle = overlay.resident_mib();
    let flows: Vec<TcpStream> = (0..IDLE_FLOWS).map(|_| overlay.connect(sink)).collect();
    std::thread::sleep(Duration::from_secs(1));
    let busy = overlay.resident_mib();
    drop(flows);
    println!("\nresident memory in MiB           entry    exit");
    println!("  idle, warm                    {:>6.1}  {:>6.1}", idle.0, idle.1);
    println!(
        "  with {IDLE_FLOWS} idle flows, more     {:>6.1}  {:>6.1}",
        busy.0 - idle.0,
        busy.1 - idle.1
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A free port on loopback.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listener.local_addr().unwrap().port()
}

/// Waits until something listens at `port`.
fn wait_for_port(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nothing listens at port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
