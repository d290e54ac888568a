//! Questions what an exit would carry: asked without end, and never answered.

use std::time::Duration;

use ronproxy::internals::{
    app::{PolicyAnswer, Question},
    emulator::triangle,
    flow::{Judgement, RefusalKind},
    lab::LabNode,
};
use tokio::time::{Instant, sleep};

use crate::{
    meters::Limits,
    peer::{HostileLink, open_with},
    stage::Stage,
    words,
};

const TARGET: &str = "source.test:80";

/// The longest that `why` waits for exits, and a moment.
const WAITS: Duration = Duration::from_millis(1010);

/// What came of questions: answers, and refusals to answer.
#[derive(Debug, Default, PartialEq)]
struct Told {
    answered: usize,
    refused: usize,
}

impl Told {
    fn count(&mut self, answer: Result<Judgement, ronproxy::internals::flow::Refusal>) {
        match answer {
            Ok(judged) => {
                assert_eq!(judged, Judgement::Allowed);
                self.answered += 1;
            }
            Err(refusal) => {
                assert_eq!(refusal.kind, RefusalKind::Overloaded, "{refusal}");
                self.refused += 1;
            }
        }
    }
}

#[test]
fn questions_without_end_are_answered_at_a_pace_on_link_and_lanes() {
    let stage = Stage::new(901);
    let (told, cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let lane = stage.mallory.lane_to(&stage.lab, &link, "exit").await.unwrap();
        let (end, mut told) = (Instant::now() + Duration::from_secs(20), Told::default());
        while Instant::now() < end {
            if let Some(answer) = link.request(&words::judge(TARGET)).await {
                told.count(words::judged(&answer).unwrap());
            }
            let (_send, mut recv) = open_with(&lane, &words::question(TARGET)).await.unwrap();
            told.count(words::answered(&recv.read_to_end(1 << 10).await.unwrap()).unwrap());
        }
        told
    });
    println!("questions for 20 s: {told:?}; {cost}");
    // 32 at once and four a second, on both together.
    assert!((100..=114).contains(&told.answered) && told.refused > 200, "{told:?}");
    cost.assert_within(Limits::default());
}

#[test]
fn a_question_that_names_no_host_is_malformed() {
    let stage = Stage::new(902);
    let (ended, cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let lane = stage.mallory.lane_to(&stage.lab, &link, "exit").await.unwrap();
        for host in ["A.test", "a b", "10.0.0.1", ""] {
            let (_send, mut recv) = open_with(&lane, &words::question_raw(host)).await.unwrap();
            let answer = words::answered(&recv.read_to_end(1 << 10).await.unwrap()).unwrap();
            assert_eq!(answer.unwrap_err().kind, RefusalKind::Protocol, "{host:?}");
        }
        assert_eq!(link.request(&words::judge_raw("a b")).await, None);
        link.ended()
    });
    assert!(ended.is_some_and(|why| why.contains("malformed")), "the link ends");
    cost.assert_within(Limits::default());
}

#[test]
fn only_an_exit_answers_questions() {
    let stage = Stage::new(903);
    let (refusals, _) = stage.attack(async {
        let mut refusals = Vec::new();
        for node in ["entry", "relay"] {
            let link = stage.mallory.link_to(&stage.lab, node).await;
            let reply = link.request(&words::judge(TARGET)).await.unwrap();
            refusals.push(words::refusal(&reply).unwrap());
        }
        refusals
    });
    assert!(refusals.iter().all(|why| why == "exit is not its role"), "{refusals:?}");
}

/// Takes requests and answers none.
async fn ignore_requests(link: &HostileLink) {
    let mut unanswered = Vec::new();
    while let Ok(asked) = link.conn.accept_bi().await {
        unanswered.push(asked);
    }
}

#[test]
fn an_exit_that_never_answers_holds_a_question_up_for_a_second() {
    let nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", false, true),
        LabNode::new("relay", true, false),
    ];
    let stage = Stage::of(904, triangle(), nodes, &LabNode::new("mallory", false, true));
    let ((policy, took), cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "entry").await;
        link.notice(&words::exit_record(stage.mallory.credentials(), (1, 1))).await;
        let asks = async {
            let view = stage.node("entry").view();
            let exit = Some("mallory".parse().unwrap());
            let (target, hint, user) = (TARGET.parse().unwrap(), None, None);
            let question = Question { target, hint, exit, user };
            sleep(Duration::from_secs(20)).await;
            assert_eq!(view.why(&question).exits.len(), 1, "it is an exit");
            let asked = Instant::now();
            let why = view.why_asking(&question).await;
            (why.exits[0].policy.clone().unwrap(), asked.elapsed())
        };
        tokio::select! {
            answer = asks => answer,
            _ = async { tokio::join!(link.answer_probes(), ignore_requests(&link)) } => {
                panic!("the link ended: {:?}", link.ended())
            }
        }
    });
    println!("an exit that never answers: {policy:?} after {took:?}; {cost}");
    assert_eq!((policy.answer, policy.refusal), (PolicyAnswer::Unknown, None));
    assert_eq!(policy.reason.as_deref(), Some("it does not answer within 1s"));
    assert!(took <= WAITS, "{took:?}");
    cost.assert_within(Limits::default());
}
