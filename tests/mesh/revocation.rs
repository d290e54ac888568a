//! A member is revoked while the overlay runs.

use std::time::Duration;

use ronproxy::internals::{
    emulator::{LinkModel, Topology},
    lab::{Dates, Lab, LabNode},
    transport::Congestion,
};
use tokio::time::{Instant, sleep, timeout};

use crate::support;

const NAMES: [&str; 5] = ["mit", "utah", "nyu", "cornell", "eve"];

/// What a revocation may take to act everywhere.
const WITHIN: Duration = Duration::from_secs(5);

/// Five nodes with the authority at `mit`. Relays by way of `eve` are the quickest.
pub(crate) async fn five(dates: Dates, seed: u64) -> Lab {
    let mut topology = Topology::new(NAMES);
    for (i, a) in NAMES.iter().enumerate() {
        for b in &NAMES[i + 1..] {
            let delay = if *b == "eve" { 5 } else { 25 };
            let delay = Duration::from_millis(delay);
            topology = topology.both(a, b, LinkModel { delay, ..LinkModel::default() });
        }
    }
    let nodes = NAMES.iter().map(|name| LabNode::new(name, true, true)).collect();
    let dates = Dates { authority: Some("mit".to_owned()), ..dates };
    let services = support::services();
    let lab =
        Lab::start_in(dates, topology, seed, nodes, services, Congestion::Adaptive).await.unwrap();
    support::wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    // The advertisements tell who reaches whom.
    sleep(Duration::from_secs(5)).await;
    lab
}

/// Whether nothing at `at` belongs to `eve` any more.
fn is_free_of_eve(lab: &Lab, at: &str) -> bool {
    let (node, eve) = (lab.node(at).unwrap(), "eve".parse().unwrap());
    let lanes = node.lane_facts();
    node.mesh().links().get(&eve).is_none()
        && node.mesh().facts_of_link(&eve).is_none()
        && lanes.iter().all(|lane| lane.facts.peer != eve && lane.facts.route.relay() != Some(&eve))
}

/// When each link between the nodes that stay was made.
/// The links between the others whose path is not cut: a link on a cut path ends by itself.
fn links_of_the_others(lab: &Lab) -> Vec<(String, String, Instant)> {
    let cut = |a: &str, b: &str| matches!((a, b), ("utah", "nyu") | ("nyu", "utah"));
    let others = lab.nodes().filter(|(name, _)| *name != "eve");
    let links = others.flat_map(|(name, node)| {
        let links = node.mesh().links().all().into_iter();
        links.map(move |link| (name.to_owned(), link.peer().name.to_string(), link.since()))
    });
    links.filter(|(name, peer, _)| peer != "eve" && !cut(name, peer)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_revocation_ends_what_is_the_revoked_nodes_and_nothing_else() {
    let lab = five(Dates::default(), 71).await;
    let at = |name| lab.topology().address(name);
    // Lanes between these two have to go by a relay, and the quickest is the one to be revoked.
    lab.internet().cut(at("utah"), at("nyu"));
    sleep(Duration::from_secs(10)).await;
    let [utah, nyu, eve] = ["utah", "nyu", "eve"].map(|name| lab.node(name).unwrap());
    let mut through = support::open_at(utah, "echo.test:7", "nyu").await;
    let mut beside = support::open_at(nyu, "echo.test:7", "cornell").await;
    let mut to_eve = support::open_at(utah, "echo.test:7", "eve").await;
    let mut from_eve = support::open_at(eve, "echo.test:7", "nyu").await;
    for io in [&mut through, &mut beside, &mut to_eve, &mut from_eve] {
        support::type_a_key(&mut **io).await.unwrap();
    }
    let relayed =
        |lane: &ronproxy::internals::app::LaneStatus| lane.facts.route.to_string() == "via eve";
    assert!(utah.lane_facts().iter().any(relayed), "{:?}", utah.lane_facts());
    let before = links_of_the_others(&lab);
    let start = Instant::now();
    lab.revoke("eve", "mit").unwrap();
    let all = || NAMES[..4].iter().all(|name| is_free_of_eve(&lab, name));
    support::wait_for("all to end what is eve's", WITHIN, all).await;
    assert!(timeout(WITHIN, support::type_a_key(&mut *to_eve)).await.unwrap().is_err());
    println!("a revocation acted everywhere after {:?}", start.elapsed());
    for io in [&mut through, &mut beside] {
        timeout(WITHIN, support::type_a_key(&mut **io)).await.unwrap().unwrap();
    }
    assert!(start.elapsed() < WITHIN, "{:?}", start.elapsed());
    // It knocks again and again, and nobody opens.
    sleep(Duration::from_secs(60)).await;
    assert_eq!(eve.status().links_up, 0);
    assert!(all());
    assert_eq!(links_of_the_others(&lab), before);
    support::type_a_key(&mut *through).await.unwrap();
    // Nobody tells it anything any more: its own flows end as by a cut.
    assert!(support::type_a_key(&mut *from_eve).await.is_err());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_hears_of_a_revocation_at_its_first_contact() {
    let lab = five(Dates::default(), 72).await;
    let at = |name| lab.topology().address(name);
    // Only the node that is going to be revoked still reaches this one.
    for other in ["mit", "utah", "nyu"] {
        lab.internet().cut(at("cornell"), at(other));
    }
    let cornell = lab.node("cornell").unwrap();
    let mut to_eve = support::open_at(cornell, "echo.test:7", "eve").await;
    support::type_a_key(&mut *to_eve).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    lab.revoke("eve", "mit").unwrap();
    sleep(Duration::from_secs(60)).await;
    assert!(!is_free_of_eve(&lab, "cornell"));
    support::type_a_key(&mut *to_eve).await.unwrap();
    lab.internet().heal(at("cornell"), at("nyu"));
    let linked = || cornell.mesh().links().get(&"nyu".parse().unwrap()).is_some();
    support::wait_for("the first contact", Duration::from_secs(60), linked).await;
    let start = Instant::now();
    support::wait_for("the end of eve", WITHIN, || is_free_of_eve(&lab, "cornell")).await;
    assert!(timeout(WITHIN, support::type_a_key(&mut *to_eve)).await.unwrap().is_err());
    println!("at the first contact it acted after {:?}", start.elapsed());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn forged_and_old_lists_change_nothing_and_are_counted() {
    let lab = five(Dates::default(), 73).await;
    let old = lab.node("utah").unwrap().credentials().identity().revoked().der().to_vec();
    lab.revoke("eve", "mit").unwrap();
    let nyu = lab.node("nyu").unwrap();
    let taken = || nyu.credentials().identity().revoked().len() == 1;
    support::wait_for("the list", WITHIN, taken).await;
    let number = nyu.credentials().identity().revoked().number();
    let mut forged = nyu.credentials().identity().revoked().der().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    for list in [old, forged, vec![0; 60_000]] {
        assert!(nyu.credentials().learn_revocations(&list).is_err());
    }
    assert_eq!(nyu.credentials().identity().revoked().number(), number);
    let ignored: u64 = nyu.credentials().lists_ignored().iter().map(|(_, count)| count).sum();
    assert!(ignored >= 3);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn lists_count_by_their_number_while_a_clock_is_wrong() {
    for days in [-100, 100] {
        let lab = five(Dates::default(), 75).await;
        let nyu = lab.node("nyu").unwrap().credentials();
        let old = nyu.identity().revoked().der().to_vec();
        lab.clock_of("nyu").unwrap().set_wrong_by(days * 24 * 3600);
        lab.revoke("eve", "mit").unwrap();
        let mit = lab.node("mit").unwrap().credentials().identity();
        let new = mit.revoked();
        let mut forged = new.der().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert!(nyu.learn_revocations(&forged).is_err(), "{days} days");
        // It may have come over a link that stood.
        let _ = nyu.learn_revocations(new.der());
        assert_eq!(nyu.identity().revoked().number(), new.number(), "{days} days");
        for days in [days, 0, -days] {
            lab.clock_of("nyu").unwrap().set_wrong_by(days * 24 * 3600);
            for list in [&old, &forged] {
                assert!(nyu.learn_revocations(list).is_err(), "{days} days");
            }
            assert_eq!(nyu.identity().revoked().number(), new.number(), "{days} days");
        }
        lab.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_holder_of_a_revoked_name_is_a_member_like_any_other() {
    let mut lab = five(Dates::default(), 74).await;
    lab.crash("eve");
    // Revokes the old key; the new holder brings the list along.
    lab.rekey("eve").unwrap();
    lab.restart("eve").await.unwrap();
    support::wait_for("the mesh", Duration::from_secs(20), || lab.is_meshed()).await;
    sleep(Duration::from_secs(5)).await;
    let utah = lab.node("utah").unwrap();
    let mut io = support::open_at(utah, "echo.test:7", "eve").await;
    support::type_a_key(&mut *io).await.unwrap();
    assert_eq!(utah.credentials().identity().revoked().len(), 1);
    lab.stop().await;
}
