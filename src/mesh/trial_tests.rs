//! Connections beside a link, in virtual time.

#![expect(clippy::unwrap_used, reason = "test helpers")]

use tokio::time::{advance, sleep};

use super::*;
use crate::lab::{Lab, Services};

/// A lab, and at the entry how the exit is called and where it is.
async fn lab() -> (Lab, NodeName, SocketAddr) {
    let lab = Lab::triangle(Services::default()).await.unwrap();
    let exit = "exit".parse().unwrap();
    while !lab.is_meshed() {
        sleep(Duration::from_millis(100)).await;
    }
    let at = mesh(&lab, "entry").links.get(&exit).unwrap().real_address().unwrap();
    (lab, exit, at)
}

fn mesh(lab: &Lab, name: &str) -> Arc<Mesh> {
    lab.node(name).unwrap().mesh().clone()
}

async fn beside(mesh: &Mesh, name: &NodeName, at: SocketAddr) -> Beside {
    mesh.beside(name, Carrier::Udp, &[at]).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_trial_finds_what_the_link_finds_and_costs_little() {
    let (lab, exit, at) = lab().await;
    let entry = mesh(&lab, "entry");
    let beside = beside(&entry, &exit, at).await;
    let link = entry.links.get(&exit).unwrap();
    let trial = entry.measure_beside(&beside, &link, Carrier::Udp).await.unwrap();
    let now = Instant::now().into_std();
    let (found, known) =
        (trial.metrics(now).unwrap(), entry.routing().measured(now, &exit, false).unwrap());
    assert!(found.rtt.abs_diff(known.rtt) < Duration::from_millis(1), "{found:?} {known:?}");
    assert_eq!(found.round_trip_loss(), known.round_trip_loss());
    let stats = beside.conn.stats();
    let bytes = stats.udp_tx.bytes + stats.udp_rx.bytes;
    println!("a trial costs {bytes} bytes");
    assert!(bytes < 40_000, "{bytes}");
}

#[tokio::test(start_paused = true)]
async fn the_end_that_answers_a_whole_trial_knows_what_it_showed() {
    let (lab, exit, at) = lab().await;
    let (entry, far) = (mesh(&lab, "entry"), mesh(&lab, "exit"));
    let link = entry.links.get(&exit).unwrap();
    let found = || {
        let (mut members, now) = (far.members(), Instant::now().into_std());
        let trials = members.trials(&entry.us.name).unwrap();
        // As if the link went over a stream.
        trials.linked(now, Carrier::Tls, false);
        trials.other(now)
    };
    let cut_off = beside(&entry, &exit, at).await;
    sleep(TRIAL / 2).await;
    cut_off.conn.close(code::DONE.into(), b"");
    sleep(Duration::from_secs(1)).await;
    assert_eq!((found(), far.hosted().len()), (None, 0));
    let whole = beside(&entry, &exit, at).await;
    let trial = entry.measure_beside(&whole, &link, Carrier::Udp).await.unwrap();
    whole.conn.close(code::DONE.into(), b"");
    sleep(Duration::from_secs(1)).await;
    let (found, here) = (found().unwrap(), trial.metrics(Instant::now().into_std()).unwrap());
    assert_eq!((found.carrier, far.hosted().len()), (Carrier::Udp, 0));
    assert!(found.metrics.rtt.abs_diff(here.rtt) < Duration::from_millis(1), "{found:?} {here:?}");
    assert_eq!(found.metrics.round_trip_loss(), here.round_trip_loss());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_better_becomes_the_link_of_both_ends() {
    let (lab, exit, at) = lab().await;
    let (entry, far) = (mesh(&lab, "entry"), mesh(&lab, "exit"));
    let beside = beside(&entry, &exit, at).await;
    let before = entry.links.get(&exit).unwrap();
    let trial = entry.measure_beside(&beside, &before, Carrier::Udp).await.unwrap();
    let connection = beside.conn.stable_id();
    entry.clone().take_beside(beside, trial).await;
    sleep(Duration::from_secs(1)).await;
    let after = entry.links.get(&exit).unwrap();
    assert!(!before.is_open() && after.is_open() && !Arc::ptr_eq(&before, &after));
    assert!(far.links.get(&entry.us.name).is_some_and(|link| link.is_open()));
    assert!(entry.links.all().len() == 2 && far.hosted().is_empty(), "{connection}");
    // The path was never down, and what measured the connection goes on.
    for mesh in [&entry, &far] {
        let facts = mesh.facts();
        let link =
            facts.iter().find(|link| link.peer == exit || link.peer == entry.us.name).unwrap();
        assert!(link.up && link.since_seconds >= Some(30) && link.rtt_ms.is_some(), "{link:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_has_one_connection_beside_its_link_and_not_for_long() {
    let (lab, exit, at) = lab().await;
    let (entry, far) = (mesh(&lab, "entry"), mesh(&lab, "exit"));
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(beside(&entry, &exit, at).await);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(far.hosted().len(), 1);
        let open = held.iter().filter(|beside| beside.conn.close_reason().is_none());
        assert_eq!(open.count(), 1);
    }
    advance(HOSTED).await;
    sleep(Duration::from_secs(1)).await;
    assert!(far.hosted().is_empty());
    assert!(held.iter().all(|beside| beside.conn.close_reason().is_some()));
    assert!(entry.links.get(&exit).is_some(), "the link stays");
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_that_owes_its_revocation_list_still_counts() {
    let (lab, exit, at) = lab().await;
    let (entry, far) = (mesh(&lab, "entry"), mesh(&lab, "exit"));
    let first = beside(&entry, &exit, at).await;
    // It says that it has a newer list, and does not send it.
    let hello = Hello { revocations: u64::MAX, ..entry.hello() };
    Link::introduce(&first.conn, hello).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(far.hosted().len(), 1);
    let _second = beside(&entry, &exit, at).await;
    sleep(Duration::from_millis(500)).await;
    assert!(far.hosted().len() == 1 && first.conn.close_reason().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_newer_trial_does_not_close_what_is_about_to_be_the_link() {
    let (lab, exit, at) = lab().await;
    let (entry, far) = (mesh(&lab, "entry"), mesh(&lab, "exit"));
    let us = &entry.us.name;
    let kept = || far.hosted()[us].clone();
    let mut held = vec![beside(&entry, &exit, at).await];
    let first = kept();
    held.push(beside(&entry, &exit, at).await);
    sleep(Duration::from_millis(500)).await;
    let second = kept();
    assert!(!far.end_hosting(&first, us), "it was closed, and becomes no link");
    // From here it takes some microseconds until it is the link.
    assert!(far.end_hosting(&second, us) && !far.end_hosting(&second, us));
    held.push(beside(&entry, &exit, at).await);
    sleep(Duration::from_millis(500)).await;
    assert!(first.close_reason().is_some() && second.close_reason().is_none());
    assert_eq!(far.hosted().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_kept_does_not_move_the_neighbour() {
    let (lab, exit, _) = lab().await;
    let (entry, far) = (mesh(&lab, "entry"), mesh(&lab, "exit"));
    let to = &entry.us.name;
    let link = far.links.get(to).unwrap();
    assert!(!link.we_dialled(), "the link of the smaller name stays");
    let at = link.neighbour().address().unwrap();
    let (conn, peer) = far.connect(to, at).await.unwrap();
    let hello = link.hello().clone();
    // The address shows whether it is taken over.
    let elsewhere = ([192, 0, 2, 99], 99).into();
    far.clone().take_up(conn, peer, hello, Arrival::dialled(elsewhere));
    assert!(far.links.get(to).is_some_and(|kept| Arc::ptr_eq(&kept, &link)));
    assert_eq!(link.neighbour().address(), Some(at));
    assert!(entry.links.get(&exit).is_some());
}
