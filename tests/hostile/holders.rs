//! An ex-member that leaves its name behind for somebody else.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use ronproxy::internals::{identity::Credentials, lab::Lab};
use tokio::time::{Instant, sleep};

use crate::{peer::Hostile, stage::Stage, support, words};

/// Where the ex-member is.
const EX_MEMBER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 90));

/// What the next holder of the name may need for links to all, and for a flow.
const WITHIN: Duration = Duration::from_secs(10);

/// `harm` acts with the keys of `entry`, which runs no more. Then the name gets another holder.
fn beside_a_next_holder(
    seed: u64,
    harm: impl AsyncFnOnce(&Lab, &Credentials, Hostile),
    check: impl AsyncFnOnce(&Lab),
) {
    let mut stage = Stage::new(seed);
    let old = stage.lab.credentials("entry").unwrap().clone();
    stage.lab.crash("entry");
    let ((), cost) = stage.attack_mut(async |lab, _| {
        let member = Hostile::at(lab, old.clone(), EX_MEMBER);
        harm(lab, &old, member).await;
        sleep(Duration::from_secs(2)).await;
        lab.rekey("entry").unwrap();
        lab.restart("entry").await.unwrap();
        let began = Instant::now();
        support::wait_for("the next holder's links", WITHIN, || lab.is_meshed()).await;
        println!("the next holder of the name is meshed after {:?}", began.elapsed());
        check(lab).await;
    });
    println!("an ex-member that leaves its name behind: {cost}");
}

#[test]
fn an_ex_members_requests_dated_ahead_are_not_the_next_holders() {
    let harm = async |lab: &Lab, old: &Credentials, member: Hostile| {
        let link = member.link_to(lab, "exit").await;
        // More than an exit remembers of one entry, so that all smaller numbers would count as answered.
        for low in 0..300 {
            let issued = (old.now().as_secs() + 3_590, low);
            link.request(&words::open_lane_at(old, "exit", issued)).await;
        }
        link.conn.close(0u32.into(), b"");
    };
    beside_a_next_holder(903, harm, async |lab| {
        let began = Instant::now();
        let asked = support::dial(lab.node("entry").unwrap(), "echo.test:7").await;
        let refused = asked.map(drop).err().map(|refusal| refusal.to_string());
        assert_eq!((refused, began.elapsed() < WITHIN), (None, true), "{:?}", began.elapsed());
    });
}

#[test]
fn a_names_next_holder_does_not_inherit_refused_links() {
    let harm = async |lab: &Lab, _: &Credentials, member: Hostile| {
        let began = Instant::now();
        // Several times, so that the refusal is long.
        while began.elapsed() < Duration::from_secs(600) {
            let Some(link) = member.try_link_to(lab, "exit").await else {
                sleep(Duration::from_secs(1)).await;
                continue;
            };
            for _ in 0..9 {
                link.notice(&[0xff; 50]).await;
            }
            sleep(Duration::from_millis(300)).await;
        }
    };
    beside_a_next_holder(905, harm, async |_| {});
}
