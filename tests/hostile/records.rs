//! Lies about who the members are and where, and floods on a link.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use ronproxy::internals::identity::Credentials;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    meters::Limits,
    peer::HostileLink,
    stage::{Stage, flood, is_third_party, third_party},
    support, words,
};

/// The greatest version that nodes take.
const GREATEST: (u64, u64) = (1 << 62, 1 << 62);

/// A third of seven days, where a day takes 43 s, is 101 s.
const RENEWED_WITHIN: Duration = Duration::from_secs(150);

/// The largest notice of invented members at third parties' addresses.
fn invented() -> Vec<(String, Vec<SocketAddr>)> {
    let host = |i: u16| third_party(u8::try_from(i % 250).unwrap());
    let addresses = |i: u16| (0..8).map(move |k| SocketAddr::new(host(i), 1000 + 8 * i + k));
    (0..251).map(|i| (format!("n{i}"), addresses(i).collect())).collect()
}

/// Eight addresses of third parties.
fn targets() -> Vec<SocketAddr> {
    (1..=8).map(|number| SocketAddr::new(third_party(number), 53)).collect()
}

#[test]
fn hearsay_sends_no_packet_to_a_third_party() {
    let stage = Stage::new(101);
    let traffic = stage.traffic();
    let ((), cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        link.notice(&words::hearsay(&invented())).await;
        sleep(Duration::from_secs(60)).await;
    });
    let sent = traffic.to(is_third_party);
    println!("hearsay of 251 members: {cost}; {} third parties get packets", sent.len());
    assert_eq!(sent.len(), 0);
    cost.assert_within(Limits { log_lines: 40, ..Limits::default() });
}

#[test]
fn a_record_in_another_name_is_never_dialled() {
    let stage = Stage::new(102);
    let traffic = stage.traffic();
    let ((), cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        for name in ["entry", "relay", "ghost"] {
            let lie = words::record(name, stage.mallory.credentials(), (1 << 62, 1), &targets());
            link.notice(&lie).await;
        }
        sleep(Duration::from_secs(60)).await;
    });
    let sent = traffic.to(is_third_party);
    println!("records in other names: {cost}; {} third parties get packets", sent.len());
    assert_eq!(sent.len(), 0);
    cost.assert_within(Limits::default());
}

#[test]
fn a_members_record_that_names_third_parties_sends_them_little() {
    for leaves in [false, true] {
        let stage = Stage::new(103);
        let traffic = stage.traffic();
        let ((), cost) = stage.attack(async {
            let links = links_to_all(&stage).await;
            let own =
                words::record("mallory", stage.mallory.credentials(), (1 << 40, 1), &targets());
            for link in &links {
                link.notice(&own).await;
            }
            sleep(Duration::from_secs(1)).await;
            if leaves {
                links.iter().for_each(|link| link.conn.close(0u32.into(), b""));
            }
            sleep(Duration::from_secs(60)).await;
        });
        let sent = traffic.to(is_third_party);
        let bytes: u64 = sent.values().map(|(_, bytes)| bytes).sum();
        let packets = sent.values().map(|(packets, _)| *packets).max().unwrap_or(0);
        println!(
            "leaves {leaves}: in a minute three nodes send {bytes} bytes, {packets} packets to one address; {cost}"
        );
        // Each node: a dozen attempts, of three packets each.
        assert!(packets <= 150, "{sent:?}");
        cost.assert_within(Limits { third_party_bytes: 3 * 500_000, ..Limits::default() });
    }
}

#[test]
fn a_restart_does_not_dial_the_addresses_that_were_refused() {
    let refused: Vec<SocketAddr> = ["127.0.0.1:53", "169.254.169.254:80", "[::1]:53"]
        .map(|address| address.parse().unwrap())
        .to_vec();
    let hits = refused.clone();
    let mut stage = Stage::new(113);
    let traffic = stage.traffic();
    let ((), cost) = stage.attack_mut(async |lab, mallory| {
        let link = mallory.link_to(lab, "exit").await;
        let own = words::record("mallory", mallory.credentials(), (1 << 40, 1), &refused);
        link.notice(&own).await;
        sleep(Duration::from_secs(2)).await;
        let known = lab.node("exit").unwrap().view().written_members().1;
        assert!(known.iter().any(|record| record.name.as_str() == "mallory"), "it was not written");
        link.conn.close(0u32.into(), b"");
        lab.restart_with_members("exit").await.unwrap();
        sleep(Duration::from_secs(60)).await;
    });
    let sent = traffic.to(|address| hits.iter().any(|hit| hit.ip() == address));
    println!("a restart after refused addresses: {cost}; {} of them get packets", sent.len());
    assert_eq!(sent.len(), 0);
    cost.assert_within(Limits::default());
}

/// Links to every node of the overlay.
async fn links_to_all(stage: &Stage) -> Vec<HostileLink> {
    let mut links = Vec::new();
    for name in ["entry", "exit", "relay"] {
        links.push(stage.mallory.link_to(&stage.lab, name).await);
    }
    links
}

#[test]
fn forged_advertisements_cost_little_memory_time_and_log() {
    let stage = Stage::new(105);
    let forged: Vec<_> = (0..64)
        .map(|n| words::record("entry", stage.mallory.credentials(), (1 << 50, n), &targets()))
        .collect();
    let pick = |n: u64| forged[usize::try_from(n % 64).unwrap()].clone();
    let (said, cost) = stage.attack(flood(&stage, 20, pick));
    println!("{said} forged advertisements in 20 s: {cost}");
    cost.assert_within(Limits { log_lines: 40, ..Limits::default() });
}

#[test]
fn digests_are_answered_within_a_budget_of_bytes() {
    let stage = Stage::new(106);
    let traffic = stage.traffic();
    let (said, cost) = stage.attack(flood(&stage, 20, |_| words::empty_digest()));
    let (_, bytes) = traffic.to_host(stage.mallory.address().ip());
    println!("{said} digests in 20 s: {cost}; {bytes} bytes in answer");
    cost.assert_within(Limits { log_lines: 40, ..Limits::default() });
    // 2 MiB at once and 64 KiB a second.
    assert!(bytes < (2 << 20) + 20 * (64 << 10), "{bytes}");
}

#[test]
fn notices_that_cannot_be_read_close_the_link_and_keep_it_closed() {
    let stage = Stage::new(107);
    let (said, cost) = stage.attack(flood(&stage, 20, |_| vec![0xff; 1_000]));
    let back = stage.run(stage.mallory.try_link_to(&stage.lab, "exit"));
    println!("{said} unreadable notices in 20 s: {cost}");
    assert!(back.is_none(), "the link of a node that broke the protocol is refused for a while");
    cost.assert_within(Limits { peak: 4 << 20, log_lines: 40, ..Limits::default() });
    assert!(said < 1_000, "{said}");
}

#[test]
fn probes_without_end_are_answered_within_a_budget() {
    let stage = Stage::new(108);
    let traffic = stage.traffic();
    let ((), cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let end = Instant::now() + Duration::from_secs(20);
        crate::peer::repeat(end, Duration::from_millis(1), |n| {
            link.probe(&words::probe(u32::try_from(n).unwrap()));
        })
        .await;
    });
    let (packets, bytes) = traffic.to_host(stage.mallory.address().ip());
    println!("20,000 probes in 20 s: {cost}; {packets} packets, {bytes} bytes in answer");
    assert!(packets < 6_000, "{packets}");
    cost.assert_within(Limits { peak: 4 << 20, log_lines: 40, ..Limits::default() });
}

/// Tells these nodes a record of `whose` with the greatest version and no links.
async fn say_greatest(stage: &Stage, to: [&str; 2], (whose, own): (&str, &Credentials)) {
    let mut links = Vec::new();
    for name in to {
        let link = stage.mallory.link_to(&stage.lab, name).await;
        link.notice(&words::record(whose, own, GREATEST, &[])).await;
        links.push(link);
    }
    sleep(Duration::from_secs(2)).await;
}

#[test]
fn the_greatest_version_of_an_ex_member_does_not_shadow_the_next_holder() {
    let mut stage = Stage::new(109);
    let old = stage.lab.credentials("relay").unwrap().clone();
    let ((), cost) = stage.attack_alone(async {
        say_greatest(&stage, ["entry", "exit"], ("relay", &old)).await;
        let links = stage.node("entry").mesh().far_links();
        let told = links.iter().any(|link| link.from.as_str() == "relay");
        assert!(!told, "the record without links is the newest");
    });
    println!("the greatest version: {cost}");
    cost.assert_within(Limits::default());
    let ((), cost) = stage.attack_mut(async |lab, _| {
        lab.rekey("relay").unwrap();
        lab.restart("relay").await.unwrap();
        sleep(Duration::from_secs(30)).await;
        let at = |name| lab.topology().address(name);
        lab.internet().cut(at("entry"), at("exit"));
        sleep(Duration::from_secs(20)).await;
        support::fetch(lab.node("entry").unwrap(), 10_000).await;
    });
    println!("the next holder of the name: {cost}");
    cost.assert_within(Limits::default());
}

/// A member itself says the greatest version, under its certificate of now. That day's records are lost to it.
#[test]
fn the_greatest_version_ends_with_the_certificate_it_was_said_under() {
    // A day of certificates passes in 43 s.
    let stage = Stage::with_authority(2_000, 113);
    let own = stage.lab.credentials("entry").unwrap().clone();
    let told = || {
        let links = stage.node("relay").mesh().far_links();
        links.iter().any(|link| link.from.as_str() == "entry")
    };
    let (took, cost) = stage.attack_alone(async {
        assert!(told());
        say_greatest(&stage, ["exit", "relay"], ("entry", &own)).await;
        assert!(!told(), "the record without links is the newest");
        let began = Instant::now();
        support::wait_for("its records under the next certificate", RENEWED_WITHIN, told).await;
        began.elapsed()
    });
    println!("it is believed again after {took:?}; {cost}");
    cost.assert_within(Limits { log_lines: 200, ..Limits::default() });
}

#[test]
fn one_neighbour_alone_cannot_tell_a_node_where_it_is() {
    let stage = Stage::new(110);
    let traffic = stage.traffic();
    let ((), cost) = stage.attack(async {
        let links = links_to_all(&stage).await;
        let end = Instant::now() + Duration::from_secs(60);
        for number in 0.. {
            if Instant::now() > end {
                break;
            }
            for link in &links {
                link.notice(&words::seen(targets()[number % 8])).await;
            }
            sleep(Duration::from_millis(500)).await;
        }
    });
    println!("lies about where nodes are: {cost}");
    assert_eq!(traffic.to(is_third_party).len(), 0);
    cost.assert_within(Limits { peak: 4 << 20, log_lines: 40, ..Limits::default() });
}

/// Passes on what each node advertises to the others as nearly over, before they have it themselves.
async fn age_everything(links: &[HostileLink]) {
    let pass_on = links.iter().enumerate().map(async |(from, link)| {
        while let Some(notice) = link.heard().await {
            let Some(aged) = words::aged(&notice) else { continue };
            let others = links.iter().enumerate().filter(|(to, _)| *to != from);
            join_all(others.map(|(_, other)| other.notice(&aged))).await;
        }
    });
    join_all(pass_on).await;
}

#[test]
fn advertisements_passed_on_as_old_take_no_route_from_anybody() {
    // The entry hears of the relay from the relay, or of the exit from others only.
    for (far, other, cut) in [("relay", "exit", false), ("exit", "relay", true)] {
        let stage = Stage::new(114);
        let at = |name| stage.lab.topology().address(name);
        if cut {
            stage.lab.internet().cut(at("entry"), at("exit"));
            stage.run(async { sleep(Duration::from_secs(60)).await });
        }
        let has_route = || {
            let mut links = stage.node("entry").mesh().far_links().into_iter();
            links.any(|link| (link.from.as_str(), link.to.as_str()) == (far, other))
        };
        let (without, cost) = stage.attack_beside("entry", async {
            let links = links_to_all(&stage).await;
            let mut without = 0;
            let watching = async {
                loop {
                    sleep(Duration::from_secs(1)).await;
                    without += u32::from(!has_route());
                }
            };
            let attack = async { tokio::join!(age_everything(&links), watching) };
            // Three times as long as two advertisements may be apart.
            let _ = timeout(Duration::from_secs(180), attack).await;
            without
        });
        println!("{far} said to be old: {without} of 180 s without its advertisement; {cost}");
        assert_eq!(without, 0);
        cost.assert_within(Limits::default());
    }
}
