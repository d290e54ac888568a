//! The destinations of one association: what the policy said of each, and which may answer. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::flow::{DatagramDrop, Host, Target};

/// Judged addresses that are kept of an association. A peer-to-peer program speaks with some hundreds. 256
/// associations of one entry then take 24 MB at most.
const MAX_ADDRESSES: usize = 512;

/// The same of names, which cost more memory. A program uses a few.
const MAX_NAMES: usize = 64;

/// A verdict is used for this long, and a name's address with it. The look-up behind it has a cache
/// of its own.
const VERDICT: Duration = Duration::from_secs(60);

/// A refusal is used for less long: a name server may answer again.
const REFUSAL: Duration = Duration::from_secs(5);

/// New destinations of one entry in a second, on all its associations. Each costs a judgement, and perhaps a
/// look-up.
const NEW_PER_SECOND: u32 = 512;

const SECOND: Duration = Duration::from_secs(1);

/// Judgements under way. The look-ups of an entry have 16 turns.
const MAX_ASKED: usize = 16;

/// Datagrams of the association that wait for a judgement, and their bytes.
const MAX_WAITING: usize = 32;
const MAX_WAITING_BYTES: usize = 32 << 10;

/// How many new destinations an entry has had: the present second, and its count.
#[derive(Debug, Default)]
pub(super) struct NewDestinations(Mutex<Option<(Instant, u32)>>);

impl NewDestinations {
    /// Whether the present second has none.
    pub(super) fn rests(&self, now: Instant) -> bool {
        let second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        second.is_none_or(|(since, _)| now >= since + SECOND)
    }

    /// Whether another one may begin; if so, it counts.
    pub(super) fn may_begin(&self, now: Instant) -> bool {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = match *second {
            Some((since, count)) if now < since + SECOND => (since, count + 1),
            _ => (now, 1),
        };
        let may = begun.1 <= NEW_PER_SECOND;
        if may {
            *second = Some(begun);
        }
        may
    }
}

/// The destinations of one association.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    known: BTreeMap<Target, Known>,
    /// When something was last sent to these addresses: they may answer.
    contacted: BTreeMap<IpAddr, Instant>,
    /// Shared by all associations of its entry.
    of_entry: Arc<NewDestinations>,
    waiting: (usize, usize),
}

#[derive(Debug)]
struct Known {
    used: Instant,
    verdict: Verdict,
}

#[derive(Debug)]
enum Verdict {
    /// Asked for; these datagrams wait for it.
    Asked(Vec<Vec<u8>>),
    /// Datagrams go to this address. `asked`: the verdict has ended, and the next one is asked for.
    Allowed {
        addr: SocketAddr,
        until: Instant,
        asked: bool,
    },
    Refused {
        reason: DatagramDrop,
        until: Instant,
    },
}

/// What is to be done with a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send it there.
    Send(SocketAddr),
    /// Send it there, and judge the destination again.
    SendAndJudge(SocketAddr),
    /// It waits; judge the destination.
    Judge,
    /// It waits.
    Wait,
    /// Drop it.
    Drop(DatagramDrop),
}

impl Destinations {
    /// Those of one more association of an entry.
    pub(super) fn of_entry(of_entry: Arc<NewDestinations>) -> Self {
        Self { of_entry, ..Self::default() }
    }

    /// Decides about a datagram to `target`. `room`: whether its entry may let it wait.
    pub(super) fn step(
        &mut self,
        now: Instant,
        target: &Target,
        payload: &[u8],
        room: bool,
    ) -> Step {
        let may_wait = room
            && self.waiting.0 < MAX_WAITING
            && self.waiting.1 + payload.len() <= MAX_WAITING_BYTES;
        let Some(known) = self.known.get_mut(target) else {
            return self.begin(now, target, payload, may_wait);
        };
        known.used = now;
        match &mut known.verdict {
            Verdict::Allowed { addr, until, asked } => {
                let addr = *addr;
                let judge = now >= *until && !*asked;
                *asked |= judge;
                self.contacted.insert(addr.ip(), now);
                if judge { Step::SendAndJudge(addr) } else { Step::Send(addr) }
            }
            Verdict::Refused { reason, until } if now < *until => Step::Drop(*reason),
            Verdict::Refused { .. } => {
                self.known.remove(target);
                self.begin(now, target, payload, may_wait)
            }
            Verdict::Asked(waiting) if may_wait => {
                waiting.push(payload.to_vec());
                self.waiting = (self.waiting.0 + 1, self.waiting.1 + payload.len());
                Step::Wait
            }
            Verdict::Asked(_) => Step::Drop(DatagramDrop::QueueFull),
        }
    }

    fn begin(&mut self, now: Instant, target: &Target, payload: &[u8], may_wait: bool) -> Step {
        let asked = self.known.values().filter(|known| matches!(known.verdict, Verdict::Asked(_)));
        if !may_wait || asked.count() >= MAX_ASKED {
            return Step::Drop(DatagramDrop::QueueFull);
        }
        if !self.of_entry.may_begin(now) {
            return Step::Drop(DatagramDrop::TooManyDestinations);
        }
        self.make_room(target);
        self.waiting = (self.waiting.0 + 1, self.waiting.1 + payload.len());
        let verdict = Verdict::Asked(vec![payload.to_vec()]);
        self.known.insert(target.clone(), Known { used: now, verdict });
        Step::Judge
    }

    /// Forgets the destination of the same kind that was not used for longest, if there is no room.
    fn make_room(&mut self, target: &Target) {
        let is_name = |target: &Target| matches!(target.host, Host::Name(_));
        let kind = is_name(target);
        let of_kind = self.known.iter().filter(|(known, _)| is_name(known) == kind);
        if of_kind.clone().count() < if kind { MAX_NAMES } else { MAX_ADDRESSES } {
            return;
        }
        let judged = of_kind.filter(|(_, known)| !matches!(known.verdict, Verdict::Asked(_)));
        let oldest = judged.min_by_key(|(_, known)| known.used).map(|(target, _)| target.clone());
        oldest.and_then(|oldest| self.known.remove(&oldest));
    }

    /// The judgement of `target` is there. Returns the datagrams that waited for it.
    pub(super) fn judged(
        &mut self,
        now: Instant,
        target: &Target,
        verdict: Result<SocketAddr, DatagramDrop>,
    ) -> Vec<Vec<u8>> {
        let Some(known) = self.known.get_mut(target) else { return Vec::new() };
        let next = match verdict {
            Ok(addr) => Verdict::Allowed { addr, until: now + VERDICT, asked: false },
            Err(reason) => Verdict::Refused { reason, until: now + REFUSAL },
        };
        let waited = match std::mem::replace(&mut known.verdict, next) {
            Verdict::Asked(waiting) => waiting,
            _ => Vec::new(),
        };
        let bytes: usize = waited.iter().map(Vec::len).sum();
        self.waiting = (self.waiting.0 - waited.len(), self.waiting.1 - bytes);
        if let Ok(addr) = verdict {
            self.contact(now, addr.ip());
        }
        waited
    }

    fn contact(&mut self, now: Instant, ip: IpAddr) {
        if self.contacted.len() >= MAX_ADDRESSES && !self.contacted.contains_key(&ip) {
            let oldest = self.contacted.iter().min_by_key(|(_, at)| **at).map(|(ip, _)| *ip);
            oldest.and_then(|oldest| self.contacted.remove(&oldest));
        }
        self.contacted.insert(ip, now);
    }

    /// Forgets all verdicts, as the policy has changed. Judgements under way go on.
    pub(super) fn forget(&mut self) {
        self.known.retain(|_, known| matches!(known.verdict, Verdict::Asked(_)));
        self.contacted.clear();
    }

    /// Whether the association has sent something to this address.
    pub(super) fn may_answer(&self, ip: IpAddr) -> bool {
        self.contacted.contains_key(&ip)
    }

    /// Bytes that wait for judgements.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(n: u16) -> Target {
        SocketAddr::from(([9, 9, n.to_be_bytes()[0], n.to_be_bytes()[1]], 53)).into()
    }

    fn addr(n: u16) -> SocketAddr {
        let Host::Ip(ip) = target(n).host else { unreachable!("it is an address") };
        SocketAddr::new(ip, 53)
    }

    fn allow(destinations: &mut Destinations, now: Instant, n: u16) {
        assert_eq!(destinations.step(now, &target(n), b"x", true), Step::Judge);
        assert_eq!(destinations.judged(now, &target(n), Ok(addr(n))), [b"x"]);
    }

    #[test]
    fn a_destination_is_judged_once_and_again_when_its_verdict_ends() {
        let (mut destinations, now) = (Destinations::default(), Instant::now());
        assert!(!destinations.may_answer(addr(1).ip()));
        allow(&mut destinations, now, 1);
        assert!(destinations.may_answer(addr(1).ip()));
        let mut step = |after| destinations.step(now + after, &target(1), b"x", true);
        assert_eq!(step(VERDICT / 2), Step::Send(addr(1)));
        assert_eq!(step(VERDICT), Step::SendAndJudge(addr(1)));
        assert_eq!(step(VERDICT), Step::Send(addr(1)), "it is asked for already");
        let later = now + VERDICT;
        assert!(destinations.judged(later, &target(1), Err(DatagramDrop::Denied)).is_empty());
        let step = destinations.step(later, &target(1), b"x", true);
        assert_eq!(step, Step::Drop(DatagramDrop::Denied));
        assert_eq!(destinations.step(later + REFUSAL, &target(1), b"x", true), Step::Judge);
    }

    #[test]
    fn datagrams_that_wait_are_bounded() {
        let (mut destinations, now) = (Destinations::default(), Instant::now());
        assert_eq!(
            destinations.step(now, &target(1), b"x", false),
            Step::Drop(DatagramDrop::QueueFull),
            "its entry has no room"
        );
        assert_eq!(destinations.step(now, &target(1), b"x", true), Step::Judge);
        for _ in 1..MAX_WAITING {
            assert_eq!(destinations.step(now, &target(1), b"x", true), Step::Wait);
        }
        let full = Step::Drop(DatagramDrop::QueueFull);
        assert_eq!(destinations.step(now, &target(1), b"x", true), full);
        assert_eq!(destinations.step(now, &target(2), b"x", true), full);
        assert_eq!(destinations.judged(now, &target(1), Ok(addr(1))).len(), MAX_WAITING);
        assert_eq!(destinations.waiting_bytes(), 0);
        // Bytes count, too.
        let large = vec![0; 2_000];
        let waits = (0..100)
            .filter(|_| !matches!(destinations.step(now, &target(2), &large, true), Step::Drop(_)));
        assert_eq!(waits.count(), MAX_WAITING_BYTES / 2_000);
        // So do judgements under way.
        let mut destinations = Destinations::default();
        let asked =
            (0..100).filter(|n| destinations.step(now, &target(*n), b"", true) == Step::Judge);
        assert_eq!(asked.count(), MAX_ASKED);
    }

    #[test]
    fn the_associations_of_an_entry_begin_so_many_destinations_together() {
        let (of_entry, now) = (Arc::<NewDestinations>::default(), Instant::now());
        let mut both = [0, 1].map(|_| Destinations::of_entry(of_entry.clone()));
        let begun = (0..2_000).filter(|n| {
            let destinations = &mut both[usize::from(*n % 2)];
            let judged = destinations.step(now, &target(*n), b"x", true) == Step::Judge;
            destinations.judged(now, &target(*n), Ok(addr(*n)));
            judged
        });
        assert_eq!(begun.count(), usize::try_from(NEW_PER_SECOND).unwrap());
        assert_eq!(Destinations::default().step(now, &target(1), b"x", true), Step::Judge);
    }

    #[test]
    fn thousands_of_destinations_are_bounded_and_slow() {
        let (mut destinations, start) = (Destinations::default(), Instant::now());
        let mut begun = 0;
        for n in 0..20_000 {
            let now = start + Duration::from_millis(n.into());
            match destinations.step(now, &target(n), b"x", true) {
                Step::Judge => {
                    begun += 1;
                    destinations.judged(now, &target(n), Ok(addr(n)));
                }
                step => assert_eq!(step, Step::Drop(DatagramDrop::TooManyDestinations)),
            }
        }
        assert_eq!(begun, 20 * NEW_PER_SECOND);
        assert_eq!(
            (destinations.known.len(), destinations.contacted.len()),
            (MAX_ADDRESSES, MAX_ADDRESSES)
        );
        // Names do not push out addresses.
        for n in 0..200 {
            let (now, name) =
                (start + Duration::from_secs(30), Target::new(&format!("n{n}.test"), 1).unwrap());
            assert_eq!(destinations.step(now, &name, b"", true), Step::Judge);
            destinations.judged(now, &name, Ok(addr(1)));
        }
        assert_eq!(destinations.known.len(), MAX_ADDRESSES + MAX_NAMES);
    }

    #[test]
    fn the_destination_that_was_used_last_is_kept() {
        let (mut destinations, mut now) = (Destinations::default(), Instant::now());
        allow(&mut destinations, now, 0);
        for n in 1..3_000 {
            now += Duration::from_millis(10);
            allow(&mut destinations, now, n);
            assert_eq!(destinations.step(now, &target(0), b"x", true), Step::Send(addr(0)));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_the_caps_hold(
            steps in prop::collection::vec((any::<u8>(), 0_u16..400, 0_usize..2_000, 0_u64..2_000), 1..400)
        ) {
            let (mut destinations, mut now) = (Destinations::default(), Instant::now());
            for (kind, n, length, ms) in steps {
                now += Duration::from_millis(ms);
                match kind % 3 {
                    0 => drop(destinations.judged(now, &target(n), Ok(addr(n)))),
                    1 => drop(destinations.judged(now, &target(n), Err(DatagramDrop::Denied))),
                    _ => drop(destinations.step(now, &target(n), &vec![0; length], true)),
                }
                prop_assert!(destinations.waiting_bytes() <= MAX_WAITING_BYTES);
                prop_assert!(destinations.waiting.0 <= MAX_WAITING);
            }
        }
    }
}
