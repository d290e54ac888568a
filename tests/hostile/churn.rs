//! A member whose lanes come and go, and one that tells of moves without end: what is written to the log.

use std::time::Duration;

use futures_util::future::join_all;
use ronproxy::internals::{flow::Route, wire::lane::RerouteReason};
use tokio::time::{Instant, sleep};

use crate::{meters::Limits, peer::open_flow, stage::Stage, words};

/// How long each attack lasts.
const LENGTH: Duration = Duration::from_secs(60);

/// Beside the attacker's own lines: those of other members, and of the attacker's links.
const LIMITS: Limits = Limits {
    peak: 32 << 20,
    log_lines: 150,
    cores: 1.0,
    third_party_bytes: 0,
    new_flow: Duration::from_secs(1),
};

#[test]
fn lanes_that_come_and_go_make_few_lines() {
    let stage = Stage::new(921);
    let (lanes, cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let (mut lanes, end) = (0, Instant::now() + LENGTH);
        while Instant::now() < end {
            let opening = (0..8).map(|_| stage.mallory.lane_to(&stage.lab, &link, "exit"));
            for lane in join_all(opening).await.into_iter().flatten() {
                lane.close(0_u32.into(), b"");
                lanes += 1;
            }
            sleep(Duration::from_secs(1)).await;
        }
        lanes
    });
    println!("{lanes} lanes: {cost}");
    assert!(lanes > 100, "{lanes}");
    cost.assert_within(LIMITS);
}

#[test]
fn moves_that_are_told_without_end_make_few_lines() {
    let stage = Stage::new(922);
    let (notices, cost) = stage.attack_beside("entry", async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let _other = stage.mallory.link_to(&stage.lab, "relay").await;
        let lane = stage.mallory.lane_to(&stage.lab, &link, "exit").await.unwrap();
        let _flow = open_flow(&lane, "sink.test:80").await.unwrap();
        let (mut notices, end) = (0, Instant::now() + LENGTH);
        let routes: [Route; 2] = [Route::Direct, "via relay".parse().unwrap()];
        while Instant::now() < end {
            notices += 1;
            let [mut route, mut left] = routes.clone();
            if notices % 2 == 0 {
                std::mem::swap(&mut route, &mut left);
            }
            let reason = RerouteReason::Silent { ms: 500 };
            lane.send_datagram(words::moved(notices, left, route, reason)).unwrap();
            sleep(Duration::from_millis(5)).await;
        }
        notices
    });
    println!("{notices} notices: {cost}");
    cost.assert_within(LIMITS);
}
