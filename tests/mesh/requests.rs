//! Members that ask for lanes and labels in other nodes' names, too often, or of the wrong nodes.

use std::time::Duration;

use ronproxy::internals::{
    app::Node,
    config::Config,
    emulator::{LinkModel, Topology},
    flow::{Route, RouteWish},
    lab::{Lab, LabNode},
    link::LinkError,
    overlay::policy::Policy,
    transport::Congestion,
    wire::{
        label::{Label, push_labelled},
        link::{
            ForwardRequest, LaneAsker, LaneRequest, LinkRefusal, OpenLane, Reply, Request,
            RequestFault, SignedLaneRequest,
        },
    },
};
use tokio::time::{Instant, sleep};

use crate::support;

const NAMES: [&str; 6] = ["eve", "exit", "nyu", "plain", "research", "utah"];

/// The relays carry research only, if `policy` says so.
async fn lab(policy: &str) -> Lab {
    let model = LinkModel { delay: Duration::from_millis(20), ..LinkModel::default() };
    let mut topology = Topology::new(NAMES);
    for (i, a) in NAMES.iter().enumerate() {
        for b in &NAMES[i + 1..] {
            topology = topology.both(a, b, model);
        }
    }
    let policy: Policy = Config::parse(policy).unwrap().policy;
    let node = |name: &str| match name {
        // A hostile member with every role and no group.
        "eve" => LabNode::new(name, true, true),
        "exit" => LabNode::new(name, false, true),
        "research" => {
            LabNode { groups: vec!["research".into()], ..LabNode::new(name, false, false) }
        }
        "plain" => LabNode::new(name, false, false),
        _ => LabNode { policy: policy.clone(), ..LabNode::new(name, true, false) },
    };
    let nodes = NAMES.iter().map(|name| node(name)).collect();
    let lab = Lab::start(topology, 1, nodes, support::services(), Congestion::Cubic).await.unwrap();
    support::wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    sleep(Duration::from_secs(5)).await;
    lab
}

fn request(by: &Node, entry: &str, exit: &str, low: u64) -> LaneRequest {
    let exit = exit.parse().unwrap();
    LaneRequest {
        entry: entry.parse().unwrap(),
        incarnation: by.mesh().links().incarnation(&exit).unwrap_or(0),
        exit,
        issued: by.credentials().now().as_secs() << 20 | low,
        open: OpenLane { reply_label: Label(77), route: Route::Direct, wish: RouteWish::default() },
    }
}

fn signed(by: &Node, request: LaneRequest) -> SignedLaneRequest {
    let signature = by.credentials().sign(&request.statement()).unwrap();
    SignedLaneRequest { request, signature }
}

/// What `to` refuses when `from` asks.
async fn refusal(from: &Node, to: &str, request: Request) -> Option<LinkRefusal> {
    match from.mesh().links().request(&to.parse().unwrap(), &request).await {
        Ok(_) => None,
        Err(LinkError::Refused(refusal)) => Some(refusal),
        Err(error) => panic!("{to} does not answer: {error}"),
    }
}

/// A flow through the exit works.
async fn use_exit(node: &Node) {
    let mut io = support::open_at(node, "echo.test:7", "exit").await;
    support::type_a_key(&mut *io).await.unwrap();
}

fn unproved(fault: RequestFault) -> Option<LinkRefusal> {
    Some(LinkRefusal::Unproved(fault))
}

#[tokio::test(start_paused = true)]
async fn forged_requests_are_refused_and_cost_the_named_member_nothing() {
    let lab = lab("").await;
    let [eve, exit, research] = ["eve", "exit", "research"].map(|name| lab.node(name).unwrap());
    let certificate = |of: &Node| of.credentials().certificate().to_vec();
    let (mut refused, start) = (Vec::new(), Instant::now());
    for low in 0..200 {
        let forged = signed(eve, request(eve, "research", "exit", low));
        // With the victim's certificate, with its own, with none.
        let certificate = match low % 3 {
            0 => certificate(research),
            1 => certificate(eve),
            _ => Vec::new(),
        };
        let passed_on = Request::PassedOn { request: forged, certificate };
        match eve.mesh().links().request(&"exit".parse().unwrap(), &passed_on).await {
            Err(LinkError::Refused(refusal)) => refused.push(refusal),
            // The exit has had enough of it.
            Err(_) => break,
            Ok(reply) => panic!("{reply:?}"),
        }
    }
    let of = |fault| refused.iter().filter(|r| **r == LinkRefusal::Unproved(fault)).count();
    let judged = of(RequestFault::Signature) + of(RequestFault::Certificate);
    // 32 at once and 4 a second may be passed on.
    let most = 33 + 4 * usize::try_from(start.elapsed().as_millis()).unwrap() / 1000;
    assert!((10..=most).contains(&judged), "{judged} were checked, {most} are allowed");
    assert_eq!(judged + of(RequestFault::TooFast), refused.len());
    assert!(exit.lane_facts().is_empty(), "the exit holds a lane");
    use_exit(research).await;
    // Nor over a relay that looks at the signature.
    let forged = signed(eve, request(eve, "research", "exit", 1));
    let passed = refusal(eve, "nyu", Request::PassOn(forged)).await;
    assert_eq!(passed, unproved(RequestFault::OtherLane));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_members_requests_over_a_relay_delay_nobody_elses() {
    let lab = lab("").await;
    let [eve, plain] = ["eve", "plain"].map(|name| lab.node(name).unwrap());
    let pass_on = |by: &Node, low| {
        let own = by.credentials().peer().name.to_string();
        Request::PassOn(signed(by, request(by, &own, "exit", low)))
    };
    let (start, mut answered) = (Instant::now(), 0);
    for low in 0..600 {
        let refused = refusal(eve, "nyu", pass_on(eve, low)).await;
        answered += usize::from(refused != unproved(RequestFault::TooFast));
        if low % 100 == 99 {
            assert_eq!(refusal(plain, "nyu", pass_on(plain, low)).await, None, "at {low}");
        }
    }
    let most = 33 + 4 * usize::try_from(start.elapsed().as_millis()).unwrap() / 1000;
    assert!(start.elapsed() > Duration::from_secs(10), "the attack lasts {:?}", start.elapsed());
    assert!((33..=most).contains(&answered), "{answered} were answered, {most} are allowed");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_seen_before_is_no_fault_of_the_relay_that_brings_it() {
    let lab = lab("").await;
    let [eve, research, plain] = ["eve", "research", "plain"].map(|name| lab.node(name).unwrap());
    for (by, own) in [(eve, "eve"), (research, "research")] {
        let asked = Request::PassOn(signed(by, request(by, own, "exit", 1)));
        assert_eq!(refusal(by, "nyu", asked.clone()).await, None);
        for _ in 0..30 {
            let again = refusal(by, "nyu", asked.clone()).await;
            assert_eq!(again, unproved(RequestFault::Replayed));
        }
    }
    let other = Request::PassOn(signed(plain, request(plain, "plain", "exit", 1)));
    assert_eq!(refusal(plain, "nyu", other).await, None);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_members_own_requests_fill_its_own_places_and_nobody_elses() {
    let lab = lab("").await;
    let [eve, research] = ["eve", "research"].map(|name| lab.node(name).unwrap());
    let mut granted = 0;
    for low in 0..100 {
        let mut asked = request(eve, "eve", "exit", low);
        // Each makes the exit ask a relay for a label towards eve.
        asked.open.route = Route::Via("nyu".parse().unwrap());
        let own = Request::OpenLane(signed(eve, asked));
        granted += usize::from(refusal(eve, "exit", own).await.is_none());
    }
    assert!((1..=64).contains(&granted), "{granted}");
    // The exit's other lanes find relays as before.
    use_exit(research).await;
    let ends = ["research", "exit"].map(|name| lab.topology().address(name));
    lab.internet().cut(ends[0], ends[1]);
    use_exit(research).await;
    // Lanes that nobody connected are gone, and so are their places.
    sleep(Duration::from_secs(25)).await;
    let lanes = lab.node("exit").unwrap().lane_facts();
    assert!(lanes.iter().all(|lane| lane.facts.peer.as_str() != "eve"), "{lanes:?}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_counts_once_and_within_the_hour() {
    let lab = lab("").await;
    let plain = lab.node("plain").unwrap();
    let asked = Request::OpenLane(signed(plain, request(plain, "plain", "exit", 1)));
    assert_eq!(refusal(plain, "exit", asked.clone()).await, None);
    assert_eq!(refusal(plain, "exit", asked).await, unproved(RequestFault::Replayed));
    let mut old = request(plain, "plain", "exit", 2);
    old.issued -= 3700 << 20;
    let old = Request::OpenLane(signed(plain, old));
    assert_eq!(refusal(plain, "exit", old).await, unproved(RequestFault::Clock));
    // Nor does one in another's name count over the own link.
    let other = Request::OpenLane(signed(plain, request(plain, "research", "exit", 3)));
    assert_eq!(refusal(plain, "exit", other).await, unproved(RequestFault::OtherLane));
    let dropped = lab.node("exit").unwrap().status().dropped_messages;
    for reason in ["request-clock", "request-replayed", "request-other-lane"] {
        assert!(dropped.contains(&(reason.into(), 1)), "{dropped:?}");
    }
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_a_relay_holds_back_or_reorders_count_once() {
    let lab = lab("").await;
    let plain = lab.node("plain").unwrap();
    let asked = |seconds: u64, number| {
        let mut asked = request(plain, "plain", "exit", number);
        asked.issued -= seconds << 20;
        Request::PassOn(signed(plain, asked))
    };
    // The later one comes first; the other one is held back for nearly an hour.
    let (late, edge, over) = (asked(0, 1), asked(3_590, 2), asked(3_610, 3));
    for fresh in [&late, &edge] {
        assert_eq!(refusal(plain, "nyu", fresh.clone()).await, None);
    }
    for again in [&edge, &late, &edge] {
        let refused = refusal(plain, "nyu", again.clone()).await;
        assert_eq!(refused, unproved(RequestFault::Replayed));
    }
    assert_eq!(refusal(plain, "nyu", over).await, unproved(RequestFault::Clock));
    // What was fresh is no longer so, and still does not count again.
    sleep(Duration::from_secs(20)).await;
    let refused = refusal(plain, "nyu", edge).await;
    let ended = [unproved(RequestFault::Replayed), unproved(RequestFault::Clock)];
    assert!(ended.contains(&refused), "{refused:?}");
    use_exit(plain).await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_cannot_bring_a_request_to_the_exits_next_run() {
    let mut lab = lab("").await;
    let plain = lab.node("plain").unwrap();
    let asked = Request::PassOn(signed(plain, request(plain, "plain", "exit", 1)));
    assert_eq!(refusal(plain, "nyu", asked.clone()).await, None);
    assert_eq!(refusal(plain, "nyu", asked.clone()).await, unproved(RequestFault::Replayed));
    // The direct path is cut, so that the entry hears of the next run over a relay only.
    let ends = ["plain", "exit"].map(|name| lab.topology().address(name));
    lab.internet().cut(ends[0], ends[1]);
    lab.crash("exit");
    lab.restart("exit").await.unwrap();
    let plain = lab.node("plain").unwrap();
    let nyu = lab.node("nyu").unwrap();
    let linked = || nyu.mesh().links().get(&"exit".parse().unwrap()).is_some();
    support::wait_for("the relay's link", Duration::from_secs(30), linked).await;
    let refused = refusal(plain, "nyu", asked).await;
    let other = matches!(refused, Some(LinkRefusal::Unproved(RequestFault::OtherIncarnation(_))));
    assert!(other, "{refused:?}");
    use_exit(plain).await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn only_exits_host_lanes_and_only_relays_pass_requests_on() {
    let lab = lab("").await;
    let plain = lab.node("plain").unwrap();
    for (to, role) in [("research", "exit"), ("nyu", "exit")] {
        let asked = Request::OpenLane(signed(plain, request(plain, "plain", to, 1)));
        let refused = refusal(plain, to, asked).await;
        assert_eq!(refused, Some(LinkRefusal::NotMyRole(role.into())), "{to}");
    }
    let asked = signed(plain, request(plain, "plain", "exit", 1));
    let refused = refusal(plain, "research", Request::PassOn(asked.clone())).await;
    assert_eq!(refused, Some(LinkRefusal::NotMyRole("relay".into())));
    // A node that is no relay brings nobody's requests, not even good ones.
    let research = lab.node("research").unwrap();
    let certificate = plain.credentials().certificate().to_vec();
    let passed_on = Request::PassedOn { request: asked.clone(), certificate };
    assert_eq!(refusal(research, "exit", passed_on).await, Some(LinkRefusal::Unexpected));
    assert_eq!(refusal(plain, "nyu", Request::PassOn(asked)).await, None);
    lab.stop().await;
}

/// Asks `relay` to forward to `toward`; the refusal, or the label.
async fn forward(
    from: &Node,
    relay: &str,
    (toward, label): (&str, Label),
    asker: LaneAsker,
) -> Result<Label, LinkRefusal> {
    let ask = ForwardRequest { toward: toward.parse().unwrap(), label, asker };
    let relay = relay.parse().unwrap();
    match from.mesh().links().request(&relay, &Request::Forward(ask)).await {
        Ok(Reply::Granted { label, .. }) => Ok(label),
        Err(LinkError::Refused(refusal)) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

fn entry() -> LaneAsker {
    LaneAsker::Entry { class: None }
}

#[tokio::test(start_paused = true)]
async fn no_claim_gets_a_member_past_a_policy_by_group() {
    const RESEARCH_ONLY: &str = "[[policy]]\nname = 'research-only'\nallow_groups = ['research']";
    let lab = lab(RESEARCH_ONLY).await;
    let [eve, exit, research] = ["eve", "exit", "research"].map(|name| lab.node(name).unwrap());
    let as_exit = |signed| LaneAsker::Exit(Box::new(signed));
    let to_research = ("research", Label(77));
    let policy = LinkRefusal::Policy("research-only".into());
    // As what it is: an entry without the group.
    assert_eq!(forward(eve, "nyu", to_research, entry()).await, Err(policy.clone()));
    // As the exit of a lane for which the other end has not asked.
    let forged = signed(eve, request(eve, "research", "eve", 1));
    let refused = forward(eve, "nyu", to_research, as_exit(forged)).await;
    assert_eq!(refused, Err(LinkRefusal::Unproved(RequestFault::Signature)));
    // With a request that was for another exit, or about another label.
    let for_exit = signed(research, request(research, "research", "exit", 1));
    let refused = forward(eve, "nyu", to_research, as_exit(for_exit.clone())).await;
    assert_eq!(refused, Err(LinkRefusal::Unproved(RequestFault::OtherLane)));
    let for_eve = signed(research, request(research, "research", "eve", 2));
    let refused = forward(eve, "nyu", ("research", Label(78)), as_exit(for_eve.clone())).await;
    assert_eq!(refused, Err(LinkRefusal::Unproved(RequestFault::OtherLane)));
    // With its own request, as the exit of a lane to itself.
    let own = signed(eve, request(eve, "eve", "eve", 1));
    let refused = forward(eve, "nyu", to_research, as_exit(own)).await;
    assert_eq!(refused, Err(LinkRefusal::Unproved(RequestFault::OtherLane)));
    // The ends of research lanes get theirs: the entry by its group, the exit by the entry's request.
    assert!(forward(research, "nyu", ("exit", Label(1)), entry()).await.is_ok());
    assert!(forward(exit, "nyu", to_research, as_exit(for_exit)).await.is_ok());
    assert!(forward(eve, "nyu", to_research, as_exit(for_eve)).await.is_ok(), "asked by research");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn packets_under_chained_labels_go_no_further_than_the_second_relay() {
    let lab = lab("").await;
    let eve = lab.node("eve").unwrap();
    // research ← nyu ← utah ← nyu ← eve, one label leading to the next.
    let last = forward(eve, "nyu", ("research", Label(1)), entry()).await.unwrap();
    let middle = forward(eve, "utah", ("nyu", last), entry()).await.unwrap();
    let first = forward(eve, "nyu", ("utah", middle), entry()).await.unwrap();
    let at = |name| lab.topology().address(name);
    let forwarded = |name: &str| lab.node(name).unwrap().status().forwarded;
    let before = (forwarded("nyu"), forwarded("utah"));
    let mut packet = Vec::new();
    push_labelled(&mut packet, first, 0, b"around and around");
    for _ in 0..10 {
        lab.internet().forge(
            at("eve"),
            (at("eve"), 4600).into(),
            (at("nyu"), 4600).into(),
            &packet,
        );
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!((forwarded("nyu") - before.0, forwarded("utah") - before.1), (10, 0));
    let dropped = lab.node("utah").unwrap().status().dropped;
    assert!(dropped.contains(&("forwarded-twice".into(), 10)), "{dropped:?}");
    lab.stop().await;
}
