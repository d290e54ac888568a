//! Who belongs to the mesh changes.

use std::time::Duration;

use ronproxy::internals::{
    emulator::{LinkModel, Topology},
    flow::RouteWish,
    lab::{Lab, LabNode, Services},
    lane::RouteControl as _,
    transport::Congestion,
    wire::link::LaneEndRole,
};

use crate::support;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

async fn six(seed: u64) -> Lab {
    let model = LinkModel { delay: Duration::from_millis(25), ..LinkModel::default() };
    let mut topology = Topology::new(NAMES);
    for (i, a) in NAMES.iter().enumerate() {
        for b in &NAMES[i + 1..] {
            topology = topology.both(a, b, model);
        }
    }
    let nodes = NAMES.iter().map(|name| LabNode::new(name, true, false)).collect();
    let services = Services::default();
    let lab = Lab::start(topology, seed, nodes, services, Congestion::Adaptive).await.unwrap();
    support::wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    lab
}

/// How many of the nodes have `of` for a neighbour whose path is up.
fn linked_with(lab: &Lab, of: &str) -> usize {
    let name = of.parse().unwrap();
    let sees = |(_, node): &(&str, &ronproxy::internals::app::Node)| {
        node.mesh().facts_of_link(&name).is_some_and(|facts| facts.up)
    };
    lab.nodes().filter(sees).count()
}

#[tokio::test(start_paused = true)]
async fn all_nodes_drop_a_crashed_node_and_take_it_up_when_it_returns() {
    let mut lab = six(1).await;
    lab.crash("c");
    let gone = || linked_with(&lab, "c") == 0;
    support::wait_for("all to miss it", Duration::from_secs(5), gone).await;
    lab.restart("c").await.unwrap();
    let back = || linked_with(&lab, "c") == 5 && lab.is_meshed();
    support::wait_for("all to have it back", Duration::from_secs(5), back).await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_with_a_new_key_is_believed_by_all() {
    let mut lab = six(9).await;
    lab.crash("c");
    let gone = || linked_with(&lab, "c") == 0;
    support::wait_for("all to miss it", Duration::from_secs(5), gone).await;
    lab.rekey("c").unwrap();
    // One of them has no link to it and hears of it through the others only.
    lab.internet().cut(lab.topology().address("a"), lab.topology().address("c"));
    lab.restart("c").await.unwrap();
    let back = || linked_with(&lab, "c") == 4 && hears_of(&lab, "a", "c");
    support::wait_for("all to believe it", Duration::from_secs(20), back).await;
    lab.stop().await;
}

/// Whether `at` knows of a route to `of` through others, from their and its advertisements.
fn hears_of(lab: &Lab, at: &str, of: &str) -> bool {
    let (mesh, of) = (lab.node(at).unwrap().mesh(), of.parse().unwrap());
    let candidates = mesh.candidates(&of, LaneEndRole::Entry, &RouteWish::default());
    candidates.iter().any(|candidate| candidate.excluded.is_none() && candidate.metrics.is_some())
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_with_a_new_address_is_found_by_all() {
    for seed in 2..8 {
        find_again(seed).await;
    }
}

async fn find_again(seed: u64) {
    let lab = six(seed).await;
    let old = lab.topology().address("c");
    lab.internet().move_host(old, "203.0.113.77".parse().unwrap());
    let moved = || {
        let seen = |(name, node): (&str, &ronproxy::internals::app::Node)| {
            let facts = node.mesh().facts_of_link(&"c".parse().unwrap());
            name == "c"
                || facts.is_some_and(|facts| {
                    facts.up
                        && facts.address.is_some_and(|at| at.ip().to_string() == "203.0.113.77")
                })
        };
        lab.nodes().all(seen)
    };
    support::wait_for("all to see the new address", Duration::from_secs(10), moved).await;
    lab.stop().await;
}
