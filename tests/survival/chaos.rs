//! Everything at once: whatever happens to the paths and the relays, no flow is lost or corrupted.

use std::{io, sync::Arc, time::Duration};

use ronproxy::internals::{
    emulator::{Internet, Topology},
    flow::{FlowDialer, FlowIo},
    lab::{Lab, LabNode},
    transport::Congestion,
};
use tokio::time::sleep;

use crate::{
    figures::seeds,
    storm,
    support::{self, wait_for},
    transfers::{Door, Tally},
    trouble::{ENTRIES, Fragile, five_sites},
    watch::Watch,
};

#[tokio::test(start_paused = true)]
async fn whatever_happens_no_flow_is_lost_or_corrupted() {
    let span = storm::span(3);
    for seed in seeds(1) {
        let watch = Watch::begin();
        let mut lab = start(seed).await;
        sleep(Duration::from_secs(5)).await;
        let doors = ENTRIES.map(|entry| (entry, lab.node(entry).unwrap().dialer()));
        let mut tally = storm::rage(&mut lab, doors.to_vec(), seed, span).await;
        wait_for("the mesh", Duration::from_secs(90), || lab.is_meshed()).await;
        check_tables(&lab, &mut tally);
        lab.stop().await;
        watch.check(&format!("seed {seed}"));
        storm::judge(&tally, seed, span);
    }
}

async fn start(seed: u64) -> Lab {
    let nodes = vec![
        LabNode::new("alice", false, false),
        LabNode::new("bob", false, false),
        LabNode::new("exit", false, true),
        LabNode::new("north", true, false),
        LabNode::new("south", true, false),
    ];
    let lab = Lab::start(five_sites(), seed, nodes, support::services(), Congestion::default())
        .await
        .unwrap();
    wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    lab
}

impl Door for Arc<dyn FlowDialer> {
    async fn open(&self, target: &str) -> io::Result<Box<dyn FlowIo>> {
        let dialled = self.dial(support::flow_request(target)).await;
        Ok(dialled.map_err(|refusal| io::Error::other(refusal.to_string()))?.into_io())
    }
}

impl Fragile for Lab {
    const MOVES: bool = true;

    fn internet(&self) -> &Internet {
        self.internet()
    }

    fn topology(&self) -> &Topology {
        self.topology()
    }

    async fn crash(&mut self, name: &'static str) {
        self.crash(name);
    }

    async fn restart(&mut self, name: &'static str) {
        self.restart(name).await.unwrap();
    }
}

/// Nothing may have grown: what is left belongs to the live lanes.
fn check_tables(lab: &Lab, tally: &mut Tally) {
    for (name, node) in lab.nodes() {
        let (status, links) = (node.status(), node.link_facts());
        let labels: usize = links.iter().map(|link| link.labels).sum();
        let lanes = status.lanes_in + status.lanes_out;
        if status.links_up > 4 || lanes > 8 || labels > 64 {
            let what = format!("{name}: {} links, {lanes} lanes, {labels} labels", status.links_up);
            tally.lost.push(what);
        }
    }
}
