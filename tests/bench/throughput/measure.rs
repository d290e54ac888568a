//! The measurements.

use std::{
    env,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    flows,
    hosts::{Ground, Host},
    overlay::Overlay,
    rivals::{self, Rival},
    run::{free_port, in_own_namespace, median, setting},
    server::Server,
    session::{self, OWN_BYTES},
    way::{Way, counts_calls},
};

/// The longest packets: of a lane over loopback, and in an Ethernet frame.
const LOOPBACK: u16 = 8941;
const ETHERNET: u16 = 1441;

/// Numbers of flows at once.
const FLOWS: [usize; 4] = [1, 8, 64, 512];

/// Runs a process of the benchmark, or the benchmark.
pub(super) fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.split_first() {
        Some((role, more)) if role == session::ENTRY || role == session::EXIT => {
            return session::run(role, more);
        }
        Some((role, more)) if role == flows::FLOWS && more.len() > 1 => return flows::run(more),
        _ => {}
    }
    // `cargo test --benches` and listings run every bench with other arguments: nothing to do then.
    if !arguments.iter().any(|argument| argument == "--bench") || in_own_namespace(&arguments) {
        return;
    }
    let wanted = |part: &str| arguments.len() == 1 || arguments.iter().any(|name| name == part);
    if wanted("loopback") {
        table("loopback", &Ground::loopback(), true);
    }
    for (name, offload, title) in [
        ("cables", true, "namespaces, MTU 1500"),
        ("single", false, "namespaces, MTU 1500, without segmentation offload"),
    ] {
        if wanted(name) {
            match Ground::cables(offload) {
                Ok(ground) => table(title, &ground, false),
                Err(reason) => println!("\nleft out: {title} ({reason})"),
            }
        }
    }
    if wanted("flows") {
        many_flows(&Ground::loopback());
    }
}

/// The bare state machine between two processes.
struct Pair {
    entry: Child,
    exit: Child,
    proxy: SocketAddr,
}

impl Pair {
    /// Starts it with the certificates of this overlay's entry and exit.
    fn start(ground: &Ground, overlay: &Overlay, server: &Server, packet: u16) -> Self {
        let at = |host: &Host| SocketAddr::from((host.ip, free_port()));
        let (entry, exit, proxy) = (at(&ground.entry), at(&ground.exit), at(&ground.entry));
        let start = |host: &Host, role: &str, name: &str, addresses: [SocketAddr; 3]| {
            let mut command = host.command(env::current_exe().unwrap());
            command.arg(role).arg(overlay.dir(name)).args(addresses.map(|at| at.to_string()));
            command.arg(packet.to_string()).stdout(Stdio::null()).spawn().unwrap()
        };
        let far = start(&ground.exit, session::EXIT, "exit", [exit, server.address(), proxy]);
        // QUIC repeats its first packet only after a second.
        thread::sleep(Duration::from_millis(200));
        let near = start(&ground.entry, session::ENTRY, "entry", [entry, exit, proxy]);
        ground.entry.wait_for_port(proxy.port());
        Self { entry: near, exit: far, proxy }
    }

    /// Bytes from the exit's buffer, and through it as a proxy.
    fn ways<'a>(
        &'a self,
        names: [&'static str; 2],
        plain: &impl Fn(&'static str) -> Way<'a>,
        bytes: usize,
    ) -> [Way<'a>; 2] {
        let [bare, proxy] =
            names.map(|name| plain(name).by([("entry", &self.entry), ("exit", &self.exit)]));
        let url = |path: &str| format!("http://{}{path}", self.proxy);
        [bare.from(url(&format!("{OWN_BYTES}{bytes}")), 2), proxy.from(url("/big"), bytes)]
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for process in [&mut self.entry, &mut self.exit] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The two ways through an overlay.
fn through<'a>(
    overlay: &'a Overlay,
    names: [&'static str; 2],
    plain: &impl Fn(&'static str) -> Way<'a>,
) -> [Way<'a>; 2] {
    let [direct, relayed] = names;
    [(direct, "direct"), (relayed, "relayed")].map(|(name, user)| {
        let carriers = ["exit", "relay", "entry"].into_iter().zip(overlay.processes());
        plain(name).through(overlay.proxy(user)).by(carriers)
    })
}

/// Measures all ways in turn, and prints a table.
fn table(title: &str, ground: &Ground, loopback: bool) {
    let (mib, runs) = (setting("RON_BENCH_MIB", 512), setting("RON_BENCH_RUNS", 3));
    let server = Server::start(&ground.exit, mib, &[]);
    let overlay = Overlay::start(ground, "");
    let more =
        if loopback { vec!["max_packet = 1441", "congestion = \"bbr3\""] } else { Vec::new() };
    let others: Vec<_> = more.into_iter().map(|lane| Overlay::start(ground, lane)).collect();
    let sizes: &[u16] = if loopback { &[LOOPBACK, ETHERNET] } else { &[ETHERNET] };
    let pairs: Vec<_> =
        sizes.iter().map(|packet| Pair::start(ground, &overlay, &server, *packet)).collect();
    let rivals = rivals::start(ground);
    let url = server.url();
    let plain = |name| Way::new(name, &ground.entry, (&url, mib << 20), server.process());
    let mut ways = vec![plain("TCP")];
    let names = [["bare", "bare proxy"], ["bare, 1,441", "bare proxy, 1,441"]];
    for (pair, names) in pairs.iter().zip(names) {
        ways.extend(pair.ways(names, &plain, mib << 20));
    }
    let names = [
        ["ronproxy", "ronproxy, relay"],
        ["ronproxy, 1,441", "ronproxy, 1,441, relay"],
        ["ronproxy, BBR3", "ronproxy, BBR3, relay"],
    ];
    for (overlay, names) in [&overlay].into_iter().chain(&others).zip(names) {
        ways.extend(through(overlay, names, &plain));
    }
    ways.extend(rivals.iter().map(|rival| of_rival(rival, &plain)));
    if let Ok(only) = env::var("RON_BENCH_WAYS") {
        ways.retain(|way| only.split(';').any(|name| name.trim() == way.name));
    }
    ways.iter().for_each(Way::warm);
    (0..runs).for_each(|_| ways.iter_mut().for_each(Way::round));
    if counts_calls() {
        ways.iter_mut().for_each(Way::count_calls);
    } else {
        println!("left out: system calls (perf cannot count them here)");
    }
    println!("\n{title}: {mib} MiB by curl, median of {runs} rounds (least to most)");
    println!(
        "  way                       Gbit/s                 s/GB  calls/MB  switches/MB   s/GB of each process"
    );
    ways.iter().for_each(Way::print);
    ratios(&ways);
}

fn of_rival<'a>(rival: &'a Rival, plain: &impl Fn(&'static str) -> Way<'a>) -> Way<'a> {
    let carriers = ["client", "server"].into_iter().zip(rival.processes());
    plain(rival.name).through(rival.proxy()).by(carriers)
}

/// The rates of ronproxy beside those of the others.
fn ratios(ways: &[Way<'_>]) {
    for ours in ways.iter().filter(|way| way.name.starts_with("ronproxy")) {
        let others = ways.iter().filter(|way| !way.name.starts_with("ronproxy"));
        let to = |other: &Way<'_>| format!("{} {:.2}", other.name, ours.rate() / other.rate());
        println!("  {} to: {}", ours.name, others.map(to).collect::<Vec<_>>().join("; "));
    }
}

/// Downloads in many flows at once, by TCP, ronproxy and its rivals.
fn many_flows(ground: &Ground) {
    let (mib, runs) = (setting("RON_BENCH_MIB", 512), setting("RON_BENCH_RUNS", 3));
    let sizes = FLOWS.map(|flows| (mib << 20) / flows);
    let server = Server::start(&ground.exit, mib, &sizes);
    let overlay = Overlay::start(ground, "");
    let rivals = rivals::start(ground);
    let mut proxies = vec![("TCP", "none".to_owned()), ("ronproxy", overlay.proxy("direct"))];
    proxies.extend(rivals.iter().map(|rival| (rival.name, rival.proxy())));
    println!("\nloopback: {mib} MiB in so many flows at once, Gbit/s, median of {runs} rounds");
    for flows in FLOWS {
        let mut rates: Vec<Vec<f64>> = vec![Vec::new(); proxies.len()];
        for _ in 0..runs {
            for (rates, (_, proxy)) in rates.iter_mut().zip(&proxies) {
                rates.push(rate(ground, &server, proxy, (flows, (mib << 20) / flows)));
            }
        }
        let each = rates.iter_mut().zip(&proxies);
        let each = each.map(|(rates, (name, _))| format!("{name} {:.2}", median(rates)));
        println!("  {flows:>4}: {}", each.collect::<Vec<_>>().join("; "));
    }
}

/// The rate of so many downloads of so many bytes each, in Gbit/s.
fn rate(ground: &Ground, server: &Server, proxy: &str, (flows, bytes): (usize, usize)) -> f64 {
    let proxy = proxy.rsplit(['@', '/']).next().unwrap();
    let mut command: Command = ground.entry.command(env::current_exe().unwrap());
    command.args([flows::FLOWS, proxy, &server.address().to_string()]);
    command.args([flows.to_string(), bytes.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    let seconds = String::from_utf8(output.stdout).unwrap();
    (flows * bytes) as f64 * 8.0 / seconds.trim().parse::<f64>().unwrap() / 1e9
}
