//! Neighbours that read nothing of what a node tells them.

use std::{net::IpAddr, time::Duration};

use noq::{TransportConfig, VarInt};
use ronproxy::internals::{identity::Credentials, lab::LabNode};
use tokio::time::sleep;

use crate::{
    meters::Limits,
    peer::{Hostile, HostileLink},
    stage::Stage,
    words,
};

/// Members whose records have 255 links each: together more than an outbox holds.
const MEMBERS: u64 = 200;

/// Neighbours that read nothing.
const DEAF: u8 = 4;

/// The bytes of notices that wait for one neighbour.
const OUTBOX: u64 = 2 << 20;

/// A neighbour of a node tells it the records of all members, with this sequence.
async fn tell(link: &HostileLink, members: &[Credentials], sequence: u64) {
    for member in members {
        link.notice(&words::large_record(member, (1 << 40, sequence))).await;
    }
}

/// Notices to neighbours that the exit dropped.
fn dropped(stage: &Stage) -> u64 {
    let dropped = stage.node("exit").status().dropped_messages;
    dropped.iter().find(|(reason, _)| *reason == "outbox-full").map_or(0, |(_, count)| *count)
}

#[test]
fn neighbours_that_read_nothing_pin_no_more_than_their_outboxes() {
    let stage = Stage::new(131);
    let member = |n| stage.lab.certify(&LabNode::new(&format!("m{n}"), false, false)).unwrap();
    let members: Vec<_> = (0..MEMBERS).map(member).collect();
    let link = stage.run(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        // They are there before the attack, so they are none of its cost.
        tell(&link, &members, 1).await;
        sleep(Duration::from_secs(10)).await;
        link
    });
    let (kept, cost) = stage.attack(async {
        let mut kept = Vec::new();
        for n in 0..DEAF {
            let host = IpAddr::from([203, 0, 113, 100 + n]);
            let plan = LabNode::new(&format!("deaf{n}"), false, false);
            let deaf = Hostile::with(&stage.lab, &plan, host);
            let mut transport = TransportConfig::default();
            // Each notice is a stream.
            transport.max_concurrent_uni_streams(VarInt::from_u32(0));
            let link = deaf.peer().link_with(&stage.victim("exit"), Some(transport)).await.unwrap();
            link.notice(&words::empty_digest()).await;
            kept.push((deaf, link));
        }
        for sequence in 2..8 {
            tell(&link, &members, sequence).await;
            sleep(Duration::from_secs(5)).await;
        }
        kept
    });
    println!(
        "{} neighbours that read nothing: {} notices dropped; {cost}",
        kept.len(),
        dropped(&stage)
    );
    let links = stage.node("exit").mesh().links();
    let stands = |n: u8| links.get(&format!("deaf{n}").parse().unwrap()).is_some();
    assert!((0..DEAF).all(stands), "they are neighbours");
    assert!(dropped(&stage) > 0, "no outbox was full");
    let usual = Limits::default();
    // The three nodes have outboxes to each other, too.
    let peak = usual.peak + (u64::from(DEAF) + 6) * OUTBOX;
    // Three nodes read a thousand records of 17 KB each, in a build for tests.
    cost.assert_within(Limits { peak, cores: 1.0, ..usual });
}
