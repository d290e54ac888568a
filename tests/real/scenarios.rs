//! The path or the relay in use fails in the middle of a flow.

use std::time::Duration;

use futures_util::future::join_all;
use ronproxy::internals::emulator::{Topology, Triangle};
use tokio::time::sleep;

use crate::{
    figures::{Stalls, asserts, moment, rng, seeds},
    processes::{Processes, Share, turn},
    services::Servers,
    sockets::tunnel,
    trouble::Fragile as _,
    work::{self, Arrivals, Work},
};

/// What happens under a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The direct path is cut, both directions.
    Cut,
    /// Only the packets from the entry to the exit are lost.
    CutToExit,
    /// Only the packets from the exit to the entry are lost.
    CutToEntry,
    /// One leg of the relayed path, which is the better one and in use, is cut.
    CutRelayed,
    /// The relay in use is killed.
    RelayKilled,
    /// The relay in use is killed and started again at once.
    RelayRestarted,
}

use Event::{Cut, CutRelayed, CutToEntry, CutToExit, RelayKilled, RelayRestarted};
use Work::{Download, Keystrokes, Stream, Upload};

/// The aims: median, 95 %, worst.
const BULK: &str = "300 / 600 / 1000 ms";
const PACED: &str = "250 / 600 / 1000 ms";

/// What is asserted, as the machine may be busy with other things: the median and the worst.
const MEDIAN: Duration = Duration::from_secs(1);
const WORST: Duration = Duration::from_secs(2);

/// How long a stall is waited for.
const WATCHED: Duration = Duration::from_millis(2_500);

/// A slow start that overshoots may make a lane leave its route; so often is a run begun anew.
const ATTEMPTS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn transfers_and_typing_go_on_after_a_cut() {
    run(&[(Cut, Download, 2), (Cut, Upload, 2), (Cut, Stream, 2), (Cut, Keystrokes, 2)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_one_direction_is_as_harmless_as_one_of_both() {
    run(&[(CutToExit, Download, 1), (CutToEntry, Download, 1)]).await;
    run(&[(CutToExit, Keystrokes, 1), (CutToEntry, Keystrokes, 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_go_on_when_the_relayed_path_in_use_is_cut() {
    run(&[(CutRelayed, Download, 1), (CutRelayed, Keystrokes, 2)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_strands_no_flow() {
    let events = [RelayKilled, RelayRestarted];
    let scenarios = events.map(|event| [Stream, Keystrokes].map(|work| (event, work, 1)));
    run(scenarios.as_flattened()).await;
}

/// 60 ms direct, or `direct_rtt`; 80 ms through the relay.
pub(crate) fn triangle(direct_rtt: Duration) -> Topology {
    Triangle { direct_rtt, ..Triangle::default() }.topology()
}

async fn run(scenarios: &[(Event, Work, u64)]) {
    let rows = scenarios.iter().map(async |&(event, work, runs)| {
        let stalls = join_all(seeds(runs).into_iter().map(|seed| stall(event, work, seed))).await;
        (event, work, Stalls::new(stalls))
    });
    for (event, work, stalls) in join_all(rows).await {
        let aim = if is_bulk(work) { BULK } else { PACED };
        stalls.print(&format!("processes: {event:?}, {work:?}"), aim);
        let held = stalls.percentile(50) <= MEDIAN && stalls.worst() <= WORST;
        assert!(held || !asserts(), "{event:?}, {work:?} stalls for longer than {WORST:?}");
    }
}

fn is_bulk(work: Work) -> bool {
    matches!(work, Download | Upload)
}

/// The longest wait of one flow after the event.
async fn stall(event: Event, work: Work, seed: u64) -> Duration {
    let _turn = turn(if is_bulk(work) { Share::All } else { Share::Some }).await;
    for _ in 0..ATTEMPTS {
        if let Some(stall) = attempt(event, work, seed).await {
            return stall;
        }
        println!("{event:?}, {work:?}, seed {seed}: again, as the flow had left its route before");
    }
    panic!("{event:?}, {work:?}, seed {seed}: the flow never stays on its route");
}

/// The same; nothing if the flow was no longer on the route that was to be broken.
async fn attempt(event: Event, work: Work, seed: u64) -> Option<Duration> {
    let relayed = matches!(event, CutRelayed | RelayKilled | RelayRestarted);
    let topology = triangle(Duration::from_millis(if relayed { 120 } else { 60 }));
    let mut overlay = Processes::start(topology, &["relay"], seed).await;
    let route = if relayed { "via relay" } else { "direct" };
    overlay.routes("entry", 2, route).await;
    let arrivals = Arrivals::new();
    let job = begin(&overlay, "entry", work, &arrivals).await;
    sleep(moment(&mut rng(seed), 1_000, 1_700)).await;
    if overlay.facts("entry", "lanes")[0]["route"] != route {
        return None;
    }
    arrivals.restart();
    let before = arrivals.bytes();
    happen(&mut overlay, event, seed).await;
    sleep(WATCHED).await;
    let stall = arrivals.longest();
    assert_eq!(arrivals.wrong(), None, "{event:?}, {work:?}, seed {seed}");
    assert!(arrivals.bytes() > before, "seed {seed}: nothing came through any more");
    job.abort();
    overlay.check();
    Some(stall)
}

/// Opens a flow through the proxy of `entry` and begins the work on it.
pub(crate) async fn begin(
    overlay: &Processes,
    entry: &str,
    work: Work,
    arrivals: &Arrivals,
) -> tokio::task::JoinHandle<()> {
    let servers = Servers::start(arrivals).await;
    let proxy = overlay.node(entry).proxy();
    let flow = tunnel(proxy, servers.of(work)).await.unwrap();
    flow.set_nodelay(true).unwrap();
    work::begin(Box::new(flow), work, arrivals)
}

async fn happen(overlay: &mut Processes, event: Event, seed: u64) {
    let at = |name| overlay.topology().address(name);
    let (entry, exit, relay) = (at("entry"), at("exit"), at("relay"));
    let internet = overlay.internet();
    match event {
        Cut => internet.cut(entry, exit),
        CutToExit => internet.cut_one_way(entry, exit),
        CutToEntry => internet.cut_one_way(exit, entry),
        CutRelayed if seed.is_multiple_of(2) => internet.cut(entry, relay),
        CutRelayed => internet.cut(relay, exit),
        RelayKilled => overlay.crash("relay").await,
        RelayRestarted => {
            overlay.crash("relay").await;
            overlay.restart("relay").await;
        }
    }
}
