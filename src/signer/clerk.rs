//! Answers questions with the authority's folder.

use std::time::Duration;

use super::{Answer, Question, invite::Inviting};
use crate::identity::{
    Authority, AuthorityError, JoinRefusal, NodeDir, NodeName, PendingInvitations, Token, UnixTime,
    redeem, renew,
};

/// The authority at work: its key, record, invitations and audit log.
#[derive(Debug)]
pub struct Clerk {
    authority: Authority,
    invitations: PendingInvitations,
    inviting: Inviting,
}

impl Clerk {
    /// Opens the authority in `dir`, whose certificates last for `lifetime`, and takes its own node on
    /// record if it is not, as where an older version recorded it without its key. The dashboard may not invite.
    ///
    /// # Errors
    /// When it is missing or damaged, or others can read its key.
    pub fn open(dir: &NodeDir, lifetime: Duration) -> Result<Self, AuthorityError> {
        let authority = Authority::load(dir)?.with_lifetime(lifetime);
        authority.adopt_own_node()?;
        let inviting = Inviting::new(dir, false);
        Ok(Self { authority, invitations: PendingInvitations::new(dir), inviting })
    }

    /// The same, where the dashboard may invite, or not.
    #[must_use]
    pub fn with_invitations_from_dashboard(self, allowed: bool) -> Self {
        Self { inviting: self.inviting.allowing(allowed), ..self }
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
            Question::Invite(token, name) => Ok(self.invite(token, name, now)),
            Question::Members => self.members(),
        };
        done.unwrap_or_else(Answer::Refused)
    }

    fn invite(&self, token: &Token, name: &NodeName, now: UnixTime) -> Answer {
        let invited = self.inviting.invite(&self.authority, &self.invitations, (token, name), now);
        invited.map_or_else(Answer::NotInvited, Answer::Invited)
    }

    fn members(&self) -> Result<Answer, JoinRefusal> {
        self.authority.members().map(Answer::members).map_err(|error| internal(&error))
    }

    fn open_tokens(&self, now: UnixTime) -> Result<Answer, JoinRefusal> {
        self.invitations.open_tokens(now).map(Answer::Open).map_err(|error| internal(&error))
    }
}

/// Logs the cause, and does not show it to the joiner.
fn internal(error: &dyn std::error::Error) -> JoinRefusal {
    tracing::warn!(%error, "the authority could not answer a request");
    JoinRefusal::Internal
}
