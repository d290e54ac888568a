//! New flows while there is no network, and just after it is back.

use std::time::Duration;

use ronproxy::internals::{emulator, flow::RefusalKind, lab::Lab, transport::Congestion::Adaptive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};

use crate::{
    cut::triangle,
    figures::{Stalls, asserts, seeds},
    support,
    work::Arrivals,
};

/// Cuts or mends all paths of the entry.
fn network(lab: &Lab, up: bool) {
    let at = |name| lab.topology().address(name);
    for other in lab.nodes().map(|(name, _)| name).filter(|name| *name != "entry") {
        match up {
            true => lab.internet().heal(at("entry"), at(other)),
            false => lab.internet().cut(at("entry"), at(other)),
        }
    }
}

/// Types one key on a new flow.
async fn key_on_a_new_flow(lab: &Lab) {
    let mut flow = support::open(lab.node("entry").unwrap(), "echo.test:7").await;
    flow.write_all(b"k").await.unwrap();
    flow.read_exact(&mut [0]).await.unwrap();
}

async fn overlay(seed: u64) -> Lab {
    support::log();
    let lab = triangle(emulator::triangle(), seed, &Arrivals::new(), Adaptive).await;
    sleep(Duration::from_secs(5)).await;
    lab
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_waits_opens_soon_after_the_network_is_back() {
    for (away, warm) in [(8, true), (8, false), (20, false), (40, false), (75, true), (150, false)]
    {
        let mut delays = Vec::new();
        for seed in seeds(3) {
            let lab = overlay(seed).await;
            if warm {
                key_on_a_new_flow(&lab).await;
            }
            network(&lab, false);
            sleep(Duration::from_secs(away - 7)).await;
            let began = Instant::now();
            let (_, opened) = tokio::join!(
                async {
                    // Within the network's absence by another moment in each run.
                    sleep(Duration::from_millis(7000 + 137 * seed)).await;
                    network(&lab, true);
                },
                async {
                    key_on_a_new_flow(&lab).await;
                    began.elapsed()
                }
            );
            delays.push(opened - Duration::from_millis(7000 + 137 * seed));
            lab.stop().await;
        }
        let lane = if warm { "a lane" } else { "no lane" };
        let stalls = Stalls::new(delays);
        stalls.print(&format!("network away for {away} s, {lane}, a flow waits"), "500 ms");
        assert!(stalls.worst() <= Duration::from_secs(1) || !asserts());
    }
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_comes_with_the_network_opens_at_once() {
    for away in [20, 40, 100] {
        let mut delays = Vec::new();
        for seed in seeds(3) {
            let lab = overlay(seed).await;
            network(&lab, false);
            sleep(Duration::from_millis(1000 * away + 137 * seed)).await;
            network(&lab, true);
            let back = Instant::now();
            key_on_a_new_flow(&lab).await;
            delays.push(back.elapsed());
            lab.stop().await;
        }
        let stalls = Stalls::new(delays);
        stalls.print(&format!("network back after {away} s, a flow comes"), "500 ms");
        assert!(stalls.worst() <= Duration::from_secs(1) || !asserts());
    }
}

#[tokio::test(start_paused = true)]
async fn a_flow_in_the_first_moment_of_a_node_waits_for_its_first_link() {
    let mut delays = Vec::new();
    for seed in seeds(3) {
        let lab = triangle(emulator::triangle(), seed, &Arrivals::new(), Adaptive).await;
        let began = Instant::now();
        key_on_a_new_flow(&lab).await;
        delays.push(began.elapsed());
        lab.stop().await;
    }
    let stalls = Stalls::new(delays);
    stalls.print("a flow in the first moment", "500 ms");
    assert!(stalls.worst() <= Duration::from_secs(1) || !asserts());
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_after_its_time_and_does_not_begin_where_it_cannot_help() {
    let lab = overlay(1).await;
    let entry = lab.node("entry").unwrap();
    let refused = async |target: &str, exit: Option<&str>| {
        let exit = exit.map(|exit| exit.parse().unwrap());
        let request =
            ronproxy::internals::flow::FlowRequest { exit, ..support::flow_request(target) };
        let began = Instant::now();
        let refusal = entry.dialer().dial(request).await.err().unwrap();
        (refusal.kind, began.elapsed())
    };
    let soon = Duration::from_secs(1);
    let (kind, after) = refused("echo.test:7", Some("nobody")).await;
    assert!(kind == RefusalKind::NoExit && after < soon, "{kind:?} after {after:?}");
    let (kind, after) = refused("echo.test:7", Some("relay")).await;
    assert!(kind == RefusalKind::NotAnExit && after < soon, "{kind:?} after {after:?}");
    network(&lab, false);
    sleep(Duration::from_secs(40)).await;
    let (kind, after) = refused("echo.test:7", None).await;
    assert_eq!(kind, RefusalKind::ExitUnreachable);
    assert!(after >= Duration::from_secs(10) && after < Duration::from_secs(12), "{after:?}");
    lab.stop().await;
}
