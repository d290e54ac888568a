//! A revocation, renewals and a partition at once, with flows open.
//!
//! Certificates last 15 s here instead of 7 days, so weeks of them pass in a minute. Clocks that run fast
//! are in `tests/mesh/renewal.rs`, in virtual time. By a clock that makes a week of a minute, the 8 s for
//! which a real signer is waited for would be less than a millisecond.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    overlay::{is_rid_of, must},
    processes::{Processes, Share, turn},
    scenarios::begin,
    support::wait_for,
    trouble::{Fragile as _, five_sites},
    work::{Arrivals, Work},
};

/// The authority's setting, and that of this test. A node renews after a third of it.
const LIFETIMES: [&str; 2] = ["certificate_lifetime = \"168h\"", "certificate_lifetime = \"15s\""];

/// Longer than a certificate lasts: a node that is cut off comes back with an ended one.
const PARTITION: Duration = Duration::from_secs(20);

/// What a revocation may take to act.
const WITHIN: Duration = Duration::from_secs(5);

/// How long the machine may take for anything else.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest wait of a key of a flow that nothing happens to.
const PAUSE: Duration = Duration::from_secs(2);

fn links(overlay: &Processes, name: &str) -> u64 {
    overlay.facts(name, "status")["links_up"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_and_renewal_go_on_through_a_partition() {
    let _turn = turn(Share::All).await;
    let [usual, short] = LIFETIMES;
    let relays = ["north", "south"];
    let overlay = Processes::start_with(five_sites(), &relays, 7, &[(usual, short)]).await;
    let at = |name: &str| overlay.topology().address(name);
    let everyone = ["alice", "bob", "exit", "north", "south"];
    let meshed = || everyone.iter().all(|name| links(&overlay, name) == 4);
    wait_for("the mesh", PATIENCE, meshed).await;
    // Typing at alice, from now to the end. bob types, too, and loses its flow with its certificate.
    let (hers, his) = (Arrivals::new(), Arrivals::new());
    let typing = [
        begin(&overlay, "alice", Work::Keystrokes, &hers).await,
        begin(&overlay, "bob", Work::Keystrokes, &his).await,
    ];
    // alice reaches the authority through others only; bob reaches nobody.
    overlay.internet().cut(at("alice"), at("exit"));
    for other in everyone {
        if other != "bob" {
            overlay.internet().cut(at("bob"), at(other));
        }
    }
    let partition = Instant::now();
    hers.restart();
    must(&overlay.dir("exit"), &["revoke", "south"]);
    let revoked = Instant::now();
    for name in ["exit", "alice", "north"] {
        wait_for("the end of south", PATIENCE, || is_rid_of(&overlay.dir(name), "south")).await;
    }
    let took = revoked.elapsed();
    assert!(took < WITHIN, "{took:?}");
    println!("three nodes are rid of the revoked one after {took:?}");
    let lonely = |name: &'static str| links(&overlay, name) == 0;
    wait_for("south to be alone", PATIENCE, || lonely("south")).await;
    wait_for("bob to be alone", PATIENCE, || lonely("bob")).await;
    sleep(PARTITION.saturating_sub(partition.elapsed())).await;
    for name in ["alice", "north"] {
        let certificate = &overlay.facts(name, "status")["certificate"];
        assert!(certificate["renewals"].as_u64().unwrap() >= 3, "{name}: {certificate}");
        assert_eq!(certificate["renewal_error"], serde_json::Value::Null, "{name}");
    }
    let certificate = &overlay.facts("bob", "status")["certificate"];
    assert!(certificate["renewal_error"].is_string(), "{certificate}");
    for other in everyone {
        if other != "bob" {
            overlay.internet().heal(at("bob"), at(other));
        }
    }
    let healed = Instant::now();
    wait_for("bob's links", PATIENCE, || links(&overlay, "bob") == 3).await;
    println!("whose certificate ended in the partition is back after {:?}", healed.elapsed());
    assert!(is_rid_of(&overlay.dir("bob"), "south"));
    overlay.internet().heal(at("alice"), at("exit"));
    let renewals = |name| overlay.facts(name, "status")["certificate"]["renewals"].as_u64();
    let before = renewals("bob");
    wait_for("bob's next renewal", PATIENCE, || renewals("bob") > before).await;
    assert!(lonely("south"), "{}", overlay.facts("south", "links"));
    assert_eq!(hers.wrong(), None);
    assert!(his.wrong().is_some(), "a flow outlived its certificate");
    println!("alice's longest wait for a key: {:?}", hers.longest());
    assert!(hers.longest() < PAUSE, "{:?}", hers.longest());
    typing.iter().for_each(|job| job.abort());
    overlay.check();
}
