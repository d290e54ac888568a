//! What a member does with lanes that it was rightly granted.

use std::time::Duration;

use noq::Connection;
use ronproxy::internals::{emulator::triangle, lab::LabNode, lane::LaneBudget};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

use crate::{
    meters::Limits,
    peer::{open_flow, open_with},
    stage::{PIPE, Stage},
    support, words,
};

/// A lane of mallory's to the exit.
async fn lane(stage: &Stage) -> Connection {
    let link = stage.mallory.link_to(&stage.lab, "exit").await;
    stage.mallory.lane_to(&stage.lab, &link, "exit").await.expect("a member gets a lane")
}

#[test]
fn flows_that_nobody_reads_pin_little_memory_at_the_exit() {
    let stage = Stage::new(501);
    let (opened, cost) = stage.attack(async {
        let lane = lane(&stage).await;
        let mut flows = Vec::new();
        for _ in 0..60 {
            let Some((mut send, recv)) = open_flow(&lane, "deaf.test:80").await else { break };
            let upload = tokio::spawn(async move {
                // What the attacker itself keeps is the same piece each time.
                static PIECE: [u8; 65_536] = [7; 65_536];
                for _ in 0..64 {
                    let _ = send.write_chunk(bytes::Bytes::from_static(&PIECE)).await;
                }
                send
            });
            flows.push((upload, recv));
        }
        sleep(Duration::from_secs(20)).await;
        flows.len()
    });
    println!("{opened} uploads that the server does not read: {cost}");
    cost.assert_within(Limits { peak: 32 << 20, ..Limits::default() });
}

#[test]
fn uploads_within_their_windows_pin_little_memory_at_the_exit() {
    let stage = Stage::new(502);
    let (taken, cost) = stage.attack(async {
        let uploads = (0..60).map(async |_| {
            static PIECE: [u8; 16_384] = [7; 16_384];
            let mut io = support::open(stage.node("entry"), "deaf.test:80").await;
            let mut taken = 0;
            while let Ok(written) = timeout(Duration::from_secs(5), io.write(&PIECE)).await {
                taken += written.unwrap();
            }
            (io, taken)
        });
        let uploads = futures_util::future::join_all(uploads).await;
        uploads.iter().map(|(_, taken)| taken).sum::<usize>()
    });
    println!("60 uploads of {taken} bytes that the server does not read: {cost}");
    assert!(taken > 60 * PIPE + (512 << 10), "{taken}");
    cost.assert_within(Limits { peak: 32 << 20, ..Limits::default() });
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
    println!("{opened} downloads that the entry does not read: {cost}");
    cost.assert_within(Limits { peak: 32 << 20, ..Limits::default() });
}

#[test]
fn flows_beyond_the_limit_of_an_entry_are_refused_and_others_get_theirs() {
    let stage = Stage::new(503);
    let ((), cost) = stage.attack(async {
        let lane = lane(&stage).await;
        let mut flows = Vec::new();
        for _ in 0..3_000 {
            let Some(flow) = open_flow(&lane, "deaf.test:80").await else { break };
            flows.push(flow);
        }
        println!("{} flows opened", flows.len());
        support::fetch(stage.node("entry"), 10_000).await;
    });
    println!("3,000 flows that do nothing: {cost}");
    // Some 2 KiB at each end, and a pipe to the service.
    cost.assert_within(Limits { peak: 64 << 20, ..Limits::default() });
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
    println!("hosts that are none: {cost}");
    cost.assert_within(Limits::default());
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
    cost.assert_within(Limits::default());
    for line in &cost.log {
        assert!(!line.contains("source.test") && !line.contains("secret.test"), "{line}");
    }
}

/// An exit, or the servers behind it, can make an entry hold what its flows may leave unread: in all
/// lanes together that is the entry's budget, not each lane's.
#[test]
fn unread_downloads_over_many_lanes_stay_within_the_entrys_budget() {
    let budget = LaneBudget { per_peer: 32 << 20, in_all: 48 << 20 };
    let entry = LabNode { entry_memory: budget, ..LabNode::new("entry", false, false) };
    let nodes = vec![entry, LabNode::new("exit", false, true), LabNode::new("relay", true, false)];
    let attacker = LabNode::new("mallory", false, false);
    let stage = Stage::of(511, triangle(), nodes, &attacker);
    let (opened, cost) = stage.attack(async {
        let mut flows = Vec::new();
        for n in 0..360 {
            let request = support::flow_request_in("source.test:80", n % 12);
            let Ok(flow) = stage.node("entry").dialer().dial(request).await else { break };
            let mut io = flow.into_io();
            support::request(&mut *io, 100 << 20).await;
            flows.push(io);
        }
        sleep(Duration::from_secs(30)).await;
        flows.len()
    });
    println!("{opened} downloads over 12 lanes that nobody reads: {cost}");
    assert_eq!(opened, 360);
    // Beside the entry's budget, the exit's for what is not acknowledged.
    cost.assert_within(Limits { peak: 64 << 20, ..Limits::default() });
}
