//! A node of the same site, which the others name, lies about what it measures.

use std::{cell::Cell, time::Duration};

use ronproxy::internals::{
    emulator::triangle,
    lab::{Lab, LabNode},
    mesh::LinkFacts,
};
use tokio::time::{Instant, sleep};

use crate::{
    meters::Limits,
    peer::HostileLink,
    stage::{Stage, flood},
    words,
};

/// The usual overlay, whose nodes all name the attacker as one of their site.
fn stage(seed: u64) -> Stage {
    let node = |name, relay, exit| LabNode {
        share_with: vec!["mallory".parse().unwrap()],
        ..LabNode::new(name, relay, exit)
    };
    let nodes =
        vec![node("entry", false, false), node("exit", false, true), node("relay", true, false)];
    Stage::of(seed, triangle(), nodes, &LabNode::new("mallory", false, false))
}

fn facts(lab: &Lab, at: &str, of: &str) -> LinkFacts {
    lab.node(at).unwrap().mesh().facts_of_link(&of.parse().unwrap()).unwrap()
}

/// Tells a node the same figures each second.
async fn tell(link: &HostileLink, lies: &[(String, u64, u32)], seconds: u64) {
    let telling = async {
        for _ in 0..seconds {
            link.notice(&words::shared(lies)).await;
            sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! { () = telling => {}, () = link.answer_probes() => {} }
}

fn lie(of: &str, rtt_ms: u64, percent: u32) -> (String, u64, u32) {
    (of.to_owned(), rtt_ms, percent)
}

#[test]
fn a_sharer_that_calls_paths_fast_or_dead_changes_no_measured_link() {
    let stage = stage(301);
    for (what, lies) in [
        ("fast", [lie("exit", 1, 0), lie("entry", 1, 0)]),
        ("slow", [lie("exit", 3_000, 0), lie("entry", 3_000, 0)]),
        ("dead", [lie("exit", 40, 100), lie("entry", 40, 100)]),
    ] {
        let (links, cost) = stage.attack(async {
            let link = stage.mallory.link_to(&stage.lab, "relay").await;
            tell(&link, &lies, 120).await;
            let links = ["exit", "entry"].map(|of| facts(&stage.lab, "relay", of));
            link.conn.close(0u32.into(), b"");
            links
        });
        println!("a sharer calls all paths {what}: {cost}");
        for link in links {
            assert!(link.up && (link.rtt_ms.unwrap() - 40.0).abs() < 5.0, "{link:?}");
            assert_eq!((link.loss_out_percent, &link.shared_by), (Some(0.0), &None), "{link:?}");
        }
        cost.assert_within(Limits::default());
    }
}

#[test]
fn a_dead_path_that_a_sharer_calls_fast_strands_no_flow() {
    let stage = stage(302);
    let (up, cost) = stage.attack_beside("entry", async {
        let link = stage.mallory.link_to(&stage.lab, "entry").await;
        let at = |name: &str| stage.lab.topology().address(name);
        stage.lab.internet().cut(at("entry"), at("exit"));
        tell(&link, &[lie("exit", 1, 0)], 60).await;
        facts(&stage.lab, "entry", "exit").up
    });
    println!("a sharer calls a dead path fast: {cost}");
    assert!(!up);
    cost.assert_within(Limits { log_lines: 40, ..Limits::default() });
}

#[test]
fn a_node_that_starts_beside_a_liar_is_right_again_in_ten_seconds() {
    let mut stage = stage(303);
    let (after, cost) = stage.attack_mut(async |lab, mallory| {
        lab.restart("entry").await.unwrap();
        let start = Instant::now();
        let link = mallory.link_to(lab, "entry").await;
        let right = Cell::new(None);
        let looking = async {
            while right.get().is_none() {
                sleep(Duration::from_millis(100)).await;
                let Some(link) =
                    lab.node("entry").unwrap().mesh().facts_of_link(&"exit".parse().unwrap())
                else {
                    continue;
                };
                let own = link.up && link.shared_by.is_none();
                right.set((own && link.loss_out_percent == Some(0.0)).then(|| start.elapsed()));
            }
        };
        tokio::select! {
            () = looking => {},
            () = async { tell(&link, &[lie("exit", 60, 90), lie("relay", 2, 0)], 90).await } => {},
        }
        right.get()
    });
    println!("a node that starts beside a liar measures itself after {after:?}; {cost}");
    assert!(after.unwrap() < Duration::from_secs(10));
    cost.assert_within(Limits { log_lines: 60, ..Limits::default() });
}

#[test]
fn a_sharer_that_floods_costs_little_and_loses_its_link() {
    let stage = stage(304);
    let invented: Vec<_> = (0..256).map(|n| lie(&format!("n{n}"), n, 0)).collect();
    let ((said, held), cost) = stage.attack(async {
        let said = flood(&stage, 20, |_| words::shared(&invented)).await;
        (said, stage.node("exit").mesh().shared_facts().len())
    });
    println!("{said} messages of 256 figures in 20 s: {cost}; {held} are held");
    let drops = stage.node("exit").mesh().links().drops().counts();
    assert!(drops.iter().any(|(reason, _)| *reason == "shared-over-budget"), "{drops:?}");
    assert_eq!(held, 0, "its figures end with its link");
    cost.assert_within(Limits { log_lines: 40, ..Limits::default() });
}

#[test]
fn unreadable_figures_end_the_link_of_a_sharer() {
    let stage = stage(305);
    let (said, cost) = stage.attack(flood(&stage, 20, |_| words::unreadable_shared()));
    println!("{said} unreadable messages of a sharer in 20 s: {cost}");
    let drops = stage.node("exit").mesh().links().drops().counts();
    assert!(drops.iter().any(|(reason, _)| *reason == "malformed"), "{drops:?}");
    cost.assert_within(Limits { log_lines: 40, ..Limits::default() });
}

#[test]
fn figures_of_a_node_that_is_not_named_are_dropped() {
    let stage = Stage::new(306);
    let ((), cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "relay").await;
        tell(&link, &[lie("exit", 1, 0)], 30).await;
    });
    println!("figures of a node that is not named: {cost}");
    assert!(stage.node("relay").mesh().shared_facts().is_empty());
    let drops = stage.node("relay").mesh().links().drops().counts();
    assert!(drops.iter().any(|(reason, _)| *reason == "shared-not-named"), "{drops:?}");
    cost.assert_within(Limits { log_lines: 40, ..Limits::default() });
}
