//! Floods of strangers that know the overlay against a node's front door, on the emulated Internet in virtual time.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]

mod support;

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use noq::{Endpoint, EndpointConfig, TokioRuntime};
use ronproxy::internals::{
    emulator,
    flow::FlowRequest,
    identity::{Clock, Fingerprint, join_crypto},
    lab::Lab,
    transport::{self, Congestion, Knock, KnockKey},
};
use support::{flow_request, triangle, wait_for};
use tokio::time::{Instant, interval, sleep};

/// 1,400 packets of 1,200 bytes a second are 13.4 Mbit/s.
const PER_TICK: usize = 14;
const TICK: Duration = Duration::from_millis(10);

/// Strangers at `count` addresses, each in a prefix of its own, that begin handshakes with `victim`
/// until the task is aborted. If they are `deaf`, their addresses are forged: no answer arrives.
fn flood(lab: &Lab, victim: SocketAddr, count: u8, deaf: bool) -> tokio::task::JoinHandle<()> {
    let authority = lab.node("exit").unwrap().credentials().identity().authority().clone();
    let fingerprint = Fingerprint::of(&authority);
    // Who does not know the overlay would get no answer.
    let knock = Knock::new(KnockKey::of_overlay(&fingerprint));
    let tls = join_crypto(fingerprint, &Clock::default()).unwrap();
    let client = transport::join_client_config(tls, knock).unwrap();
    let strangers: Vec<_> = (0..count)
        .map(|n| {
            let address = SocketAddr::from(([198, 51, n, 1], 4000));
            let (socket, runtime) = (lab.internet().attach(address), Arc::new(TokioRuntime));
            if deaf {
                lab.internet().cut_one_way(victim.ip(), address.ip());
            }
            let config = EndpointConfig::default();
            Endpoint::new_with_abstract_socket(config, None, socket, runtime).unwrap()
        })
        .collect();
    tokio::spawn(async move {
        let (mut tick, mut held) = (interval(TICK), VecDeque::new());
        for stranger in strangers.iter().cycle().enumerate() {
            let (n, stranger) = stranger;
            if n % PER_TICK == 0 {
                tick.tick().await;
            }
            let name = "exit.ronproxy.invalid";
            held.push_back(stranger.connect_with(client.clone(), victim, name).unwrap());
            if held.len() > 3_000 {
                held.pop_front();
            }
        }
    })
}

/// Opens a flow on a lane of its own.
async fn open_new_lane(lab: &Lab, hint: &str) -> Duration {
    let began = Instant::now();
    let request = FlowRequest { hint: hint.parse().ok(), ..flow_request("echo.test:80") };
    drop(lab.node("entry").unwrap().dialer().dial(request).await.unwrap());
    began.elapsed()
}

async fn lanes_and_links_go_on_while(count: u8, deaf: bool) {
    let mut lab = triangle(emulator::triangle(), 41, Congestion::Cubic).await;
    sleep(Duration::from_secs(6)).await;
    let victim = SocketAddr::new(lab.topology().address("exit"), 4600);
    let flood = flood(&lab, victim, count, deaf);
    sleep(Duration::from_secs(2)).await;
    for hint in ["latency", "loss", "throughput"] {
        let took = open_new_lane(&lab, hint).await;
        assert!(took < Duration::from_secs(1), "{hint}: {took:?}");
    }
    lab.restart("relay").await.unwrap();
    wait_for("the relay's links", Duration::from_secs(5), || lab.is_meshed()).await;
    flood.abort();
    let handshakes = lab.node("exit").unwrap().status().handshakes;
    let count = |name| handshakes.iter().find(|(other, _)| *other == name).map_or(0, |(_, n)| *n);
    assert!(count("stranger") < 400, "{handshakes:?}");
    assert!(count("retry-rate") + count("prefix-rate") > 1_000, "{handshakes:?}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_from_one_address_keeps_no_lane_and_no_member_out() {
    lanes_and_links_go_on_while(1, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_from_100_addresses_keeps_no_lane_and_no_member_out() {
    lanes_and_links_go_on_while(100, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_from_forged_addresses_keeps_no_lane_and_no_member_out() {
    lanes_and_links_go_on_while(100, true).await;
}
