//! A member forges the source address of its packets.

use std::{net::SocketAddr, time::Duration};

use ronproxy::internals::{app::Node, emulator, flow::FlowIo, lab::Lab, transport::Congestion};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

use crate::support;

const VICTIM: &str = "203.0.113.66:53";

/// What the node `from` sent to the victim: packets and bytes.
fn sent_to_victim(lab: &Lab, from: &str) -> (u64, u64) {
    let victim: SocketAddr = VICTIM.parse().unwrap();
    let counters = lab.internet().counters(lab.topology().address(from), victim.ip());
    (counters.sent, counters.sent_bytes)
}

/// Types a key each 20 ms for so long; gives the longest wait for an echo.
async fn type_for(io: &mut dyn FlowIo, time: Duration) -> Duration {
    let (start, mut longest) = (Instant::now(), Duration::ZERO);
    while start.elapsed() < time {
        let typed = Instant::now();
        io.write_all(b"x").await.unwrap();
        let echo = timeout(Duration::from_secs(10), io.read_exact(&mut [0])).await;
        echo.expect("no echo").unwrap();
        longest = longest.max(typed.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    longest
}

async fn seen_at(node: &Node, of: &str) -> String {
    let facts = node.mesh().facts_of_link(&of.parse().unwrap());
    facts.unwrap().address.unwrap().to_string()
}

#[tokio::test(start_paused = true)]
async fn forged_packets_divert_nothing_to_the_address_they_name() {
    for seed in 0..3 {
        // It is the larger name that waits: "entry" has dialled its links, so that QUIC lets it move.
        let lab = support::triangle(emulator::triangle(), seed, Congestion::Cubic).await;
        sleep(Duration::from_secs(5)).await;
        let (entry, exit) = (lab.node("entry").unwrap(), lab.node("exit").unwrap());
        let mut io = support::dial(entry, "echo.test:7").await.unwrap().into_io();
        let calm = type_for(&mut *io, Duration::from_secs(2)).await;
        let before = seen_at(exit, "entry").await;
        // For some packets of links, and for long enough that a probe is among them.
        let at = lab.topology().address("entry");
        lab.internet().forge_source(at, Some(VICTIM.parse().unwrap()));
        let forging = type_for(&mut *io, Duration::from_millis(1500)).await;
        lab.internet().forge_source(at, None);
        let after = type_for(&mut *io, Duration::from_secs(20)).await;
        let [by_exit, by_relay] = ["exit", "relay"].map(|node| sent_to_victim(&lab, node));
        println!(
            "seed {seed}: to the victim {by_exit:?} {by_relay:?}; waits {calm:?} {forging:?} {after:?}"
        );
        for (packets, bytes) in [by_exit, by_relay] {
            assert!(packets <= 24 && bytes <= 12_000, "{packets} packets, {bytes} bytes");
        }
        assert!(by_exit.0 + by_relay.0 > 0, "nothing was forged");
        assert!(forging.max(after) < calm + Duration::from_millis(100), "the lane paused");
        assert_eq!(seen_at(exit, "entry").await, before);
        assert!(lab.is_meshed());
        lab.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_closes_after_repeated_forgery_and_its_lanes_continue() {
    let lab = support::triangle(emulator::triangle(), 7, Congestion::Cubic).await;
    sleep(Duration::from_secs(5)).await;
    let (entry, exit) = (lab.node("entry").unwrap(), lab.node("exit").unwrap());
    let mut io = support::dial(entry, "echo.test:7").await.unwrap().into_io();
    let calm = type_for(&mut *io, Duration::from_secs(2)).await;
    let at = lab.topology().address("entry");
    lab.internet().forge_source(at, Some(VICTIM.parse().unwrap()));
    let forging = type_for(&mut *io, Duration::from_secs(20)).await;
    let [by_exit, by_relay] = ["exit", "relay"].map(|node| sent_to_victim(&lab, node));
    println!("20 s of forging: to the victim {by_exit:?} {by_relay:?}; waits {calm:?} {forging:?}");
    let dropped = exit.status().dropped_messages;
    let unanswered = dropped.iter().find(|(reason, _)| *reason == "address-unanswered");
    assert!(unanswered.is_some_and(|(_, count)| *count >= 3), "{dropped:?}");
    for (packets, bytes) in [by_exit, by_relay] {
        assert!(packets <= 200 && bytes <= 60_000, "{packets} packets, {bytes} bytes");
    }
    lab.internet().forge_source(at, None);
    support::wait_for("the links", Duration::from_secs(20), || lab.is_meshed()).await;
    lab.stop().await;
}
