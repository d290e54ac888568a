//! A member that makes a node write lines without end.

use std::{net::SocketAddr, time::Duration};

use ronproxy::internals::{
    emulator::triangle, flow::Route, lab::LabNode, wire::lane::RerouteReason,
};
use tokio::time::{Instant, sleep};

use crate::{
    meters::{Cost, Limits},
    peer::open_flow,
    stage::Stage,
    words,
};

/// How long each attack lasts.
const LENGTH: Duration = Duration::from_secs(60);

/// What is written in that time at most.
const LIMITS: Limits = Limits {
    peak: 32 << 20,
    log_lines: 80,
    cores: 1.0,
    third_party_bytes: 0,
    new_flow: Duration::from_secs(1),
};

/// Says what an attack cost, and fails if that was too much.
fn judge(what: &str, said: u64, cost: &Cost) {
    println!("{said} {what}: {cost}");
    assert!(said > 100, "{said} {what}");
    cost.assert_within(LIMITS);
}

#[test]
fn a_neighbour_that_sees_a_node_at_many_addresses_makes_few_lines() {
    let nodes = vec![LabNode::new("exit", false, true)];
    let stage = Stage::of(931, triangle(), nodes, &LabNode::new("mallory", false, false));
    let (told, cost) = stage.attack_alone(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let (mut told, end) = (0, Instant::now() + LENGTH);
        while Instant::now() < end {
            told += 1;
            let port = 1000 + u16::try_from(told % 1000).unwrap();
            link.notice(&words::seen(SocketAddr::from(([192, 0, 2, 77], port)))).await;
            sleep(Duration::from_millis(5)).await;
        }
        told
    });
    judge("addresses at which a node is seen", told, &cost);
}

#[test]
fn advertisements_that_end_at_once_make_few_lines() {
    let stage = Stage::new(934);
    let (told, cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let by = stage.mallory.credentials();
        let (mut told, end) = (0u64, Instant::now() + LENGTH);
        while Instant::now() < end {
            told += 1;
            link.notice(&words::short_record(by, (1 << 40, told))).await;
            sleep(Duration::from_millis(500)).await;
        }
        told
    });
    judge("advertisements", told, &cost);
}

#[test]
fn flows_beyond_all_places_make_few_lines() {
    let stage = Stage::new(935);
    let (opened, cost) = stage.attack_alone(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let lane = stage.mallory.lane_to(&stage.lab, &link, "exit").await.unwrap();
        let (mut flows, mut opened, end) = (Vec::new(), 0, Instant::now() + LENGTH);
        while Instant::now() < end {
            if let Some(flow) = open_flow(&lane, "deaf.test:80").await {
                flows.push(flow);
                opened += 1;
            }
            if opened < 2048 {
                sleep(Duration::from_millis(5)).await;
            } else {
                sleep(Duration::from_millis(10)).await;
            }
        }
        opened
    });
    println!("{opened} flows: {cost}");
    cost.assert_within(Limits { peak: 256 << 20, ..LIMITS });
}

#[test]
fn moves_to_relays_that_refuse_make_few_lines_and_end_no_link() {
    let stage = Stage::new(932);
    let (notices, cost) = stage.attack_beside("entry", async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let mut lanes = Vec::new();
        for _ in 0..8 {
            let lane = stage.mallory.lane_to(&stage.lab, &link, "exit").await.unwrap();
            let flow = open_flow(&lane, "sink.test:80").await.unwrap();
            lanes.push((lane, flow));
        }
        let routes = ["direct", "via relay", "via entry", "via relay", "via nobody", "via relay"];
        let routes = routes.map(|route| route.parse::<Route>().unwrap());
        let (mut routes, end) = (routes.iter().cycle().zip(1..), Instant::now() + LENGTH);
        let mut left = Route::Direct;
        while Instant::now() < end {
            let (route, epoch) = routes.next().unwrap();
            let notice = words::moved(epoch, left, route.clone(), RerouteReason::Better);
            left = route.clone();
            lanes.iter().for_each(|(lane, _)| {
                let _ = lane.send_datagram(notice.clone());
            });
            sleep(Duration::from_millis(5)).await;
        }
        routes.next().unwrap().1
    });
    judge("moves", notices, &cost);
    // The relay has no fault to find with the exit.
    let dropped = stage.node("relay").status().dropped_messages;
    let over = |(reason, _): &(std::borrow::Cow<str>, u64)| reason == "request-over-budget";
    assert!(!dropped.iter().any(over), "{dropped:?}");
}
