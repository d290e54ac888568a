//! The better path heals, or flaps.

use std::time::Duration;

use ronproxy::internals::{
    emulator,
    flow::Route,
    lab::Lab,
    transport::Congestion::{Adaptive, Cubic},
};
use tokio::time::{Instant, sleep};

use crate::{
    cut::triangle,
    figures::{Stalls, moment, rng, row, seeds},
    watch::Watch,
    work::{self, Arrivals, Work},
};

/// After an outage, the path must prove itself and the lane's distrust must pass: 20 s at first.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn flows_return_to_a_healed_path_without_a_stall() {
    for (work, congestion) in
        [(Work::Stream, Adaptive), (Work::Stream, Cubic), (Work::Keystrokes, Adaptive)]
    {
        let mut stalls = Vec::new();
        for seed in seeds(2) {
            let watch = Watch::begin();
            let arrivals = Arrivals::new();
            let lab = triangle(emulator::triangle(), seed, &arrivals, congestion).await;
            sleep(moment(&mut rng(seed), 3_000, 6_000)).await;
            let job = work::start(lab.node("entry").unwrap(), work, &arrivals).await;
            sleep(Duration::from_secs(1)).await;
            direct(&lab, false);
            sleep(moment(&mut rng(seed + 1), 4_000, 8_000)).await;
            assert_ne!(route(&lab), Route::Direct);
            direct(&lab, true);
            stalls.push(stall_until_direct(&lab, &arrivals).await);
            assert_eq!(arrivals.wrong(), None, "seed {seed}");
            job.abort();
            lab.stop().await;
            watch.check(&format!("seed {seed}"));
        }
        let stalls = Stalls::new(stalls);
        stalls.print(&format!("return to the healed path, {work:?}, {congestion:?}"), "100 ms");
        assert!(stalls.worst() <= Duration::from_millis(100), "{work:?}: {:?}", stalls.worst());
    }
}

async fn stall_until_direct(lab: &Lab, arrivals: &Arrivals) -> Duration {
    arrivals.restart();
    let healed = Instant::now();
    // The exit moves its direction on its own, and has its own reasons not to.
    let exit = || lab.node("exit").unwrap().lane_facts()[0].facts.route.clone();
    while route(lab) != Route::Direct || exit() != Route::Direct {
        assert!(healed.elapsed() < PATIENCE, "the lane never returned");
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_secs(2)).await;
    arrivals.longest()
}

#[tokio::test(start_paused = true)]
async fn a_link_that_flaps_moves_a_flow_at_most_once_a_minute() {
    for seed in seeds(1) {
        let watch = Watch::begin();
        let arrivals = Arrivals::new();
        let lab = triangle(emulator::triangle(), seed, &arrivals, Adaptive).await;
        sleep(moment(&mut rng(seed), 3_000, 6_000)).await;
        let job = work::start(lab.node("entry").unwrap(), Work::Keystrokes, &arrivals).await;
        let mut moves = Vec::new();
        for _ in 0..20 {
            let before = lab.node("entry").unwrap().lane_facts()[0].facts.reroutes;
            for _ in 0..3 {
                direct(&lab, false);
                sleep(Duration::from_secs(5)).await;
                direct(&lab, true);
                sleep(Duration::from_secs(5)).await;
            }
            let after = lab.node("entry").unwrap().lane_facts()[0].facts.reroutes;
            moves.push(after - before);
        }
        assert_eq!(arrivals.wrong(), None);
        let (first, later) = moves.split_at(6);
        let worst = later.windows(2).map(|pair| pair[0] + pair[1]).max().unwrap_or(0);
        let figures = format!("{moves:?} moves per 30 s, later at most {worst} a minute");
        row(&format!("flapping link, seed {seed}"), &figures, "1 a minute after the first few");
        let _ = first;
        // A move there and, when the link dies again under it, back: two per try.
        let mean = later.iter().sum::<u64>() as f64 / (later.len() as f64 / 2.0);
        assert!(mean <= 1.0, "{moves:?}");
        job.abort();
        lab.stop().await;
        watch.check(&format!("seed {seed}"));
    }
}

fn direct(lab: &Lab, up: bool) {
    let (a, b) = (lab.topology().address("entry"), lab.topology().address("exit"));
    if up { lab.internet().heal(a, b) } else { lab.internet().cut(a, b) }
}

fn route(lab: &Lab) -> Route {
    lab.node("entry").unwrap().lanes().lanes()[0].1.end().route()
}
