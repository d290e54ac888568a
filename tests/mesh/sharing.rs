//! The performance database: what the nodes of one site spare each other, and what becomes of them when one of
//! them is gone.

use std::time::Duration;

use ronproxy::internals::{
    emulator::{LinkModel, Topology},
    identity::NodeName,
    lab::{Lab, LabNode},
    mesh::LinkFacts,
    transport::Congestion,
};
use tokio::time::{Instant, sleep};

use crate::support;

/// Nodes of the site, and members elsewhere.
const SITE: usize = 10;
const REMOTE: usize = 10;

/// The hot start is over, everyone has measured, and told.
const SETTLE: Duration = Duration::from_secs(180);

/// The steady state is measured over this: six rare probes of each link.
const STEADY: Duration = Duration::from_secs(600);

/// IPv4 and UDP headers, which the emulator does not count.
const HEADERS: u64 = 28;

fn site(n: usize) -> String {
    format!("host{n}")
}

fn remote(n: usize) -> String {
    format!("far{n}")
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// The nodes of the site are 1 ms apart; member n elsewhere is `20 + 10·n` ms away from them.
fn topology(nodes: usize, members: usize) -> Topology {
    let names: Vec<String> = (0..nodes).map(site).chain((0..members).map(remote)).collect();
    let mut topology = Topology::new(names.iter().map(String::as_str));
    let path = |ms| LinkModel { delay: Duration::from_micros(ms * 500), ..LinkModel::default() };
    for n in 0..nodes {
        for other in n + 1..nodes {
            topology = topology.both(&site(n), &site(other), path(1));
        }
        for far in 0..members {
            topology = topology.both(&site(n), &remote(far), path(20 + 10 * far as u64));
        }
    }
    for far in 0..members {
        for other in far + 1..members {
            topology = topology.both(&remote(far), &remote(other), path(50));
        }
    }
    topology
}

/// The overlay, meshed and settled; `shares`: its site's nodes share.
async fn overlay(nodes: usize, members: usize, shares: bool) -> Lab {
    support::log();
    let plan = |n: usize| {
        let others = (0..nodes).filter(|other| *other != n && shares);
        LabNode {
            share_with: others.map(|other| name(&site(other))).collect(),
            ..LabNode::new(&site(n), true, false)
        }
    };
    let far = (0..members).map(|n| LabNode::new(&remote(n), true, true));
    let plans = (0..nodes).map(plan).chain(far).collect();
    let lab =
        Lab::start(topology(nodes, members), 5, plans, support::services(), Congestion::Adaptive);
    let lab = lab.await.unwrap();
    support::wait_for("the mesh", Duration::from_secs(60), || lab.is_meshed()).await;
    sleep(SETTLE).await;
    lab
}

/// Exchanges between the site and members elsewhere so far, whoever began them; and bytes of all kinds: between
/// the site and elsewhere, and within the site.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    exchanges: u64,
    outside: u64,
    inside: u64,
}

fn spent(lab: &Lab, nodes: usize, members: usize) -> Spent {
    let mut sum = Spent::default();
    let bytes = |a: &str, b: &str| {
        let at = |name| lab.topology().address(name);
        let link = lab.internet().counters(at(a), at(b));
        link.sent_bytes + HEADERS * link.sent
    };
    let probed = |a: &str, b: &str| {
        let probed = lab.node(a).unwrap().mesh().probed(&name(b)).unwrap();
        probed.answered + probed.lost
    };
    for host in (0..nodes).map(site) {
        for far in (0..members).map(remote) {
            sum.exchanges += probed(&host, &far) + probed(&far, &host);
            sum.outside += bytes(&host, &far) + bytes(&far, &host);
        }
        sum.inside +=
            (0..nodes).map(site).filter(|o| *o != host).map(|o| bytes(&host, &o)).sum::<u64>();
    }
    sum
}

async fn steady(nodes: usize, members: usize, shares: bool) -> Spent {
    let lab = overlay(nodes, members, shares).await;
    let before = spent(&lab, nodes, members);
    sleep(STEADY).await;
    let after = spent(&lab, nodes, members);
    lab.stop().await;
    Spent {
        exchanges: after.exchanges - before.exchanges,
        outside: after.outside - before.outside,
        inside: after.inside - before.inside,
    }
}

#[tokio::test(start_paused = true)]
async fn ten_nodes_of_a_site_probe_a_quarter_of_what_they_do_alone() {
    let alone = steady(SITE, REMOTE, false).await;
    let shared = steady(SITE, REMOTE, true).await;
    for (what, spent) in [("alone", alone), ("shared", shared)] {
        let rate = |bytes: u64| bytes as f64 / STEADY.as_secs_f64() / SITE as f64;
        println!(
            "{what}: {} exchanges with {REMOTE} members elsewhere in 10 min; each of {SITE} nodes: \
             {:.0} byte/s there and back, {:.0} byte/s within the site",
            spent.exchanges,
            rate(spent.outside),
            rate(spent.inside),
        );
    }
    assert!(shared.exchanges * 4 <= alone.exchanges);
}

/// What a node shows of its link to another.
fn facts(lab: &Lab, at: &str, of: &str) -> LinkFacts {
    lab.node(at).unwrap().mesh().facts_of_link(&name(of)).unwrap()
}

/// The nodes of the site that another one spares probing this member.
fn spared(lab: &Lab, nodes: usize, of: &str) -> Vec<String> {
    let hosts = (0..nodes).map(site).filter(|host| lab.node(host).is_some());
    hosts.filter(|host| facts(lab, host, of).shared_by.is_some()).collect()
}

fn cut(lab: &Lab, a: &str, b: &str) {
    lab.internet().cut(lab.topology().address(a), lab.topology().address(b));
}

/// Cuts what `cuts` says; until each of `watchers` knows that its link to `far0` is down.
async fn noticed(lab: &Lab, cuts: &[String], watchers: &[String]) -> Duration {
    cuts.iter().for_each(|host| cut(lab, host, "far0"));
    let start = Instant::now();
    let limit = Duration::from_secs(60);
    let known = || watchers.iter().all(|host| !facts(lab, host, "far0").up);
    support::wait_for("the news", limit, known).await;
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn one_node_measures_a_member_and_the_others_know_what_it_knows() {
    let lab = overlay(3, 2, true).await;
    for far in ["far0", "far1"] {
        let hosts = spared(&lab, 3, far);
        assert_eq!(hosts.len(), 2, "{far}: {hosts:?}");
        for host in hosts {
            let link = facts(&lab, &host, far);
            let truth = if far == "far0" { 20.0 } else { 30.0 };
            assert!(link.up && (link.rtt_ms.unwrap() - truth).abs() < 1.0, "{link:?}");
            assert!(link.shared_age_seconds.unwrap() < 75, "{link:?}");
        }
    }
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_path_that_fails_for_a_whole_site_is_noticed_by_each_node() {
    let lab = overlay(3, 2, true).await;
    let hosts: Vec<String> = (0..3).map(site).collect();
    let after = noticed(&lab, &hosts, &hosts).await;
    println!(
        "a dead path of the whole site: known to all nodes after {:.1} s",
        after.as_secs_f64()
    );
    // The node that measures it probes each 10 s, a third more or less; then the others look at once.
    assert!(after < Duration::from_secs(22), "{after:?}");
    assert!(spared(&lab, 3, "far0").is_empty());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_path_that_fails_for_one_spared_node_is_its_own_matter() {
    let mut lab = overlay(3, 2, true).await;
    let mut one = String::new();
    let mut longest = Duration::ZERO;
    // At several times since the last packet.
    for later in [0, 2, 4, 8, 14] {
        if later > 0 {
            lab.stop().await;
            lab = overlay(3, 2, true).await;
            sleep(Duration::from_secs(later)).await;
        }
        one = spared(&lab, 3, "far0").remove(0);
        let after = noticed(&lab, std::slice::from_ref(&one), std::slice::from_ref(&one)).await;
        longest = longest.max(after);
        println!("a dead path of one spared node: known to it after {:.1} s", after.as_secs_f64());
    }
    assert!(longest < Duration::from_secs(30), "{longest:?}");
    // It does not advertise what another node measures.
    sleep(Duration::from_secs(3)).await;
    let seen = lab.node("far1").unwrap().mesh().far_links();
    let link = seen.iter().find(|link| link.from == name(&one) && link.to == name("far0")).unwrap();
    assert!(!link.up, "{link:?}");
    assert!((0..3).map(site).filter(|host| *host != one).all(|host| facts(&lab, &host, "far0").up));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_measures_for_its_site_may_die_and_come_back() {
    let mut lab = overlay(3, 2, true).await;
    let hosts = spared(&lab, 3, "far0");
    let first = (0..3).map(site).find(|host| !hosts.contains(host)).unwrap();
    lab.crash(&first);
    let limit = Duration::from_secs(120);
    support::wait_for("another one", limit, || {
        let by = |host: &String| facts(&lab, host, "far0").shared_by;
        let other = |by: Option<NodeName>| by.is_none_or(|by| by != name(&first));
        spared(&lab, 3, "far0").len() == 1 && hosts.iter().map(by).all(other)
    })
    .await;
    assert!(hosts.iter().all(|host| facts(&lab, host, "far0").up));
    lab.restart(&first).await.unwrap();
    support::wait_for("the first one", Duration::from_secs(180), || {
        spared(&lab, 3, "far0") == hosts
    })
    .await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_probed_rarely_keeps_its_mapping_in_nats() {
    let lab = overlay(3, 2, true).await;
    let one = spared(&lab, 3, "far0").remove(0);
    let at = |name: &str| lab.topology().address(name);
    let sent = || lab.internet().counters(at(&one), at("far0")).sent;
    for _ in 0..20 {
        let before = sent();
        // Many NATs keep a mapping for 30 s.
        sleep(Duration::from_secs(28)).await;
        assert!(sent() > before, "no packet for 28 s");
    }
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_with_a_lane_in_use_measures_its_links_itself() {
    let lab = overlay(3, 2, true).await;
    let one = spared(&lab, 3, "far0").remove(0);
    let mut io = support::open_at(lab.node(&one).unwrap(), "echo.test:7", "far0").await;
    for _ in 0..50 {
        support::type_a_key(&mut *io).await.unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(facts(&lab, &one, "far0").shared_by, None);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_named_but_does_not_name_the_other_shares_nothing() {
    let mut lab = overlay(2, 1, true).await;
    lab.edit("host1", |node| node.share_with.clear()).unwrap();
    lab.restart("host1").await.unwrap();
    sleep(SETTLE).await;
    assert!((0..2).all(|n| facts(&lab, &site(n), "far0").shared_by.is_none()));
    assert!((0..2).all(|n| facts(&lab, &site(n), "far0").up));
    // It is told a few times, when the link stands, and then no more.
    let dropped = || {
        let drops = lab.node("host1").unwrap().mesh().links().drops().counts();
        drops.into_iter().find(|(reason, _)| *reason == "shared-not-named").unwrap().1
    };
    let before = dropped();
    sleep(SETTLE).await;
    assert!((1..=5).contains(&before) && dropped() == before, "{before}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn figures_for_the_site_count_in_the_budget() {
    // Three messages in 30 s, of 90 bytes and 17 for each of up to five members.
    for (shares, bits) in [(false, 0..=0), (true, 72..=140)] {
        let lab = overlay(4, 5, shares).await;
        for host in (0..4).map(site) {
            let (_, plan) = lab.node(&host).unwrap().mesh().budget();
            assert!(bits.contains(&plan.shared.bps()), "{host}: {plan:?}");
            let planned = lab.node(&host).unwrap().status().measuring.planned_bps;
            assert_eq!(planned, plan.probes.bps() + plan.adverts.bps() + plan.shared.bps());
        }
        lab.stop().await;
    }
}
