//! What `why` and `routes` say of real nodes' choices, in virtual time.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]

mod support;

use std::time::Duration;

use ronproxy::internals::{
    app::{Choice, PolicyAnswer, Question},
    config::Config,
    emulator,
    flow::RefusalKind,
    lab::{Lab, LabNode},
    overlay::select::VerdictKind,
    transport::Congestion,
};
use support::wait_for;

fn question() -> Question {
    Question { target: "source.test:80".parse().unwrap(), hint: None, exit: None, user: None }
}

/// The choice for a flow to the exit of a triangle.
fn choice(lab: &Lab) -> Choice {
    lab.node("entry").unwrap().view().why(&question()).exits.remove(0)
}

fn reason(choice: &Choice, route: &str) -> String {
    let found = choice.candidates.iter().find(|candidate| candidate.route.to_string() == route);
    found.unwrap().reason.clone()
}

#[tokio::test(start_paused = true)]
async fn why_tells_which_link_is_down_and_when_and_why_the_lane_moved() {
    let lab = support::triangle(emulator::triangle(), 21, Congestion::Adaptive).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let entry = lab.node("entry").unwrap();
    assert_eq!(choice(&lab).lane, None);
    let mut io = support::open(entry, "source.test:80").await;
    support::request(&mut *io, 40 << 20).await;
    let mut at = 0;
    support::read_with_stalls(&mut *io, &mut at, 10 << 20).await;
    assert_eq!(choice(&lab).route.as_deref(), Some("direct"));
    let address = |name: &str| lab.topology().address(name);
    lab.internet().cut(address("entry"), address("exit"));
    support::read_with_stalls(&mut *io, &mut at, 40 << 20).await;
    let down = || reason(&choice(&lab), "direct") == "link entry–exit is down";
    wait_for("the link to be found down", Duration::from_secs(10), down).await;
    let choice = choice(&lab);
    assert!(choice.lane.is_some());
    assert_eq!(choice.route.as_deref(), Some("via relay"));
    assert_eq!(choice.candidates[0].verdict, VerdictKind::Chosen);
    let last = &choice.changes[0];
    assert_eq!((last.from.as_deref(), last.to.as_deref()), (Some("direct"), Some("via relay")));
    assert!(last.seconds_ago < 60.0, "{last:?}");
    assert_eq!(entry.view().routes().len(), 1);
    lab.stop().await;
}

/// What the exit says of a flow of the entry's: the answer, the refusal, and the reason.
async fn said(lab: &Lab) -> (PolicyAnswer, Option<RefusalKind>, String) {
    let mut why = lab.node("entry").unwrap().view().why_asking(&question()).await;
    let policy = why.exits.remove(0).policy.unwrap();
    (policy.answer, policy.refusal, policy.reason.unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn the_exit_is_asked_on_a_lane_through_a_relay_or_on_a_link() {
    let lab = support::triangle(emulator::triangle(), 23, Congestion::Adaptive).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let entry = lab.node("entry").unwrap();
    assert_eq!(said(&lab).await, (PolicyAnswer::Allowed, None, String::new()));
    assert!(entry.lane_facts().is_empty(), "a question opens no lane");
    without_direct(&lab).await;
    let (answer, _, reason) = said(&lab).await;
    let unasked = "it is not asked: no lane and no link to it is up";
    assert_eq!((answer, &*reason), (PolicyAnswer::Unknown, unasked));
    support::fetch(entry, 1000).await;
    assert_eq!(choice(&lab).route.as_deref(), Some("via relay"));
    assert_eq!(said(&lab).await, (PolicyAnswer::Allowed, None, String::new()));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_question_gets_the_refusal_of_a_flow() {
    let refuses = Some(RefusalKind::Policy);
    let nodes = vec![
        LabNode::new("entry", false, false),
        LabNode { refuses, ..LabNode::new("exit", false, true) },
        LabNode::new("relay", true, false),
    ];
    let (services, congestion) = (support::services(), Congestion::Adaptive);
    let lab = Lab::start(emulator::triangle(), 24, nodes, services, congestion).await.unwrap();
    wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    let refused = (PolicyAnswer::Refused, refuses, "this exit refuses everything".to_owned());
    assert_eq!(said(&lab).await, refused, "on the link");
    let flow = support::dial(lab.node("entry").unwrap(), "source.test:80").await.err().unwrap();
    assert_eq!((flow.kind, &flow.detail), (RefusalKind::Policy, &refused.2));
    assert!(choice(&lab).lane.is_some());
    assert_eq!(said(&lab).await, refused, "on the lane");
    lab.stop().await;
}

/// The paper's example (SOSP 2001, §5.3): the relay's links are paid for by research networks.
const RESEARCH_ONLY: &str =
    "[[policy]]\nname = 'research-only'\nrelay = 'relay'\nallow_groups = ['research']";

async fn triangle_of(groups: &[&str], entry_knows: bool, relay_knows: bool) -> Lab {
    let policy = |knows: bool| {
        let rules = if knows { RESEARCH_ONLY } else { "" };
        Config::parse(rules).unwrap().policy
    };
    let nodes = vec![
        LabNode {
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            policy: policy(entry_knows),
            ..LabNode::new("entry", false, false)
        },
        LabNode::new("exit", false, true),
        LabNode { policy: policy(relay_knows), ..LabNode::new("relay", true, false) },
    ];
    let services = support::services();
    let lab =
        Lab::start(emulator::triangle(), 22, nodes, services, Congestion::Adaptive).await.unwrap();
    wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    lab
}

/// Cuts the direct path and waits until that is known.
async fn without_direct(lab: &Lab) {
    let address = |name: &str| lab.topology().address(name);
    lab.internet().cut(address("entry"), address("exit"));
    let down = || reason(&choice(lab), "direct").contains("down");
    wait_for("the link to be found down", Duration::from_secs(10), down).await;
}

#[tokio::test(start_paused = true)]
async fn research_crosses_a_research_relay_and_commercial_sites_do_not() {
    let lab = triangle_of(&["research"], true, true).await;
    without_direct(&lab).await;
    support::fetch(lab.node("entry").unwrap(), 1 << 20).await;
    assert_eq!(choice(&lab).route.as_deref(), Some("via relay"));
    lab.stop().await;

    let lab = triangle_of(&["commercial"], true, true).await;
    assert_eq!(reason(&choice(&lab), "via relay"), "refused by policy rule research-only");
    support::fetch(lab.node("entry").unwrap(), 1 << 20).await;
    without_direct(&lab).await;
    assert!(support::dial(lab.node("entry").unwrap(), "source.test:80").await.is_err());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_refuses_on_its_own_judgement_even_if_the_entry_lies() {
    // The entry leaves the rule out, and asks for a class of its own liking.
    let lab = triangle_of(&["commercial"], false, true).await;
    without_direct(&lab).await;
    let entry = lab.node("entry").unwrap();
    let refused = support::dial(entry, "source.test:80").await.err().expect("no way is admissible");
    assert!(refused.to_string().contains("research-only"), "{refused}");
    assert_eq!(lab.node("relay").unwrap().status().forwarded, 0);
    lab.stop().await;
}
