//! The path in use begins to lose packets.

use std::{net::IpAddr, time::Duration};

use ronproxy::internals::emulator::{Loss, LossRate};
use tokio::time::sleep;

use crate::{
    figures::{asserts, row, seeds},
    processes::{Processes, Share, turn},
    scenarios::{begin, triangle},
    trouble::Fragile as _,
    work::{Arrivals, Work},
};

/// How long goodput is measured.
const MEASURED: Duration = Duration::from_secs(3);

/// Slow start and the search for the path's rate are over after this.
const SETTLED: Duration = Duration::from_secs(2);

/// From the onset of loss until goodput is measured.
const ONSET: Duration = Duration::from_secs(5);

/// Percent of the clean detour's goodput. On the lossy path itself it would be 13 %.
const HOLDS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_download_leaves_a_path_that_loses_a_third() {
    for seed in seeds(1) {
        let _turn = turn(Share::All).await;
        let detour = on_the_detour(seed).await;
        let lossy = after_the_onset(seed).await;
        let percent = lossy * 100 / detour;
        let mbit = |bytes: usize| bytes * 8 / 1_000 / MEASURED.as_millis() as usize;
        let figures = format!("{percent:>3} %: {} of {} Mbit/s", mbit(lossy), mbit(detour));
        row(&format!("processes: 30 % loss, Download, seed {seed}"), &figures, "90 % from 5 s on");
        assert!(percent >= HOLDS || !asserts(), "seed {seed}: {percent} %");
    }
}

/// The bytes that arrive where the direct path is down.
async fn on_the_detour(seed: u64) -> usize {
    let overlay = start(seed).await;
    overlay.internet().cut(at(&overlay, "entry"), at(&overlay, "exit"));
    overlay.routes("entry", 1, "via relay").await;
    goodput(&overlay, async || sleep(SETTLED).await).await
}

/// The bytes that arrive from 5 s after the onset of loss on the direct path, which was in use.
async fn after_the_onset(seed: u64) -> usize {
    let overlay = start(seed).await;
    let onset = async || {
        sleep(SETTLED).await;
        if overlay.facts("entry", "lanes")[0]["route"] != "direct" {
            println!("seed {seed}: the flow had left the direct path before it lost anything");
        }
        let loss = Loss::Bernoulli(LossRate::from_percent(30.0));
        let (entry, exit) = (at(&overlay, "entry"), at(&overlay, "exit"));
        overlay.internet().update_both(entry, exit, |model| model.loss = loss);
        sleep(ONSET).await;
    };
    goodput(&overlay, onset).await
}

async fn start(seed: u64) -> Processes {
    let overlay = Processes::start(triangle(Duration::from_millis(60)), &["relay"], seed).await;
    overlay.routes("entry", 2, "direct").await;
    overlay
}

fn at(overlay: &Processes, name: &str) -> IpAddr {
    overlay.topology().address(name)
}

async fn goodput(overlay: &Processes, first: impl AsyncFnOnce()) -> usize {
    let arrivals = Arrivals::new();
    let job = begin(overlay, "entry", Work::Download, &arrivals).await;
    first().await;
    let before = arrivals.bytes();
    sleep(MEASURED).await;
    let got = arrivals.bytes() - before;
    assert_eq!(arrivals.wrong(), None);
    job.abort();
    overlay.check();
    got
}
