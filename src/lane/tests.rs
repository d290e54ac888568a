//! Tests of flows whose lane ends for another reason than its path.

use std::{sync::Arc, time::Duration};

use noq::VarInt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use crate::{
    app::Node,
    emulator::{self, Loss, LossRate},
    flow::{FlowIo, FlowRequest, Ingress, Route},
    lab::{Lab, LabNode, Services},
    transport::{Congestion, code},
    underlay::SlotId,
};

/// Anything that must happen happens within this time.
const SOON: Duration = Duration::from_secs(5);

/// What waits for no time-out is done within this time.
const AT_ONCE: Duration = Duration::from_millis(150);

async fn triangle() -> Lab {
    let nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", false, true),
        LabNode::new("relay", true, false),
    ];
    let services =
        Services::default().with("echo.test", Arc::new(|io| drop(tokio::spawn(echo(io)))));
    let lab =
        Lab::start(emulator::triangle(), 1, nodes, services, Congestion::Adaptive).await.unwrap();
    let start = Instant::now();
    while !lab.is_meshed() {
        assert!(start.elapsed() < SOON, "no mesh");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    lab
}

async fn echo(io: Box<dyn FlowIo>) {
    let (mut read, mut write) = tokio::io::split(io);
    // However a flow ends, it does.
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

/// A flow to the echo service on the lane of this hint.
async fn open(node: &Node, hint: &str) -> Box<dyn FlowIo> {
    let (target, client) = ("echo.test:7".parse().unwrap(), ([127, 0, 0, 1], 1).into());
    let plain = FlowRequest::new(target, client, Ingress::Socks5);
    let request = FlowRequest { hint: Some(hint.parse().unwrap()), ..plain };
    node.dialer().dial(request).await.unwrap().into_io()
}

async fn type_a_key(io: &mut dyn FlowIo) -> std::io::Result<()> {
    io.write_all(b"x").await?;
    io.read_exact(&mut [0]).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_lane_killed_by_a_protocol_error_takes_only_its_own_flows_along() {
    let lab = triangle().await;
    let entry = lab.node("entry").unwrap();
    let (mut doomed, mut other) = (open(entry, "loss").await, open(entry, "latency").await);
    let lanes = entry.lanes().lanes();
    let (_, lane) = lanes.iter().find(|(key, _)| key.wish.hint.to_string() == "loss").unwrap();
    lane.conn.close(VarInt::from_u32(code::PROTOCOL), b"a test breaks the protocol");
    let ended = timeout(SOON, type_a_key(&mut *doomed)).await.expect("the flow hangs");
    assert!(ended.is_err(), "its lane is gone");
    timeout(SOON, type_a_key(&mut *other)).await.unwrap().unwrap();
    let mut new = open(entry, "loss").await;
    timeout(SOON, type_a_key(&mut *new)).await.unwrap().unwrap();
    assert_eq!(entry.lanes().lanes().len(), 2);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_the_exit_has_forgotten_ends_and_the_next_flow_works() {
    let lab = triangle().await;
    let (entry, exit) = (lab.node("entry").unwrap(), lab.node("exit").unwrap());
    let mut old = open(entry, "latency").await;
    timeout(SOON, type_a_key(&mut *old)).await.unwrap().unwrap();
    // As after a sleep that outlasted the exit's patience: its end is gone, its labels withdrawn.
    exit.switch().close_slot(SlotId(exit.lane_facts()[0].facts.lane));
    let mut new = timeout(SOON, open(entry, "latency")).await.expect("the next flow hangs");
    timeout(SOON, type_a_key(&mut *new)).await.unwrap().unwrap();
    let ended = timeout(SOON, type_a_key(&mut *old)).await.expect("the old flow hangs");
    assert!(ended.is_err(), "its lane is gone");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_lanes_of_a_revoked_entry_end_at_once_with_their_flows() {
    let lab = triangle().await;
    let (entry, exit) = (lab.node("entry").unwrap(), lab.node("exit").unwrap());
    let mut io = open(entry, "latency").await;
    assert_eq!(exit.host().end_lanes_of(&"relay".parse().unwrap()), 0);
    timeout(SOON, type_a_key(&mut *io)).await.unwrap().unwrap();
    assert_eq!(exit.host().end_lanes_of(&"entry".parse().unwrap()), 1);
    assert!(timeout(AT_ONCE, type_a_key(&mut *io)).await.expect("the flow hangs").is_err());
    assert!(exit.host().facts().is_empty());
    tokio::time::sleep(SOON).await;
    assert_eq!(exit.switch().slot_count(), 0);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_drops_what_a_revoked_holder_sends_and_the_lane_leaves_it() {
    let lab = triangle().await;
    let mut io = open(lab.node("entry").unwrap(), "latency").await;
    let at = |name| lab.topology().address(name);
    lab.internet().cut(at("entry"), at("exit"));
    timeout(SOON, type_a_key(&mut *io)).await.unwrap().unwrap();
    settles_on(&lab, &Route::Via("relay".parse().unwrap()), SOON).await;
    let relay = lab.node("relay").unwrap().switch();
    let forwarded = relay.forwarded();
    assert!(relay.withdraw_holder(&"entry".parse().unwrap()) >= 2, "both directions");
    // Nothing passes under the old labels; the lane's ends notice, and ask for new ones.
    let dropped = || relay.drops().iter().map(|(_, count)| count).sum::<u64>();
    let before = dropped();
    timeout(SOON, type_a_key(&mut *io)).await.expect("the lane does not recover").unwrap();
    assert!(dropped() > before && relay.forwarded() > forwarded);
    lab.stop().await;
}

/// Waits until the entry's lane is on this route.
async fn settles_on(lab: &Lab, route: &Route, within: Duration) {
    let end = || lab.node("entry").unwrap().lanes().lanes()[0].1.end().clone();
    let start = Instant::now();
    while end().route() != *route {
        assert!(
            start.elapsed() < within,
            "still {} after {within:?}: {:?}, {:?}",
            end().route(),
            end().history(),
            end().explain().0.candidates
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Lets the direct path die under a flow, and heals it as soon as the lane has moved to the relay.
async fn make_direct_suspect(lab: &Lab, io: &mut dyn FlowIo) {
    let at = |name| lab.topology().address(name);
    lab.internet().cut(at("entry"), at("exit"));
    timeout(SOON, type_a_key(io)).await.unwrap().unwrap();
    settles_on(lab, &Route::Via("relay".parse().unwrap()), SOON).await;
    lab.internet().heal(at("entry"), at("exit"));
}

#[tokio::test(start_paused = true)]
async fn a_lane_with_few_packets_leaves_a_relay_that_loses_probes() {
    let lab = triangle().await;
    let mut io = open(lab.node("entry").unwrap(), "latency").await;
    for _ in 0..2 {
        make_direct_suspect(&lab, &mut *io).await;
        settles_on(&lab, &Route::Direct, Duration::from_secs(60)).await;
    }
    make_direct_suspect(&lab, &mut *io).await;
    let at = |name| lab.topology().address(name);
    for (from, to) in [("entry", "relay"), ("relay", "entry")] {
        lab.internet().update(at(from), at(to), |model| {
            model.loss = Loss::Bernoulli(LossRate::from_percent(20.0));
        });
    }
    // The third time it would avoid the direct path for 80 s.
    let types = async {
        loop {
            type_a_key(&mut *io).await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    tokio::select! {
        biased;
        () = settles_on(&lab, &Route::Direct, Duration::from_secs(40)) => {}
        () = types => {}
    }
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_carries_the_lane_longer_than_one_grant_lasts() {
    let lab = triangle().await;
    let mut io = open(lab.node("entry").unwrap(), "latency").await;
    let (at, relay) = (|name| lab.topology().address(name), Route::Via("relay".parse().unwrap()));
    lab.internet().cut(at("entry"), at("exit"));
    timeout(SOON, type_a_key(&mut *io)).await.unwrap().unwrap();
    settles_on(&lab, &relay, SOON).await;
    for second in 0..125 {
        let answered = timeout(AT_ONCE, type_a_key(&mut *io)).await;
        answered.unwrap_or_else(|_| panic!("no answer after {second} s")).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_all_nodes_forgot_is_used_soon_after_its_return() {
    let mut lab = triangle().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    lab.crash("relay");
    // Its advertisement expires. In virtual time it starts again with the clock where it was.
    tokio::time::sleep(Duration::from_secs(300)).await;
    lab.restart("relay").await.unwrap();
    tokio::time::sleep(SOON).await;
    let mut io = open(lab.node("entry").unwrap(), "latency").await;
    let at = |name| lab.topology().address(name);
    lab.internet().cut(at("entry"), at("exit"));
    timeout(SOON, type_a_key(&mut *io)).await.expect("no way through the relay").unwrap();
    settles_on(&lab, &Route::Via("relay".parse().unwrap()), SOON).await;
    lab.stop().await;
}
