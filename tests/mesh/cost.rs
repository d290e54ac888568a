//! What probing and advertising cost each node, and how soon a dead idle link is noticed.
//!
//! By hand, for RON's sizes: `RON_NODES=10,20,30,40,50 cargo test --test mesh cost -- --nocapture`;
//! 100 and 200 work too, in minutes.

use std::{env, fs, time::Duration};

use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;
use ronproxy::internals::{
    emulator::{LinkModel, Topology},
    lab::{Lab, LabNode, Services},
    transport::Congestion,
};
use tokio::time::{Instant, sleep};

use crate::support;

/// IPv4 and UDP headers, which the emulator does not count.
const HEADERS: u64 = 28;

/// The forming of the mesh, and its hot start, are over after this.
const SETTLE: Duration = Duration::from_secs(60);

/// The steady state is measured over this: several regular advertisements.
const STEADY: Duration = Duration::from_secs(180);

/// Links cut at a time, to find out how soon that is noticed.
const CUTS: usize = 20;

/// What every node may send by default; RON's nodes sent 33 kbit/s at 50 nodes.
const BUDGET_KBPS: f64 = 32.0;

/// RON's overhead in kbit/s by number of nodes (SOSP 2001, §6).
const RON: [(usize, f64); 5] = [(10, 2.2), (20, 6.6), (30, 13.3), (40, 22.3), (50, 33.0)];

/// What was measured in a mesh.
struct Cost {
    nodes: usize,
    /// Per node, in kbit/s, headers included.
    sent_kbps: f64,
    received_kbps: f64,
    packets: f64,
    detections: Vec<Duration>,
    /// Of one CPU, per node, in percent, in this build.
    cpu_percent: f64,
    resident_mib: f64,
}

impl Cost {
    fn print(&self) {
        let ron = RON.iter().find(|(nodes, _)| *nodes == self.nodes);
        let ron = ron.map_or_else(|| "-".to_owned(), |(_, kbps)| kbps.to_string());
        let (median, worst) = (self.detections[self.detections.len() / 2], self.worst());
        println!(
            "{:>4} nodes: sent {:5.1} + received {:5.1} kbit/s, {:4.1} packets/s (RON {ron:>4}); dead idle link noticed after \
             {:.1} s median, {:.1} s worst; {:.2} % of a CPU, {:.1} MiB per node",
            self.nodes,
            self.sent_kbps,
            self.received_kbps,
            self.packets,
            median.as_secs_f64(),
            worst.as_secs_f64(),
            self.cpu_percent,
            self.resident_mib,
        );
    }

    fn worst(&self) -> Duration {
        self.detections.last().copied().unwrap_or_default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_mesh_keeps_its_budget_and_finds_a_dead_idle_link_in_20_s() {
    // Fifty take two minutes; the budget binds from ten on.
    let heavy = env::var_os("RON_HEAVY").is_some();
    let sizes = env::var("RON_NODES").unwrap_or_else(|_| if heavy { "50" } else { "16" }.into());
    for nodes in sizes.split(',') {
        let cost = measure(nodes.trim().parse().unwrap()).await;
        cost.print();
        if cost.nodes <= 50 && env::var_os("RON_MEASURE").is_none() {
            assert!(cost.sent_kbps <= BUDGET_KBPS, "{:.1} kbit/s", cost.sent_kbps);
            // RON's four lost probes took 18 s on average.
            assert!(cost.worst() < Duration::from_secs(20), "{:?}", cost.worst());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_flows_costs_at_most_150_bytes_a_second_per_link() {
    let lab =
        support::triangle(ronproxy::internals::emulator::triangle(), 1, Congestion::Adaptive).await;
    support::wait_for("the mesh", Duration::from_secs(120), || lab.is_meshed()).await;
    support::fetch(lab.node("entry").unwrap(), 100_000).await;
    sleep(SETTLE).await;
    let links = [("entry", "exit"), ("entry", "relay"), ("relay", "exit")];
    let before = links.map(|(a, b)| (sent(&lab, a, b), sent(&lab, b, a)));
    sleep(STEADY).await;
    // The lane that carried the download is still warm.
    assert_eq!(lab.node("entry").unwrap().lanes().lanes().len(), 1);
    for ((a, b), (from, back)) in links.into_iter().zip(before) {
        let rate = |from: &Traffic, to: &Traffic| {
            let bytes = to.sent - from.sent + HEADERS * (to.packets - from.packets);
            bytes as f64 / STEADY.as_secs_f64()
        };
        let (there, back) = (rate(&from, &sent(&lab, a, b)), rate(&back, &sent(&lab, b, a)));
        println!(
            "{a} sends {b} {there:.0} byte/s and gets {back:.0}, without flows, a lane is warm"
        );
        assert!(there <= 150.0 && back <= 150.0, "{a} {b}: {there:.0}, {back:.0} byte/s");
    }
    lab.stop().await;
}

async fn measure(nodes: usize) -> Cost {
    support::log();
    let before = (resident_mib(), cpu_time());
    let lab = mesh(nodes, 7).await;
    support::wait_for("the mesh", Duration::from_secs(120), || lab.is_meshed()).await;
    println!("{nodes} nodes meshed; {:.1} s of CPU for it", (cpu_time() - before.1).as_secs_f64());
    sleep(SETTLE).await;
    let (from, cpu) = (traffic(&lab), cpu_time());
    sleep(STEADY).await;
    let (to, used) = (traffic(&lab), cpu_time() - cpu);
    let resident_mib = (resident_mib() - before.0) / nodes as f64;
    let per_node = |bytes: u64| bytes as f64 * 8.0 / 1e3 / STEADY.as_secs_f64() / nodes as f64;
    let packets = to.packets - from.packets;
    let cost = Cost {
        nodes,
        sent_kbps: per_node(to.sent - from.sent + HEADERS * packets),
        received_kbps: per_node(to.received - from.received + HEADERS * packets),
        packets: packets as f64 / STEADY.as_secs_f64() / nodes as f64,
        detections: detections(&lab).await,
        cpu_percent: used.as_secs_f64() / STEADY.as_secs_f64() / nodes as f64 * 100.0,
        resident_mib,
    };
    lab.stop().await;
    cost
}

/// Full nodes at random distances of 10 to 150 ms.
async fn mesh(nodes: usize, seed: u64) -> Lab {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let names: Vec<String> = (0..nodes).map(|n| format!("n{n}")).collect();
    let mut topology = Topology::new(names.iter().map(String::as_str));
    for (i, a) in names.iter().enumerate() {
        for b in &names[i + 1..] {
            let delay = Duration::from_millis(rng.random_range(5..75));
            topology = topology.both(a, b, LinkModel { delay, ..LinkModel::default() });
        }
    }
    let plan = |name: &String| LabNode::new(name, true, false);
    let nodes = names.iter().map(plan).collect();
    Lab::start(topology, seed, nodes, Services::default(), Congestion::Adaptive).await.unwrap()
}

#[derive(Default)]
struct Traffic {
    packets: u64,
    sent: u64,
    received: u64,
}

fn traffic(lab: &Lab) -> Traffic {
    let mut sum = Traffic::default();
    let names: Vec<&str> = lab.nodes().map(|(name, _)| name).collect();
    for from in &names {
        for to in names.iter().filter(|to| *to != from) {
            let link = sent(lab, from, to);
            sum.packets += link.packets;
            sum.sent += link.sent;
            sum.received += link.received;
        }
    }
    sum
}

fn sent(lab: &Lab, from: &str, to: &str) -> Traffic {
    let at = |name| lab.topology().address(name);
    let link = lab.internet().counters(at(from), at(to));
    Traffic { packets: link.sent, sent: link.sent_bytes, received: link.delivered_bytes }
}

/// Cuts idle links between disjoint pairs; how long each takes until both of its ends know. Sorted.
async fn detections(lab: &Lab) -> Vec<Duration> {
    let mut names: Vec<String> = lab.nodes().map(|(name, _)| name.to_owned()).collect();
    names.shuffle(&mut Pcg64Mcg::seed_from_u64(11));
    let pairs: Vec<(&str, &str)> =
        names.chunks_exact(2).take(CUTS).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    for (a, b) in &pairs {
        lab.internet().cut(lab.topology().address(a), lab.topology().address(b));
    }
    let start = Instant::now();
    let mut found = Vec::new();
    let mut open = pairs;
    while !open.is_empty() {
        sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() < Duration::from_secs(60), "not noticed: {open:?}");
        open.retain(|(a, b)| {
            let noticed = [(a, b), (b, a)].iter().all(|(at, of)| !sees_up(lab, at, of));
            found.extend(noticed.then(|| start.elapsed()));
            !noticed
        });
    }
    found
}

fn sees_up(lab: &Lab, at: &str, of: &str) -> bool {
    let facts = lab.node(at).unwrap().mesh().facts_of_link(&of.parse().unwrap());
    facts.is_some_and(|facts| facts.up)
}

/// The CPU time of this process so far.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // utime and stime, in hundredths of a second (proc(5), counted after the command's name).
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

fn resident_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
