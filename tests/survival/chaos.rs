//! Everything at once: whatever happens to the paths and the relays, no flow is lost or corrupted.

use std::{cell::RefCell, rc::Rc, time::Duration};

use rand::{RngExt, seq::IndexedRandom};
use rand_pcg::Pcg64Mcg;
use ronproxy::{
    emulator::{Bitrate, LinkModel, Queue, Topology},
    lab::{Lab, LabNode},
    transport::Congestion::Bbr3,
};
use tokio::time::{Instant, sleep};

use crate::{
    figures::{rng, row, seeds},
    support::{self, wait_for},
    transfers::{Session, Tally},
    trouble::{Trouble, Troubles},
    watch::Watch,
};

const ENTRIES: [&str; 2] = ["alice", "bob"];

/// Sessions of each entry at once.
const SESSIONS: u64 = 3;

#[tokio::test(start_paused = true)]
async fn whatever_happens_no_flow_is_lost_or_corrupted() {
    let minutes = std::env::var("RON_CHAOS_MINUTES").ok().and_then(|text| text.parse().ok());
    let span = Duration::from_secs(60 * minutes.unwrap_or(3));
    for seed in seeds(1) {
        let replay =
            format!("replay with RON_SEED={seed} RON_CHAOS_MINUTES={}", span.as_secs() / 60);
        println!("chaos: {replay}");
        let tally = run(seed, span).await;
        let figures = format!("{tally}; longest flow stall {:?}", tally.worst);
        row(&format!("chaos of {span:?}, seed {seed}"), &figures, "nothing lost");
        assert!(tally.lost.is_empty(), "{replay}: {:#?}", tally.lost);
        assert!(tally.finished > 20, "{replay}: hardly anything was carried");
    }
}

async fn run(seed: u64, span: Duration) -> Tally {
    let watch = Watch::begin();
    let mut lab = start(seed).await;
    sleep(Duration::from_secs(5)).await;
    let tally = Rc::new(RefCell::new(Tally::default()));
    let until = Instant::now() + span;
    let tasks = tokio::task::LocalSet::new();
    for (i, entry) in ENTRIES.iter().enumerate() {
        let node = lab.node(entry).unwrap();
        for n in 0..SESSIONS {
            let rng = rng(seed << 8 | (i as u64) << 4 | n);
            let session = Session::new(rng, entry, node.dialer(), tally.clone(), until);
            tasks.spawn_local(session.run(n));
        }
    }
    tasks.run_until(make_trouble(&mut lab, rng(seed), until)).await;
    // Everything heals; what is open must come to its end.
    tokio::time::timeout(Duration::from_secs(240), tasks).await.unwrap_or_else(|_| {
        tally.borrow_mut().lost.push("a flow never ended after everything had healed".into());
    });
    wait_for("the mesh", Duration::from_secs(90), || lab.is_meshed()).await;
    check_tables(&lab, &tally);
    lab.stop().await;
    watch.check(&format!("seed {seed}"));
    Rc::into_inner(tally)
        .map_or_else(|| unreachable!("all sessions have ended"), RefCell::into_inner)
}

/// Five nodes: two entries, an exit, two relays; 20 Mbit/s everywhere.
async fn start(seed: u64) -> Lab {
    let nodes = vec![
        LabNode::new("alice", false, false),
        LabNode::new("bob", false, false),
        LabNode::new("exit", false, true),
        LabNode::new("north", true, false),
        LabNode::new("south", true, false),
    ];
    let path = |ms| {
        LinkModel::new(Duration::from_millis(ms))
            .with_jitter(Duration::from_millis(2))
            .with_rate(Bitrate::mbit(20), Queue::Time(Duration::from_millis(50)))
    };
    let mut topology = Topology::new(nodes.iter().map(|node| node.name.as_str()));
    for (a, b, ms) in [
        ("alice", "exit", 30),
        ("bob", "exit", 20),
        ("alice", "north", 15),
        ("alice", "south", 25),
        ("bob", "north", 25),
        ("bob", "south", 10),
        ("north", "exit", 25),
        ("south", "exit", 20),
        ("north", "south", 20),
        ("alice", "bob", 20),
    ] {
        topology = topology.both(a, b, path(ms));
    }
    let lab = Lab::start(topology, seed, nodes, support::services(), Bbr3).await.unwrap();
    wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    lab
}

/// Breaks and mends things until then, and mends everything at the end.
async fn make_trouble(lab: &mut Lab, mut rng: Pcg64Mcg, until: Instant) {
    let mut troubles = Troubles::new(lab);
    while Instant::now() < until {
        sleep(Duration::from_millis(rng.random_range(500..6_000))).await;
        troubles.mend_due(lab).await;
        let trouble = draw(&mut rng);
        let lasts = Duration::from_millis(rng.random_range(1_000..40_000));
        troubles.begin(lab, trouble, lasts).await;
    }
    troubles.mend_all(lab).await;
}

fn draw(rng: &mut Pcg64Mcg) -> Trouble {
    let paths = [
        ("alice", "exit"),
        ("bob", "exit"),
        ("alice", "north"),
        ("alice", "south"),
        ("bob", "north"),
        ("bob", "south"),
        ("north", "exit"),
        ("south", "exit"),
    ];
    let &(a, b) = paths.choose(rng).unwrap();
    let &relay = ["north", "south"].choose(rng).unwrap();
    match rng.random_range(0..10) {
        0..3 => Trouble::Cut(a, b),
        3 => Trouble::CutOneWay(a, b),
        4 => Trouble::CutOneWay(b, a),
        5..7 => Trouble::Loss(a, b, rng.random_range(2..50)),
        7..9 => Trouble::Crash(relay),
        _ => Trouble::Move(ENTRIES.choose(rng).unwrap()),
    }
}

/// Nothing may have grown: what is left belongs to the live lanes.
fn check_tables(lab: &Lab, tally: &Rc<RefCell<Tally>>) {
    for (name, node) in lab.nodes() {
        let (status, links) = (node.status(), node.link_facts());
        let labels: usize = links.iter().map(|link| link.labels).sum();
        let lanes = status.lanes_in + status.lanes_out;
        if status.links_up > 4 || lanes > 8 || labels > 64 {
            let what = format!("{name}: {} links, {lanes} lanes, {labels} labels", status.links_up);
            tally.borrow_mut().lost.push(what);
        }
    }
}
