//! Which exit a new flow goes to, and what becomes of it when that exit dies, in virtual time.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]

mod support;

use std::time::Duration;

use ronproxy::internals::{
    app::Question,
    config::Config,
    emulator::{LinkModel, Topology},
    flow::{Refusal, RefusalKind},
    lab::{Lab, LabNode},
    transport::Congestion,
};
use support::wait_for;
use tokio::time::Instant;

/// A laptop, a near and a far exit, and a third that only some rules name.
async fn three_exits(seed: u64, rules: &str) -> Lab {
    changed_exits(seed, rules, |_| {}).await
}

/// The same after `change` of what the nodes are.
async fn changed_exits(seed: u64, rules: &str, change: impl Fn(&mut LabNode)) -> Lab {
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
    nodes.iter_mut().for_each(change);
    let services = support::services();
    let lab = Lab::start(topology, seed, nodes, services, Congestion::Adaptive).await.unwrap();
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
async fn a_dead_exit_costs_a_new_flow_two_seconds_and_no_other_flow() {
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
async fn a_flow_fails_when_no_exit_of_its_rule_can_be_used() {
    let mut lab = three_exits(34, PAIR).await;
    lab.crash("near");
    lab.crash("far");
    let refused = support::dial(lab.node("laptop").unwrap(), "echo.test:80").await;
    let refusal = refused.err().expect("only the spare one is left");
    assert_eq!(refusal.kind, ronproxy::internals::flow::RefusalKind::ExitUnreachable, "{refusal}");
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

/// Opens a flow that names its exit; the refusal.
async fn refusal_of(node: &ronproxy::internals::app::Node, exit: &str) -> Refusal {
    let mut request = support::flow_request("echo.test:80");
    request.exit = Some(exit.parse().unwrap());
    node.dialer().dial(request).await.err().expect("a refusal")
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_is_granted_but_not_enabled_gets_no_flow() {
    let mut lab = changed_exits(36, "", |node| node.exit_enabled = node.name != "spare").await;
    assert_eq!(exits(&lab), ["near", "far"], "the nearest one is not enabled");
    assert_eq!(open(&lab).await.0, "near");
    let (laptop, start) = (lab.node("laptop").unwrap(), Instant::now());
    let refusal = refusal_of(laptop, "spare").await;
    assert_eq!(refusal.kind, RefusalKind::NotAnExit);
    assert!(refusal.detail.contains("node spare is not an exit"), "{refusal}");
    assert_eq!(start.elapsed(), Duration::ZERO, "refused without asking it");
    // It becomes one when it is enabled and restarted.
    lab.edit("spare", |node| node.exit_enabled = true).unwrap();
    lab.restart("spare").await.unwrap();
    wait_for("the spare one", Duration::from_secs(10), || exits(&lab)[0] == "spare").await;
    assert_eq!(open(&lab).await.0, "spare");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_another_exit_may_not_share_is_tried_there() {
    let kinds = [
        (RefusalKind::NotAnExit, "near"),
        (RefusalKind::Policy, "near"),
        (RefusalKind::Overloaded, "near"),
        (RefusalKind::Unreachable, "near"),
    ];
    for (seed, (kind, exit)) in (37..).zip(kinds) {
        let lab = changed_exits(seed, "", |node| {
            node.refuses = (node.name == "spare").then_some(kind);
        })
        .await;
        assert_eq!(exits(&lab)[0], "spare");
        let (taken, took) = open(&lab).await;
        assert_eq!(taken, exit, "{kind:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        lab.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_all_exits_share_is_told_with_the_exit_that_gave_it() {
    let lab = changed_exits(41, "", |node| node.refuses = Some(RefusalKind::Policy)).await;
    let laptop = lab.node("laptop").unwrap();
    let refusal = support::dial(laptop, "echo.test:80").await.err().unwrap();
    assert_eq!(refusal.kind, RefusalKind::Policy);
    assert_eq!(refusal.exit.unwrap().as_str(), "spare");
    // The name is unknown everywhere: one exit is asked.
    lab.stop().await;
    let lab = three_exits(42, "").await;
    let laptop = lab.node("laptop").unwrap();
    let refusal = support::dial(laptop, "nowhere.test:80").await.err().unwrap();
    assert_eq!(refusal.kind, RefusalKind::NameNotFound);
    assert_eq!(lab.node("laptop").unwrap().status().lanes_out, 1);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fallback_is_taken_when_the_exits_of_the_rule_refuse() {
    let rules = "[[rule]]\nexit = 'near'\nfallback = 'far'";
    for (seed, enabled) in [(43, true), (44, false)] {
        let lab = changed_exits(seed, rules, |node| {
            if node.name == "near" {
                node.exit_enabled = enabled;
                node.refuses = Some(RefusalKind::Policy);
            }
        })
        .await;
        assert_eq!(open(&lab).await.0, "far");
        lab.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_flow_to_the_nodes_own_name_leaves_there_or_is_refused_at_once() {
    let lab = three_exits(45, "").await;
    let (near, start) = (lab.node("near").unwrap(), Instant::now());
    let mut request = support::flow_request("source.test:80");
    request.exit = Some("near".parse().unwrap());
    let mut io = near.dialer().dial(request).await.unwrap().into_io();
    support::request(&mut *io, 100_000).await;
    let mut at = 0;
    support::read_with_stalls(&mut *io, &mut at, 100_000).await;
    assert_eq!(at, 100_000);
    let facts = near.flow_facts();
    assert_eq!((facts[0].exit.as_str(), facts[0].received), ("near", 100_000));
    assert_eq!(near.status().lanes_out, 0, "no lane to itself");
    drop(io);
    let refusal = refusal_of(lab.node("laptop").unwrap(), "laptop").await;
    assert_eq!(refusal.kind, RefusalKind::NotAnExit);
    assert!(refusal.detail.contains("this node (laptop) is not an exit"), "{refusal}");
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lone_exit_serves_its_own_proxy() {
    let topology = Topology::new(["first"]);
    let nodes = vec![LabNode::new("first", true, true)];
    let lab =
        Lab::start(topology, 46, nodes, support::services(), Congestion::Adaptive).await.unwrap();
    let first = lab.node("first").unwrap();
    support::fetch(first, 1_000_000).await;
    let question =
        Question { target: "echo.test:80".parse().unwrap(), hint: None, exit: None, user: None };
    let why = first.view().why(&question);
    assert_eq!(why.exits[0].route.as_deref(), Some("local"));
    lab.stop().await;
}
