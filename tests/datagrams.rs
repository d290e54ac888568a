//! Associations over whole overlays on the emulated Internet, in virtual time.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ronproxy::internals::{
    app::{Carries, FlowFacts, LiveSettings, Node},
    config::Config,
    emulator::{self, LinkModel, LossRate},
    flow::{
        Association, AssociationRequest, DatagramSink, FlowTimes, Ingress, MAX_DATAGRAM, Refusal,
        RefusalKind, Route, Target,
    },
    lab::{Lab, LabNode},
    overlay::policy::Policy,
    transport::Congestion,
};
use support::wait_for;
use tokio::time::{Instant, sleep, timeout};

/// Anything that must happen happens within this time.
const SOON: Duration = Duration::from_secs(5);

/// What an application has received.
#[derive(Default)]
struct Received(Mutex<Vec<(Instant, Target, Vec<u8>)>>);

impl DatagramSink for Received {
    fn deliver(&self, peer: &Target, payload: &[u8]) {
        self.0.lock().unwrap().push((Instant::now(), peer.clone(), payload.to_vec()));
    }

    fn refused(&self, _: &Target, _: Refusal) {}
}

impl Received {
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

fn echo() -> Target {
    "echo.test:7".parse().unwrap()
}

/// Entry, exit and relay; the exit has an echo service, one that answers 2,000 times, and a silent one.
async fn triangle(seed: u64, change: impl FnOnce(&mut Vec<LabNode>)) -> Lab {
    let mut nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", false, true),
        LabNode::new("relay", true, false),
    ];
    change(&mut nodes);
    let answer =
        |target: &Target| Target::from(std::net::SocketAddr::from(([192, 0, 2, 7], target.port)));
    let services = support::services()
        .with_datagrams(
            "echo.test",
            Arc::new(move |target, payload, back| back.deliver(&answer(target), payload)),
        )
        .with_datagrams(
            "flood.test",
            Arc::new(move |target, _, back| {
                for _ in 0..2_000 {
                    back.deliver(&answer(target), &[0; 1_200]);
                }
            }),
        )
        .with_datagrams("silent.test", Arc::new(|_, _, _| {}));
    let topology = emulator::triangle();
    let lab = Lab::start(topology, seed, nodes, services, Congestion::Adaptive).await.unwrap();
    wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    sleep(SOON).await;
    lab
}

fn associate(node: &Node) -> (Arc<dyn Association>, Arc<Received>) {
    associate_at(node, None)
}

/// An association whose client names this exit.
fn associate_at(node: &Node, exit: Option<&str>) -> (Arc<dyn Association>, Arc<Received>) {
    let request = AssociationRequest {
        hint: None,
        exit: exit.map(|name| name.parse().unwrap()),
        user: None,
        client: ([127, 0, 0, 1], 1).into(),
    };
    let received = Arc::<Received>::default();
    (node.dialer().associate(request, received.clone()), received)
}

/// An association that had one answer.
async fn answered(node: &Node) -> (Arc<dyn Association>, Arc<Received>) {
    let (association, received) = associate(node);
    association.deliver(&echo(), b"x");
    wait_for("the echo", SOON, || received.len() == 1).await;
    (association, received)
}

/// Sends again and again, as programs do, until a second answer comes.
async fn send_until_answered(association: &dyn Association, received: &Received) {
    let again = async {
        while received.len() == 1 {
            association.deliver(&echo(), b"x");
            sleep(Duration::from_millis(500)).await;
        }
    };
    timeout(Duration::from_secs(30), again).await.expect("a flow to an exit that runs");
}

/// The flow of the only association.
fn via_relay() -> Route {
    Route::Via("relay".parse().unwrap())
}

fn facts(node: &Node) -> FlowFacts {
    let flows = node.flow_facts();
    assert_eq!(flows.len(), 1, "{flows:?}");
    flows[0].clone()
}

fn dropped(node: &Node, reason: &str) -> u64 {
    let counts = node.status().dropped_datagrams;
    counts.iter().find(|(name, _)| *name == reason).map_or(0, |(_, count)| *count)
}

#[tokio::test(start_paused = true)]
async fn an_association_is_a_flow_that_its_client_ends() {
    let lab = triangle(1, |_| {}).await;
    let entry = lab.node("entry").unwrap();
    let (association, received) = associate(entry);
    for length in [5, 0, 1_200, MAX_DATAGRAM] {
        association.deliver(&echo(), &vec![7; length]);
        let before = received.len();
        wait_for("the echo", SOON, || received.len() > before).await;
        let (_, peer, payload) = received.0.lock().unwrap().last().unwrap().clone();
        assert_eq!((peer.to_string().as_str(), payload), ("192.0.2.7:7", vec![7; length]));
    }
    let flow = facts(entry);
    assert_eq!((flow.ingress, flow.target.as_str()), (Ingress::Socks5Udp, "echo.test:7"));
    let datagrams = flow.datagrams.unwrap();
    assert_eq!((datagrams.sent, datagrams.received, datagrams.lost_sent), (4, 4, 0));
    assert_eq!((flow.sent, flow.received), (3_205, 3_205));
    let lanes = entry.lane_facts();
    assert_eq!((lanes.len(), lanes[0].carries), (1, Some(Carries::Datagrams)));
    drop(association);
    wait_for("the end of the flow", SOON, || entry.flow_facts().is_empty()).await;
    let exit = lab.node("exit").unwrap();
    wait_for("the end at the exit", SOON, || exit.status().exit_flows == 0).await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_association_leaves_at_its_own_node_without_a_lane() {
    let lab = triangle(1, |nodes| nodes[0] = LabNode::new("entry", false, true)).await;
    let entry = lab.node("entry").unwrap();
    let (association, received) = associate_at(entry, Some("entry"));
    association.deliver(&echo(), b"hello");
    association.deliver(&echo(), b"again");
    wait_for("the echo", SOON, || received.len() == 2).await;
    let flow = facts(entry);
    assert_eq!((flow.exit.as_str(), flow.lane, flow.route), ("entry", None, None));
    let datagrams = flow.datagrams.unwrap();
    assert_eq!((datagrams.sent, datagrams.received), (2, 2));
    assert!(entry.lane_facts().is_empty());
    assert!(entry.view().close_flow(flow.label));
    wait_for("the end of the flow", SOON, || entry.flow_facts().is_empty()).await;
    association.deliver(&echo(), b"once more");
    wait_for("the echo", SOON, || received.len() == 3).await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_loses_datagrams_for_a_fifth_of_a_second_at_most() {
    for seed in 1..4 {
        let lab = triangle(seed, |_| {}).await;
        let entry = lab.node("entry").unwrap();
        let (association, received) = associate(entry);
        let start = Instant::now();
        // Eight seconds of a voice call: 50 datagrams a second.
        let mut sent = Vec::new();
        for number in 0..400_u32 {
            if number == 200 {
                let at = |name| lab.topology().address(name);
                lab.internet().cut(at("entry"), at("exit"));
            }
            association.deliver(&echo(), &number.to_be_bytes());
            sent.push(start.elapsed());
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_secs(1)).await;
        let got: Vec<u32> = {
            let received = received.0.lock().unwrap();
            received.iter().map(|(_, _, p)| u32::from_be_bytes(p[..].try_into().unwrap())).collect()
        };
        let missing: Vec<_> = (0..400).filter(|number| !got.contains(number)).collect();
        // Those in the air at the cut count, too: a round trip of 60 ms.
        assert!(missing.len() <= 10, "seed {seed}: {missing:?}");
        let flow = facts(entry);
        assert_eq!(flow.route, Some(via_relay()));
        assert_eq!(flow.reroutes, 1);
        let datagrams = flow.datagrams.unwrap();
        let lost = datagrams.lost_sent + datagrams.lost_received;
        assert_eq!(usize::try_from(lost).unwrap(), missing.len(), "{datagrams:?}");
        drop(association);
        lab.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn datagrams_that_the_paths_lose_are_counted_in_the_listing() {
    let lab = triangle(1, |_| {}).await;
    let entry = lab.node("entry").unwrap();
    let (association, received) = answered(entry).await;
    let at = |name| lab.topology().address(name);
    for (a, b) in [("entry", "exit"), ("entry", "relay"), ("relay", "exit")] {
        let lossy = |model: &mut LinkModel| *model = model.with_loss(LossRate::from_percent(10.0));
        lab.internet().update_both(at(a), at(b), lossy);
    }
    for _ in 0..1_000 {
        association.deliver(&echo(), b"x");
        sleep(Duration::from_millis(10)).await;
    }
    // After the last loss a datagram has to arrive, so that the gap is seen.
    sleep(Duration::from_secs(2)).await;
    let datagrams = facts(entry).datagrams.unwrap();
    let missing = 1_001 - u64::try_from(received.len()).unwrap();
    assert!((50..400).contains(&missing), "{missing}");
    assert!(datagrams.lost_sent > 0 && datagrams.lost_received > 0, "{datagrams:?}");
    let lost = datagrams.lost_sent + datagrams.lost_received;
    assert!(missing.abs_diff(lost) <= 2, "{missing} are missing: {datagrams:?}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_refuses_associations_is_told_to_the_client() {
    let refuses = |nodes: &mut Vec<LabNode>| nodes[1].refuses = Some(RefusalKind::Policy);
    let lab = triangle(1, refuses).await;
    let (association, _) = associate(lab.node("entry").unwrap());
    association.deliver(&echo(), b"x");
    let refusal = timeout(SOON, association.refusal()).await.expect("a refusal");
    assert_eq!(refusal.kind, RefusalKind::Policy);
    let events = lab.node("entry").unwrap().status();
    assert_eq!(events.dropped_datagrams, [("refused".into(), 1)]);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_refused_does_not_end_the_others() {
    let rules = "[[rule]]\ndomain = 'bad.test'\nreject = true";
    let with_rules = |nodes: &mut Vec<LabNode>| {
        nodes[0].rules = Config::parse(rules).unwrap().rules;
    };
    let lab = triangle(1, with_rules).await;
    let (entry, exit) = (lab.node("entry").unwrap(), lab.node("exit").unwrap());
    let (association, received) = associate(entry);
    for target in ["bad.test:1", "nowhere.test:1", "echo.test:7"] {
        association.deliver(&target.parse().unwrap(), b"x");
    }
    wait_for("the echo", SOON, || received.len() == 1).await;
    assert_eq!((dropped(entry, "refused"), dropped(exit, "unresolved")), (1, 1));
    // The exit's refusal is an event of the entry.
    let refused = || {
        let totals = entry.view().totals();
        format!("{totals:?}").contains("NameNotFound")
            || format!("{totals:?}").contains("name-not-found")
    };
    wait_for("the exit's refusal", SOON, refused).await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_in_either_direction_is_bounded_and_hurts_no_connection() {
    let lab = triangle(1, |_| {}).await;
    let (entry, exit) = (lab.node("entry").unwrap(), lab.node("exit").unwrap());
    let mut io = support::open(entry, "echo.test:80").await;
    let (association, received) = answered(entry).await;
    let silent: Target = "silent.test:1".parse().unwrap();
    for _ in 0..5_000 {
        association.deliver(&silent, &[0; 1_200]);
    }
    // The lane holds 512 KiB at most; more is dropped at once.
    assert!(dropped(entry, "lane-full") > 4_550, "{:?}", entry.status().dropped_datagrams);
    let start = Instant::now();
    timeout(SOON, support::type_a_key(&mut *io)).await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    association.deliver(&"flood.test:1".parse().unwrap(), b"x");
    wait_for("the exit's drops", SOON, || dropped(exit, "lane-full") > 1_500).await;
    timeout(SOON, support::type_a_key(&mut *io)).await.unwrap().unwrap();
    // What fitted arrives.
    wait_for("the rest", SOON, || received.len() > 50).await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn thousands_of_destinations_are_bounded() {
    let lab = triangle(1, |_| {}).await;
    let entry = lab.node("entry").unwrap();
    let (association, received) = answered(entry).await;
    for n in 0..5_000 {
        association.deliver(&format!("n{n}.test:1").parse().unwrap(), b"x");
    }
    assert!(dropped(entry, "too-many-destinations") > 4_500);
    sleep(Duration::from_secs(2)).await;
    association.deliver(&echo(), b"still");
    wait_for("the echo", SOON, || received.len() == 2).await;
    assert_eq!(entry.flow_facts().len(), 1);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_association_ends_and_the_next_datagram_opens_it_again() {
    let lab = triangle(1, |_| {}).await;
    let entry = lab.node("entry").unwrap();
    let (association, received) = answered(entry).await;
    sleep(Duration::from_secs(301)).await;
    wait_for("the end", SOON, || entry.flow_facts().is_empty()).await;
    assert_eq!(lab.node("exit").unwrap().status().ended_flows, [("idle".into(), 1)]);
    association.deliver(&echo(), b"x");
    wait_for("the echo", SOON, || received.len() == 2).await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_restarts_carries_the_association_again() {
    for crashes in [false, true] {
        let mut lab = triangle(1, |_| {}).await;
        let (association, received) = answered(lab.node("entry").unwrap()).await;
        if crashes {
            lab.crash("exit");
        }
        lab.restart("exit").await.unwrap();
        send_until_answered(&*association, &received).await;
        let entry = lab.node("entry").unwrap();
        wait_for("the end of the old flow", SOON, || entry.flow_facts().len() == 1).await;
        lab.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_is_gone_loses_its_associations_to_another_one() {
    let mut lab = triangle(1, |nodes| nodes[2] = LabNode::new("relay", true, true)).await;
    let (association, received) = answered(lab.node("entry").unwrap()).await;
    let first = facts(lab.node("entry").unwrap()).exit;
    lab.crash(first.as_str());
    let start = Instant::now();
    send_until_answered(&*association, &received).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let entry = lab.node("entry").unwrap();
    assert!(entry.flow_facts().iter().any(|flow| flow.exit != first));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn other_rules_choose_again_for_an_open_association() {
    let lab = triangle(1, |_| {}).await;
    let entry = lab.node("entry").unwrap();
    let (association, received) = answered(entry).await;
    let reload = |rules: &str| {
        entry.view().reload(LiveSettings {
            rules: Config::parse(rules).unwrap().rules,
            policy: Policy::default(),
            flow: FlowTimes::default(),
            advertise: Vec::new(),
            users: Vec::new(),
        });
    };
    reload("[[rule]]\ndomain = 'echo.test'\nreject = true");
    association.deliver(&echo(), b"x");
    sleep(SOON).await;
    assert_eq!((received.len(), dropped(entry, "refused")), (1, 1));
    reload("");
    association.deliver(&echo(), b"x");
    wait_for("the echo", SOON, || received.len() == 2).await;
    assert_eq!(entry.flow_facts().len(), 1, "the same flow");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_associations_share_one_lane_and_leave_nothing() {
    let lab = triangle(1, |_| {}).await;
    let (entry, exit) = (lab.node("entry").unwrap(), lab.node("exit").unwrap());
    let opened: Vec<_> = (0..1_000).map(|_| associate(entry)).collect();
    for (association, _) in &opened {
        association.deliver(&echo(), b"x");
    }
    let answered = || opened.iter().all(|(_, received)| received.len() == 1);
    wait_for("every echo", Duration::from_secs(20), answered).await;
    assert_eq!((entry.flow_facts().len(), entry.lane_facts().len()), (1_000, 1));
    drop(opened);
    wait_for("the end of the flows", SOON, || entry.flow_facts().is_empty()).await;
    wait_for("the end at the exit", SOON, || exit.status().exit_flows == 0).await;
    lab.stop().await;
}

/// Sends `count` datagrams of 1,200 bytes at 50 Mbit/s, 16 at a time as a pacing sender does.
async fn send_fifty_megabits(association: &dyn Association, count: u32) {
    let start = Instant::now();
    for sent in 0..count {
        if sent % 16 == 0 {
            let due = Duration::from_secs_f64(f64::from(sent) * 1_200.0 * 8.0 / 50e6);
            sleep(due.saturating_sub(start.elapsed())).await;
        }
        association.deliver(&echo(), &[7; 1_200]);
    }
    // The last ones come back.
    sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn fifty_megabits_a_second_lose_nothing_of_their_own() {
    let lab = triangle(1, |_| {}).await;
    let entry = lab.node("entry").unwrap();
    let (association, received) = associate(entry);
    // As iperf3 does, it waits for an answer first. The lane is new then, and does not know the rate of its route.
    association.deliver(&echo(), b"connect");
    wait_for("the first answer", SOON, || received.len() == 1).await;
    send_fifty_megabits(&*association, 26_000).await;
    let lost = 26_001 - received.len();
    assert!(lost < 26, "{lost}, {:?}", entry.status().dropped_datagrams);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_costs_a_fast_sender_a_fifth_of_a_second_too() {
    let lab = triangle(1, |_| {}).await;
    let entry = lab.node("entry").unwrap();
    let (association, received) = associate(entry);
    send_fifty_megabits(&*association, 5_208).await;
    send_fifty_megabits(&*association, 10_416).await;
    let before = received.len();
    let at = |name| lab.topology().address(name);
    let cut = async {
        sleep(Duration::from_secs(1)).await;
        lab.internet().cut(at("entry"), at("exit"));
    };
    tokio::join!(cut, send_fifty_megabits(&*association, 15_624));
    let lost = 15_624 - (received.len() - before);
    assert_eq!(facts(entry).route, Some(via_relay()));
    // What is lost on the way there and back, and what has no room at the entry.
    assert!(lost <= 5_208 / 5, "{lost}");
    lab.stop().await;
}
