//! Admission of handshakes: pools and rates, so that a flood of one kind leaves room for the
//! others. Pure.
//!
//! | pool | who | bounds |
//! |---|---|---|
//! | lanes | a connection at the slot of a granted lane that nobody has taken up | 128, 16 per entry, 2 per slot |
//! | members | who shows to be a member that this node knows | 128, 16 per name and address (4 until the address proves itself), rates per name and address |
//! | invited | who shows an open invitation, at the authority | 16, a rate |
//! | strangers | everybody else who knows the overlay | 64, 16 per prefix (2 under pressure), rates per prefix and in all |
//!
//! A prefix is an IPv4 /24 or an IPv6 /48: the addresses that one person can easily have. A
//! connection to the authority's desk counts as a handshake until it is answered. When a pool or a
//! share of it is full, the oldest handshake that is older than a minimum gives way; in the members'
//! pool that of the name with the most places. A member is counted at each of its addresses apart: who sends its first
//! packets again from elsewhere uses up nothing of what it has where it is.
//!
//! Who does not know the overlay gets no answer at all, and of a member its first packet shows which one it is
//! ([`Shown`](crate::transport::Shown)). An address of strangers and of the invited must first prove itself (Retry,
//! RFC 9000, section 8.1.2), and one of a member if it was not seen there, or under pressure, at a bounded rate: so no
//! third party gets more bytes than came in its name, and who forges addresses uses up what is its own. What comes
//! from an address that has not proved itself uses up nothing of what is kept for those that have: who saw a member's
//! first packet on its way can send it again in that member's name.
//! A refused packet is ignored before any public-key operation, and costs its sender more than this
//! node.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::Instant,
};

use super::{
    handshakes::Outcome,
    places::{NoPlace, Pool, UnderWay, Who},
    rate::{Bucket, Rate},
};
use crate::{identity::NodeName, underlay::prefix};

/// Lane handshakes under way. 64 entries that open two lanes each at once fit.
const MAX_LANES: usize = 128;
/// The same of one entry: a page with lanes of several hints and classes needs a few at once.
const MAX_LANES_PER_ENTRY: usize = 16;
/// The same at one slot: the entry's own, and one after its packets were lost.
const MAX_LANES_PER_SLOT: usize = 2;

/// Members' handshakes under way. An overlay of 200 nodes that all come back at once is through in
/// two rounds.
const MAX_MEMBERS: usize = 128;
/// Of one name at one of its addresses: it dials by two sockets, and each dial may take 5 s.
const MAX_PER_NAME: usize = 16;
/// From these numbers on, in all and of one name at one address, the address must prove itself, because a
/// sender of another's packets can forge its address.
const RETRY_MEMBERS: usize = 32;
const RETRY_PER_NAME: usize = 4;
/// Handshakes a second of one name at one address: it dials at most every 0.5 s, by two sockets. Beyond this, the
/// address must prove itself; when it has, it may begin as many again.
const NAME_RATE: Rate = Rate { per_second: 8.0, burst: 32.0 };

/// Handshakes under way of those with an open invitation: a join takes half a second, and an authority rarely
/// has more than a few open.
const MAX_INVITED: usize = 16;
/// Handshakes a second of all of them.
const INVITED_RATE: Rate = Rate { per_second: 20.0, burst: 32.0 };

/// Strangers' handshakes under way: at most 64 times 50 KiB of memory.
const MAX_STRANGERS: usize = 64;
/// Of one prefix, while less than half the pool is in use.
const MAX_PER_PREFIX: usize = 16;
/// Of one prefix otherwise.
const MAX_PER_PREFIX_UNDER_PRESSURE: usize = 2;
/// Handshakes a second of one prefix. The burst is a small overlay behind one NAT that starts.
const PREFIX_RATE: Rate = Rate { per_second: 2.0, burst: 32.0 };
/// Handshakes a second of all strangers: at half a millisecond each, a twentieth of a core.
const STRANGER_RATE: Rate = Rate { per_second: 100.0, burst: 100.0 };

/// Retry packets a second to a member's addresses where it was not seen: a laptop that moves dials up to eight
/// addresses of each member at once, and again after some seconds. A packet has some 150 bytes, so a member that forges
/// sources makes this node send 30 byte/s to third parties, and uses up only its own.
const MOVED_RETRIES: Rate = Rate { per_second: 0.2, burst: 16.0 };

/// Retry packets a second to strangers, in all and to one prefix. These are members that this node does not know, and
/// it soon hears of all others from the first that it lets in. Who sends in others' names makes this node send
/// 150 byte/s to them. A first packet without an answer is sent again after one second, three, and seven.
const STRANGER_RETRIES: Rate = Rate { per_second: 1.0, burst: 32.0 };
const PREFIX_RETRIES: Rate = Rate { per_second: 0.25, burst: 8.0 };
/// The same to those with an invitation: somebody who was invited may make this node send 3 kB/s.
const INVITED_RETRIES: Rate = Rate { per_second: 20.0, burst: 32.0 };

/// The same for members' addresses: a forger needs 19 Mbit/s of first packets in a member's name to
/// keep this member's own from an answer, and 38 Mbit/s to keep all from it. That many Retry packets
/// cost 6 % of a core.
const ADDRESS_RETRIES: Rate = Rate { per_second: 2000.0, burst: 2000.0 };
const MEMBER_RETRIES: Rate = Rate { per_second: 4000.0, burst: 4000.0 };

/// Buckets of prefixes. Two prefixes share one if their keyed hashes agree: with 100 busy prefixes
/// one other in 40 meets one of them.
const BUCKETS: usize = 4096;

/// Somebody who wants to connect.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) who: Who,
    /// The address has answered a Retry.
    pub(super) validated: bool,
    /// QUIC allows to ask for that.
    pub(super) may_retry: bool,
}

/// The decision about an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The handshake begins, under this number; the one under the other number ends.
    Accept { ticket: u64, instead_of: Option<u64> },
    /// The address must prove itself first.
    Retry,
    /// No answer is sent.
    Ignore(Outcome),
}

impl Verdict {
    /// Asks the address to prove itself, if the rates allow it.
    fn retry_if(may: bool) -> Self {
        if may { Self::Retry } else { Self::Ignore(Outcome::RetryRate) }
    }
}

/// All handshakes under way, and what they may still do.
#[derive(Debug)]
pub(super) struct Admission {
    seed: u64,
    next: u64,
    lanes: Pool,
    members: Pool,
    invited: Pool,
    strangers: Pool,
    all_invited: Bucket,
    all_strangers: Bucket,
    stranger_retries: Bucket,
    invited_retries: Bucket,
    member_retries: Bucket,
    /// By prefix of strangers, or name and address of members: handshakes of addresses that have proved themselves. By
    /// name and address of members: of those that have not. By prefix or address: retries.
    handshakes: Box<[Bucket]>,
    unproved: Box<[Bucket]>,
    retries: Box<[Bucket]>,
    /// By name of members: retries to addresses where they were not seen.
    moved: Box<[Bucket]>,
}

impl Admission {
    /// No handshake under way. `seed` is secret, so that an attacker cannot choose another prefix's
    /// bucket.
    pub(super) fn new(now: Instant, seed: u64) -> Self {
        let bucket = Bucket::new(now);
        let buckets = || vec![bucket; BUCKETS].into_boxed_slice();
        Self {
            seed,
            next: 0,
            lanes: Pool::default(),
            members: Pool::default(),
            invited: Pool::default(),
            strangers: Pool::default(),
            all_invited: bucket,
            all_strangers: bucket,
            stranger_retries: bucket,
            invited_retries: bucket,
            member_retries: bucket,
            handshakes: buckets(),
            unproved: buckets(),
            retries: buckets(),
            moved: buckets(),
        }
    }

    /// Decides about an arrival; [`done`](Self::done) has to follow what is accepted.
    pub(super) fn judge(&mut self, now: Instant, arrival: Arrival) -> Verdict {
        let judged = match &arrival.who {
            Who::Lane { entry, slot } => self.lane(entry, *slot).map(|()| None),
            Who::Member { name, ip, seen } => self.member(now, (name, *ip, *seen), &arrival),
            Who::Invited(_) => self.invited(now, &arrival),
            Who::Stranger(ip) => self.stranger(now, *ip, &arrival),
        };
        match judged {
            Ok(gives_way) => self.begin(now, arrival, gives_way).unwrap_or_else(Verdict::Ignore),
            Err(verdict) => verdict,
        }
    }

    /// A handshake has ended.
    pub(super) fn done(&mut self, ticket: u64) {
        for pool in [&mut self.lanes, &mut self.members, &mut self.invited, &mut self.strangers] {
            pool.remove(ticket);
        }
    }

    /// Takes a place, that of `gives_way` if it is one.
    fn begin(
        &mut self,
        now: Instant,
        arrival: Arrival,
        gives_way: Option<u64>,
    ) -> Result<Verdict, Outcome> {
        let Arrival { who, validated, .. } = arrival;
        let pool = match who {
            Who::Lane { .. } => &mut self.lanes,
            Who::Member { .. } => &mut self.members,
            Who::Invited(_) => &mut self.invited,
            Who::Stranger(_) => &mut self.strangers,
        };
        let room = match &who {
            _ if gives_way.is_some() => Ok(gives_way),
            Who::Lane { .. } => {
                pool.gives_way(now, MAX_LANES, |_| true).map_err(|NoPlace| Outcome::LanesFull)
            }
            Who::Member { name, .. } => pool
                .gives_way_to_member(now, MAX_MEMBERS, name)
                .map_err(|NoPlace| Outcome::MembersFull),
            Who::Invited(_) => {
                pool.gives_way(now, MAX_INVITED, |_| true).map_err(|NoPlace| Outcome::InvitedFull)
            }
            Who::Stranger(_) => pool
                .gives_way(now, MAX_STRANGERS, |_| true)
                .map_err(|NoPlace| Outcome::StrangersFull),
        };
        let instead_of = room?;
        if let Some(ticket) = instead_of {
            pool.remove(ticket);
        }
        self.next += 1;
        let ticket = self.next;
        pool.begin(UnderWay { ticket, began: now, who, validated });
        Ok(Verdict::Accept { ticket, instead_of })
    }

    fn lane(&self, entry: &NodeName, slot: u32) -> Result<(), Verdict> {
        let of_entry =
            |lane: &UnderWay| matches!(&lane.who, Who::Lane { entry: other, .. } if other == entry);
        let of_slot =
            |lane: &UnderWay| matches!(lane.who, Who::Lane { slot: other, .. } if other == slot);
        if self.lanes.count(of_entry) >= MAX_LANES_PER_ENTRY
            || self.lanes.count(of_slot) >= MAX_LANES_PER_SLOT
        {
            return Err(Verdict::Ignore(Outcome::EntryFull));
        }
        Ok(())
    }

    /// May return the handshake of the same name and address that gives way.
    fn member(
        &mut self,
        now: Instant,
        (name, ip, seen): (&NodeName, IpAddr, bool),
        arrival: &Arrival,
    ) -> Result<Option<u64>, Verdict> {
        let index = self.index((name, ip));
        if !arrival.validated && !seen {
            let moved = self.index(name);
            let may = arrival.may_retry && self.moved[moved].take(now, MOVED_RETRIES);
            return Err(Verdict::retry_if(may));
        }
        if !arrival.validated {
            let pressed = self.members.len() >= RETRY_MEMBERS
                || self.members.of_member_at(name, ip, false) >= RETRY_PER_NAME;
            let retries = (self.index(ip), ADDRESS_RETRIES, MEMBER_RETRIES);
            return match pressed || !self.unproved[index].take(now, NAME_RATE) {
                true => Err(self.retry(now, arrival, retries)),
                false => Ok(None),
            };
        }
        let same = |other: &UnderWay| other.validated && other.who.is_member_at(name, ip);
        let gives_way = self.members.gives_way(now, MAX_PER_NAME, same);
        let gives_way = gives_way.map_err(|NoPlace| Verdict::Ignore(Outcome::MemberBusy))?;
        if !self.handshakes[index].take(now, NAME_RATE) {
            return Err(Verdict::Ignore(Outcome::MemberRate));
        }
        Ok(gives_way)
    }

    fn invited(&mut self, now: Instant, arrival: &Arrival) -> Result<Option<u64>, Verdict> {
        if !arrival.validated {
            let may = arrival.may_retry && self.invited_retries.take(now, INVITED_RETRIES);
            return Err(Verdict::retry_if(may));
        }
        match self.all_invited.take(now, INVITED_RATE) {
            true => Ok(None),
            false => Err(Verdict::Ignore(Outcome::InvitedFull)),
        }
    }

    /// May return the handshake of the same prefix that gives way.
    fn stranger(
        &mut self,
        now: Instant,
        ip: IpAddr,
        arrival: &Arrival,
    ) -> Result<Option<u64>, Verdict> {
        let under_way = self.strangers.len();
        let key = prefix(ip);
        let index = self.index(key);
        if !arrival.validated {
            return Err(self.retry(now, arrival, (index, PREFIX_RETRIES, STRANGER_RETRIES)));
        }
        let most = match under_way < MAX_STRANGERS / 2 {
            true => MAX_PER_PREFIX,
            false => MAX_PER_PREFIX_UNDER_PRESSURE,
        };
        let same = |other: &UnderWay| {
            other.validated && matches!(other.who, Who::Stranger(of) if prefix(of) == key)
        };
        let gives_way = self.strangers.gives_way(now, most, same);
        let gives_way = gives_way.map_err(|NoPlace| Verdict::Ignore(Outcome::PrefixBusy))?;
        if !self.handshakes[index].take(now, PREFIX_RATE) {
            return Err(Verdict::Ignore(Outcome::PrefixRate));
        }
        if !self.all_strangers.take(now, STRANGER_RATE) {
            return Err(Verdict::Ignore(Outcome::StrangerRate));
        }
        Ok(gives_way)
    }

    /// Asks an address to prove itself, at these rates for its bucket and for all of its class.
    fn retry(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        (index, own, all): (usize, Rate, Rate),
    ) -> Verdict {
        let of_all = match arrival.who {
            Who::Member { .. } => &mut self.member_retries,
            _ => &mut self.stranger_retries,
        };
        let may = arrival.may_retry && self.retries[index].take(now, own) && of_all.take(now, all);
        Verdict::retry_if(may)
    }

    fn index(&self, key: impl Hash) -> usize {
        let mut hasher = DefaultHasher::new();
        (self.seed, key).hash(&mut hasher);
        usize::try_from(hasher.finish() % BUCKETS as u64).unwrap_or(0)
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
