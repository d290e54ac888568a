//! Handshakes of one kind that are under way. Pure.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::identity::NodeName;

/// In a full pool a handshake of this age may be given up for another: four round trips of 250 ms are over, one
/// each of Retry, TLS, the introductions and a revocation list. On longer paths it may have to be tried again.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(1);

/// The class of a peer before the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// The entry to which the lane of a slot was granted.
    Lane { entry: NodeName, slot: u32 },
    /// A member, which showed that it is one, and whether it is, or lately was, seen at this address.
    Member { name: NodeName, ip: IpAddr, seen: bool },
    /// Somebody with an open invitation.
    Invited(IpAddr),
    /// Any other address.
    Stranger(IpAddr),
}

impl Who {
    /// Whether it is counted under this member's name.
    pub(super) fn is_member(&self, of: &NodeName) -> bool {
        matches!(self, Self::Member { name, .. } if name == of)
    }

    /// The same, from this address of it.
    pub(super) fn is_member_at(&self, of: &NodeName, at: IpAddr) -> bool {
        matches!(self, Self::Member { name, ip, .. } if name == of && *ip == at)
    }
}

/// The handshakes.
#[derive(Debug, Default)]
pub(super) struct Pool(Vec<UnderWay>);

/// One of them.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) ticket: u64,
    pub(super) began: Instant,
    pub(super) who: Who,
    /// The address had proved itself.
    pub(super) validated: bool,
}

/// A pool, or a share of it, is full.
#[derive(Debug)]
pub(super) struct NoPlace;

impl Pool {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn count(&self, same: impl Fn(&UnderWay) -> bool) -> usize {
        self.0.iter().filter(|under_way| same(under_way)).count()
    }

    /// How many handshakes counted under a member's name at one of its addresses, which has, or has not,
    /// proved itself.
    pub(super) fn of_member_at(&self, name: &NodeName, ip: IpAddr, validated: bool) -> usize {
        self.count(|other| other.validated == validated && other.who.is_member_at(name, ip))
    }

    /// The handshake that has to end before another of the `same` kind may begin, if `max` of these
    /// are under way: the oldest of them. `Err` while it is too young.
    pub(super) fn gives_way(
        &self,
        now: Instant,
        max: usize,
        same: impl Fn(&UnderWay) -> bool,
    ) -> Result<Option<u64>, NoPlace> {
        if self.count(&same) < max {
            return Ok(None);
        }
        let oldest = self.0.iter().filter(|other| same(other)).min_by_key(|o| o.began);
        let had_its_time =
            oldest.filter(|o| now.saturating_duration_since(o.began) >= GIVES_WAY_AFTER);
        had_its_time.map(|other| Some(other.ticket)).ok_or(NoPlace)
    }

    /// The same for one more of this member in a pool of `max`: the oldest of the member with the most
    /// places, at once if that has more than this one will have, else if it had its time.
    pub(super) fn gives_way_to_member(
        &self,
        now: Instant,
        max: usize,
        name: &NodeName,
    ) -> Result<Option<u64>, NoPlace> {
        if self.len() < max {
            return Ok(None);
        }
        let places = |of: &NodeName| self.count(|other| other.who.is_member(of));
        let names = self.0.iter().filter_map(|other| match &other.who {
            Who::Member { name, .. } => Some(name),
            _ => None,
        });
        let most = names.max_by_key(|of| (places(of), *of == name)).ok_or(NoPlace)?;
        if places(most) <= places(name) + 1 {
            return self.gives_way(now, 1, |other| other.who.is_member(most));
        }
        let oldest = self.0.iter().filter(|other| other.who.is_member(most));
        Ok(oldest.min_by_key(|other| other.began).map(|other| other.ticket))
    }

    pub(super) fn begin(&mut self, under_way: UnderWay) {
        self.0.push(under_way);
    }

    pub(super) fn remove(&mut self, ticket: u64) {
        self.0.retain(|under_way| under_way.ticket != ticket);
    }
}
