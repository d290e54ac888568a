//! What a member does with lanes that it was rightly granted.

use std::time::Duration;

use noq::Connection;
use tokio::{io::AsyncReadExt as _, time::sleep};

use crate::{
    peer::{open_flow, open_with},
    stage::Stage,
    support, words,
};

/// A lane of mallory's to the exit.
async fn lane(stage: &Stage) -> Connection {
    let link = stage.mallory.link_to(&stage.lab, "exit").await;
    stage.mallory.lane_to(&stage.lab, &link, "exit").await.expect("a member gets a lane")
}

#[test]
fn downloads_that_nobody_reads_pin_little_memory_at_the_exit() {
    let stage = Stage::new(502);
    let (opened, cost) = stage.attack(async {
        let lane = lane(&stage).await;
        let mut flows = Vec::new();
        for _ in 0..60 {
            let Some((mut send, recv)) = open_flow(&lane, "source.test:80").await else { break };
            send.write_all(b"GET 100000000\n").await.unwrap();
            flows.push((send, recv));
        }
        sleep(Duration::from_secs(20)).await;
        flows.len()
    });
    // The windows of the attacker hold most of it, as QUIC bids: its side is in the figure.
    println!("{opened} downloads that the entry does not read: {cost}");
    assert!(cost.peak < 256 << 20, "{cost}");
}

#[test]
fn a_host_name_that_is_none_reaches_neither_resolver_nor_log() {
    let stage = Stage::new(504);
    let (answers, cost) = stage.attack(async {
        let lane = lane(&stage).await;
        let mut answers = Vec::new();
        let long = "x".repeat(5_000);
        let hosts = ["a\nINFO forged line", "\u{1b}[2Jb", "\0", "a b", "", &long, "-."];
        for host in hosts.map(str::to_owned) {
            let header = words::open_raw(&host, 80);
            let Some((_send, mut recv)) = open_with(&lane, &header).await else { continue };
            let mut answer = Vec::new();
            let read = recv.read_to_end(4_096);
            if let Ok(Ok(bytes)) = tokio::time::timeout(Duration::from_secs(5), read).await {
                answer = bytes;
            }
            answers.push((host, words::opened(&answer)));
        }
        answers
    });
    for (host, opened) in answers {
        assert!(!opened, "{host:?} was opened");
    }
    for line in &cost.log {
        assert!(!line.contains(char::is_control) && !line.contains("forged line"), "{line:?}");
    }
}

#[test]
fn destinations_are_not_in_the_log_by_default() {
    let stage = Stage::new(505);
    let ((), cost) = stage.attack(async {
        let mut io = support::open(stage.node("entry"), "source.test:80").await;
        support::request(&mut *io, 100).await;
        io.read_to_end(&mut Vec::new()).await.unwrap();
        let refused = support::dial(stage.node("entry"), "secret.test:80").await;
        assert!(refused.is_err());
        sleep(Duration::from_secs(1)).await;
    });
    for line in &cost.log {
        assert!(!line.contains("source.test") && !line.contains("secret.test"), "{line}");
    }
}
