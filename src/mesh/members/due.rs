//! Whom to dial, when, and where.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Member, Members};
use crate::{
    identity::{NodeName, Peer},
    mesh::{dials::Dials, race::families},
    underlay::Carrier,
    wire::reach,
};

/// First pause between two attempts to dial the same member; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause. A node that comes back is found within this time even if it cannot dial us.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Longest pause for a member that nobody told of for [`FORGET_AFTER`](super::FORGET_AFTER): it is most likely gone.
const GONE_PAUSE: Duration = Duration::from_secs(60);

/// The pause of a member to which there is no route. To look costs three system calls for each of its
/// addresses: those of a full directory, 8 each, take a hundredth of a core.
const NO_ROUTE_PAUSE: Duration = Duration::from_secs(1);

/// While a flow waits for a route, each member without a link is dialled so often, whatever its pause, and
/// by so many dials that overlap. QUIC repeats a lost first packet after a second, which is too late then.
const HURRIED_PAUSE: Duration = Duration::from_millis(300);
const HURRIED_DIALS: usize = 3;

/// A waiting flow asks for hurry several times within this time.
const HURRY: Duration = Duration::from_secs(1);

/// A dial that is to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mesh) struct Dial {
    /// The member.
    pub(in crate::mesh) name: NodeName,
    /// By what.
    pub(in crate::mesh) carrier: Carrier,
    /// Where.
    pub(in crate::mesh) addresses: Vec<SocketAddr>,
    /// Another dial of it is under way: this one ends early and makes room for the next.
    pub(in crate::mesh) hurried: bool,
    /// Those that are dialled a little later, if the others do not answer.
    pub(in crate::mesh) later: Vec<SocketAddr>,
    /// The carrier is measured beside the link.
    pub(in crate::mesh) trial: bool,
}

impl Member {
    /// Whether it is to be dialled by UDP at `now`. `streams`: this node may dial streams.
    fn is_due(&self, now: Instant, hurried: bool, streams: bool) -> bool {
        let again = || self.last_dial.is_none_or(|last| last + HURRIED_PAUSE <= now);
        let hurries = || hurried && self.dials < HURRIED_DIALS && again();
        let needed = self.needs_dial() && (self.next_dial <= now || hurries());
        // The stream may be late only, and another one is dialled. UDP that lost much a while ago is not taken
        // without a trial then.
        let by_stream = || streams && !self.streams().is_empty();
        let takes_udp = || !self.trials.udp_is_lossy(now) || !by_stream();
        let beside = || self.fallback.wants_udp(now) && takes_udp();
        needed || self.dials == 0 && beside()
    }

    /// The TCP addresses of its streams.
    fn streams(&self) -> Vec<SocketAddr> {
        let mut streams = reach::streams_of(&self.addresses());
        streams.extend(self.stream_at.filter(|at| !streams.contains(at)));
        streams
    }

    /// No packet to any of its addresses can leave this machine. That is no attempt: as soon as there is a
    /// route, it is dialled. Its streams have waited for UDP long enough after their usual time.
    fn no_route(&mut self, now: Instant) {
        self.fallback.udp_dialled(now);
        self.last_dial = Some(now);
        self.next_dial = now + NO_ROUTE_PAUSE;
    }

    /// A dial of these addresses, of which one family begins. While a flow waits, another dial is under way or the
    /// path in use is down, none waits for the other.
    fn dial(
        &self,
        name: &NodeName,
        carrier: Carrier,
        addresses: Vec<SocketAddr>,
        (again, hurried): (bool, bool),
    ) -> Dial {
        let later = match again || hurried || self.path_down {
            true => Vec::new(),
            false => families(&addresses, self.observed.or(self.stream_at)).1,
        };
        Dial { name: name.clone(), carrier, addresses, hurried: again, later, trial: false }
    }

    fn is_refused(&self, refused: impl Fn(&Peer) -> bool) -> bool {
        self.certified.as_ref().is_some_and(|peer| refused(peer))
    }
}

impl Members {
    /// Dials members without a link more often for a second: a flow waits for a route.
    pub fn hurry(&mut self, now: Instant) {
        self.hurry_until = Some(now + HURRY);
    }

    fn is_hurried(&self, now: Instant) -> bool {
        self.hurry_until.is_some_and(|until| now < until)
    }

    /// Records that a dial of the member has ended.
    pub fn dial_ended(&mut self, name: &NodeName, carrier: Carrier) {
        if let Some(member) = self.known.get_mut(name) {
            match carrier {
                Carrier::Udp => member.dials = member.dials.saturating_sub(1),
                Carrier::Tls => member.fallback.dial_ended(),
            }
        }
    }

    /// Records that no address of the member answered.
    pub fn dial_failed(&mut self, now: Instant, name: &NodeName, carrier: Carrier) {
        if let Some(member) = self.known.get_mut(name) {
            if carrier == Carrier::Tls {
                return member.fallback.dial_failed(now);
            }
            member.fallback.udp_failed();
            let longest = if member.is_silent(now) { GONE_PAUSE } else { LONGEST_PAUSE };
            let pause = FIRST_PAUSE * 2u32.saturating_pow(member.failures.min(8));
            member.failures = member.failures.saturating_add(1);
            member.next_dial = now + pause.min(longest);
        }
    }

    /// The members to dial by streams now, with the TCP addresses to try, as far as `dials` admits them.
    pub(in crate::mesh) fn streams_due(
        &mut self,
        now: Instant,
        dials: &mut Dials,
        refused: impl Fn(&Peer) -> bool,
    ) -> Vec<Dial> {
        let hurried = self.is_hurried(now);
        let mut begun = Vec::new();
        for (name, member) in &mut self.known {
            if !dials.has_room() {
                break;
            }
            let works = !member.needs_dial();
            if !member.fallback.wants_stream(now, self.ways, (works, hurried))
                || member.is_refused(&refused)
            {
                continue;
            }
            let addresses = dials.begin(now, name, &member.streams());
            if !addresses.is_empty() {
                member.fallback.dialled(now);
                begun.push(member.dial(name, Carrier::Tls, addresses, (false, hurried)));
            }
        }
        begun
    }

    /// The members to measure by another carrier now, with the addresses to try, as far as `dials` admits
    /// them. The links to those in `lossy` lose much. `refused` and `reaches`: as for [`Self::due`].
    pub(in crate::mesh) fn trials_due(
        &mut self,
        now: Instant,
        dials: &mut Dials,
        lossy: &BTreeSet<NodeName>,
        refused: impl Fn(&Peer) -> bool,
        reaches: impl Fn(SocketAddr) -> bool,
    ) -> Vec<Dial> {
        let mut begun = Vec::new();
        for (name, member) in &mut self.known {
            let (lossy, polite) = (lossy.contains(name), self.us > *name);
            let Some(carrier) = member.trials.wants(now, lossy, polite) else { continue };
            let wanted = match carrier {
                Carrier::Tls if self.ways.streams => member.streams(),
                Carrier::Udp if self.ways.udp => {
                    reach::udp_of(&member.addresses()).filter(|at| reaches(*at)).collect()
                }
                Carrier::Tls | Carrier::Udp => continue,
            };
            if !member.is_calm() || member.is_refused(&refused) {
                continue;
            }
            let of = wanted.len();
            let addresses = dials.begin(now, name, &member.trials.choose(wanted));
            if !addresses.is_empty() {
                member.trials.began(now, of);
                let dial = member.dial(name, carrier, addresses, (false, false));
                begun.push(Dial { later: Vec::new(), trial: true, ..dial });
            }
        }
        begun
    }

    /// The members to dial by UDP now, with the addresses to try, as far as `dials` admits them. Those with
    /// the fewest failures go first. `refused` says whose links are refused at present, and `reaches` whether
    /// packets to an address can leave this machine: an address where none can takes no place of others.
    pub(in crate::mesh) fn due(
        &mut self,
        now: Instant,
        dials: &mut Dials,
        refused: impl Fn(&Peer) -> bool,
        reaches: impl Fn(SocketAddr) -> bool,
    ) -> Vec<Dial> {
        self.forget(now);
        if !self.ways.udp {
            return Vec::new();
        }
        let hurried = self.is_hurried(now);
        let streams = self.ways.streams;
        let is_due = |member: &Member| member.is_due(now, hurried, streams);
        let mut due: Vec<_> = self.known.iter_mut().filter(|(_, member)| is_due(member)).collect();
        due.sort_by_key(|(_, member)| (member.dials, member.failures, member.next_dial));
        let mut begun = Vec::new();
        for (name, member) in due {
            if !dials.has_room() {
                break;
            }
            if member.is_refused(&refused) {
                continue;
            }
            let told = member.addresses();
            let mut wanted: Vec<_> = reach::udp_of(&told).filter(|at| reaches(*at)).collect();
            if wanted.is_empty() && reach::udp_of(&told).next().is_some() {
                member.no_route(now);
                continue;
            }
            let first = member.tried.checked_rem(wanted.len()).unwrap_or(0);
            wanted.rotate_left(first);
            let addresses = dials.begin(now, name, &wanted);
            if addresses.is_empty() {
                continue;
            }
            if let Some(next) = wanted.iter().position(|address| !addresses.contains(address)) {
                member.tried = member.tried.wrapping_add(next);
            }
            let again = member.dials > 0;
            member.fallback.udp_dialled(now);
            member.dials += 1;
            member.last_dial = Some(now);
            // Not again before this attempt has ended one way or the other.
            member.next_dial = now + LONGEST_PAUSE;
            begun.push(member.dial(name, Carrier::Udp, addresses, (again, hurried)));
        }
        begun
    }
}
