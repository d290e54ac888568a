//! What the congestion controllers make of a path with nothing beside it: the evidence for the
//! default.

use std::time::Duration;

use ronproxy::{
    emulator::{self, Loss, LossRate},
    transport::Congestion::{self, Bbr3, Cubic},
};

use crate::{
    cut::triangle,
    figures::{asserts, row, seeds},
    watch::Watch,
    work::{self, Arrivals, Work},
};

/// Slow start and the search for the path's rate are over after this.
const SETTLE: Duration = Duration::from_secs(5);

/// How long goodput is measured.
const MEASURED: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn bbr3_uses_a_path_that_loses_a_packet_in_a_hundred_and_cubic_hardly_does() {
    for percent in [0.0, 1.0, 5.0] {
        let (mut bbr3, mut cubic) = (Vec::new(), Vec::new());
        for seed in seeds(1) {
            bbr3.push(goodput(Bbr3, percent, seed).await);
            cubic.push(goodput(Cubic, percent, seed).await);
        }
        let (bbr3, cubic) = (median(bbr3), median(cubic));
        let figures = format!("BBR3 {bbr3:>5.1} Mbit/s | Cubic {cubic:>5.1} Mbit/s");
        row(&format!("{percent} % loss, 100 Mbit/s, 60 ms, no other path"), &figures, "evidence");
        if asserts() {
            assert!(percent > 1.0 || bbr3 > 50.0, "{percent} %: BBR3 {bbr3:.1} Mbit/s");
            // Beyond 2 % neither is of use.
            let decides = (0.5..2.0).contains(&percent);
            assert!(!decides || bbr3 > 3.0 * cubic, "{percent} %: {bbr3:.1}, {cubic:.1}");
        }
    }
}

fn median(mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

/// In Mbit/s, of a download on the direct path alone.
async fn goodput(congestion: Congestion, percent: f64, seed: u64) -> f64 {
    let watch = Watch::begin();
    let arrivals = Arrivals::new();
    let lab = triangle(emulator::triangle(), seed, &arrivals, congestion).await;
    let address = |name: &str| lab.topology().address(name);
    lab.internet().cut(address("entry"), address("relay"));
    for (from, to) in [("entry", "exit"), ("exit", "entry")] {
        let loss = Loss::Bernoulli(LossRate::from_percent(percent));
        lab.internet().update(address(from), address(to), |model| model.loss = loss);
    }
    tokio::time::sleep(SETTLE).await;
    let job = work::start(lab.node("entry").unwrap(), Work::Download, &arrivals).await;
    tokio::time::sleep(SETTLE).await;
    let before = arrivals.bytes();
    tokio::time::sleep(MEASURED).await;
    let got = arrivals.bytes() - before;
    assert_eq!(arrivals.wrong(), None, "seed {seed}");
    job.abort();
    lab.stop().await;
    watch.check(&format!("seed {seed}"));
    got as f64 * 8.0 / 1e6 / MEASURED.as_secs_f64()
}
