//! Flows over whole overlays on the emulated Internet, in virtual time.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]

mod support;

use std::{sync::Arc, time::Duration};

use ronproxy::internals::{
    app::Node,
    emulator::{self, Bitrate, LinkModel, Queue, Topology},
    flow::{FlowIo, Route},
    lab::{Lab, LabNode, Service},
    transport::Congestion,
};
use support::{fetch, triangle};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

#[tokio::test(start_paused = true)]
async fn a_download_arrives_whole_over_the_direct_path() {
    let lab = triangle(emulator::triangle(), 1, Congestion::Cubic).await;
    let start = Instant::now();
    fetch(lab.node("entry").unwrap(), 5 << 20).await;
    // 5 MiB at 100 Mbit/s take 0.42 s; opening the lane and slow start take some round trips.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_download_goes_on_when_its_path_is_cut() {
    support::log();
    for congestion in [Congestion::Adaptive, Congestion::Cubic] {
        let lab = triangle(emulator::triangle(), 2, congestion).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let entry = lab.node("entry").unwrap();
        let mut io = support::open(entry, "source.test:80").await;
        support::request(&mut *io, 40 << 20).await;
        let mut at = 0;
        support::read_with_stalls(&mut *io, &mut at, 10 << 20).await;
        let (a, b) = (lab.topology().address("entry"), lab.topology().address("exit"));
        lab.internet().cut(a, b);
        let stall = support::read_with_stalls(&mut *io, &mut at, 40 << 20).await;
        eprintln!("{congestion:?}: stall {stall:?}");
        assert_eq!(at, 40 << 20);
        assert!(stall < Duration::from_secs(1), "{congestion:?}: {stall:?}");
        lab.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn flows_use_the_relay_of_a_rule_and_it_sees_only_packets() {
    let rules = "[[rule]]\nvia = 'relay'";
    let lab = support::triangle_with_rules(emulator::triangle(), 3, rules).await;
    let (entry, relay) = (lab.node("entry").unwrap(), lab.node("relay").unwrap());
    fetch(entry, 2 << 20).await;
    let lanes = entry.lane_facts();
    assert_eq!(lanes[0].facts.route.to_string(), "via relay");
    assert!(relay.status().forwarded > 1_500, "{:?}", relay.status());
    assert!(relay.status().forwarded_bytes > 1_500_000, "{:?}", relay.status());
    assert_eq!((relay.status().flows, relay.status().exit_flows), (0, 0));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_nodes_whose_direct_path_never_worked_still_communicate() {
    let topology = emulator::triangle();
    let (entry, exit) = (topology.address("entry"), topology.address("exit"));
    let lab = support::start_triangle(topology, 4, Congestion::Adaptive, "").await;
    lab.internet().cut(entry, exit);
    let meshed = || {
        let links = |name: &str| lab.node(name).unwrap().mesh().links().all().len();
        links("entry") == 1 && links("exit") == 1 && links("relay") == 2
    };
    support::wait_for("the two links", Duration::from_secs(30), meshed).await;
    // The relay's advertisement has to tell that it reaches the exit.
    tokio::time::sleep(Duration::from_secs(20)).await;
    fetch(lab.node("entry").unwrap(), 1 << 20).await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_does_not_exist_is_refused_with_the_reason() {
    let lab = triangle(emulator::triangle(), 5, Congestion::Adaptive).await;
    let refused = support::dial(lab.node("entry").unwrap(), "nowhere.test:80").await;
    let refusal = refused.err().expect("there is no such host");
    assert_eq!(refusal.kind, ronproxy::internals::flow::RefusalKind::NameNotFound);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_cannot_be_reached_is_refused_within_ten_seconds() {
    let mut lab = triangle(emulator::triangle(), 6, Congestion::Adaptive).await;
    lab.crash("exit");
    let start = Instant::now();
    let refused = support::dial(lab.node("entry").unwrap(), "source.test:80").await;
    let refusal = refused.err().expect("the exit is gone");
    assert_eq!(refusal.kind, ronproxy::internals::flow::RefusalKind::ExitUnreachable, "{refusal}");
    assert!(start.elapsed() < Duration::from_secs(31), "{:?}", start.elapsed());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_flow_on_a_warm_lane_costs_one_round_trip() {
    let lab = triangle(emulator::triangle(), 7, Congestion::Adaptive).await;
    let entry = lab.node("entry").unwrap();
    fetch(entry, 1000).await;
    // The acknowledgements of the last flow are out of the way.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    drop(support::dial(entry, "echo.test:80").await.unwrap());
    let cost = start.elapsed();
    let round_trip = Duration::from_millis(60);
    assert!((round_trip..=round_trip + Duration::from_millis(2)).contains(&cost), "{cost:?}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_drops_data_is_left_although_it_answers_probes() {
    support::log();
    // By probes, the relay's 80 ms are far better than the direct 200 ms.
    let topology = emulator::triangle();
    let slow = LinkModel { delay: Duration::from_millis(100), ..LinkModel::default() };
    let nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", false, true),
        LabNode { forwarding_limit: Some(1), ..LabNode::new("relay", true, false) },
    ];
    let topology = topology.both("entry", "exit", slow);
    let services = support::services();
    let lab = Lab::start(topology, 6, nodes, services, Congestion::Adaptive).await.unwrap();
    support::wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let entry = lab.node("entry").unwrap();
    let mut io = support::open(entry, "source.test:80").await;
    let (size, start) = (200 << 20, Instant::now());
    support::request(&mut *io, size).await;
    let (mut at, mut worst) = (0, Duration::ZERO);
    while at < size {
        let next = (at + (1 << 20)).min(size);
        worst = worst.max(support::read_with_stalls(&mut *io, &mut at, next).await);
    }
    let (took, reroutes) = (start.elapsed(), entry.lane_facts()[0].facts.reroutes);
    eprintln!("worst stall {worst:?}, {reroutes} reroutes in {took:?}");
    assert!(worst < Duration::from_millis(1500), "{worst:?}");
    assert!(reroutes <= 6, "{reroutes} reroutes in {took:?}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_flow_shows_the_reroute_around_a_cut_with_its_reason_and_its_stall() {
    let lab = triangle(emulator::triangle(), 8, Congestion::Adaptive).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let entry = lab.node("entry").unwrap();
    let mut io = support::open(entry, "source.test:80").await;
    support::request(&mut *io, 40 << 20).await;
    let mut at = 0;
    support::read_with_stalls(&mut *io, &mut at, 10 << 20).await;
    let before = entry.flow_facts().remove(0);
    assert_eq!((before.route.clone(), before.reroutes), (Some(Route::Direct), 0));
    let (a, b) = (lab.topology().address("entry"), lab.topology().address("exit"));
    lab.internet().cut(a, b);
    let stall = support::read_with_stalls(&mut *io, &mut at, 30 << 20).await;
    let after = entry.flow_facts().remove(0);
    let told = after.history.first().expect("the lane was rerouted");
    let relayed = Route::Via("relay".parse().unwrap());
    assert_eq!((after.route.as_ref(), after.reroutes), (Some(&relayed), 1), "{after:?}");
    assert_eq!((&told.from, &told.to), (&Route::Direct, &relayed));
    assert!(told.reason.contains("silent for "), "{told:?}");
    let stall_ms = stall.as_secs_f64() * 1e3;
    let measured = told.stall_ms.expect("packets came in again");
    // The application waits at least as long as the lane; a packet may then still be missing.
    assert!(measured > 60.0 && measured < 1_000.0, "{told:?}");
    assert!((measured - stall_ms).abs() < 150.0, "the application waited {stall_ms} ms: {told:?}");
    // A flow that begins now has not been rerouted.
    drop(io);
    let _late = support::open(entry, "echo.test:80").await;
    let late = entry.flow_facts().pop().unwrap();
    assert_eq!((late.target.as_str(), late.reroutes), ("echo.test:80", 0));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_flow_ends_after_a_minute_without_bytes() {
    // Takes everything, and neither answers nor closes.
    let mute: Service = Arc::new(|mut io| {
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut io, &mut tokio::io::sink()).await;
            std::future::pending::<()>().await;
        });
    });
    let nodes = vec![LabNode::new("entry", false, false), LabNode::new("exit", false, true)];
    let services = support::services().with("mute.test", mute);
    let lab = Lab::start(emulator::triangle(), 9, nodes, services, Congestion::Cubic);
    let lab = lab.await.unwrap();
    support::wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    let (entry, exit) = (lab.node("entry").unwrap(), lab.node("exit").unwrap());
    let mut closed = support::open(entry, "mute.test:80").await;
    let mut open = support::open(entry, "mute.test:80").await;
    closed.shutdown().await.unwrap();
    open.write_all(b"still here").await.unwrap();
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(exit.status().exit_flows, 2);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(exit.status().exit_flows, 1);
    assert_eq!(exit.status().ended_flows, [("half-closed".into(), 1)]);
    assert!(closed.read(&mut [0]).await.is_err(), "a cut flow is no complete one");
    lab.stop().await;
}

/// Takes nothing beyond what its pipe holds.
fn stuck() -> Service {
    Arc::new(|io| {
        tokio::spawn(async move {
            let _io = io;
            std::future::pending::<()>().await;
        });
    })
}

/// Writes to the flow until it takes no more for a second; returns how much it took.
async fn fill(io: &mut dyn FlowIo) -> usize {
    let (chunk, mut taken) = ([7; 16 * 1024], 0);
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), io.write(&chunk)).await {
        taken += written.unwrap();
    }
    taken
}

/// Uploads `bytes` and waits for the answer.
async fn upload(node: &Node, bytes: usize) -> Duration {
    upload_by(support::open(node, "sink.test:80").await, bytes).await
}

async fn upload_by(mut io: Box<dyn FlowIo>, bytes: usize) -> Duration {
    let mut at = 0;
    let start = Instant::now();
    while at < bytes {
        let part = support::pattern(at, (bytes - at).min(64 * 1024));
        io.write_all(part).await.unwrap();
        at += part.len();
    }
    io.shutdown().await.unwrap();
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, format!("{bytes}\n"));
    start.elapsed()
}

/// So many uploads of one entry to a destination that takes 256 KiB of each; then the entry itself
/// uploads `bytes` in `limit`, and another entry is as fast as before.
async fn stalled_flows_stay_within_the_budget(stalled: usize, bytes: usize, limit: Duration) {
    let path = |ms, mbit| {
        LinkModel::new(Duration::from_millis(ms))
            .with_rate(Bitrate::mbit(mbit), Queue::Time(Duration::from_millis(50)))
    };
    let names = ["mit", "utah", "exit"];
    let topology = Topology::new(names).both("mit", "exit", path(50, 120));
    let topology = topology.both("utah", "exit", path(50, 120)).both("mit", "utah", path(30, 100));
    let nodes = names.map(|name| LabNode::new(name, false, name == "exit")).to_vec();
    let services = support::services().with("stuck.test", stuck());
    let lab = Lab::start(topology, 10, nodes, services, Congestion::Cubic).await.unwrap();
    support::wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    let [mit, utah, exit] = names.map(|name| lab.node(name).unwrap());
    let alone = upload(mit, 20 << 20).await;
    let (mut held, mut taken) = (Vec::new(), 0);
    for _ in 0..stalled {
        held.push(support::open(mit, "stuck.test:80").await);
    }
    for flows in held.chunks_mut(50) {
        let filled = flows.iter_mut().map(|io| fill(&mut **io));
        taken += futures_util::future::join_all(filled).await.iter().sum::<usize>();
    }
    // The pipes are not the exit's memory: a kernel's buffers stand there otherwise.
    let unread = taken.saturating_sub(stalled * 256 * 1024);
    assert!(unread < 12 << 20, "{unread} bytes are unread");
    let (unread, unconfirmed) = exit.status().exit_windows;
    // What they cost at most, of 32 MiB.
    let cost = unread / 3 * 4 + unconfirmed / 2 * 3;
    assert!(cost <= 24 << 20, "{unread}, {unconfirmed}");
    let (own, other) = (upload(mit, bytes).await, upload(utah, 20 << 20).await);
    assert!(own < limit, "{own:?} beside {stalled} flows, {alone:?} alone");
    assert!(other < alone * 11 / 10 + Duration::from_secs(1), "{other:?}, {alone:?}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn sixty_stalled_flows_cost_their_budget_and_no_entry_stands_still() {
    stalled_flows_stay_within_the_budget(60, 20 << 20, Duration::from_secs(15)).await;
}

#[tokio::test(start_paused = true)]
async fn six_hundred_stalled_flows_cost_no_more_memory() {
    stalled_flows_stay_within_the_budget(600, 64 << 10, Duration::from_secs(15)).await;
}

#[tokio::test(start_paused = true)]
async fn unread_downloads_leave_the_lanes_other_flows_untouched() {
    let lab = triangle(emulator::triangle(), 11, Congestion::Cubic).await;
    let entry = lab.node("entry").unwrap();
    let mut unread = Vec::new();
    for _ in 0..140 {
        let mut io = support::open(entry, "source.test:80").await;
        support::request(&mut *io, 100 << 20).await;
        unread.push(io);
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let start = Instant::now();
    fetch(entry, 1 << 20).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let mut keys = support::open(entry, "echo.test:7").await;
    let start = Instant::now();
    keys.write_all(b"x").await.unwrap();
    keys.read_exact(&mut [0]).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(70), "{:?}", start.elapsed());
    lab.stop().await;
}

/// A lane may have nearly all of its entry's memory at the exit for what is not acknowledged. When it rests,
/// the next lane gets as much. What the entry was told that it may send cannot be taken back, so of
/// that each lane leaves a third to others.
#[tokio::test(start_paused = true)]
async fn one_lane_after_another_gets_its_part_of_the_exits_memory() {
    let lab = triangle(emulator::triangle(), 12, Congestion::Adaptive).await;
    let entry = lab.node("entry").unwrap();
    let open = async |target: &str, lane: u32| {
        let request = support::flow_request_in(target, lane);
        entry.dialer().dial(request).await.unwrap().into_io()
    };
    let (mut downloads, mut uploads) = (Vec::new(), Vec::new());
    for lane in 0..4 {
        let mut io = open("source.test:80", lane).await;
        let start = Instant::now();
        support::request(&mut *io, 20 << 20).await;
        support::read_with_stalls(&mut *io, &mut 0, 20 << 20).await;
        downloads.push(start.elapsed());
        drop(io);
        uploads.push(upload_by(open("sink.test:80", lane).await, 20 << 20).await);
    }
    println!("downloads {downloads:?}, uploads {uploads:?}");
    assert!(downloads.iter().all(|time| *time < downloads[0] * 5 / 4), "{downloads:?}");
    // Each lane leaves a third to the others, so the last one has 9 Mbit/s.
    assert!(uploads.iter().all(|time| *time < Duration::from_secs(20)), "{uploads:?}");
    lab.stop().await;
}

/// Each piece is a packet of its own, and QUIC ends a connection of which one stream has over 2,048 unread ones.
#[tokio::test(start_paused = true)]
async fn a_flow_that_is_never_read_keeps_its_lane() {
    const PIECES: usize = 2_500;
    let drip: Service = Arc::new(|mut io| {
        tokio::spawn(async move {
            for _ in 0..PIECES {
                io.write_all(&[7; 100]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    });
    let services = support::services().with("drip.test", drip);
    let nodes = vec![LabNode::new("entry", false, false), LabNode::new("exit", false, true)];
    let lab = Lab::start(emulator::triangle(), 12, nodes, services, Congestion::Cubic);
    let lab = lab.await.unwrap();
    support::wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    let entry = lab.node("entry").unwrap();
    let mut unread = support::open(entry, "drip.test:80").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    upload(entry, 1_000).await;
    assert_eq!(entry.lane_facts().len(), 1, "the same lane");
    let mut all = Vec::new();
    unread.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), PIECES * 100);
    lab.stop().await;
}
