//! Certificates are renewed while the overlay runs, and clocks are wrong.

use std::{sync::Arc, time::Duration};

use noq::{Endpoint, EndpointConfig, TokioRuntime};
use ronproxy::internals::{
    app::{self, Way},
    identity::NodeKey,
    lab::{Dates, Lab},
};
use tokio::time::{Instant, sleep};

use crate::{revocation::five, support};

const DAY: u64 = 24 * 3600;

/// Certificates live this much faster than packets do: a day passes in 43 s.
const RATE: u32 = 2000;

fn fast() -> Dates {
    Dates { rate: RATE, ..Dates::default() }
}

/// Lets so many days pass for certificates.
async fn days(days: u64) {
    sleep(Duration::from_secs(days * DAY / u64::from(RATE))).await;
}

fn renewals(lab: &Lab, name: &str) -> u64 {
    lab.node(name).unwrap().status().certificate.renewals
}

#[tokio::test(start_paused = true)]
async fn flows_and_links_outlive_three_weeks_of_certificates() {
    let lab = five(fast(), 81).await;
    let at = |name| lab.topology().address(name);
    let utah = lab.node("utah").unwrap();
    let mut io = support::open_at(utah, "echo.test:7", "nyu").await;
    support::type_a_key(&mut *io).await.unwrap();
    let links: Vec<_> = utah.mesh().links().all().iter().map(|link| link.since()).collect();
    let lane = utah.lane_facts().remove(0).facts.lane;
    // One of the ends reaches the authority through others only.
    lab.internet().cut(at("nyu"), at("mit"));
    for day in 0..21 {
        days(1).await;
        support::type_a_key(&mut *io).await.unwrap();
        // The authority is away for two days.
        for other in ["utah", "cornell", "eve"] {
            match day {
                6 => lab.internet().cut(at("mit"), at(other)),
                8 => lab.internet().heal(at("mit"), at(other)),
                _ => {}
            }
        }
    }
    for (name, node) in lab.nodes() {
        let status = node.status().certificate;
        println!("{name}: {} renewals, {} failed", status.renewals, status.renewals_failed);
        assert!(status.renewals >= 6, "{name}: {status:?}");
    }
    let others = |name: &str| name != "mit";
    let standing = utah.mesh().links().all();
    let standing = standing.iter().filter(|link| others(link.peer().name.as_str()));
    assert!(standing.clone().all(|link| links.contains(&link.since())), "a link was made anew");
    assert_eq!((standing.count(), utah.lane_facts()[0].facts.lane), (3, lane));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn links_and_lanes_end_with_a_certificate_that_nobody_renews() {
    let lab = five(fast(), 82).await;
    let at = |name| lab.topology().address(name);
    for other in ["utah", "nyu", "cornell", "eve"] {
        lab.internet().cut(at("mit"), at(other));
    }
    let utah = lab.node("utah").unwrap();
    let mut io = support::open_at(utah, "echo.test:7", "nyu").await;
    days(6).await;
    support::type_a_key(&mut *io).await.unwrap();
    let status = utah.status().certificate;
    assert!(status.renewals == 0 && status.renewal_error.is_some(), "{status:?}");
    days(2).await;
    assert!(support::type_a_key(&mut *io).await.is_err());
    assert_eq!(utah.status().links_up, 0);
    // Back, they renew by themselves over connections of their own, and mesh again.
    for other in ["utah", "nyu", "cornell", "eve"] {
        lab.internet().heal(at("mit"), at(other));
    }
    let start = Instant::now();
    // Expired nodes ask for renewal at least once a minute.
    support::wait_for("the mesh", Duration::from_secs(90), || lab.is_meshed()).await;
    println!(
        "after an outage of the authority for 8 days all is meshed after {:?}",
        start.elapsed()
    );
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_off_for_a_quarter_of_a_year_comes_back_by_itself() {
    let mut lab = five(Dates { rate: 20_000, ..Dates::default() }, 83).await;
    lab.crash("nyu");
    sleep(Duration::from_secs(90 * DAY / 20_000)).await;
    lab.restart("nyu").await.unwrap();
    let start = Instant::now();
    support::wait_for("the mesh", Duration::from_secs(20), || lab.is_meshed()).await;
    println!("a node that was off for 90 days is back after {:?}", start.elapsed());
    assert!(renewals(&lab, "nyu") >= 1);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_clock_is_named_and_the_node_works_once_it_is_set() {
    for (days_off, words) in [(40, "40 days ahead of"), (-20, "20 days behind")] {
        let mut lab = five(Dates::default(), 84).await;
        lab.crash("nyu");
        lab.clock_of("nyu").unwrap().set_wrong_by(days_off * 86_400);
        lab.restart("nyu").await.unwrap();
        let skew = || lab.node("nyu").unwrap().status().certificate.clock_ahead_seconds;
        support::wait_for("the comparison", Duration::from_secs(20), || skew().is_some()).await;
        let told = ronproxy::internals::identity::skew_in_words(skew().unwrap());
        assert_eq!(told.as_deref(), Some(words));
        lab.clock_of("nyu").unwrap().set_wrong_by(0);
        support::wait_for("the mesh", Duration::from_secs(120), || lab.is_meshed()).await;
        lab.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_difference_of_clocks_is_told_and_does_no_harm() {
    let mut lab = five(Dates::default(), 85).await;
    lab.crash("nyu");
    lab.clock_of("nyu").unwrap().set_wrong_by(-1800);
    lab.restart("nyu").await.unwrap();
    support::wait_for("the mesh", Duration::from_secs(20), || lab.is_meshed()).await;
    let ahead = lab.node("nyu").unwrap().status().certificate.clock_ahead_seconds;
    assert!(ahead.is_some_and(|ahead| (-1802..=-1798).contains(&ahead)), "{ahead:?}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_joiner_with_a_wrong_clock_is_told_so_and_keeps_its_invitation() {
    let lab = five(Dates::default(), 86).await;
    let invitation = lab.invite("laptop").unwrap();
    let endpoint = joiner(&lab);
    let clock = lab.clock().of_another_machine();
    let key = NodeKey::generate().unwrap();
    for (hours, words) in
        [(24 * 30, "30 days ahead of"), (-24 * 30, "30 days behind"), (5, "5 h ahead of")]
    {
        clock.set_wrong_by(hours * 3600);
        let refused = app::join(
            &Way { endpoint: endpoint.clone(), streams: None },
            &invitation,
            &key,
            Vec::new(),
            &clock,
        )
        .await;
        let refusal = refused.unwrap_err().to_string();
        assert!(refusal.contains(words) && refusal.contains("clock"), "{refusal}");
    }
    clock.set_wrong_by(0);
    app::join(
        &Way { endpoint: endpoint.clone(), streams: None },
        &invitation,
        &key,
        Vec::new(),
        &clock,
    )
    .await
    .unwrap();
    lab.stop().await;
}

/// The endpoint of a machine that is no member.
fn joiner(lab: &Lab) -> Endpoint {
    let address = ([203, 0, 113, 200], 4600).into();
    let (socket, _cable) = lab.internet().plug_in(address);
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false);
    Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(TokioRuntime)).unwrap()
}
