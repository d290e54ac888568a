//! The relayed path in use fails, and what others sent over it goes over to the next path, which then answers later than it did.

use std::time::Duration;

use ronproxy::internals::transport::Congestion;
use tokio::time::sleep;

use crate::{
    cut::{detour_is_better, triangle},
    figures::{Stalls, asserts, moment, rng, row, seeds},
    watch::Watch,
    work::{self, Arrivals, Work},
};

/// What fails of the route in use.
#[derive(Debug, Clone, Copy)]
enum Fails {
    Relay,
    NearLink,
    FarLink,
}

#[tokio::test(start_paused = true)]
async fn a_lane_moves_once_even_if_the_next_path_became_late() {
    for fails in [Fails::Relay, Fails::NearLink, Fails::FarLink] {
        for later in [0, 100, 300] {
            for work in [Work::Download, Work::Keystrokes] {
                run(fails, later, work).await;
            }
        }
    }
}

async fn run(fails: Fails, later: u64, work: Work) {
    let (mut stalls, mut moves) = (Vec::new(), 0);
    for seed in seeds(1) {
        let (stall, count) = stall(fails, Duration::from_millis(later), work, seed).await;
        stalls.push(stall);
        moves = moves.max(count);
    }
    let stalls = Stalls::new(stalls);
    let name = format!("{fails:?} fails, the next path {later} ms later each way, {work:?}");
    // Its link has to answer, and a keystroke goes there and back.
    let aim = 300 + 4 * later;
    stalls.print(&name, &format!("worst {aim} ms"));
    row(&name, &format!("{moves} moves of an end"), "1");
    let held = stalls.worst() <= Duration::from_millis(aim) && moves == 1;
    assert!(held || !asserts(), "{name}");
}

/// The longest wait after the relayed path has failed, and the moves of an end. The direct path takes so much longer from
/// then on.
async fn stall(fails: Fails, later: Duration, work: Work, seed: u64) -> (Duration, u64) {
    let watch = Watch::begin();
    let arrivals = Arrivals::new();
    let mut lab = triangle(detour_is_better(), seed, &arrivals, Congestion::default()).await;
    sleep(moment(&mut rng(seed), 3_000, 6_000)).await;
    let job = work::start(lab.node("entry").unwrap(), work, &arrivals).await;
    sleep(Duration::from_secs(2)).await;
    arrivals.restart();
    let at = |name| lab.topology().address(name);
    lab.internet().update_both(at("entry"), at("exit"), |model| model.delay += later);
    match fails {
        Fails::Relay => lab.crash("relay"),
        Fails::NearLink => lab.internet().cut(at("entry"), at("relay")),
        Fails::FarLink => lab.internet().cut(at("relay"), at("exit")),
    }
    sleep(Duration::from_secs(10)).await;
    let stall = arrivals.longest();
    let ends = ["entry", "exit"].into_iter();
    let lanes = ends.flat_map(|name| lab.node(name).unwrap().lane_facts());
    let moves = lanes.map(|lane| lane.facts.reroutes).max().unwrap_or_default();
    assert_eq!(arrivals.wrong(), None, "seed {seed}");
    job.abort();
    lab.stop().await;
    watch.check(&format!("seed {seed}"));
    (stall, moves)
}
