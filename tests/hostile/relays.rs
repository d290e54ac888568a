//! Labels, lanes and policy: the requests of a hostile member.

use std::time::Duration;

use ronproxy::internals::{config::Config, emulator::triangle, lab::LabNode, wire::label::Label};
use tokio::time::{Instant, sleep};

use crate::{
    meters::Limits,
    peer::HostileLink,
    stage::Stage,
    support::{self, wait_for},
    words,
};

/// Packets under a label.
fn labelled(kind: u8, label: Label) -> Vec<u8> {
    [&[kind][..], &label.0.to_be_bytes(), &[0; 2], &[0x40; 60]].concat()
}

#[test]
fn a_packet_crosses_one_relay_whatever_labels_are_chained() {
    const PACKETS: u64 = 10;
    let mut nodes = vec![LabNode::new("exit", false, true)];
    nodes.extend(["relay", "entry"].map(|name| LabNode::new(name, true, false)));
    let stage = Stage::of(201, triangle(), nodes, &LabNode::new("mallory", false, false));
    let forwarded =
        || ["relay", "entry"].map(|name| stage.node(name).status().forwarded).iter().sum::<u64>();
    let (hops, cost) = stage.attack(async {
        let links = [
            stage.mallory.link_to(&stage.lab, "relay").await,
            stage.mallory.link_to(&stage.lab, "entry").await,
        ];
        let (mut label, mut hops) = (Label(7), 0);
        for hop in 0..100 {
            let toward = ["entry", "relay"][hop % 2];
            let asked = words::forward(toward, label, None);
            let Some(reply) = links[hop % 2].request(&asked).await else { break };
            let Some(granted) = words::granted_forward(&reply) else { break };
            (label, hops) = (granted, hop + 1);
        }
        let first = ["entry", "relay"][hops % 2];
        for _ in 0..PACKETS {
            stage.mallory.datagram(stage.at(first), &labelled(1, label));
            stage.mallory.datagram(stage.at(first), &labelled(2, label));
        }
        sleep(Duration::from_secs(10)).await;
        hops
    });
    let packets = forwarded();
    println!("{hops} labels chained: {packets} packets forwarded for {} sent; {cost}", 2 * PACKETS);
    assert!(hops > 0, "the relays grant labels");
    assert_eq!(packets, PACKETS, "each unmarked packet once, no marked one");
    cost.assert_within(Limits::default());
}

#[test]
fn lanes_asked_for_in_another_name_do_not_lock_that_member_out() {
    let stage = Stage::new(202);
    let ((), cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        for _ in 0..200 {
            link.request(&words::passed_on(stage.mallory.credentials(), "entry", "exit")).await;
        }
        let start = Instant::now();
        support::fetch(stage.node("entry"), 10_000).await;
        println!("200 requests in its name: a new lane after {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    });
    println!("lanes in another name: {cost}");
    cost.assert_within(Limits::default());
}

#[test]
fn only_exits_grant_lanes_and_only_relays_forward() {
    let stage = Stage::new(203);
    let ((), cost) = stage.attack(async {
        for name in ["entry", "relay"] {
            let link = stage.mallory.link_to(&stage.lab, name).await;
            let reply = link
                .request(&words::open_lane(stage.mallory.credentials(), name, Label(1)))
                .await
                .unwrap();
            assert!(words::refusal(&reply).is_some(), "{name} hosts a lane");
        }
        for name in ["entry", "exit"] {
            let link = stage.mallory.link_to(&stage.lab, name).await;
            let reply = link.request(&words::forward("relay", Label(1), None)).await.unwrap();
            assert!(words::refusal(&reply).is_some(), "{name} forwards");
        }
    });
    println!("requests to nodes without the role: {cost}");
    cost.assert_within(Limits::default());
}

#[test]
fn pending_lanes_are_bounded_and_swept_without_further_requests() {
    let stage = Stage::new(204);
    let pending = || {
        let lanes = stage.node("exit").lane_facts();
        lanes.iter().filter(|lane| lane.facts.peer.as_str() == "mallory").count()
    };
    let (granted, cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let (mut granted, mut most) = (0, 0);
        // Longer than a lane may pend: one that has pended that long counts until it is swept.
        let end = Instant::now() + Duration::from_secs(30);
        for n in 0.. {
            let asked = words::open_lane(stage.mallory.credentials(), "exit", Label(n));
            let reply = link.request(&asked).await.unwrap_or_default();
            granted += usize::from(words::granted_lane(&reply).is_some());
            most = most.max(pending());
            if Instant::now() > end {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(most, 64, "lanes pend at most");
        sleep(Duration::from_secs(25)).await;
        granted
    });
    println!("{granted} lanes granted in 30 s: {cost}");
    assert_eq!(pending(), 0, "pending lanes are swept");
    assert!(cost.kept < 1 << 20, "{cost}");
    cost.assert_within(Limits::default());
}

#[test]
fn a_policy_by_group_holds_whatever_end_a_request_claims() {
    let mut nodes = vec![LabNode::new("entry", false, false), LabNode::new("exit", false, true)];
    nodes.push(LabNode::new("relay", true, false));
    nodes[2].policy =
        Config::parse("[[policy]]\nname = 'no-guests'\ndeny_groups = ['guests']").unwrap().policy;
    let guest =
        LabNode { groups: vec!["guests".to_owned()], ..LabNode::new("mallory", false, true) };
    let stage = Stage::of(205, triangle(), nodes, &guest);
    let ((), cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "relay").await;
        for as_exit in [false, true] {
            let asked = match as_exit {
                true => words::forward_as_exit(stage.mallory.credentials(), "exit", Label(1)),
                false => words::forward("exit", Label(1), None),
            };
            let reply = link.request(&asked).await.unwrap();
            assert!(words::refusal(&reply).is_some(), "as exit {as_exit}: the relay forwards");
        }
    });
    println!("claims to be the other end: {cost}");
    cost.assert_within(Limits::default());
}

#[test]
fn a_class_without_bound_is_refused() {
    let stage = Stage::new(206);
    let ((), cost) = stage.attack(async {
        for name in ["relay", "exit"] {
            let link = stage.mallory.link_to(&stage.lab, name).await;
            let long = Some("x".repeat(60_000));
            let reply = link.request(&words::forward("exit", Label(1), long)).await;
            let granted = reply.is_some_and(|reply| words::granted_forward(&reply).is_some());
            assert!(!granted, "{name} takes a class of 60,000 bytes");
        }
    });
    println!("classes of 60,000 bytes: {cost}");
    assert!(cost.kept < 1 << 20, "{cost}");
    cost.assert_within(Limits::default());
}

#[test]
fn an_entry_has_lanes_of_sixteen_classes_at_most() {
    let stage = Stage::new(209);
    let (granted, cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let (by, mut granted) = (stage.mallory.credentials(), 0);
        for n in 0..40 {
            let asked = words::open_lane_of(by, "exit", Label(n), &format!("class-{n}"));
            let reply = link.request(&asked).await.unwrap();
            granted += usize::from(words::granted_lane(&reply).is_some());
        }
        support::fetch(stage.node("entry"), 10_000).await;
        granted
    });
    println!("lanes of 40 classes: {granted} granted; {cost}");
    assert_eq!(granted, 16);
    cost.assert_within(Limits::default());
}

#[test]
fn requests_without_end_are_answered_within_a_budget() {
    let stage = Stage::new(207);
    let (asked, cost) = stage.attack(async {
        let end = Instant::now() + Duration::from_secs(20);
        let mut asked = 0;
        while Instant::now() < end {
            let Some(link) = stage.mallory.try_link_to(&stage.lab, "relay").await else {
                sleep(Duration::from_secs(1)).await;
                continue;
            };
            asked += ask_without_end(&link, end).await;
        }
        asked
    });
    println!("{asked} requests in 20 s: {cost}");
    cost.assert_within(Limits::default());
}

/// Sixteen tasks ask to forward until the link ends.
async fn ask_without_end(link: &HostileLink, end: Instant) -> u64 {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let link = link.clone();
        tasks.spawn(async move {
            let mut asked = 0;
            while Instant::now() < end && link.ended().is_none() {
                let toward = if asked % 2 == 0 { "exit" } else { "nobody" };
                link.request(&words::forward(toward, Label(n), None)).await;
                asked += 1;
            }
            asked
        });
    }
    tasks.join_all().await.iter().sum()
}

#[test]
fn labels_of_a_member_leave_the_quota_of_others_alone() {
    let stage = Stage::new(208);
    let ((), cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "relay").await;
        for n in 0..1_500 {
            let Some(reply) = link.request(&words::forward("exit", Label(n), None)).await else {
                break;
            };
            if words::granted_forward(&reply).is_none() {
                break;
            }
        }
        // The entry gets its lane by the relay though the direct path is cut.
        let at = |name| stage.lab.topology().address(name);
        stage.lab.internet().cut(at("entry"), at("exit"));
        let entry = stage.node("entry");
        let down =
            || entry.link_facts().iter().any(|link| &*link.peer.to_string() == "exit" && !link.up);
        wait_for("the direct path is down", Duration::from_secs(20), down).await;
        support::fetch(entry, 10_000).await;
    });
    println!("1,500 labels: {cost}");
    cost.assert_within(Limits::default());
}
