//! The figures of a program that is a node itself, by the library's interface.
//!
//! `cargo bench --bench embedded` prints, of processes on this machine's loopback interface:
//!
//! - `stream`: a download by a stream of the library, and by the local proxy of the same node, whose client is another
//!   process: what each costs both. Rounds of both take turns.
//! - `packets`: packets of 200 bytes, 200,000 a second for five seconds, between two processes.
//! - `memory`: what an idle node holds after half a minute.
//!
//! `-- memory` prints only that. Without default features, `RON_PROGRAM` has to name a built `ronproxy`; the
//! library has no proxy then, and `stream` is left out. `RON_BENCH_MIB` (2048) and `RON_BENCH_RUNS` (5) are as for
//! `throughput`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops at any surprise")]

#[expect(dead_code, reason = "another benchmark uses the rest")]
mod hosts;
#[path = "embedded/node.rs"]
mod node;
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod overlay;
mod run;
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod server;
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod usage;

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use hosts::Ground;
use overlay::Overlay;
use run::{in_own_namespace, median, setting};
use server::Server;
use usage::{own_cpu, usage};

/// How long a node rests before its memory is read: what its start needed is given back by then.
const REST: Duration = Duration::from_secs(30);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [child, role, dir] = &arguments[..]
        && child == node::CHILD
    {
        return node::run(role, dir);
    }
    // `cargo test --benches` and listings run every bench with other arguments: nothing to do then.
    if !arguments.iter().any(|argument| argument == "--bench") || in_own_namespace(&arguments) {
        return;
    }
    let wanted = |part: &str| arguments.len() == 1 || arguments.iter().any(|name| name == part);
    let overlay = Overlay::start(&Ground::loopback(), "");
    if wanted("memory") {
        memory(&overlay);
    }
    if wanted("packets") {
        packets(&overlay);
    }
    if cfg!(feature = "proxy") && wanted("stream") {
        streams(&overlay);
    }
}

/// A node in a process of its own, which does what it reads and says what it has done.
struct Embedded {
    child: [Child; 1],
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Embedded {
    /// Starts it as `role` in this folder, and waits until it is ready.
    fn start(role: &str, dir: &Path) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([node::CHILD, role]).arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut this = Self { child: [child], orders, answers };
        assert_eq!(this.hear(), "ready");
        this
    }

    fn say(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        assert!(self.answers.read_line(&mut line).unwrap() > 0, "the node's process has ended");
        line.trim().to_owned()
    }

    /// Processor time in seconds.
    fn cpu(&self) -> f64 {
        usage(&self.child)[0].cpu
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let _ = self.child[0].kill();
        let _ = self.child[0].wait();
    }
}

/// Resident memory of a process in MiB by kind (proc_pid_smaps(5)).
fn memory(overlay: &Overlay) {
    let node = Embedded::start("idle", &overlay.join("idle", None));
    thread::sleep(REST);
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", node.child[0].id())).unwrap();
    let mib = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{key}:"))).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    let (all, own) = (mib("Rss"), mib("Anonymous"));
    println!(
        "\nan idle node of three links holds {all:.1} MiB: {own:.1} of its own, {:.1} of the program's and \
         libraries' files",
        all - own
    );
}

/// Both processes say what they have counted.
fn packets(overlay: &Overlay) {
    let mut receiver = Embedded::start("receive", &overlay.join("receiver", Some("--exit")));
    let mut sender = Embedded::start("send", &overlay.join("sender", None));
    println!("\npackets of {} bytes between two processes", node::PACKET);
    for _ in 0..setting("RON_BENCH_RUNS", 5) {
        let before = (sender.cpu(), receiver.cpu());
        receiver.say("begin");
        sender.say("begin");
        println!("  {}", sender.hear());
        println!("  {}", receiver.hear());
        let used = (sender.cpu() - before.0, receiver.cpu() - before.1);
        println!("  processor time {:.2} + {:.2} s", used.0, used.1);
    }
}

/// A way of downloads, in Gbit/s and in processor seconds for each GB: of the node, and of its client.
#[derive(Default)]
struct Rounds {
    rates: Vec<f64>,
    costs: Vec<f64>,
    clients: Vec<f64>,
}

impl Rounds {
    fn round(&mut self, node: &mut Embedded, mib: usize, act: impl FnOnce(&mut Embedded) -> f64) {
        let before = (node.cpu(), own_cpu());
        let seconds = act(node);
        let bytes = (mib << 20) as f64;
        self.rates.push(bytes * 8.0 / seconds / 1e9);
        self.costs.push((node.cpu() - before.0) / bytes * 1e9);
        self.clients.push((own_cpu() - before.1) / bytes * 1e9);
    }

    fn print(&mut self, name: &str) {
        let (rate, cost) = (median(&mut self.rates), median(&mut self.costs));
        let client = median(&mut self.clients);
        println!(
            "  {name:<26} {rate:>6.2} Gbit/s   CPU {cost:>5.3} s/GB of the node, {client:>5.3} of another process"
        );
    }
}

fn streams(overlay: &Overlay) {
    let (mib, runs) = (setting("RON_BENCH_MIB", 2048), setting("RON_BENCH_RUNS", 5));
    let server = Server::start(&Ground::loopback().exit, mib, &[]);
    let mut node = Embedded::start("stream", &overlay.join("leaf", None));
    let proxy: SocketAddr = node.hear().parse().unwrap();
    let (mut stream, mut proxied) = (Rounds::default(), Rounds::default());
    for _ in 0..runs {
        stream.round(&mut node, mib, |node| {
            node.say(&server.address().to_string());
            let answer = node.hear();
            let (bytes, seconds) = answer.split_once(' ').unwrap();
            assert!(bytes.parse::<usize>().unwrap() > mib << 20, "{answer}");
            seconds.parse().unwrap()
        });
        proxied.round(&mut node, mib, |_| by_proxy(proxy, server.address(), mib));
    }
    println!("\n{mib} MiB from a server behind the exit, median of {runs} rounds");
    stream.print("a stream of the library");
    proxied.print("the proxy of the same node");
}

/// A download by SOCKS5 (RFC 1928); how many seconds it took.
fn by_proxy(proxy: SocketAddr, server: SocketAddr, mib: usize) -> f64 {
    let start = Instant::now();
    let mut tcp = TcpStream::connect(proxy).unwrap();
    tcp.write_all(&[5, 1, 0]).unwrap();
    tcp.read_exact(&mut [0; 2]).unwrap();
    let SocketAddr::V4(to) = server else { panic!("loopback is IPv4 here") };
    let port = to.port().to_be_bytes();
    tcp.write_all(&[&[5, 1, 0, 1], &to.ip().octets()[..], &port].concat()).unwrap();
    let mut reply = [0; 10];
    tcp.read_exact(&mut reply).unwrap();
    assert_eq!(reply[1], 0, "SOCKS refused: {reply:?}");
    tcp.write_all(node::REQUEST).unwrap();
    let (mut buffer, mut bytes) = (vec![0; node::BUFFER], 0);
    loop {
        match tcp.read(&mut buffer).unwrap() {
            0 => break,
            read => bytes += read,
        }
    }
    assert!(bytes > mib << 20, "only {bytes} bytes came");
    start.elapsed().as_secs_f64()
}
