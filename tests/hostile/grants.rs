//! Requests for lanes that others have to work for: relays that pass them on, and relays that exits ask.

use std::{net::IpAddr, time::Duration};

use ronproxy::internals::lab::{Lab, LabNode};
use tokio::time::{Instant, sleep};

use crate::{meters::Limits, peer::Hostile, stage::Stage, support, words};

/// A member beside mallory.
fn member(lab: &Lab, name: &str, relay: bool, number: u8) -> Hostile {
    Hostile::with(lab, &LabNode::new(name, relay, false), IpAddr::from([203, 0, 113, number]))
}

/// Has lanes passed on whose way back leads over the attacker, which answers no exit; links again and again,
/// as a new link might have a budget of its own. Ends with its link.
async fn hold_up(lab: &Lab, attacker: &Hostile) {
    let _asked = attacker.link_to(lab, "exit").await;
    let mut link = attacker.link_to(lab, "relay").await;
    let me = attacker.credentials();
    let own = me.peer().name.to_string();
    let reply = link.request(&words::pass_on_via(me, &own, 0)).await.unwrap();
    let present = words::other_incarnation(&reply).unwrap();
    for sent in 0_u32.. {
        if sent % 14 == 13
            && let Some(another) = attacker.try_link_to(lab, "relay").await
        {
            link = another;
        }
        let (link, asked) = (link.clone(), words::pass_on_via(me, &own, present));
        tokio::spawn(async move { link.request(&asked).await });
        sleep(Duration::from_millis(if sent < 30 { 20 } else { 250 })).await;
    }
}

#[test]
fn a_member_that_answers_no_exit_holds_up_nobody_behind_its_relay() {
    for relay in [false, true] {
        let mut stage = Stage::new(601);
        let ends = ["exit", "entry"].map(|name| stage.at(name).ip());
        let (opened, cost) = stage.attack_mut(async |lab, _| {
            lab.crash("entry");
            lab.internet().cut(ends[0], ends[1]);
            lab.restart("entry").await.unwrap();
            let attacker = member(lab, "mallet", relay, 80);
            let lab = &*lab;
            let entry = async {
                let mut longest = Duration::ZERO;
                for class in 0..5 {
                    sleep(Duration::from_secs(5)).await;
                    let start = Instant::now();
                    let request = support::flow_request_in("echo.test:7", class);
                    lab.node("entry").unwrap().dialer().dial(request).await.unwrap();
                    longest = longest.max(start.elapsed());
                }
                longest
            };
            tokio::select! {
                longest = entry => longest,
                () = hold_up(lab, &attacker) => Duration::MAX,
            }
        });
        println!("relay {relay}: a new lane by the relay within {opened:?}; {cost}");
        assert!(opened < Duration::from_secs(1), "{opened:?}");
        cost.assert_within(Limits { peak: 32 << 20, ..Limits::default() });
    }
}

#[test]
fn lanes_that_an_exit_asks_a_relay_for_end_no_link_between_them() {
    let mut stage = Stage::new(602);
    let (down, cost) = stage.attack_mut(async |lab, _| {
        let attackers: Vec<_> =
            (0..3).map(|n| member(lab, &format!("mallet{n}"), false, 90 + n)).collect();
        let lab = &*lab;
        let attack = futures_util::future::join_all(attackers.iter().map(async |attacker| {
            let link = attacker.link_to(lab, "exit").await;
            let _target = attacker.link_to(lab, "relay").await;
            let end = Instant::now() + Duration::from_secs(90);
            while Instant::now() < end {
                let (link, asked) =
                    (link.clone(), words::open_lane_via(attacker.credentials(), "relay"));
                tokio::spawn(async move { link.request(&asked).await });
                sleep(Duration::from_millis(31)).await;
            }
        }));
        let watch = async {
            let mut down = 0;
            for _ in 0..95 {
                sleep(Duration::from_secs(1)).await;
                let links = lab.node("relay").unwrap().link_facts();
                let up = links.iter().any(|link| link.peer.as_str() == "exit" && link.up);
                down += usize::from(!up);
            }
            down
        };
        tokio::join!(attack, watch).1
    });
    println!("3 × 32 lanes a second by a relay: the exit's link to it down for {down} s; {cost}");
    assert_eq!(down, 0);
    cost.assert_within(Limits { peak: 32 << 20, cores: 0.5, ..Limits::default() });
}
