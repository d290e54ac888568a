//! The measurements of one transfer with keys beside it, and their table.

use std::{
    env, fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{
    cable::{Cable, in_own_namespaces},
    nodes::{ECHO, Nodes, SEND},
    rows::{self, Line},
    run::setting,
    share,
    transfer::{Bulk, quantile, spread, type_key},
    usage::processors,
    way::{WAYS, Way},
};

/// Connections on which keys are typed. With four, the 95th percentile is that of over 200 keys a round: where one in
/// twenty meets a loss, fewer give a figure of chance.
const TYPISTS: usize = 4;

/// By how much keys may be later than those of TCP, in ms.
const KEYS_LATER: f64 = 10.0;

/// How often and how long to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) runs: usize,
    pub(crate) time: Duration,
}

/// What one way had on a line.
#[derive(Debug, Default)]
struct Seen {
    /// Mbit/s in each round.
    rates: Vec<f64>,
    /// Of all rounds, in ms.
    keys: Vec<f64>,
}

/// What a line showed.
#[derive(Debug, Default)]
struct Row {
    ways: [Seen; 3],
    /// The most memory of entry and exit, in MiB.
    memory: [f64; 2],
    /// The most time of the processors in use while ronproxy ran, of all.
    busy: f64,
}

/// Measures, in namespaces of its own.
pub(crate) fn all() {
    if !in_own_namespaces() {
        return;
    }
    let known = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap();
    if !["cubic", "bbr"].iter().all(|name| known.split_whitespace().any(|word| word == *name)) {
        println!("nothing was measured: the kernel has to have Cubic and BBR, and has {known}");
        return;
    }
    let time = Duration::from_secs(setting("RON_BENCH_SECONDS", 8) as u64);
    let effort = Effort { runs: setting("RON_BENCH_RUNS", 3), time };
    let words = env::var("RON_BENCH_LINES").unwrap_or_default();
    let wanted = |name: &str| {
        let mut words = words.split_whitespace().peekable();
        words.peek().is_none() || words.any(|word| name.contains(word))
    };
    println!("50 Mbit/s, round trip 40 ms, queue of 100 ms, unless the line says otherwise");
    println!("{} rounds, {time:?} each; slow lines longer", effort.runs);
    println!("load at the start: {}", load());
    let lines: Vec<_> = rows::lines().into_iter().filter(|line| wanted(&line.name)).collect();
    if !lines.is_empty() {
        println!(
            "\n| line | Mbit/s: ronproxy | Cubic | BBR | of the better | keys above the round trip, median and 95 %, ms: ronproxy; Cubic; BBR | peak of entry; exit, MiB | busy | |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        lines.iter().for_each(|line| measure(line, effort).print(line));
    }
    let shared: Vec<_> = rows::shared().into_iter().filter(|line| wanted(line.name)).collect();
    if !shared.is_empty() {
        share::all(&shared, effort);
    }
    println!("\nload at the end: {}", load());
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Rounds of all ways in turn.
fn measure(line: &Line, effort: Effort) -> Row {
    let mut nodes = Nodes::set(Cable::lay(line.model), &[]);
    if let Some((rates, each)) = line.varies {
        nodes.cable.vary(rates, each);
    }
    let time = effort.time * line.times;
    let mut row = Row::default();
    for _ in 0..effort.runs {
        for (way, seen) in WAYS.into_iter().zip(&mut row.ways) {
            way.prepare(&mut nodes);
            let before = processors();
            transfer(way, &nodes, time, seen);
            if way == Way::Ronproxy {
                let after = processors();
                row.busy = row.busy.max(1.0 - (after.1 - before.1) / (after.0 - before.0));
                let memory = nodes.peak_mib();
                row.memory = [0, 1].map(|at| memory[at].max(row.memory[at]));
            }
        }
    }
    row
}

/// A download, and keys beside it once it has found its rate.
fn transfer(way: Way, nodes: &Nodes, time: Duration, seen: &mut Seen) {
    let server = way.serve(nodes);
    let typists = [(); TYPISTS].map(|()| way.connect(nodes, &server, ECHO));
    let bulk = Bulk::download(way.connect(nodes, &server, SEND));
    thread::sleep(time / 2);
    let over = &AtomicBool::default();
    thread::scope(|scope| {
        let typed = typists.map(|mut keys| {
            scope.spawn(move || {
                let mut times = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    times.push(type_key(&mut keys));
                }
                times
            })
        });
        seen.rates.push(bulk.rate(time));
        over.store(true, Ordering::Relaxed);
        typed.into_iter().for_each(|typed| seen.keys.extend(typed.join().unwrap()));
    });
    bulk.end();
}

impl Row {
    fn print(mut self, line: &Line) {
        let round_trip = line.model.delay.as_secs_f64() * 2e3;
        let rates = self.ways.each_mut().map(|seen| spread(&mut seen.rates, 1));
        // The rates are in order now.
        let [ours, cubic, bbr] = self.ways.each_ref().map(|seen| seen.rates[seen.rates.len() / 2]);
        let ratio = ours / cubic.max(bbr);
        let keys = self
            .ways
            .each_mut()
            .map(|seen| [0.5, 0.95].map(|share| quantile(&mut seen.keys, share) - round_trip));
        let later = |tcp: usize| (0..2).any(|at| keys[0][at] > keys[tcp][at] + KEYS_LATER);
        let misses = [
            (ratio < line.aim, "rate"),
            (later(1), "keys later than Cubic's"),
            (later(2), "keys later than BBR's"),
        ];
        let misses: Vec<_> =
            misses.iter().filter(|(missed, _)| *missed).map(|(_, what)| *what).collect();
        let verdict = if misses.is_empty() {
            String::new()
        } else {
            format!("**falls short: {}**", misses.join(", "))
        };
        let keys = keys.map(|[median, most]| format!("{median:.0}, {most:.0}"));
        println!(
            "| {} | {} | {:.0} % | {} | {:.0}; {:.0} | {:.0} % | {verdict} |",
            line.name,
            rates.join(" | "),
            ratio * 100.0,
            keys.join("; "),
            self.memory[0],
            self.memory[1],
            self.busy * 100.0
        );
    }
}
