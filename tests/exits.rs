//! Which exit a new flow goes to, and what becomes of it when that exit dies, in virtual time.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]

mod support;

use std::time::Duration;

use ronproxy::{
    app::Question,
    config::Config,
    emulator::{LinkModel, Topology},
    lab::{Lab, LabNode},
    transport::Congestion,
};
use support::wait_for;
use tokio::time::Instant;

/// A laptop, a near and a far exit, and a third that only some rules name.
async fn three_exits(seed: u64, rules: &str) -> Lab {
    let path = |ms| LinkModel { delay: Duration::from_millis(ms), ..LinkModel::default() };
    let names = ["laptop", "near", "far", "spare"];
    let mut topology = Topology::new(names).both("laptop", "near", path(10));
    topology = topology.both("laptop", "far", path(40)).both("laptop", "spare", path(5));
    for (a, b) in [("near", "far"), ("near", "spare"), ("far", "spare")] {
        topology = topology.both(a, b, path(30));
    }
    let mut nodes: Vec<LabNode> =
        names.iter().map(|n| LabNode::new(n, false, *n != "laptop")).collect();
    nodes[0].rules = Config::parse(rules).unwrap().rules;
    let services = support::services();
    let lab = Lab::start(topology, seed, nodes, services, Congestion::Bbr3).await.unwrap();
    wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    lab
}

/// The exits for a new flow, in the order to be tried.
fn exits(lab: &Lab) -> Vec<String> {
    let target = "echo.test:80".parse().unwrap();
    let question = Question { target, hint: None, exit: None, user: None };
    let why = lab.node("laptop").unwrap().view().why(&question);
    why.exits.iter().map(|choice| choice.exit.to_string()).collect()
}

/// Opens a flow; the exit it leaves at, and how long that took.
async fn open(lab: &Lab) -> (String, Duration) {
    let (laptop, start) = (lab.node("laptop").unwrap(), Instant::now());
    let _io = support::open(laptop, "echo.test:80").await;
    let took = start.elapsed();
    (laptop.flow_facts().last().unwrap().exit.to_string(), took)
}

const PAIR: &str = "[[rule]]\nexit = ['far', 'near']";

#[tokio::test(start_paused = true)]
async fn of_the_exits_that_a_rule_names_the_one_with_the_best_route_is_taken() {
    let lab = three_exits(31, PAIR).await;
    assert_eq!(exits(&lab), ["near", "far"]);
    assert_eq!(open(&lab).await.0, "near");
    lab.stop().await;
    let lab = three_exits(32, "").await;
    assert_eq!(exits(&lab), ["spare", "near", "far"], "any that serves the destination");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_exit_costs_a_new_flow_two_seconds_and_the_flows_of_the_other_go_on() {
    let mut lab = three_exits(33, PAIR).await;
    assert_eq!(open(&lab).await.0, "near");
    lab.crash("near");
    let (exit, took) = open(&lab).await;
    assert_eq!(exit, "far");
    assert!(took < Duration::from_secs(3), "{took:?}");
    // Once its link is known to be down, nobody waits for it.
    wait_for("the far exit to be first", Duration::from_secs(10), || exits(&lab)[0] == "far").await;
    let (_, took) = open(&lab).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
    lab.restart("near").await.unwrap();
    wait_for("the near one to return", Duration::from_secs(10), || exits(&lab)[0] == "near").await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_flow_fails_rather_than_leave_at_an_exit_that_its_rule_does_not_name() {
    let mut lab = three_exits(34, PAIR).await;
    lab.crash("near");
    lab.crash("far");
    let refused = support::dial(lab.node("laptop").unwrap(), "echo.test:80").await;
    let refusal = refused.err().expect("only the spare one is left");
    assert_eq!(refusal.kind, ronproxy::flow::RefusalKind::ExitUnreachable, "{refusal}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rule_may_name_a_fallback_for_when_its_exits_are_gone() {
    let rules = "[[rule]]\nexit = ['far', 'near']\nfallback = 'spare'";
    let mut lab = three_exits(35, rules).await;
    assert_eq!(exits(&lab), ["near", "far", "spare"], "though the spare one is the nearest");
    lab.crash("near");
    lab.crash("far");
    let (exit, took) = open(&lab).await;
    assert_eq!(exit, "spare");
    assert!(took < Duration::from_secs(6), "{took:?}");
    lab.stop().await;
}
