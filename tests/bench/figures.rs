//! The figures of a whole overlay on this machine's loopback interface, beside its rivals.
//!
//! `cargo bench --bench figures` prints one table: a large download by curl direct, through an entry
//! and an exit, through a forced relay, through `ssh -D` and through shadowsocks where they are
//! installed, with the processor time and the context switches of each; the cost of a new connection
//! on a warm lane; resident memory. Processor time tells ways apart also on a busy machine.
//!
//! Settings by environment: `RON_BENCH_MIB` (size of the download, default 2048), `RON_BENCH_RUNS`
//! (rounds, default 3). As root it runs in a network namespace of its own whose TCP uses Cubic.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops at any surprise")]

mod overlay;
mod rivals;
mod run;
mod server;
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod usage;

use std::{
    env,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use overlay::Overlay;
use run::{in_own_namespace, median, setting};
use server::Server;
use usage::usage;

/// Rounds of the small measurements.
const CONNECTIONS: usize = 200;
/// Idle flows for the memory figure.
const IDLE_FLOWS: usize = 1000;

fn main() {
    // `cargo test --benches` and listings run every bench with other arguments: nothing to do then.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    if in_own_namespace(&["--bench".to_owned()]) {
        return;
    }
    let mib: usize = setting("RON_BENCH_MIB", 2048);
    let runs: usize = setting("RON_BENCH_RUNS", 3);
    let server = Server::start(mib);
    let overlay = Overlay::start("");
    memory(&overlay);
    connections(&overlay, &server);
    let ethernet = Overlay::start("max_packet = 1441");
    let bbr3 = Overlay::start("congestion = \"bbr3\"");
    downloads(&[&overlay, &ethernet, &bbr3], &server, mib, runs);
}

/// A way to the server.
struct Way<'a> {
    name: &'static str,
    proxy: Option<String>,
    /// Those that carry it: of an overlay the exit, the relay and the entry.
    processes: &'a [Child],
    rounds: Vec<Round>,
}

/// What one download took.
struct Round {
    gbit_per_s: f64,
    /// Processor time of each process, in seconds for each GB.
    cpu: Vec<f64>,
    /// Context switches of all of them, for each MB.
    switches: f64,
}

impl<'a> Way<'a> {
    fn new(name: &'static str, proxy: Option<String>, processes: &'a [Child]) -> Self {
        Self { name, proxy, processes, rounds: Vec::new() }
    }

    fn through(name: &'static str, overlay: &'a Overlay, user: &str) -> Self {
        Self::new(name, Some(overlay.proxy(user)), overlay.processes())
    }

    fn round(&mut self, url: &str, mib: usize) {
        let before = usage(self.processes);
        let gbit_per_s = download(url, self.proxy.as_deref(), mib);
        let used =
            usage(self.processes).into_iter().zip(before).map(|(after, before)| after - before);
        let used: Vec<_> = used.collect();
        let megabytes = (mib << 20) as f64 / 1e6;
        let cpu = used.iter().map(|used| used.cpu / megabytes * 1e3).collect();
        let switches = used.iter().map(|used| used.switches / megabytes).sum();
        self.rounds.push(Round { gbit_per_s, cpu, switches });
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(&mut self.rounds.iter().map(of).collect::<Vec<_>>())
    }

    fn print(&self) {
        let rates = self.rounds.iter().map(|round| round.gbit_per_s);
        let (least, most) = (rates.clone().fold(f64::MAX, f64::min), rates.fold(0.0, f64::max));
        let cpu: Vec<String> = (0..self.processes.len())
            .map(|process| format!("{:.2}", self.median(|round| round.cpu[process])))
            .collect();
        println!(
            "  {:<26} {:>6.2} Gbit/s ({least:.2} to {most:.2})   CPU {:>5.2} s/GB ({})   {:>5.1} switches/MB",
            self.name,
            self.median(|round| round.gbit_per_s),
            self.median(|round| round.cpu.iter().sum()),
            cpu.join(" + "),
            self.median(|round| round.switches),
        );
    }
}

fn downloads([overlay, ethernet, bbr3]: &[&Overlay; 3], server: &Server, mib: usize, runs: usize) {
    let rivals = rivals::start();
    let mut ways = vec![
        Way::new("direct, no proxy", None, &[]),
        Way::through("ronproxy, direct", overlay, "direct"),
        Way::through("ronproxy, forced relay", overlay, "relayed"),
        Way::through("packets of an Ethernet frame", ethernet, "direct"),
        Way::through("  forced relay", ethernet, "relayed"),
        Way::through("BBR3", bbr3, "direct"),
        Way::through("  forced relay", bbr3, "relayed"),
    ];
    ways.extend(
        rivals.iter().map(|rival| Way::new(rival.name, Some(rival.proxy()), rival.processes())),
    );
    for _ in 0..runs {
        for way in &mut ways {
            way.round(&server.url(), mib);
        }
    }
    println!(
        "\n{mib} MiB by curl over loopback, median of {runs} rounds; CPU of exit + relay + entry, or of client + server"
    );
    for way in &ways {
        way.print();
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
