//! Members whose own certified records name third parties: what a node sends there.
//!
//! The records of all of them together are bounded, as a record may name any address.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ronproxy::internals::lab::LabNode;
use tokio::time::{Instant, sleep};

use crate::{
    meters::{Limits, Traffic},
    peer::Hostile,
    stage::{Stage, is_named, named},
    words,
};

/// How long one attempt to dial takes where nobody answers.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Most packets to one address in an attempt: the first, two after a second, two after three, and the
/// end; and one in each second in which the node looks whether it has moved, as a link is silent.
pub(crate) const PACKETS: u64 = 6 + 5;

/// Members at addresses of their own, that tell the exit a record and leave.
async fn tell_records(stage: &Stage, members: u8, addresses: impl Fn(u8) -> Vec<SocketAddr>) {
    for number in 0..members {
        let plan = LabNode::new(&format!("m{number}"), false, false);
        let host = IpAddr::from([203, 0, 100 + number, 77]);
        let member = Hostile::with(&stage.lab, &plan, host);
        let link = member.link_to(&stage.lab, "exit").await;
        let by = member.credentials();
        link.notice(&words::record(&plan.name, by, (1 << 40, 1), &addresses(number))).await;
        sleep(Duration::from_millis(100)).await;
        link.conn.close(0u32.into(), b"");
    }
}

/// Packets to the third parties, and how many of these get some.
fn sent(traffic: &Traffic) -> (u64, usize) {
    let sent = traffic.to(is_named);
    (sent.values().map(|(packets, _)| packets).sum(), sent.len())
}

/// The most packets in any time of this length, within a minute; and the number of addresses that got
/// some in the first such time.
async fn watch(traffic: &Traffic, length: Duration) -> (u64, usize) {
    const LOOK_EVERY: Duration = Duration::from_millis(50);
    while sent(traffic).0 == 0 {
        sleep(LOOK_EVERY).await;
    }
    let (began, mut looks, mut first) = (Instant::now(), Vec::new(), 0);
    while began.elapsed() < Duration::from_secs(60) {
        let (packets, addresses) = sent(traffic);
        // The attempts that began first have not ended yet.
        if began.elapsed() + 2 * LOOK_EVERY < length {
            first = addresses;
        }
        looks.push(packets);
        sleep(LOOK_EVERY).await;
    }
    let apart = usize::try_from(length.as_millis() / LOOK_EVERY.as_millis()).unwrap();
    let most = looks.windows(apart + 1).map(|looks| looks[apart] - looks[0]).max();
    (most.unwrap(), first)
}

#[test]
fn at_most_four_attempts_to_one_ip_address_are_under_way() {
    let stage = Stage::new(121);
    let traffic = stage.traffic_of("exit");
    let ((most, _), cost) = stage.attack(async {
        let one =
            |member: u8| (0..8).map(move |n| (named(1), 1_000 + u16::from(member) * 8 + n).into());
        let tell = tell_records(&stage, 20, |member| one(member).collect());
        tokio::join!(tell, watch(&traffic, ATTEMPT)).1
    });
    println!("20 members name 160 ports of one host: {most} packets in 5 s at most; {cost}");
    assert!((10..=4 * PACKETS).contains(&most), "{most}");
    cost.assert_within(Limits::default());
}

#[test]
fn eight_dials_to_sixteen_addresses_are_under_way_at_most() {
    for (named_by_each, most_addresses) in [(8, 16), (1, 8)] {
        let stage = Stage::new(122);
        let traffic = stage.traffic_of("exit");
        let ((most, first), cost) = stage.attack(async {
            let own =
                |member: u8| (0..named_by_each).map(move |n| (named(member * 8 + n), 53).into());
            let tell = tell_records(&stage, 20, |member| own(member).collect());
            tokio::join!(tell, watch(&traffic, ATTEMPT)).1
        });
        println!(
            "20 members name {named_by_each} hosts each: {first} in the first 5 s, {most} packets in any 5 s; {cost}"
        );
        assert!((most_addresses / 2..=most_addresses).contains(&first), "{first}");
        assert!(most <= PACKETS * most_addresses as u64, "{most}");
        cost.assert_within(Limits::default());
    }
}
