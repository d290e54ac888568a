//! Nodes that nobody can dial.

use std::{net::IpAddr, time::Duration};

use ronproxy::internals::{
    config::Config,
    emulator::{LinkModel, Topology},
    lab::{Lab, LabNode},
    transport::Congestion,
};

use crate::support;

const HOME: &str = "198.51.100.1";
const OFFICE: &str = "198.51.100.2";

/// A laptop at home, an exit in an office, each behind a NAT, and a hub that both can dial.
async fn behind_nats(seed: u64) -> Lab {
    let model = LinkModel { delay: Duration::from_millis(20), ..LinkModel::default() };
    let topology = Topology::new(["home", "hub", "office"])
        .both("home", "hub", model)
        .both("hub", "office", model)
        .both("home", "office", model);
    let nat = |address: &str| address.parse::<IpAddr>().unwrap();
    let nodes = vec![
        LabNode::new("home", false, false).behind(nat(HOME)),
        LabNode::new("hub", true, false),
        LabNode { rules: Config::parse("").unwrap().rules, ..LabNode::new("office", false, true) }
            .behind(nat(OFFICE)),
    ];
    Lab::start(topology, seed, nodes, support::services(), Congestion::Adaptive).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn two_nodes_behind_nats_get_a_direct_link_by_dialling_at_the_same_time() {
    support::log();
    for seed in 0..5 {
        let lab = behind_nats(seed).await;
        support::wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
        let seen_at = |name: &str, of: &str| {
            let facts = lab.node(name).unwrap().mesh().facts_of_link(&of.parse().unwrap());
            facts.unwrap().address.unwrap().ip().to_string()
        };
        assert_eq!(seen_at("home", "office"), OFFICE);
        assert_eq!(seen_at("office", "home"), HOME);
        lab.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_nodes_whose_nats_keep_them_apart_communicate_through_a_relay() {
    let lab = behind_nats(9).await;
    let address = |name: &str| lab.topology().address(name);
    lab.internet().cut(address("home"), address("office"));
    let linked = || ["home", "office"].map(|n| lab.node(n).unwrap().mesh().links().all().len());
    support::wait_for("the hub's links", Duration::from_secs(10), || linked() == [1, 1]).await;
    let (home, exit) = (lab.node("home").unwrap(), "office".parse().unwrap());
    let heard = || {
        let facts = home.mesh().facts_of_link(&exit);
        facts.is_some() && !home.mesh().exits_serving(&"echo.test".parse().unwrap()).is_empty()
    };
    support::wait_for("news of the office", Duration::from_secs(20), heard).await;
    // The hub's advertisement has to tell that it reaches the office.
    tokio::time::sleep(Duration::from_secs(5)).await;
    support::fetch(home, 1 << 20).await;
    assert_eq!(home.lane_facts()[0].facts.route.to_string(), "via hub");
    lab.stop().await;
}
