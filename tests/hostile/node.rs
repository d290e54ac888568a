//! The aim for a whole node: a member without roles sends its worst, a hundred strangers send
//! theirs, and the node's other members notice little.
//!
//! Longer: `RON_HOSTILE_SECONDS=600`.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use ronproxy::{
    app::Node,
    emulator::{Bitrate, Queue, Triangle},
    lab::LabNode,
    wire::label::Label,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    meters::Limits,
    peer::{HostileLink, open_flow, repeat},
    stage::{Stage, third_party},
    strangers::{Initials, stranger},
    support, words,
};

/// How long the attack lasts: a minute.
fn attack_seconds() -> u64 {
    let seconds = std::env::var("RON_HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok());
    seconds.unwrap_or(60)
}

/// The overlay on paths of 10 Mbit/s, whose exit is a relay, too; so it can be attacked as both.
fn stage(seed: u64) -> Stage {
    let rate = Bitrate::mbit(10);
    let topology =
        Triangle { rate, queue: Queue::Time(Duration::from_millis(50)), ..Triangle::default() };
    let nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", true, true),
        LabNode::new("relay", true, false),
    ];
    Stage::of(seed, topology.topology(), nodes, &LabNode::new("mallory", false, false))
}

/// What other members notice.
#[derive(Debug)]
struct Noticed {
    /// Bytes per second of a download.
    goodput: f64,
    /// The longest that a new flow took to answer, one begun each second.
    slowest_flow: Duration,
}

/// A download and a new flow each second, until `end`.
async fn customers(node: &Node, end: Instant) -> Noticed {
    let start = Instant::now();
    let download = async {
        let mut io = support::open(node, "source.test:80").await;
        support::request(&mut *io, 1 << 40).await;
        let (mut bytes, mut buffer) = (0u64, vec![0; 65_536]);
        while let Ok(read) = tokio::time::timeout_at(end, io.read(&mut buffer)).await {
            match read.unwrap() {
                0 => break,
                read => bytes += read as u64,
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a download of a minute is small")]
        let bytes = bytes as f64;
        bytes / start.elapsed().as_secs_f64()
    };
    let flows = async {
        let mut slowest = Duration::ZERO;
        while Instant::now() < end {
            let began = Instant::now();
            let mut io = support::open(node, "echo.test:7").await;
            io.write_all(b"x").await.unwrap();
            io.read_exact(&mut [0]).await.unwrap();
            slowest = slowest.max(began.elapsed());
            tokio::time::sleep_until(began + Duration::from_secs(1)).await;
        }
        slowest
    };
    let (goodput, slowest_flow) = tokio::join!(download, flows);
    Noticed { goodput, slowest_flow }
}

/// Goodput without an attack, on the same overlay.
fn calm(stage: &Stage) -> Noticed {
    stage.run(customers(stage.node("entry"), Instant::now() + Duration::from_secs(15)))
}

/// Everything that a link takes, in random order, as fast as the victim takes it.
async fn worst_of_a_link(stage: &Stage, link: &HostileLink, end: Instant, seed: u64) {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let me = stage.mallory.credentials();
    let targets: Vec<_> = (1..=8).map(|n| SocketAddr::new(third_party(n), 53)).collect();
    let forged = words::record("relay", me, (1 << 60, 1), &targets);
    // Its own record names its own address: a lie in it is bounded elsewhere, in `records`.
    let own = words::record("mallory", me, (1 << 60, 1), &[stage.mallory.address()]);
    let hearsay: Vec<_> = (0..200).map(|i| (format!("n{i}"), targets.clone())).collect();
    let hearsay = words::hearsay(&hearsay);
    while Instant::now() < end && link.ended().is_none() {
        let label = Label(rng.random());
        match rng.random_range(0..100) {
            0..30 => drop(link.notice(&forged).await),
            30..40 => drop(link.notice(&own).await),
            40..60 => drop(link.notice(&words::empty_digest()).await),
            60..70 => drop(link.request(&words::forward("relay", label, None)).await),
            70..80 => drop(
                link.request(&words::open_lane(stage.mallory.credentials(), "exit", label)).await,
            ),
            80..85 => drop(
                link.request(&words::passed_on(stage.mallory.credentials(), "entry", "exit")).await,
            ),
            85..99 => (0..10).for_each(|n| link.probe(&words::probe(n))),
            _ if rng.random_ratio(1, 50) => drop(link.notice(&hearsay).await),
            _ => {}
        }
    }
}

/// A member's worst: its links, lanes whose flows nobody reads, and raw packets of every kind at
/// 10 Mbit/s.
async fn member_attacks(stage: &Stage, end: Instant) {
    let links = async {
        let mut seed = 0;
        while Instant::now() < end {
            let Some(link) = stage.mallory.try_link_to(&stage.lab, "exit").await else {
                sleep(Duration::from_millis(500)).await;
                continue;
            };
            seed += 1;
            let worst = worst_of_a_link(stage, &link, end, seed);
            let _ = timeout(end.saturating_duration_since(Instant::now()), worst).await;
        }
    };
    let lanes = async {
        let mut kept = Vec::new();
        while Instant::now() < end && kept.len() < 4 {
            if let Some(link) = stage.mallory.try_link_to(&stage.lab, "exit").await
                && let Some(lane) = stage.mallory.lane_to(&stage.lab, &link, "exit").await
            {
                kept.push(stalled_flows(&lane).await);
            }
            sleep(Duration::from_secs(2)).await;
        }
        tokio::time::sleep_until(end).await;
        drop(kept);
    };
    let exit = stage.at("exit");
    let packets = repeat(end, Duration::from_millis(1), |n| {
        stage.mallory.datagram(exit, &packet(n, &[]));
    });
    tokio::join!(links, lanes, packets);
}

/// Downloads and uploads on a lane that nobody reads.
async fn stalled_flows(lane: &noq::Connection) -> JoinSet<()> {
    let mut flows = JoinSet::new();
    for number in 0..100 {
        let target = if number % 2 == 0 { "source.test:80" } else { "deaf.test:80" };
        let Some((mut send, recv)) = open_flow(lane, target).await else { break };
        flows.spawn(async move {
            let _ = send.write_all(b"GET 100000000\n").await;
            // The attacker keeps no copy: the test counts memory.
            static PIECE: [u8; 65_536] = [7; 65_536];
            while send.write_chunk(Bytes::from_static(&PIECE)).await.is_ok() {}
            drop(recv);
        });
    }
    flows
}

/// A packet of 1,250 bytes: rubbish, labelled, marked as relayed, short and long headers of QUIC.
fn packet(number: u64, initial: &[u8]) -> Vec<u8> {
    let mut packet = match number % 6 {
        0 if !initial.is_empty() => return initial.to_vec(),
        0 => vec![0x3f],
        1 => [&[1][..], &number.to_be_bytes()].concat(),
        2 => [&[2][..], &number.to_be_bytes()].concat(),
        3 => vec![0x40],
        4 => [&[0xe0, 0, 0, 0, 1, 8][..], &number.to_be_bytes(), &[0]].concat(),
        _ => vec![0],
    };
    packet.resize(1_250, 0x5a);
    packet
}

/// What the aim says of other members, against what was measured.
fn others_are_served(what: &str, calm: &Noticed, attacked: &Noticed, cost: &crate::meters::Cost) {
    let share = attacked.goodput / calm.goodput;
    println!(
        "{what}: {cost}; goodput {:.0} %, new flows {:?}",
        share * 100.0,
        attacked.slowest_flow
    );
    assert!(share >= 0.9, "goodput fell to {share:.2}");
    assert!(attacked.slowest_flow < Duration::from_secs(1), "{attacked:?}");
}

/// What the aim says of the victim itself.
fn victim_stays_small(cost: &crate::meters::Cost) {
    // The customers' download at 10 Mbit/s is in the CPU time, too, and attacks of as much.
    let limits = Limits { peak: 32 << 20, log_lines: 300, cores: 1.0, ..Limits::default() };
    cost.assert_within(limits);
}

#[test]
fn a_member_at_its_worst_leaves_others_their_goodput_and_flows() {
    let stage = stage(601);
    let calm = calm(&stage);
    let (attacked, cost) = stage.attack_alone(async {
        let end = Instant::now() + Duration::from_secs(attack_seconds());
        tokio::join!(customers(stage.node("entry"), end), member_attacks(&stage, end)).0
    });
    others_are_served("a member's worst for a minute", &calm, &attacked, &cost);
    victim_stays_small(&cost);
}

#[test]
fn a_hundred_strangers_leave_members_their_goodput_and_flows() {
    let stage = stage(602);
    let calm = calm(&stage);
    let traffic = stage.traffic();
    let initials = Initials::new(&stage.mallory, stage.at("exit"), "exit", 500);
    let (attacked, cost) = stage.attack_alone(async {
        let end = Instant::now() + Duration::from_secs(attack_seconds());
        let exit = stage.at("exit");
        let strangers = repeat(end, Duration::from_millis(1), |n| {
            let packet = packet(n, initials.get(n));
            stage.mallory.datagram_from(stranger(n % 100), exit, &packet);
        });
        tokio::join!(customers(stage.node("entry"), end), strangers).0
    });
    let to_strangers = traffic.to(|to| to.to_string().starts_with("198.18."));
    let back: u64 = to_strangers.values().map(|(_, bytes)| bytes).sum();
    println!("{back} bytes to the strangers for {} sent", attack_seconds() * 1_250_000);
    assert!(back * 10 < attack_seconds() * 1_250_000, "{back}");
    others_are_served("a hundred strangers for a minute", &calm, &attacked, &cost);
    victim_stays_small(&cost);
}
