//! Members that are none any more, and lies about who is.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use ronproxy::internals::{emulator::triangle, lab::LabNode};
use tokio::time::{Instant, sleep};

use crate::{
    meters::Limits,
    peer::{Hostile, open_flow},
    stage::{Stage, flood},
    support::wait_for,
    words,
};

/// Where the ex-member is.
const EX_MEMBER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77));

#[test]
fn a_revoked_members_links_and_lanes_end_within_five_seconds() {
    let nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", false, true),
        LabNode::new("relay", true, false),
    ];
    let mut stage = Stage::of(801, triangle(), nodes, &LabNode::new("mallory", false, false));
    // The attacker has the keys of a member that runs no more.
    stage.lab.crash("relay");
    let relay = stage.lab.credentials("relay").unwrap().clone();
    let ((), cost) = stage.attack_beside("entry", async {
        let relay = Hostile::at(&stage.lab, relay, EX_MEMBER);
        let link = relay.link_to(&stage.lab, "exit").await;
        let second = relay.link_to(&stage.lab, "entry").await;
        let lane = relay.lane_to(&stage.lab, &link, "exit").await.unwrap();
        let (mut send, mut recv) = open_flow(&lane, "source.test:80").await.unwrap();
        send.write_all(b"GET 1000000000\n").await.unwrap();
        let reader = tokio::spawn(async move { while recv.read_chunk(65_536).await.is_ok() {} });
        sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        stage.lab.revoke("relay", "entry").unwrap();
        let exit = stage.node("exit");
        let gone = || {
            let lanes = exit.lane_facts();
            let lanes = lanes.iter().filter(|lane| lane.facts.peer.as_str() == "relay").count();
            link.ended().is_some() && second.ended().is_some() && lanes == 0
        };
        wait_for("the end of links and lanes", Duration::from_secs(5), gone).await;
        println!("a revoked member's links and lane end after {:?}", start.elapsed());
        sleep(Duration::from_secs(1)).await;
        let traffic = stage.traffic();
        sleep(Duration::from_secs(5)).await;
        assert_eq!(traffic.to_host(relay.address().ip()), (0, 0), "something is sent to it");
        assert!(relay.try_link_to(&stage.lab, "exit").await.is_none(), "it is let in again");
        reader.abort();
    });
    println!("a revoked member that tries on: {cost}");
    cost.assert_within(Limits::default());
}

#[test]
fn revocation_lists_of_another_authority_cost_little_and_revoke_nobody() {
    let (stage, other) = (Stage::new(802), Stage::new(803));
    other.lab.revoke("entry", "exit").unwrap();
    let list = other.node("exit").credentials().identity().revoked().der().to_vec();
    let (said, cost) = stage.attack(flood(&stage, 20, |_| words::revocations(&list)));
    println!("{said} revocation lists of another authority in 20 s: {cost}");
    assert!(stage.lab.is_meshed(), "somebody was revoked");
    cost.assert_within(Limits::default());
}

#[test]
fn certificates_of_other_members_on_a_link_change_nobody() {
    let stage = Stage::new(804);
    let entry = stage.lab.credentials("entry").unwrap().certificate();
    let (said, cost) = stage.attack(flood(&stage, 20, |_| words::certificate(&entry)));
    println!("{said} certificates of another member in 20 s: {cost}");
    cost.assert_within(Limits::default());
    assert!(stage.lab.is_meshed());
}

#[test]
fn a_members_word_that_a_node_is_revoked_ends_with_the_next_link() {
    let stage = Stage::new(805);
    let told = stage.node("exit").credentials();
    assert_eq!(told.count_refused_as_revoked(), 1);
    stage.run(async {
        let _link = stage.mallory.link_to(&stage.lab, "exit").await;
        sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(told.refused_as_revoked(), 0, "a member accepts it");
}
