//! How long exits take to connect to destinations: what flows show of it, and the hint `app:connect`.

use std::{sync::Arc, time::Duration};

use ronproxy::{
    Error, Hint, Node, PostError, RefusalKind,
    internals::{
        app::{Choice, Question},
        emulator,
        lab::{Lab, LabNode, Services},
        overlay::connects::ConnectTotals,
        transport::Congestion,
    },
};
use tokio::time::{sleep, timeout};

use super::{SOON, services};

/// Two exits: `near`, 40 ms or so away, and `far`, 60 ms away. `change` makes the near one worse.
async fn two_exits(change: impl FnOnce(&mut LabNode)) -> (Lab, Node) {
    two_exits_to(services(), change).await
}

async fn two_exits_to(services: Services, change: impl FnOnce(&mut LabNode)) -> (Lab, Node) {
    let mut nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", false, true),
        LabNode::new("relay", true, true),
    ];
    change(&mut nodes[2]);
    let topology = emulator::triangle();
    let lab = Lab::start(topology, 1, nodes, services, Congestion::default()).await.unwrap();
    let node = lab.open("entry").unwrap();
    timeout(SOON, node.ready()).await.unwrap().unwrap();
    sleep(Duration::from_secs(3)).await;
    (lab, node)
}

/// The exit that a flow with a hint takes.
async fn exit_of(node: &Node, hint: &str) -> String {
    let hint: Hint = hint.parse().unwrap();
    node.connect("echo.test:7").hint(hint).await.unwrap().exit().to_string()
}

/// What is said of the exits for a destination, in the order in which they are tried.
fn why(lab: &Lab, target: &str) -> Vec<Choice> {
    let hint = Some("app:connect".parse().unwrap());
    let asked = Question { target: target.parse().unwrap(), hint, exit: None, user: None };
    lab.node("entry").unwrap().view().why(&asked).exits
}

fn connect_ms(exits: &[Choice], exit: &str) -> Option<f64> {
    exits.iter().find(|choice| choice.exit.as_str() == exit).unwrap().connect_ms
}

/// What metrics say of an exit.
fn totals(lab: &Lab, exit: &str) -> ConnectTotals {
    let all = lab.node("entry").unwrap().view().connect_totals();
    all.into_iter().find(|(name, _)| name == exit).unwrap().1
}

#[tokio::test(start_paused = true)]
async fn the_exit_that_connects_fastest_in_all_is_found_and_kept() {
    let (lab, node) = two_exits(|near| near.connects_in = Duration::from_millis(200)).await;
    assert_eq!(connect_ms(&why(&lab, "echo.test:7"), "relay"), None);
    assert_eq!(exit_of(&node, "app:connect").await, "relay", "by latency, as nothing is known");
    let took = connect_ms(&why(&lab, "echo.test:7"), "relay").unwrap();
    assert!((195.0..215.0).contains(&took), "the round trip of 40 ms is no part of {took} ms");
    for _ in 0..3 {
        assert_eq!(exit_of(&node, "app:connect").await, "exit");
    }
    let exits = why(&lab, "echo.test:7");
    assert_eq!(exits[0].exit.as_str(), "exit");
    assert!(connect_ms(&exits, "exit").unwrap() < 15.0, "{:?}", exits[0].connect_ms);
    assert_eq!(exit_of(&node, "latency").await, "relay", "other hints do not rank by it");
    let (of_relay, of_exit) = (totals(&lab, "relay"), totals(&lab, "exit"));
    assert_eq!((of_relay.connected, of_exit.connected), (2, 3));
    assert!((0.39..0.43).contains(&of_relay.seconds) && of_exit.seconds < 0.045, "{of_exit:?}");
    // It is known of this destination only, for any of its ports, and for a while.
    assert!(connect_ms(&why(&lab, "echo.test:8"), "relay").is_some());
    assert_eq!(connect_ms(&why(&lab, "sink.test:7"), "relay"), None);
    sleep(Duration::from_secs(8 * 60)).await;
    assert_eq!(connect_ms(&why(&lab, "echo.test:7"), "relay"), None);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_fails_at_once_is_not_taken_for_a_fast_one() {
    let (lab, node) = two_exits(|near| near.refuses = Some(RefusalKind::Unreachable)).await;
    assert_eq!(exit_of(&node, "app:connect").await, "exit", "the near one is asked, and left");
    let exits = why(&lab, "echo.test:7");
    assert_eq!(connect_ms(&exits, "relay"), Some(10_000.0));
    assert_eq!(exits[0].exit.as_str(), "exit", "the near one is not asked again");
    let failed = totals(&lab, "relay");
    assert_eq!((failed.connected, failed.unreachable, failed.timed_out), (0, 1, 0));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_refuses_does_not_make_its_exit_slow() {
    let (lab, node) = two_exits(|near| near.refuses = Some(RefusalKind::ConnectionRefused)).await;
    let hint: Hint = "app:connect".parse().unwrap();
    let refused = node.connect("echo.test:7").hint(hint).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused(r) if r.kind == RefusalKind::ConnectionRefused));
    assert_eq!(connect_ms(&why(&lab, "echo.test:7"), "relay"), None);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_never_answers_is_a_slow_one() {
    let (lab, node) = two_exits(|near| near.connects_in = Duration::from_secs(3600)).await;
    let error = node.connect("echo.test:7").exit("relay").await.unwrap_err();
    assert!(matches!(&error, Error::Refused(r) if r.kind == RefusalKind::TimedOut), "{error}");
    assert_eq!(connect_ms(&why(&lab, "echo.test:7"), "relay"), Some(10_000.0));
    assert_eq!(exit_of(&node, "app:connect").await, "exit");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn destinations_without_end_leave_others_a_choice_by_latency() {
    let name = |n: usize| format!("h{n}.test");
    let many = (0..1_100).fold(services(), |all, n| all.with(&name(n), Arc::new(|_| ())));
    let slow = |near: &mut LabNode| near.connects_in = Duration::from_millis(100);
    let (lab, node) = two_exits_to(many, slow).await;
    for n in 0..1_100 {
        let to = format!("{}:80", name(n));
        drop(node.connect(to.as_str()).exit("relay").await.unwrap());
    }
    assert_eq!(connect_ms(&why(&lab, "h0.test:80"), "relay"), None, "the oldest is gone");
    let last = why(&lab, "h1099.test:80");
    assert!(connect_ms(&last, "relay").unwrap() > 95.0);
    assert_eq!(last[0].exit.as_str(), "exit", "where the near one is known to be slow");
    assert_eq!(exit_of(&node, "app:connect").await, "relay", "where nothing is known");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_posts_what_the_node_measures_itself() {
    let (lab, node) = two_exits(|_| ()).await;
    let error = node.metric("connect").post("exit", 0.0).unwrap_err();
    assert!(matches!(error, Error::Post(PostError::BuiltIn(_))), "{error}");
    assert!(error.to_string().contains("another name"), "{error}");
    lab.stop().await;
}
