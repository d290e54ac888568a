//! The signer's last answer about open invitations.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

/// How long an answer is used. Strangers cause questions, and an inviter takes longer than this to
/// send a line.
const FRESH: Duration = Duration::from_secs(1);

/// How long a handshake waits for an answer, which comes within milliseconds unless the signer hangs
/// or the machine is busy. Links are set up through the same door, and wait too.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// The SHA-256 of an invitation's token.
pub(super) type TokenHash = [u8; 32];

/// The last answer, and the question that is under way. Pure.
#[derive(Debug, Default)]
pub(super) struct Openness {
    answer: Option<(Instant, Arc<[TokenHash]>)>,
    /// When the question under way was asked.
    asked: Option<Instant>,
    /// Whether the last question got no answer. Nobody waits then, until one gets an answer.
    silent: bool,
}

/// What to do for one handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Go on with this.
    Know(bool),
    /// Wait for the answer until then, and go on with [`Openness::believed`].
    Wait(Instant),
}

impl Openness {
    /// What to do, and whether to put a question first.
    pub(super) fn next(&mut self, now: Instant) -> (Next, bool) {
        if let Some((at, open)) = &self.answer
            && now.saturating_duration_since(*at) < FRESH
        {
            return (Next::Know(!open.is_empty()), false);
        }
        let ask = self.asked.is_none();
        let until = *self.asked.get_or_insert(now) + LONGEST_WAIT;
        let next = if self.silent || now >= until {
            Next::Know(self.believed())
        } else {
            Next::Wait(until)
        };
        (next, ask)
    }

    /// The question under way has ended; `None`: without an answer.
    pub(super) fn heard(&mut self, answer: Option<Vec<TokenHash>>, now: Instant) {
        self.asked = None;
        self.silent = answer.is_none();
        if let Some(open) = answer {
            self.answer = Some((now, open.into()));
        }
    }

    /// Whether to speak with joiners without a fresh answer. While the signer is silent it is `true`:
    /// a joiner then hears that the authority cannot issue certificates just now.
    pub(super) fn believed(&self) -> bool {
        self.silent
            || self.asked.is_some()
            || self.answer.as_ref().is_none_or(|(_, open)| !open.is_empty())
    }

    /// The open invitations, by the last answer.
    pub(super) fn open(&self) -> Arc<[TokenHash]> {
        self.answer.as_ref().map(|(_, open)| open.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_question_serves_all_who_come_within_a_second() {
        let (mut open, start) = (Openness::default(), Instant::now());
        let until = start + LONGEST_WAIT;
        assert_eq!(open.next(start), (Next::Wait(until), true));
        assert_eq!(open.next(start + MS), (Next::Wait(until), false));
        open.heard(Some(vec![]), start + 2 * MS);
        assert!(!open.believed());
        assert_eq!(open.next(start + 3 * MS), (Next::Know(false), false));
        let later = start + 2 * MS + FRESH;
        assert_eq!(open.next(later), (Next::Wait(later + LONGEST_WAIT), true));
    }

    #[test]
    fn a_silent_signer_delays_one_handshake_by_half_a_second() {
        let (mut open, start) = (Openness::default(), Instant::now());
        open.heard(Some(vec![]), start);
        let asked = start + FRESH;
        assert_eq!(open.next(asked), (Next::Wait(asked + LONGEST_WAIT), true));
        // The question is still under way.
        let late = asked + LONGEST_WAIT;
        assert_eq!(open.next(late), (Next::Know(true), false));
        open.heard(None, late + MS);
        assert_eq!(open.next(late + 2 * MS), (Next::Know(true), true));
        open.heard(None, late + 3 * MS);
        assert_eq!(open.next(late + 4 * MS), (Next::Know(true), true));
        open.heard(Some(vec![]), late + 5 * MS);
        assert_eq!(open.next(late + 6 * MS), (Next::Know(false), false));
    }
}
