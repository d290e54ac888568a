//! A transfer of each way beside one of Cubic.

use std::thread;

use crate::{
    cable::Cable,
    measure::Effort,
    nodes::{Nodes, SEND, Server, TAKE},
    rows::Shared,
    transfer::{Bulk, rates},
    way::{WAYS, Way},
};

/// By what the time of a measurement is multiplied: two transfers take some time to share a queue.
const TIMES: u32 = 3;

/// How much more one of two may have than the other.
const FAIR: f64 = 2.0;

/// Measures these lines.
pub(crate) fn all(lines: &[Shared], effort: Effort) {
    println!("\n| line, Mbit/s in each round | ronproxy + Cubic | Cubic + Cubic | BBR + Cubic | |");
    println!("|---|---|---|---|---|");
    for line in lines {
        let mut rounds: [Vec<[f64; 2]>; 3] = Default::default();
        let mut nodes = Nodes::set(Cable::lay(line.model), &[]);
        for _ in 0..effort.runs {
            for (way, rounds) in WAYS.into_iter().zip(&mut rounds) {
                way.prepare(&mut nodes);
                rounds.push(beside_cubic(way, &nodes, line.upload, effort));
            }
        }
        let cells = rounds.each_ref().map(|rounds| {
            let rounds = rounds.iter().map(|[own, cubic]| format!("{own:.2} + {cubic:.2}"));
            rounds.collect::<Vec<_>>().join("; ")
        });
        let [ours, cubic] = [0, 1].map(|at| rounds[0].iter().map(|round| round[at]).sum::<f64>());
        let verdict = match ours / cubic {
            ratio if ratio > FAIR => "**falls short: Cubic**",
            ratio if ratio < 1.0 / FAIR => "**falls short: ronproxy**",
            _ => "",
        };
        println!("| {} | {} | {verdict} |", line.name, cells.join(" | "));
    }
}

/// The rates of a transfer by this way and of one by Cubic, which start together.
fn beside_cubic(way: Way, nodes: &Nodes, upload: bool, effort: Effort) -> [f64; 2] {
    let time = effort.time * TIMES;
    let start = |way: Way, server: &Server| match upload {
        true => Bulk::upload(way.connect(nodes, server, TAKE), server),
        false => Bulk::download(way.connect(nodes, server, SEND)),
    };
    let servers = [way, Way::Cubic].map(|way| way.serve(nodes));
    let bulks = [start(way, &servers[0]), start(Way::Cubic, &servers[1])];
    thread::sleep(time);
    let seen = rates([&bulks[0], &bulks[1]], time);
    for bulk in bulks {
        bulk.end();
    }
    seen
}
