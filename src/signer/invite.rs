//! Invitations that the dashboard gives out: off unless configured, few, short and for entries only.
//!
//! The node's process asks for them, and it may have been taken over. So all bounds are here, in the process
//! that has the key, and the record that they count is in a folder which the node cannot write.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::NewInvitation;
use crate::identity::{
    Actor, Attributes, AuditLog, Authority, Deed, Granted, NodeDir, NodeName, PendingInvitations,
    Token, UnixTime,
};

/// Invitations of the dashboard in a day, used and cancelled ones counted. A person invites some devices; an
/// attacker in the node's process gets so many entries a day, each with a line in the audit log.
const IN_A_DAY: usize = 8;

/// How long such an invitation is open: time to walk to the other device, or to send the line to somebody.
const LASTS: Duration = Duration::from_secs(3600);

/// Why the dashboard gives out no invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum InviteRefusal {
    /// The configuration does not allow it.
    #[error(
        "the dashboard may not invite here: set invite_from_dashboard = true under [authority] in config.toml and \
         restart the node, or run `ronproxy invite --name {0}`"
    )]
    NotAllowed(NodeName),
    /// Too many.
    #[error(
        "{IN_A_DAY} invitations of the last day came from the dashboard, which is the most; \
         run `ronproxy invite --name {0}`"
    )]
    TooMany(NodeName),
    /// The name has a holder.
    #[error("the name {0} is taken; choose another one, or revoke that node first")]
    NameTaken(NodeName),
    /// The record or the audit log cannot be written, or the signer does not answer.
    #[error("the authority cannot do it now; the node's log says why")]
    Failed,
}

/// What the dashboard may do.
#[derive(Debug)]
pub(super) struct Inviting {
    allowed: bool,
    log: AuditLog,
}

impl Inviting {
    pub(super) fn new(dir: &NodeDir, allowed: bool) -> Self {
        Self { allowed, log: AuditLog::new(dir) }
    }

    pub(super) fn allowing(self, allowed: bool) -> Self {
        Self { allowed, ..self }
    }

    /// Puts an invitation of an entry on record, and then on the audit log.
    pub(super) fn invite(
        &self,
        authority: &Authority,
        invitations: &PendingInvitations,
        (token, name): (&Token, &NodeName),
        now: UnixTime,
    ) -> Result<NewInvitation, InviteRefusal> {
        if !self.allowed {
            return Err(InviteRefusal::NotAllowed(name.clone()));
        }
        if invitations.of_dashboard(now).map_err(failed)? >= IN_A_DAY {
            return Err(InviteRefusal::TooMany(name.clone()));
        }
        if authority.is_taken(name, now).map_err(failed)? {
            return Err(InviteRefusal::NameTaken(name.clone()));
        }
        let expires = now.as_secs() + LASTS.as_secs();
        let attributes = Attributes::entry(name.clone());
        let granted = Granted { attributes, expires, by_dashboard: true };
        let id = invitations.add(token, &granted, now).map_err(failed)?;
        let logged = self.log.record(Deed::Invite, name, Some(id.clone()), Actor::Dashboard, now);
        if let Err(error) = logged {
            // Nobody could see that it was given out.
            invitations.withdraw(token).map_err(failed)?;
            return Err(failed(error));
        }
        Ok(NewInvitation { id, expires })
    }
}

/// Logs the cause.
fn failed(error: impl std::fmt::Display) -> InviteRefusal {
    tracing::warn!(%error, "the authority cannot invite");
    InviteRefusal::Failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{
            InvitationState, NodeFile,
            test_support::{NOW, Overlay, after},
        },
        signer::{Answer, Clerk, Question},
    };

    fn clerk(overlay: &Overlay) -> Clerk {
        let lifetime = overlay.authority.lifetime();
        Clerk::open(&overlay.dir, lifetime).unwrap().with_invitations_from_dashboard(true)
    }

    fn ask(
        clerk: &mut Clerk,
        number: u8,
        name: &str,
        now: UnixTime,
    ) -> Result<NewInvitation, InviteRefusal> {
        let question = Question::Invite(Token::from_random([number; 32]), name.parse().unwrap());
        match clerk.answer(&question, now) {
            Answer::Invited(invitation) => Ok(invitation),
            Answer::NotInvited(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_dashboard_invites_entries_where_that_is_configured() {
        let overlay = Overlay::new();
        let lifetime = overlay.authority.lifetime();
        let mut closed = Clerk::open(&overlay.dir, lifetime).unwrap();
        let refused = ask(&mut closed, 1, "utah", NOW).unwrap_err();
        assert!(refused.to_string().contains("invite_from_dashboard = true"), "{refused}");
        assert!(PendingInvitations::new(&overlay.dir).list(NOW).unwrap().invited.is_empty());

        let invitation = ask(&mut clerk(&overlay), 1, "utah", NOW).unwrap();
        assert_eq!(invitation.expires, NOW.as_secs() + 3600);
        let records = PendingInvitations::new(&overlay.dir).list(NOW).unwrap().invited;
        assert_eq!(records[0].granted.attributes, Attributes::entry("utah".parse().unwrap()));
        assert_eq!((&records[0].id, records[0].state), (&invitation.id, InvitationState::Open));
        let entries = AuditLog::new(&overlay.dir).read(9).unwrap().entries;
        let line = entries.iter().find(|entry| entry.event == Deed::Invite).unwrap();
        assert_eq!(line.by, "this node's dashboard");
        assert_eq!((line.name.as_str(), line.serial.as_ref()), ("utah", Some(&invitation.id)));
    }

    #[test]
    fn the_dashboard_gives_eight_invitations_a_day_whatever_becomes_of_them() {
        let overlay = Overlay::new();
        let mut clerk = clerk(&overlay);
        let mut invitations = PendingInvitations::new(&overlay.dir);
        for n in 0..8 {
            let name = format!("node-{n}");
            ask(&mut clerk, n, &name, NOW).unwrap();
            match n % 3 {
                0 => drop(invitations.cancel(&name, NOW).unwrap()),
                1 => drop(invitations.redeem(&Token::from_random([n; 32]), NOW).unwrap()),
                _ => {}
            }
        }
        let too_many = |clerk: &mut Clerk, now| {
            matches!(ask(clerk, 9, "more", now), Err(InviteRefusal::TooMany(_)))
        };
        assert!(too_many(&mut clerk, NOW));
        // Another process counts the same, and commands are not counted.
        assert!(too_many(&mut self::clerk(&overlay), after(3600)));
        let granted = Granted {
            attributes: Attributes::entry("by-command".parse().unwrap()),
            expires: NOW.as_secs() + 60,
            by_dashboard: false,
        };
        invitations.add(&Token::from_random([99; 32]), &granted, NOW).unwrap();
        let day = 24 * 3600;
        assert!(too_many(&mut clerk, after(day)));
        ask(&mut clerk, 9, "more", after(day + 3600)).unwrap();
    }

    #[test]
    fn a_taken_name_is_not_invited_by_the_dashboard() {
        let overlay = Overlay::new();
        overlay.node("utah", NOW);
        let refused = ask(&mut clerk(&overlay), 1, "utah", NOW).unwrap_err();
        assert!(refused.to_string().contains("the name utah is taken"), "{refused}");
    }

    #[test]
    fn an_invitation_of_the_dashboard_that_cannot_be_logged_is_withdrawn() {
        let overlay = Overlay::new();
        let mut clerk = clerk(&overlay);
        let audit = overlay.dir.path(NodeFile::Audit);
        let _ = std::fs::remove_file(&audit);
        std::fs::create_dir(&audit).unwrap();
        assert_eq!(ask(&mut clerk, 1, "utah", NOW), Err(InviteRefusal::Failed));
        assert!(PendingInvitations::new(&overlay.dir).list(NOW).unwrap().invited.is_empty());
    }

    #[test]
    fn the_list_of_members_fits_its_answer_and_counts_the_rest() {
        let overlay = Overlay::new();
        overlay.node("utah", NOW);
        let one = overlay.authority.members().unwrap().remove(0);
        assert_eq!((one.attributes.name.as_str(), one.listed), ("utah", false));
        let mut many = vec![one; 4096];
        for (n, member) in (0..).zip(&mut many) {
            member.expires = n;
            member.attributes.serves = vec!["x".repeat(200)];
        }
        let Answer::Members(all, left_out) = Answer::members(many) else { panic!() };
        assert_eq!(all.len() + left_out as usize, 4096);
        assert!(left_out > 0 && all[0].expires == 4095, "{left_out}");
        assert_eq!(
            Answer::decode(&Answer::members(all.clone()).encode()),
            Some(Answer::Members(all, 0))
        );
    }
}
