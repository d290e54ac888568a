//! The aim for a whole node: a member without roles sends its worst, a hundred strangers send
//! theirs, and the node's other members notice little.
//!
//! Longer: `RON_HOSTILE_SECONDS=600`.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ronproxy::internals::{
    app::Node,
    emulator::{Bitrate, Queue, Triangle},
    lab::{Dates, LabNode},
    transport,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use crate::{
    dials,
    meters::Limits,
    peer::repeat,
    stage::{Stage, forged, is_forged, is_named, named, third_party},
    stall::Staller,
    strangers::{self, Initials, stranger},
    support,
    worst::{Done, Targets, Worst, rubbish},
};

/// How long the attack lasts: a minute.
fn attack_seconds() -> u64 {
    let seconds = std::env::var("RON_HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok());
    seconds.unwrap_or(60)
}

/// The overlay on paths of 10 Mbit/s. Its exit is a relay and the authority, too; so it can be attacked as
/// each of them.
fn stage(seed: u64) -> Stage {
    let rate = Bitrate::mbit(10);
    let topology =
        Triangle { rate, queue: Queue::Time(Duration::from_millis(50)), ..Triangle::default() };
    let nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", true, true),
        LabNode::new("relay", true, false),
    ];
    let dates = Dates { authority: Some("exit".to_owned()), ..Dates::default() };
    Stage::dated(dates, seed, topology.topology(), nodes, &LabNode::new("mallory", false, false))
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

/// The most bytes that three nodes send in a second to addresses that a certified record names: each dials
/// 16 at once, for 5 s.
const DIALLED: u64 = 3 * 16 * dials::PACKETS * 1_200 / 5;

/// The most bytes to addresses in whose name a member sends packets. As itself: 16 answers at once, and one in five
/// seconds. As somebody whom the node does not know: 32 at once, and one a second.
pub(crate) fn most_to_forged(seconds: u64) -> u64 {
    (16 + seconds / 5 + 32 + seconds) * strangers::ANSWER
}

#[test]
fn a_member_at_its_worst_leaves_others_their_goodput_and_flows() {
    let stage = stage(601);
    let calm = calm(&stage);
    let (traffic, exit) = (stage.traffic(), stage.at("exit"));
    let victim = stage.victim("exit");
    let own = Initials::of_member(stage.mallory.credentials(), &victim, 500);
    let nameless = Initials::nameless(stage.mallory.credentials(), &victim, 500);
    // Each fourth packet comes in the name of a third party, and some of these ask for a handshake.
    let send = |number: u64, packet: &[u8]| match number % 4 {
        3 if number % 8 == 3 => {
            let initials = if number % 16 == 3 { &own } else { &nameless };
            stage.mallory.datagram_from(forged(number), exit, initials.get(number));
        }
        3 => stage.mallory.datagram_from(forged(number), exit, packet),
        _ => stage.mallory.datagram(exit, packet),
    };
    let at_port = |ip| SocketAddr::new(ip, 53);
    let worst = Worst {
        peer: stage.mallory.peer(),
        victim: victim.clone(),
        others: ["entry", "relay"],
        named: (0..200).map(|number| at_port(named(number))).collect(),
        lied: (1..=8).map(|number| at_port(third_party(number))).collect(),
        targets: Targets {
            source: "source.test:80".into(),
            deaf: "deaf.test:80".into(),
            datagrams: "echo.test:7".into(),
            nowhere: Some(".nowhere.test"),
        },
        send: Box::new(send),
        done: Done::default(),
    };
    let (attacked, cost) = stage.attack_alone(async {
        let end = Instant::now() + Duration::from_secs(attack_seconds());
        tokio::join!(customers(stage.node("entry"), end), worst.run(end)).0
    });
    println!("{}", worst.done);
    let bytes = |is: fn(IpAddr) -> bool| traffic.to(is).values().map(|(_, bytes)| bytes).sum();
    let (to_named, to_forged): (u64, u64) = (bytes(is_named), bytes(is_forged));
    println!("{to_named} bytes to addresses of its record, {to_forged} to forged sources");
    assert!(to_named <= DIALLED * attack_seconds(), "{to_named}");
    // A quarter of the packets came in their name: 18 MB in a minute.
    assert!(to_forged <= most_to_forged(attack_seconds()), "{to_forged}");
    others_are_served("a member's worst for a minute", &calm, &attacked, &cost);
    worst.done.assert_much(attack_seconds());
    victim_stays_small(&cost);
}

#[test]
fn a_hundred_strangers_of_one_prefix_leave_members_their_goodput() {
    strangers_attack(602, 1);
}

#[test]
fn a_hundred_strangers_of_as_many_prefixes_leave_members_their_goodput() {
    strangers_attack(603, 256);
}

/// A hundred strangers whose addresses are so far apart. They send every kind of packet, and a hundred
/// more begin handshakes.
fn strangers_attack(seed: u64, apart: u64) {
    let stage = stage(seed);
    let calm = calm(&stage);
    let traffic = stage.traffic();
    let by = stage.mallory.credentials();
    let initials = Initials::of_stranger(by, stage.at("exit"), "exit", 500);
    let (attacked, cost) = stage.attack_alone(async {
        let end = Instant::now() + Duration::from_secs(attack_seconds());
        let exit = stage.at("exit");
        let strangers = repeat(end, Duration::from_millis(1), |n| {
            let first = n.is_multiple_of(6);
            let packet = if first { initials.get(n).to_vec() } else { rubbish(n) };
            stage.mallory.datagram_from(stranger(n % 100 * apart), exit, &packet);
        });
        let stallers = stall(&stage, apart, end);
        tokio::join!(customers(stage.node("entry"), end), strangers, stallers).0
    });
    let to_strangers = traffic.to(is_silent_stranger);
    let back: u64 = to_strangers.values().map(|(_, bytes)| bytes).sum();
    println!("{back} bytes to the strangers for {} sent", attack_seconds() * 1_250_000);
    assert_eq!(back, 0);
    others_are_served("a hundred strangers for a minute", &calm, &attacked, &cost);
    victim_stays_small(&cost);
}

/// Whether an address is that of a stranger who answers nothing: its packets may be forged.
fn is_silent_stranger(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[..2] == [198, 18] && v4.octets()[3] < 100)
}

/// A handshake a second of a hundred more, who prove their addresses and then wait.
async fn stall(stage: &Stage, apart: u64, end: Instant) {
    let client = transport::link_client_config(stage.mallory.credentials()).unwrap();
    let stallers = (0..100).map(|number| {
        let victim = (stage.at("exit"), "exit");
        let at = stranger(100 + number * apart);
        let staller = Staller::new(stage.lab.internet(), at, client.clone(), victim, 1);
        staller.run(end, Duration::from_secs(1))
    });
    futures_util::future::join_all(stallers).await;
}
