//! Outcomes of handshakes that others began: counts for `status` and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// The outcome of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The handshake of a lane began.
    Lane,
    /// A first packet of somebody who does not know the overlay.
    Unknown,
    /// The handshake of somebody with an open invitation began.
    Invited,
    /// The handshake of a known member began.
    Member,
    /// A stranger's handshake began.
    Stranger,
    /// The address was asked to prove itself.
    Retried,
    /// No lane was granted at this slot, or it is taken up.
    NoGrant,
    /// The pool of lanes was full.
    LanesFull,
    /// The entry had too many handshakes under way, or the slot.
    EntryFull,
    /// The pool of members was full.
    MembersFull,
    /// A member's addresses had too many handshakes under way.
    MemberBusy,
    /// A member's addresses began handshakes too fast.
    MemberRate,
    /// The pool of the invited was full, or they began handshakes too fast.
    InvitedFull,
    /// The pool of strangers was full.
    StrangersFull,
    /// The stranger's prefix had too many handshakes under way.
    PrefixBusy,
    /// The stranger's prefix began handshakes too fast.
    PrefixRate,
    /// All strangers together began handshakes too fast.
    StrangerRate,
    /// The address did not prove itself, and was not asked to again so soon.
    RetryRate,
    /// A handshake gave way to a newer one.
    GaveWay,
    /// A handshake failed.
    Failed,
    /// A handshake took too long.
    TimedOut,
    /// A handshake was complete, and its certificate or protocol did not fit.
    Unauthorised,
}

impl Outcome {
    const ALL: [Self; 22] = [
        Self::Lane,
        Self::Unknown,
        Self::Invited,
        Self::Member,
        Self::Stranger,
        Self::Retried,
        Self::NoGrant,
        Self::LanesFull,
        Self::EntryFull,
        Self::MembersFull,
        Self::MemberBusy,
        Self::MemberRate,
        Self::InvitedFull,
        Self::StrangersFull,
        Self::PrefixBusy,
        Self::PrefixRate,
        Self::StrangerRate,
        Self::RetryRate,
        Self::GaveWay,
        Self::Failed,
        Self::TimedOut,
        Self::Unauthorised,
    ];

    /// The stable name, as in metrics and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lane => "lane",
            Self::Unknown => "unknown",
            Self::Invited => "invited",
            Self::Member => "member",
            Self::Stranger => "stranger",
            Self::Retried => "retried",
            Self::NoGrant => "no-grant",
            Self::LanesFull => "lanes-full",
            Self::EntryFull => "entry-full",
            Self::MembersFull => "members-full",
            Self::MemberBusy => "member-busy",
            Self::MemberRate => "member-rate",
            Self::InvitedFull => "invited-full",
            Self::StrangersFull => "strangers-full",
            Self::PrefixBusy => "prefix-busy",
            Self::PrefixRate => "prefix-rate",
            Self::StrangerRate => "stranger-rate",
            Self::RetryRate => "retry-rate",
            Self::GaveWay => "gave-way",
            Self::Failed => "failed",
            Self::TimedOut => "timed-out",
            Self::Unauthorised => "unauthorised",
        }
    }
}

/// Handshakes so far, by outcome.
#[derive(Debug, Default)]
pub(super) struct HandshakeCounts([AtomicU64; Outcome::ALL.len()]);

impl HandshakeCounts {
    pub(super) fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The outcomes that occurred, by [`Outcome::name`].
    pub(super) fn so_far(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        let named = Outcome::ALL.iter().map(|outcome| outcome.name());
        named.zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_counted_under_its_own_name() {
        let counts = HandshakeCounts::default();
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            counts.count(outcome);
        }
        let names: std::collections::HashSet<_> = counts.so_far().into_iter().collect();
        assert_eq!(names.len(), Outcome::ALL.len());
    }
}
