//! What rules say about lanes: over how many flows are spread, and how patient they are. Virtual time.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]

mod support;

use std::{collections::BTreeMap, time::Duration};

use ronproxy::internals::{
    app::{Steer, SteerError},
    config::Config,
    emulator::{Bitrate, LinkModel, Queue, Topology},
    events::{Event, LaneSide, Query, Record},
    flow::{FlowIo, Hint},
    identity::NodeName,
    lab::{Lab, LabNode},
    transport::Congestion,
};
use support::wait_for;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};

const NAMES: [&str; 4] = ["laptop", "exit", "nyu", "utah"];

/// 150 ms direct, 80 ms by either relay, 20 Mbit/s everywhere.
async fn two_equal_relays(seed: u64, rules: &str) -> Lab {
    let path = |ms| {
        LinkModel::new(Duration::from_millis(ms))
            .with_rate(Bitrate::mbit(20), Queue::Time(Duration::from_millis(50)))
    };
    let mut topology = Topology::new(NAMES).both("laptop", "exit", path(75));
    for relay in ["nyu", "utah"] {
        topology = topology.both("laptop", relay, path(20)).both(relay, "exit", path(20));
    }
    topology = topology.both("nyu", "utah", path(30));
    let node = |name: &&str| LabNode::new(name, ["nyu", "utah"].contains(name), *name == "exit");
    let mut nodes: Vec<LabNode> = NAMES.iter().map(node).collect();
    nodes[0].rules = Config::parse(rules).unwrap().rules;
    let services = support::services();
    let lab = Lab::start(topology, seed, nodes, services, Congestion::Adaptive).await.unwrap();
    wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    sleep(Duration::from_secs(10)).await;
    lab
}

/// How many flows take each route.
fn routes(lab: &Lab) -> BTreeMap<String, usize> {
    let mut routes = BTreeMap::new();
    for flow in lab.node("laptop").unwrap().flow_facts() {
        *routes.entry(flow.route.unwrap().to_string()).or_default() += 1;
    }
    routes
}

async fn type_a_key(io: &mut dyn FlowIo) -> std::io::Result<()> {
    io.write_all(b"x").await?;
    io.read_exact(&mut [0]).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn spread_flows_share_two_routes_and_survive_the_loss_of_one() {
    let mut lab = two_equal_relays(61, "[[rule]]\nspread = 2").await;
    let mut flows = Vec::new();
    for _ in 0..6 {
        flows.push(support::open(lab.node("laptop").unwrap(), "echo.test:7").await);
    }
    let shared = BTreeMap::from([("via nyu".to_owned(), 3), ("via utah".to_owned(), 3)]);
    assert_eq!(routes(&lab), shared);
    // For four minutes nothing happens, and nothing moves.
    sleep(Duration::from_secs(240)).await;
    assert_eq!(routes(&lab), shared);
    assert!(lab.node("laptop").unwrap().lane_facts().iter().all(|lane| lane.facts.reroutes == 0));
    lab.crash("utah");
    let start = Instant::now();
    for io in &mut flows {
        type_a_key(&mut **io).await.unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(routes(&lab), BTreeMap::from([("via nyu".to_owned(), 6)]));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_spread_downloads_are_nearly_twice_as_fast() {
    const SIZE: usize = 10 << 20;
    let mut took = Vec::new();
    for rules in ["", "[[rule]]\nspread = 2"] {
        let lab = two_equal_relays(62, rules).await;
        let (laptop, start) = (lab.node("laptop").unwrap(), Instant::now());
        tokio::join!(support::fetch(laptop, SIZE), support::fetch(laptop, SIZE));
        took.push(start.elapsed());
        lab.stop().await;
    }
    assert!(took[1] * 17 < took[0] * 10, "one lane {:?}, spread {:?}", took[0], took[1]);
}

#[tokio::test(start_paused = true)]
async fn a_rule_may_make_its_flows_more_or_less_patient() {
    let rules = "[[rule]]\nport = 7\npatience = '1h'\n[[rule]]\nport = 8\npatience = '10s'";
    let lab = two_equal_relays(63, rules).await;
    let laptop = lab.node("laptop").unwrap();
    let mut patient = support::open(laptop, "echo.test:7").await;
    let mut hasty = support::open(laptop, "echo.test:8").await;
    let mut usual = support::open(laptop, "echo.test:9").await;
    assert_eq!(laptop.lane_facts().len(), 3);
    let at = |name| lab.topology().address(name);
    for other in &NAMES[1..] {
        lab.internet().cut(at("laptop"), at(other));
    }
    // Patience is counted from the last packet that came in, a moment before the cut.
    let start = Instant::now();
    assert!(hasty.read(&mut [0]).await.is_err(), "an error, not the end of a file");
    assert!((9..=15).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!(usual.read(&mut [0]).await.is_err());
    assert!((599..=620).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    sleep(Duration::from_secs(60)).await;
    for other in &NAMES[1..] {
        lab.internet().heal(at("laptop"), at(other));
    }
    type_a_key(&mut *patient).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(690), "{:?}", start.elapsed());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_and_what_it_did_to_a_lane_are_events() {
    let lab = two_equal_relays(64, "[[rule]]\nexit = 'exit'\nhint = 'latency'").await;
    let laptop = lab.node("laptop").unwrap();
    let mut flow = support::open(laptop, "echo.test:7").await;
    type_a_key(&mut *flow).await.unwrap();
    let route = routes(&lab).into_keys().next().unwrap();
    let relay = route.strip_prefix("via ").unwrap().to_owned();
    let before = laptop.events().read(&Query::default());
    let opened = |event: &Event| matches!(event, Event::FlowOpened { target, .. } if target == "echo.test:7");
    assert!(before.events.iter().any(|record| opened(&record.event)));
    let joined = before.events.iter().filter(|r| matches!(r.event, Event::MemberJoined { .. }));
    assert_eq!(joined.count(), 3);
    lab.internet().cut(lab.topology().address("laptop"), lab.topology().address(&relay));
    type_a_key(&mut *flow).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    let query = Query { since: Some(before.next), ..Query::default() };
    let after = laptop.events().read(&query);
    let moved = after.events.iter().find_map(|record| match &record.event {
        Event::Rerouted { from, stall_ms, end: LaneSide::Entry, .. } => {
            Some((from.to_string(), stall_ms.unwrap(), record.at_ms))
        }
        _ => None,
    });
    let (from, stall_ms, _) = moved.expect("the lane was rerouted");
    assert_eq!(from, format!("via {relay}"));
    assert!((50.0..1_000.0).contains(&stall_ms), "{stall_ms}");
    let down = Event::LinkDown { peer: relay.parse().unwrap() };
    assert!(after.events.iter().any(|record| record.event == down), "{:?}", after.events);
    // The exit's end of the lane tells its own side of it.
    let at_exit = lab.node("exit").unwrap().events().read(&Query::default()).events;
    let far = |r: &Record| matches!(r.event, Event::Rerouted { end: LaneSide::Exit, .. });
    assert!(at_exit.iter().any(far), "{at_exit:?}");
    drop(flow);
    support::dial(laptop, "nobody.test:1").await.err().unwrap();
    sleep(Duration::from_secs(2)).await;
    let last = laptop.events().read(&Query { limit: Some(2), ..Query::default() }).events;
    assert!(matches!(last[0].event, Event::FlowClosed { sent: 2, received: 2, .. }), "{last:?}");
    assert!(matches!(last[1].event, Event::FlowRefused { .. }), "{last:?}");
    let totals = laptop.view().totals();
    let carried: u64 = totals.by_route().map(|(.., used)| used.received).sum();
    assert_eq!((carried, totals.refused().count()), (2, 1));
    assert!(totals.stalls().0[9] >= 1, "{totals:?}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn new_flows_keep_off_an_avoided_relay_and_open_ones_stay() {
    let lab = two_equal_relays(65, "").await;
    let laptop = lab.node("laptop").unwrap();
    let _before = support::open(laptop, "echo.test:7").await;
    let route = routes(&lab).into_keys().next().unwrap();
    let relay: NodeName = route.strip_prefix("via ").unwrap().parse().unwrap();
    let view = laptop.view();
    view.steer(vec![Steer::Avoid(relay.clone(), true)]).unwrap();
    let _after = support::open(laptop, "echo.test:7").await;
    let shared = routes(&lab);
    assert_eq!((shared.len(), shared[&route]), (2, 1), "{shared:?}");
    // All changes are made, or none.
    let unknown = Steer::Exit(Some("nobody".parse().unwrap()));
    let refused = view.steer(vec![Steer::Hint(Some(Hint::Loss)), unknown]);
    assert!(matches!(refused, Err(SteerError::Unknown(_))), "{refused:?}");
    assert_eq!(view.steering().hint, None);
    let refused = view.steer(vec![Steer::Exit(Some(relay))]);
    assert!(matches!(refused, Err(SteerError::NotAnExit(_))), "{refused:?}");
    view.steer(vec![Steer::Exit(Some("exit".parse().unwrap())), Steer::Hint(Some(Hint::Loss))])
        .unwrap();
    let steered = support::open(laptop, "echo.test:7").await;
    assert!(laptop.flow_facts().iter().any(|flow| flow.hint == Hint::Loss));
    drop(steered);
    let events = laptop.events().read(&Query::default()).events;
    let steered = events.iter().filter(|record| matches!(record.event, Event::Steered { .. }));
    assert_eq!(steered.count(), 2);
    lab.stop().await;
}
