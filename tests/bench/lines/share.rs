//! A transfer of each way beside one of Cubic.

use std::thread;

use crate::{
    cable::Cable,
    measure::Effort,
    nodes::{Nodes, SEND, Server, TAKE},
    rows::Shared,
    transfer::{Bulk, rates, spread},
    way::{WAYS, Way},
};

/// By what the time of a measurement is multiplied: two transfers take some time to share a queue.
const TIMES: u32 = 3;

/// How much more one of two may have than the other.
const FAIR: f64 = 2.0;

/// Measures these lines.
pub(crate) fn all(lines: &[Shared], effort: Effort) {
    println!(
        "\n| line, Mbit/s | ronproxy beside Cubic | Cubic beside Cubic | BBR beside Cubic | |"
    );
    println!("|---|---|---|---|---|");
    for line in lines {
        let mut pairs: [[Vec<f64>; 2]; 3] = Default::default();
        let mut nodes = Nodes::set(Cable::lay(line.model), &[]);
        for _ in 0..effort.runs {
            for (way, pair) in WAYS.into_iter().zip(&mut pairs) {
                way.prepare(&mut nodes);
                let seen = beside_cubic(way, &nodes, line.upload, effort);
                pair.iter_mut().zip(seen).for_each(|(rates, rate)| rates.push(rate));
            }
        }
        let cells = pairs.each_mut().map(|pair| {
            let [own, other] = pair.each_mut().map(|rates| spread(rates, 2));
            format!("{own} beside {other}")
        });
        let [ours, cubic] = pairs[0].each_ref().map(|rates| rates[rates.len() / 2]);
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
