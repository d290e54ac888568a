use super::*;
use crate::{demo::facts::Traffic, flow::Route};

const TICK: Duration = Duration::from_millis(20);

fn world() -> Observation {
    let path = PathFact {
        condition: Condition::Whole,
        linked: true,
        rtt: Some(Duration::from_millis(10)),
        traffic: Traffic::default(),
    };
    let lane = LaneFact {
        lane: 1,
        peer: "mit".into(),
        route: Route::Direct,
        hint: "latency".into(),
        rtt: None,
        reroutes: 0,
        history: vec![],
    };
    let flow = FlowFact {
        label: "0000abcd".into(),
        target: "campus.mit.test:80".into(),
        route: None,
        reroutes: 0,
        last: None,
        sent: 0,
        received: 0,
    };
    Observation { running: [true; 4], paths: vec![path; 6], lanes: vec![lane], flows: vec![flow] }
}

fn texts(watch: &Watch) -> Vec<&str> {
    watch.snapshot().events.iter().map(|event| event.text.as_str()).collect()
}

#[test]
fn a_busy_flow_that_stands_still_is_reported_with_the_time_it_stood() {
    let start = Instant::now();
    let (mut watch, mut world, mut now) = (Watch::new(start), world(), start);
    for _ in 0..50 {
        now += TICK;
        world.flows[0].received += 20_000;
        watch.observe(now, world.clone());
    }
    let rate = watch.snapshot().flows[0].rate;
    assert!((7_900_000..8_100_000).contains(&rate), "{rate} bit/s");
    for _ in 0..20 {
        now += TICK;
        watch.observe(now, world.clone());
    }
    assert_eq!(watch.snapshot().flows[0].stalled, Some(TICK * 20));
    world.flows[0].received += 1;
    watch.observe(now + TICK, world);
    assert_eq!(watch.snapshot().flows[0].stalled, None);
    assert_eq!(texts(&watch), ["flow 0000abcd stood still for 420 ms, then went on"]);
}

#[test]
fn a_stream_that_ticks_once_a_second_never_stalls() {
    let start = Instant::now();
    let (mut watch, mut world) = (Watch::new(start), world());
    for tick in 0..500 {
        world.flows[0].received += if tick % 50 == 0 { 10 } else { 0 };
        watch.observe(start + TICK * tick, world.clone());
        assert_eq!(watch.snapshot().flows[0].stalled, None);
    }
    assert_eq!(texts(&watch), [""; 0]);
}

#[test]
fn each_event_of_the_nodes_is_told_once() {
    let start = Instant::now();
    let (mut watch, mut world) = (Watch::new(start), world());
    watch.observe(start, world.clone());
    world.paths[0].linked = false;
    world.lanes[0].route = Route::Via("utah".parse().unwrap());
    world.lanes[0].reroutes = 1;
    let change = Change {
        from: "direct".into(),
        to: "via utah".into(),
        reason: "silent for 180 ms".into(),
        stall: None,
    };
    world.lanes[0].history.push(change.clone());
    watch.observe(start + TICK, world.clone());
    watch.observe(start + TICK * 2, world.clone());
    world.lanes[0].history[0].stall = Some(Duration::from_millis(290));
    watch.observe(start + TICK * 3, world.clone());
    world.lanes[0].reroutes = 2;
    let stall = Some(Duration::from_millis(4));
    let (from, to, reason) = ("via utah".into(), "direct".into(), "a better route".into());
    world.lanes[0].history.push(Change { from, to, reason, stall });
    watch.observe(start + TICK * 4, world.clone());
    world.paths[0].linked = true;
    world.lanes.clear();
    watch.observe(start + TICK * 5, world);
    let told = [
        "link ArosNet–MIT down",
        "lane 1 REROUTED: direct → via utah (silent for 180 ms)",
        "lane 1 goes on via utah, stall 290 ms",
        "lane 1 REROUTED: via utah → direct (a better route), stall 4 ms",
        "link ArosNet–MIT up: both nodes reach each other",
        "lane 1 to mit closed",
    ];
    assert_eq!(texts(&watch), told);
}

#[test]
fn loss_is_the_share_of_the_packets_of_the_last_ten_seconds() {
    let start = Instant::now();
    let (mut watch, mut world) = (Watch::new(start), world());
    for tick in 0..1000u32 {
        let traffic = &mut world.paths[2].traffic;
        traffic.sent += 10;
        traffic.lost += if tick < 400 { 10 } else { 1 };
        watch.observe(start + TICK * tick, world.clone());
    }
    let paths = &watch.snapshot().paths;
    assert_eq!(paths[0].lost, None, "nothing was sent there");
    assert_eq!(paths[2].lost.unwrap().to_string(), "10.0 %");
    assert!(paths[0].in_use && !paths[2].in_use);
}

#[test]
fn old_events_make_room_for_new_ones() {
    let start = Instant::now();
    let mut watch = Watch::new(start);
    (0..MAX_EVENTS + 5).for_each(|n| watch.note(start, format!("event {n}")));
    assert_eq!(texts(&watch).len(), MAX_EVENTS);
    assert_eq!(texts(&watch)[0], "event 5");
}
