//! Answers questions with the authority's folder.

use std::time::Duration;

use super::{Answer, Question};
use crate::identity::{
    Authority, AuthorityError, JoinRefusal, NodeDir, PendingInvitations, UnixTime, redeem, renew,
};

/// The authority at work: its key, record, invitations and audit log.
#[derive(Debug)]
pub struct Clerk {
    authority: Authority,
    invitations: PendingInvitations,
}

impl Clerk {
    /// Opens the authority in `dir`, whose certificates last for `lifetime`, and takes its own node on
    /// record if it is not, as where an older version recorded it without its key.
    ///
    /// # Errors
    /// When it is missing or damaged, or others can read its key.
    pub fn open(dir: &NodeDir, lifetime: Duration) -> Result<Self, AuthorityError> {
        let authority = Authority::load(dir)?.with_lifetime(lifetime);
        authority.adopt_own_node()?;
        Ok(Self { authority, invitations: PendingInvitations::new(dir) })
    }

    /// Answers one question.
    pub fn answer(&mut self, question: &Question, now: UnixTime) -> Answer {
        let done = match question {
            Question::Join(request, by) => {
                redeem(&self.authority, &mut self.invitations, request, *by, now)
                    .map(Answer::Welcome)
            }
            Question::Renew(request, by) => {
                renew(&self.authority, request, *by, now).map(Answer::Renewed)
            }
            Question::Open => self.open_tokens(now),
        };
        done.unwrap_or_else(Answer::Refused)
    }

    fn open_tokens(&self, now: UnixTime) -> Result<Answer, JoinRefusal> {
        self.invitations.open_tokens(now).map(Answer::Open).map_err(|error| internal(&error))
    }
}

/// Logs the cause, and does not show it to the joiner.
fn internal(error: &dyn std::error::Error) -> JoinRefusal {
    tracing::warn!(%error, "the authority cannot do its work");
    JoinRefusal::Internal
}
