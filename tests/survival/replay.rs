//! A seed decides a run to the last packet.

use std::time::Duration;

use ronproxy::internals::{emulator::LossRate, transport::Congestion::Adaptive};
use tokio::time::sleep;

use crate::{
    cut::triangle,
    watch::Watch,
    work::{self, Arrivals, Work},
};

#[test]
fn a_seed_replays_to_the_last_packet() {
    let once = alone(5);
    assert_eq!(alone(5), once);
    assert_ne!(alone(6), once);
}

/// [`run`] in a runtime of its own. (In one of several runs the order of tasks would depend on those before.)
fn alone(seed: u64) -> (u64, usize) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(run(seed))
}

/// A download while a path loses packets, is cut, and a node restarts. Returns the digest of all packets, and
/// the bytes that arrived.
async fn run(seed: u64) -> (u64, usize) {
    let watch = Watch::begin();
    let arrivals = Arrivals::new();
    let mut lab =
        triangle(ronproxy::internals::emulator::triangle(), seed, &arrivals, Adaptive).await;
    let job = work::start(lab.node("entry").unwrap(), Work::Download, &arrivals).await;
    let at = |name| lab.topology().address(name);
    let (entry, exit) = (at("entry"), at("exit"));
    lab.internet()
        .update(exit, entry, |model| *model = model.with_loss(LossRate::from_percent(2.0)));
    sleep(Duration::from_secs(2)).await;
    lab.internet().cut(entry, exit);
    sleep(Duration::from_secs(2)).await;
    lab.internet().heal(entry, exit);
    lab.restart("relay").await.unwrap();
    sleep(Duration::from_secs(4)).await;
    job.abort();
    assert_eq!(arrivals.wrong(), None);
    let digest = lab.internet().trace();
    lab.stop().await;
    watch.check("a seed replays");
    (digest, arrivals.bytes())
}
