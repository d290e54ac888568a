//! Members × labels × lanes: random sequences of hostile requests against an exit and a relay, with
//! the caps looked at after each step, and the accounts when everybody has left.
//!
//! More sequences: `RON_HOSTILE_SEQUENCES=100`; one again: `RON_SEED=7`.

use std::{
    net::{IpAddr, Ipv4Addr},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use noq::Connection;
use rand::{RngExt as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_pcg::Pcg64Mcg;
use ronproxy::internals::{lab::LabNode, wire::label::Label};
use tokio::time::{Instant, sleep};

use crate::{
    peer::{Hostile, HostileLink, open_flow},
    stage::{Stage, is_third_party, third_party},
    support, words,
};

/// Steps of one sequence.
const STEPS: usize = 60;

/// Lanes that one entry may hold at an exit, and labels towards one node that it may hold at another.
const MOST_LANES: usize = 64;
const MOST_LABELS: usize = 128;

/// Forwarding labels last two minutes; sweeps come within seconds.
const ALL_IS_SWEPT: Duration = Duration::from_secs(150);

/// What a hostile member does next.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Asks for some lanes and leaves them.
    AskLanes(u8),
    /// Opens a lane, with a flow that nobody reads.
    UseLane,
    /// Closes a lane without a word to the link.
    DropLane,
    /// Asks for lanes in the other member's name, or in an honest one.
    InAnothersName(&'static str),
    /// Asks the relay to forward some times.
    Forward(u8, bool),
    /// Sends packets under a label: its own, or one of the other member's.
    Packets(u8, Kind),
    /// Says something that cannot be read.
    Garbage,
    /// Says where somebody is.
    Record(&'static str),
    /// Lets time pass, in tenths of a second.
    Wait(u8),
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Labelled = 1,
    Relayed = 2,
}

/// A member and what it has been granted.
struct Member {
    name: &'static str,
    hostile: Hostile,
    exit: Option<HostileLink>,
    relay: Option<HostileLink>,
    labels: Vec<Label>,
    lanes: Vec<Connection>,
}

/// Who acts, and how.
type Step = (usize, Act);

fn sequence(seed: u64) -> Vec<Step> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    (0..STEPS).map(|_| (rng.random_range(0..2), act(&mut rng))).collect()
}

fn act(rng: &mut Pcg64Mcg) -> Act {
    let names = ["entry", "relay", "peggy", "trudy", "nobody"];
    let name = *names.choose(rng).unwrap_or(&"entry");
    match rng.random_range(0..20) {
        0..3 => Act::AskLanes(rng.random_range(1..40)),
        3..6 => Act::UseLane,
        6..8 => Act::DropLane,
        8..10 => Act::InAnothersName(name),
        10..14 => Act::Forward(rng.random_range(1..120), rng.random()),
        14..16 => Act::Packets(rng.random(), *[Kind::Labelled, Kind::Relayed].choose(rng).unwrap()),
        16 => Act::Garbage,
        17 => Act::Record(name),
        _ => Act::Wait(rng.random()),
    }
}

impl Member {
    fn new(stage: &Stage, name: &'static str, host: u8) -> Self {
        let host = IpAddr::V4(Ipv4Addr::new(203, 0, 113, host));
        let plan = LabNode::new(name, false, false);
        let hostile = Hostile::with(&stage.lab, &plan, host);
        Self { name, hostile, exit: None, relay: None, labels: Vec::new(), lanes: Vec::new() }
    }

    /// Links anew where the last link ended, if the node takes it up.
    async fn relink(&mut self, stage: &Stage) {
        for (name, link) in [("exit", &mut self.exit), ("relay", &mut self.relay)] {
            if link.as_ref().is_none_or(|link| link.ended().is_some()) {
                *link = self.hostile.try_link_to(&stage.lab, name).await;
            }
        }
    }

    async fn act(&mut self, stage: &Stage, act: Act, anothers: &[Label]) {
        self.relink(stage).await;
        let (Some(exit), Some(relay)) = (self.exit.clone(), self.relay.clone()) else {
            return sleep(Duration::from_secs(1)).await;
        };
        match act {
            Act::AskLanes(count) => {
                for _ in 0..count {
                    exit.request(&words::open_lane(
                        self.hostile.credentials(),
                        "exit",
                        Label(rand::random()),
                    ))
                    .await;
                }
            }
            Act::UseLane => {
                if let Some(lane) = self.hostile.lane_to(&stage.lab, &exit, "exit").await {
                    let _ = open_flow(&lane, "source.test:80").await;
                    self.lanes.push(lane);
                }
            }
            Act::DropLane => {
                if let Some(lane) = self.lanes.pop() {
                    lane.close(0u32.into(), b"");
                }
            }
            Act::InAnothersName(name) => {
                for _ in 0..10 {
                    exit.request(&words::passed_on(self.hostile.credentials(), name, "exit")).await;
                }
            }
            Act::Forward(count, as_exit) => {
                for number in 0..u64::from(count) {
                    let (by, label) = (self.hostile.credentials(), Label(number));
                    let asked = match as_exit {
                        true => words::forward_as_exit(by, "exit", label),
                        false => words::forward("exit", label, None),
                    };
                    let reply = relay.request(&asked).await.unwrap_or_default();
                    self.labels.extend(words::granted_forward(&reply));
                }
            }
            Act::Packets(count, kind) => {
                for label in self.labels.iter().chain(anothers).take(usize::from(count)) {
                    let packet =
                        [&[kind as u8][..], &label.0.to_be_bytes(), &[0; 2], &[0x40; 99]].concat();
                    self.hostile.datagram(stage.at("relay"), &packet);
                    self.hostile.datagram(stage.at("exit"), &packet);
                }
            }
            Act::Garbage => drop(relay.notice(&[0xff; 50]).await),
            // Its own record is its own affair.
            Act::Record(name) if name == self.name => {}
            Act::Record(name) => {
                let somewhere = [(third_party(1), 53).into()];
                let by = self.hostile.credentials();
                exit.notice(&words::record(name, by, (1 << 50, 1), &somewhere)).await;
            }
            Act::Wait(tenths) => sleep(Duration::from_millis(u64::from(tenths) * 100)).await,
        }
    }
}

/// What a member has at a node, whether or not it has a link.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// Labels that it may use; all lead to the exit.
    labels: usize,
    /// Labels of any kind that it holds, has asked for, or gets packets by.
    naming: usize,
    lanes: usize,
}

fn held(stage: &Stage, node: &str, member: &Member) -> Held {
    let (node, name) = (stage.node(node), member.name.parse().unwrap());
    let (labels, naming) =
        node.switch().with_labels(|table| (table.held_by(&name), table.that_name(&name)));
    let lanes = node.lane_facts();
    let lanes = lanes.iter().filter(|lane| lane.facts.peer == name).count();
    Held { labels, naming, lanes }
}

/// What holds after each step.
fn check_caps(stage: &Stage, members: &[Member]) {
    for (node, member) in pairs(members) {
        let held = held(stage, node, member);
        let within = held.labels <= MOST_LABELS && held.lanes <= MOST_LANES;
        assert!(within, "{} has {held:?} at {node}", member.name);
    }
}

/// What holds when the members have left and everything of theirs has expired.
fn check_accounts(stage: &Stage, members: &[Member]) {
    for (node, member) in pairs(members) {
        let nothing = Held { labels: 0, naming: 0, lanes: 0 };
        assert_eq!(held(stage, node, member), nothing, "left of {} at {node}", member.name);
    }
}

fn pairs(members: &[Member]) -> impl Iterator<Item = (&'static str, &Member)> {
    ["exit", "relay"].into_iter().flat_map(|node| members.iter().map(move |member| (node, member)))
}

fn play(seed: u64, steps: &[Step]) {
    let stage = Stage::new(seed);
    let traffic = stage.traffic();
    let mut members =
        stage.run(async { [("peggy", 67), ("trudy", 68)].map(|(n, h)| Member::new(&stage, n, h)) });
    stage.run(async {
        for (who, act) in steps {
            let anothers = members[1 - who].labels.clone();
            let member = &mut members[*who];
            let before = member.labels.len();
            member.act(&stage, *act, &anothers).await;
            // Without this the accounts could be zero because nothing is counted.
            let (granted, held) = (member.labels.len() - before, held(&stage, "relay", member));
            assert!(held.naming >= granted, "{granted} labels were granted just now, {held:?}");
            check_caps(&stage, &members);
        }
        let start = Instant::now();
        support::fetch(stage.node("entry"), 10_000).await;
        assert!(start.elapsed() < Duration::from_secs(1), "a new lane took {:?}", start.elapsed());
        for member in &mut members {
            for link in [&member.exit, &member.relay].into_iter().flatten() {
                link.conn.close(0u32.into(), b"");
            }
            member.lanes.iter().for_each(|lane| lane.close(0u32.into(), b""));
        }
        sleep(ALL_IS_SWEPT).await;
        check_accounts(&stage, &members);
    });
    assert_eq!(traffic.to(is_third_party).len(), 0, "third parties get packets");
}

/// Whether a sequence breaks a rule.
fn fails(seed: u64, steps: &[Step]) -> bool {
    catch_unwind(AssertUnwindSafe(|| play(seed, steps))).is_err()
}

/// Leaves out, by halves and then one by one, what a failure does not need.
fn shrink(seed: u64, mut steps: Vec<Step>) -> Vec<Step> {
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            if fails(seed, &fewer) {
                steps = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    steps
}

#[test]
fn caps_hold_and_accounts_end_at_zero_whatever_members_ask_for() {
    let number = |variable| std::env::var(variable).ok()?.parse::<u64>().ok();
    let first = number("RON_SEED").unwrap_or(700);
    for seed in first..first + number("RON_HOSTILE_SEQUENCES").unwrap_or(3) {
        let steps = sequence(seed);
        if fails(seed, &steps) {
            let steps = shrink(seed, steps);
            println!("RON_SEED={seed}, shrunk to {steps:?}");
            play(seed, &steps);
        }
    }
}
