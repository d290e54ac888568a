//! Admission of handshakes: pools and rates, so that a flood of one kind leaves room for the
//! others. Pure.
//!
//! | pool | who | bounds |
//! |---|---|---|
//! | lanes | a connection at the slot of a granted lane that nobody has taken up | 128, 16 per entry, 2 per slot |
//! | members | from an address that is, or lately was, a neighbour's | 128, 16 per address (4 until it proves itself), rates per address |
//! | strangers | everybody else | 64, 16 per prefix (2 under pressure), rates per prefix and in all |
//!
//! A prefix is an IPv4 /24 or an IPv6 /48: the addresses that one person can easily have. A
//! connection to the authority's desk counts as a handshake until it is answered. When a pool or a
//! prefix's share of it is full, the oldest handshake that is older than a minimum gives way. Under
//! pressure an address must first prove itself (Retry, RFC 9000, section 8.1.2), at a bounded rate.
//! What comes from an address that has not proved itself uses up nothing of what is kept for those
//! that have, because anybody can send in a member's name.
//! A refused packet is ignored before any public-key operation, and costs its sender more than this
//! node.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::handshakes::Outcome;
use crate::identity::NodeName;

/// Lane handshakes under way. 64 entries that open two lanes each at once fit.
const MAX_LANES: usize = 128;
/// The same of one entry: a page with lanes of several hints and classes needs a few at once.
const MAX_LANES_PER_ENTRY: usize = 16;
/// The same at one slot: the entry's own, and one after its packets were lost.
const MAX_LANES_PER_SLOT: usize = 2;

/// Members' handshakes under way. An overlay of 200 nodes that all come back at once is through in
/// two rounds.
const MAX_MEMBERS: usize = 128;
/// Of one address: members may share one behind a NAT, and in tests.
const MAX_PER_ADDRESS: usize = 16;
/// From these numbers on, in all and of one address, an address must prove itself, because a
/// stranger can forge a member's address.
const RETRY_MEMBERS: usize = 32;
const RETRY_PER_ADDRESS: usize = 4;
/// Handshakes a second of one member's address: it dials at most every 0.5 s, by two sockets. Beyond
/// this, it must prove itself; when it has, it may begin as many again.
const ADDRESS_RATE: Rate = Rate { per_second: 8.0, burst: 32.0 };

/// Strangers' handshakes under way: at most 64 times 50 KiB of memory.
const MAX_STRANGERS: usize = 64;
/// From this number on, an address must prove itself.
const RETRY_STRANGERS: usize = 4;
/// Strangers a second beyond which an address must prove itself.
const CALM: Rate = Rate { per_second: 8.0, burst: 16.0 };
/// Of one prefix, while less than half the pool is in use.
const MAX_PER_PREFIX: usize = 16;
/// Of one prefix otherwise.
const MAX_PER_PREFIX_UNDER_PRESSURE: usize = 2;
/// Handshakes a second of one prefix. The burst is a small overlay behind one NAT that starts.
const PREFIX_RATE: Rate = Rate { per_second: 2.0, burst: 32.0 };
/// Handshakes a second of all strangers: at half a millisecond each, a twentieth of a core.
const STRANGER_RATE: Rate = Rate { per_second: 100.0, burst: 100.0 };

/// Retry packets a second to one prefix, and in all. One costs 15 µs and 150 bytes, an eighth of
/// what it answers.
const PREFIX_RETRIES: Rate = Rate { per_second: 8.0, burst: 16.0 };
const ALL_RETRIES: Rate = Rate { per_second: 1000.0, burst: 1000.0 };

/// The same for members' addresses: a forger needs 19 Mbit/s of first packets in a member's name to
/// keep this member's own from an answer, and 38 Mbit/s to keep all from it. That many Retry packets
/// cost 6 % of a core.
const ADDRESS_RETRIES: Rate = Rate { per_second: 2000.0, burst: 2000.0 };
const MEMBER_RETRIES: Rate = Rate { per_second: 4000.0, burst: 4000.0 };

/// A handshake of this age may be given up for another: three round trips of 300 ms are over.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(1);

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

/// The class of a peer before the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// The entry to which the lane of a slot was granted.
    Lane { entry: NodeName, slot: u32 },
    /// A neighbour's address.
    Member(IpAddr),
    /// Any other address.
    Stranger(IpAddr),
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

/// How often something may happen.
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: f32,
    burst: f32,
}

/// A token bucket: full at first.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    spent: f32,
    at: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { spent: 0.0, at: now }
    }

    fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let refilled = now.saturating_duration_since(self.at).as_secs_f32() * rate.per_second;
        self.spent = (self.spent - refilled).max(0.0);
        self.at = self.at.max(now);
        let granted = self.spent + 1.0 <= rate.burst;
        if granted {
            self.spent += 1.0;
        }
        granted
    }
}

/// Handshakes of one kind that are under way.
#[derive(Debug, Default)]
struct Pool(Vec<UnderWay>);

#[derive(Debug)]
struct UnderWay {
    ticket: u64,
    began: Instant,
    who: Who,
    validated: bool,
}

impl Pool {
    fn count(&self, same: impl Fn(&Who) -> bool) -> usize {
        self.0.iter().filter(|under_way| same(&under_way.who)).count()
    }

    /// How many handshakes of an address that has, or has not, proved itself are under way.
    fn of_address(&self, ip: IpAddr, validated: bool) -> usize {
        let same = |other: &&UnderWay| {
            other.validated == validated && matches!(other.who, Who::Member(of) if of == ip)
        };
        self.0.iter().filter(same).count()
    }

    /// The handshake that has to end before another of the `same` kind may begin, if `max` of these
    /// are under way: the oldest of them. `Err` while it is too young.
    fn gives_way(
        &self,
        now: Instant,
        max: usize,
        same: impl Fn(&Who) -> bool,
    ) -> Result<Option<u64>, NoPlace> {
        if self.count(&same) < max {
            return Ok(None);
        }
        let oldest = self.0.iter().filter(|other| same(&other.who)).min_by_key(|o| o.began);
        let had_its_time =
            oldest.filter(|o| now.saturating_duration_since(o.began) >= GIVES_WAY_AFTER);
        had_its_time.map(|other| Some(other.ticket)).ok_or(NoPlace)
    }

    fn remove(&mut self, ticket: u64) {
        self.0.retain(|under_way| under_way.ticket != ticket);
    }
}

/// A pool, or a share of it, is full.
#[derive(Debug)]
struct NoPlace;

/// All handshakes under way, and what they may still do.
#[derive(Debug)]
pub(super) struct Admission {
    seed: u64,
    next: u64,
    lanes: Pool,
    members: Pool,
    strangers: Pool,
    calm: Bucket,
    all_strangers: Bucket,
    all_retries: Bucket,
    member_retries: Bucket,
    /// By prefix of strangers or address of members: handshakes, those of a member's address that has not
    /// proved itself, and retries.
    handshakes: Box<[Bucket]>,
    unproved: Box<[Bucket]>,
    retries: Box<[Bucket]>,
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
            strangers: Pool::default(),
            calm: bucket,
            all_strangers: bucket,
            all_retries: bucket,
            member_retries: bucket,
            handshakes: buckets(),
            unproved: buckets(),
            retries: buckets(),
        }
    }

    /// Decides about an arrival; [`done`](Self::done) has to follow what is accepted.
    pub(super) fn judge(&mut self, now: Instant, arrival: Arrival) -> Verdict {
        let judged = match &arrival.who {
            Who::Lane { entry, slot } => self.lane(entry, *slot).map(|()| None),
            Who::Member(ip) => self.member(now, *ip, &arrival).map(|()| None),
            Who::Stranger(ip) => self.stranger(now, *ip, &arrival),
        };
        match judged {
            Ok(gives_way) => self.begin(now, arrival, gives_way).unwrap_or_else(Verdict::Ignore),
            Err(verdict) => verdict,
        }
    }

    /// A handshake has ended.
    pub(super) fn done(&mut self, ticket: u64) {
        for pool in [&mut self.lanes, &mut self.members, &mut self.strangers] {
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
        let (pool, max, full) = match who {
            Who::Lane { .. } => (&mut self.lanes, MAX_LANES, Outcome::LanesFull),
            Who::Member(_) => (&mut self.members, MAX_MEMBERS, Outcome::MembersFull),
            Who::Stranger(_) => (&mut self.strangers, MAX_STRANGERS, Outcome::StrangersFull),
        };
        let instead_of = match gives_way {
            Some(ticket) => Some(ticket),
            None => pool.gives_way(now, max, |_| true).map_err(|NoPlace| full)?,
        };
        if let Some(ticket) = instead_of {
            pool.remove(ticket);
        }
        self.next += 1;
        let ticket = self.next;
        pool.0.push(UnderWay { ticket, began: now, who, validated });
        Ok(Verdict::Accept { ticket, instead_of })
    }

    fn lane(&self, entry: &NodeName, slot: u32) -> Result<(), Verdict> {
        let of_entry = |who: &Who| matches!(who, Who::Lane { entry: other, .. } if other == entry);
        let of_slot = |who: &Who| matches!(who, Who::Lane { slot: other, .. } if *other == slot);
        if self.lanes.count(of_entry) >= MAX_LANES_PER_ENTRY
            || self.lanes.count(of_slot) >= MAX_LANES_PER_SLOT
        {
            return Err(Verdict::Ignore(Outcome::EntryFull));
        }
        Ok(())
    }

    fn member(&mut self, now: Instant, ip: IpAddr, arrival: &Arrival) -> Result<(), Verdict> {
        let index = self.index(ip);
        if !arrival.validated {
            let pressed = self.members.0.len() >= RETRY_MEMBERS
                || self.members.of_address(ip, false) >= RETRY_PER_ADDRESS;
            return match pressed || !self.unproved[index].take(now, ADDRESS_RATE) {
                true => Err(self.retry(now, arrival, index, (ADDRESS_RETRIES, MEMBER_RETRIES))),
                false => Ok(()),
            };
        }
        if self.members.of_address(ip, true) >= MAX_PER_ADDRESS {
            return Err(Verdict::Ignore(Outcome::AddressBusy));
        }
        if !self.handshakes[index].take(now, ADDRESS_RATE) {
            return Err(Verdict::Ignore(Outcome::AddressRate));
        }
        Ok(())
    }

    /// May return the handshake of the same prefix that gives way.
    fn stranger(
        &mut self,
        now: Instant,
        ip: IpAddr,
        arrival: &Arrival,
    ) -> Result<Option<u64>, Verdict> {
        let under_way = self.strangers.0.len();
        let index = self.index(prefix(ip));
        if !arrival.validated && (!self.calm.take(now, CALM) || under_way >= RETRY_STRANGERS) {
            return Err(self.retry(now, arrival, index, (PREFIX_RETRIES, ALL_RETRIES)));
        }
        let most = match under_way < MAX_STRANGERS / 2 {
            true => MAX_PER_PREFIX,
            false => MAX_PER_PREFIX_UNDER_PRESSURE,
        };
        let key = prefix(ip);
        let same = |who: &Who| matches!(who, Who::Stranger(other) if prefix(*other) == key);
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
        index: usize,
        (own, all): (Rate, Rate),
    ) -> Verdict {
        let of_all = match arrival.who {
            Who::Member(_) => &mut self.member_retries,
            _ => &mut self.all_retries,
        };
        let may = arrival.may_retry && self.retries[index].take(now, own) && of_all.take(now, all);
        if may { Verdict::Retry } else { Verdict::Ignore(Outcome::RetryRate) }
    }

    fn index(&self, key: impl Hash) -> usize {
        let mut hasher = DefaultHasher::new();
        (self.seed, key).hash(&mut hasher);
        usize::try_from(hasher.finish() % BUCKETS as u64).unwrap_or(0)
    }
}

/// The IPv4 /24 or IPv6 /48 of an address.
pub(super) fn prefix(ip: IpAddr) -> [u8; 7] {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            [4, a, b, c, 0, 0, 0]
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, ..] = ip.octets();
            [6, a, b, c, d, e, f]
        }
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
