//! What the exits of a possible flow say of it by their own policy: asked because a person asks `why`.

use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{NodeView, Question, Why, dialer::MAX_REFUSALS};
use crate::{
    flow::{Judgement, Refusal, RefusalKind, Target},
    identity::NodeName,
    lane::FlowAcceptor as _,
    wire::lane::JudgeReply,
};

/// How long the exits may take, all together: two round trips around the world. A person waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// What an exit says of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitPolicy {
    /// The answer.
    pub answer: PolicyAnswer,
    /// The kind of the refusal of such a flow; `None` without one.
    pub refusal: Option<RefusalKind>,
    /// The refusal in words, or why the answer is unknown; `None` otherwise.
    pub reason: Option<String>,
}

/// The answer of an exit's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyAnswer {
    /// It allows the flow.
    Allowed,
    /// It decides when it has resolved the name.
    DependsOnAddress,
    /// It refuses the flow.
    Refused,
    /// It did not say.
    Unknown,
}

impl NodeView {
    /// As [`Self::why`], with what the exits say that would be tried, in at most a second. They neither resolve
    /// nor open anything for it.
    pub async fn why_asking(&self, question: &Question) -> Why {
        let mut why = self.why(question);
        let asked = why.exits.iter().take(MAX_REFUSALS).map(|choice| &choice.exit);
        let mut answers =
            join_all(asked.map(|exit| self.ask(exit, &question.target))).await.into_iter();
        for choice in &mut why.exits {
            let unasked = || unknown(format!("only the first {MAX_REFUSALS} exits are asked"));
            choice.policy = Some(answers.next().unwrap_or_else(unasked));
        }
        why
    }

    /// Asks on a lane to the exit, which may go by a relay, or else on the link to it.
    async fn ask(&self, exit: &NodeName, target: &Target) -> ExitPolicy {
        let answer = async {
            if self.dialer.is_here(exit) {
                return Ok(self.dialer.acceptor.judge(self.mesh.us(), target, false).await);
            }
            if let Some(answer) = self.pool.ask(exit, target).await {
                return answer;
            }
            let unasked = || Err("it is not asked: no lane and no link to it is up".to_owned());
            match self.mesh.ask_exit(exit, target).await {
                Some(answer) => answer.map_err(|error| format!("it does not answer: {error}")),
                None => unasked(),
            }
        };
        let overdue = |_| Err(format!("it does not answer within {PATIENCE:?}"));
        timeout(PATIENCE, answer).await.unwrap_or_else(overdue).map_or_else(unknown, said)
    }
}

fn said(answer: JudgeReply) -> ExitPolicy {
    let allowed = |answer| ExitPolicy { answer, refusal: None, reason: None };
    match answer.map_err(Refusal::bounded) {
        Ok(Judgement::Allowed) => allowed(PolicyAnswer::Allowed),
        Ok(Judgement::DependsOnAddress) => allowed(PolicyAnswer::DependsOnAddress),
        // These concern the question, not the flow.
        Err(refusal) if matches!(refusal.kind, RefusalKind::Overloaded | RefusalKind::Protocol) => {
            unknown(format!("it does not answer: {}", refusal.detail))
        }
        Err(Refusal { kind, detail, .. }) => {
            let answer = PolicyAnswer::Refused;
            ExitPolicy { answer, refusal: Some(kind), reason: Some(detail) }
        }
    }
}

fn unknown(reason: String) -> ExitPolicy {
    ExitPolicy { answer: PolicyAnswer::Unknown, refusal: None, reason: Some(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_question_is_no_refused_flow() {
        for (kind, answer) in [
            (RefusalKind::Policy, PolicyAnswer::Refused),
            (RefusalKind::NotAnExit, PolicyAnswer::Refused),
            (RefusalKind::Overloaded, PolicyAnswer::Unknown),
            (RefusalKind::Protocol, PolicyAnswer::Unknown),
        ] {
            let said = said(Err(Refusal::new(kind, "no")));
            assert_eq!(said.answer, answer, "{kind:?}");
            assert!(said.reason.unwrap().ends_with("no"));
        }
    }

    #[test]
    fn an_exits_text_is_short_and_drives_no_terminal() {
        let detail = format!("\u{1b}[2J{}", "x".repeat(60_000));
        let refusal = Refusal { detail, ..Refusal::new(RefusalKind::Policy, "") };
        let reason = said(Err(refusal)).reason.unwrap();
        assert!(reason.starts_with("?[2J") && reason.len() == 200, "{reason}");
    }
}
