//! Everything at once, between real processes: no flow is lost or corrupted, no node grows.

use std::{io, net::SocketAddr, time::Duration};

use ronproxy::internals::flow::FlowIo;
use tokio::time::{Instant, sleep};

use crate::{
    bytes::MIB,
    figures::seeds,
    processes::{Processes, Share, turn},
    services::Servers,
    sockets::tunnel,
    storm, support,
    tools::resident,
    transfers::{Door, Tally},
    trouble::{ENTRIES, five_sites},
    work::Arrivals,
};

/// The nodes that are never killed: what they hold must not grow.
const STEADY: [&str; 3] = ["alice", "bob", "exit"];

/// What a node may hold more at the end than before: the buffers of some flows, and what the
/// allocator keeps of them.
const GROWTH: usize = 64 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_no_flow_is_lost_or_corrupted_and_no_node_grows() {
    support::log();
    let span = storm::span(1);
    for seed in seeds(1) {
        let _turn = turn(Share::All).await;
        let mut overlay = Processes::start(five_sites(), &["north", "south"], seed).await;
        for entry in ENTRIES {
            overlay.routes(entry, 3, "direct").await;
        }
        let before = memory(&overlay);
        let servers = Servers::start(&Arrivals::new()).await;
        let socks = |entry| Socks { proxy: overlay.node(entry).proxy(), servers };
        let doors = ENTRIES.map(|entry| (entry, socks(entry))).to_vec();
        let mut tally = storm::rage(&mut overlay, doors, seed, span).await;
        wait_for_mesh(&overlay, &mut tally).await;
        check_tables(&overlay, &mut tally);
        for (name, (before, after)) in STEADY.iter().zip(before.into_iter().zip(memory(&overlay))) {
            println!("{name}: {} MiB at first, {} MiB at the end", before / MIB, after / MIB);
            if after > before + GROWTH {
                tally.lost.push(format!("{name} grew from {before} to {after} bytes"));
            }
        }
        tally.lost.extend(overlay.defects());
        storm::judge(&tally, seed, span);
        overlay.check();
    }
}

/// An entry's proxy, and what is behind the exit.
#[derive(Clone, Copy)]
struct Socks {
    proxy: SocketAddr,
    servers: Servers,
}

impl Door for Socks {
    async fn open(&self, target: &str) -> io::Result<Box<dyn FlowIo>> {
        let server = match target {
            "source.test:80" => self.servers.source,
            "sink.test:80" => self.servers.sink,
            _ => self.servers.echo,
        };
        Ok(Box::new(tunnel(self.proxy, server).await?))
    }
}

fn memory(overlay: &Processes) -> [usize; 3] {
    STEADY.map(|name| resident(overlay.node(name).pid()))
}

/// Waits until every node has a link to every other.
async fn wait_for_mesh(overlay: &Processes, tally: &mut Tally) {
    let until = Instant::now() + Duration::from_secs(90);
    let names = ["alice", "bob", "exit", "north", "south"];
    while names.iter().any(|name| overlay.facts(name, "status")["links_up"] != 4) {
        if Instant::now() > until {
            return tally.lost.push("the mesh did not come back".to_owned());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Nothing may have grown: what is left belongs to the live lanes.
fn check_tables(overlay: &Processes, tally: &mut Tally) {
    for name in STEADY {
        let (status, links) = (overlay.facts(name, "status"), overlay.facts(name, "links"));
        let count = |value: &serde_json::Value| value.as_u64().unwrap();
        let labels: u64 = links.as_array().unwrap().iter().map(|link| count(&link["labels"])).sum();
        let lanes = count(&status["lanes_in"]) + count(&status["lanes_out"]);
        let flows = count(&status["flows"]) + count(&status["exit_flows"]);
        println!("{name}: {lanes} lanes, {labels} labels, {flows} flows at the end");
        if lanes > 8 || labels > 64 || flows > 0 {
            tally.lost.push(format!("{name}: {lanes} lanes, {labels} labels, {flows} flows left"));
        }
    }
}
