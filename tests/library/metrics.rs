//! Metrics that a program defines.

use std::time::Duration;

use ronproxy::{
    Error, Hint, PostError,
    internals::{
        app::Question,
        emulator,
        lab::{Lab, LabNode},
        overlay::posted::Declared,
        transport::Congestion,
    },
};
use tokio::time::{sleep, timeout};

use super::{SOON, echo, example_mirror, overlay, services, triangle};

#[tokio::test(start_paused = true)]
async fn the_example_mirror_fetches_by_the_exit_that_is_fastest_now() {
    let told = example_mirror::in_memory().await.unwrap();
    let by: Vec<&str> =
        told.iter().map(|line| if line.contains("by far") { "far" } else { "near" }).collect();
    // Each exit once, then the best; and the same again when its path has become narrow.
    assert_eq!(by, ["near", "far", "far", "far", "near", "far", "near", "near"], "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn exits_rank_by_what_was_posted_and_by_latency_without() {
    let nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", false, true),
        LabNode::new("relay", true, true),
    ];
    let topology = emulator::triangle();
    let lab = Lab::start(topology, 1, nodes, services(), Congestion::default()).await.unwrap();
    let node = lab.open("entry").unwrap();
    timeout(SOON, node.ready()).await.unwrap().unwrap();
    sleep(Duration::from_secs(3)).await;
    // Ports tell destinations apart for the listing only; each host keeps its exit for a while.
    let exit_of = async |metric: &str| {
        let hint: Hint = format!("app:{metric}").parse().unwrap();
        node.connect("echo.test:7").hint(hint).await.unwrap().exit().to_string()
    };
    let nearest = exit_of("unknown").await;
    let other = if nearest == "exit" { "relay" } else { "exit" };
    for (metric, more) in [("time", false), ("rate", true)] {
        let handle = || match more {
            true => node.metric(metric).more_is_better().half_life(Duration::from_secs(60)),
            false => node.metric(metric).half_life(Duration::from_secs(60)),
        };
        let (good, bad) = if more { (9.0, 1.0) } else { (1.0, 9.0) };
        handle().post(other, good).unwrap();
        assert_eq!(exit_of(metric).await, other, "one with a value goes before one without");
        handle().post(nearest.as_str(), bad).unwrap();
        assert_eq!(exit_of(metric).await, other);
        assert_eq!(handle().value(&other.parse().unwrap()), Some(good));
        // It is soft state.
        sleep(Duration::from_secs(8 * 60)).await;
        assert_eq!(handle().value(&other.parse().unwrap()), None);
    }
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn routes_rank_by_what_was_posted_for_them_and_why_shows_it() {
    let (lab, node) = triangle().await;
    sleep(Duration::from_secs(3)).await;
    let stream = echo(&node).await;
    assert_eq!(stream.route().unwrap().to_string(), "direct");
    node.metric("load").post_for(&stream, 2.0).unwrap();
    let (metric, exit) = ("load".parse().unwrap(), "exit".parse().unwrap());
    let relayed = "via relay".parse().unwrap();
    let mesh = lab.node("entry").unwrap().mesh();
    mesh.post(&metric, Declared::default(), (&exit, Some(&relayed)), 0.5).unwrap();
    let hint: Hint = "app:load".parse().unwrap();
    let better = node.connect("echo.test:7").hint(hint.clone()).await.unwrap();
    assert_eq!(better.route(), Some(relayed.clone()));
    let target = "echo.test:7".parse().unwrap();
    let asked = Question { target, hint: Some(hint), exit: None, user: None };
    let why = lab.node("entry").unwrap().view().why(&asked);
    let posted = why.exits[0].candidates.iter().map(|c| (c.route.to_string(), c.posted));
    let posted: Vec<_> = posted.collect();
    assert_eq!(posted, [("via relay".to_owned(), Some(0.5)), ("direct".to_owned(), Some(2.0))]);
    assert_eq!(why.exits[0].posted, Some(1.25), "the mean of both");
    lab.stop().await;
}

/// What a command posts counts like what the program posts.
pub(super) fn a_command_posts(node: &ronproxy::Node, dir: &std::path::Path) {
    node.metric("load").post("hub", 1.0).unwrap();
    let posted = overlay::json(dir, &["metric", "post", "load", "hub", "3"]);
    let value = posted["value"].as_f64().unwrap();
    assert!((value - 2.0).abs() < 0.01, "{posted}");
    let now = node.metric("load").value(&"hub".parse().unwrap()).unwrap();
    assert!((now - value).abs() < 1e-9);
    let error = overlay::must_fail(dir, &["metric", "post", "load", "hub", "nan"]);
    assert!(error.contains("finite"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_metric_or_value_is_refused_with_a_reason() {
    let (lab, node) = triangle().await;
    assert!(matches!(node.metric("Page Load").post("exit", 1.0), Err(Error::Metric(_))));
    assert!(matches!(node.metric("load").post("No Node", 1.0), Err(Error::Name(_))));
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1] {
        let error = node.metric("load").post("exit", value).unwrap_err();
        assert!(matches!(error, Error::Post(PostError::Value(_))), "{error}");
    }
    for half_life in [Duration::ZERO, Duration::from_secs(24 * 3600 + 1)] {
        let error = node.metric("load").half_life(half_life).post("exit", 1.0).unwrap_err();
        assert!(matches!(error, Error::HalfLife(_)), "{error}");
    }
    for n in 0..64 {
        node.metric(&format!("m{n}")).post("exit", 1.0).unwrap();
    }
    let error = node.metric("one-more").post("exit", 1.0).unwrap_err();
    assert!(matches!(error, Error::Post(PostError::TooMany)), "{error}");
    // An exit that nobody knows takes a place and harms nobody.
    node.metric("m0").post("nobody", 0.0).unwrap();
    echo(&node).await;
    node.stop().await;
    assert!(matches!(node.metric("m0").post("exit", 1.0), Err(Error::Stopped)));
    lab.stop().await;
}
