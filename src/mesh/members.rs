//! Who belongs to the overlay and where each may be dialled. PURE: time is an argument.
//!
//! An entry is made from a certificate and a signed record, from a link's handshake, or from what the
//! authority said of a member when this node joined (*bootstrap*: dialled until a record is here).
//! Nobody else's word counts. Roles are those of the certificate.

mod due;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    fallback::{Fallback, Ways},
    record::MemberRecord,
    trials::Trials,
};
use crate::{
    identity::{MemberInfo, NodeName, Peer, UnixTime},
    link::Bucket,
    overlay::linkstate::MAX_ADDRESSES,
    underlay::Carrier,
    wire::reach,
};

pub(super) use due::Dial;

/// Most members a node keeps. The overlay is for a few dozen; RON's figures end at 50.
pub const MAX_MEMBERS: usize = 256;

/// The head start of the node with the smaller name, so that usually only one side dials: longer
/// than most handshakes, and short enough for flows to work a second after a node restarted.
const POLITENESS: Duration = Duration::from_millis(300);

/// A member is forgotten when there was no link to it and nothing of it was heard for so long, while
/// this node has other links. So a node that left for good is gone after a day, a laptop that sleeps
/// over night is not, and a node that is cut off itself forgets nobody.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Addresses to which a member's names lead that are dialled: half of all, so that its record's have places, too.
const MAX_NAMED: usize = MAX_ADDRESSES / 2;

/// Bytes of records that are written down: what 50 members say four times over. The smallest go first, so
/// a member with a needlessly large record keeps nobody else out.
const WRITTEN_BYTES: usize = 512 << 10;

/// New addresses in a member's record end the pause of its dials: so often at once, and in a second. A
/// laptop that changes networks needs two or three; a record that changes all the time gets no more
/// dials than a dead member.
const FRESH_DIALS: (u32, f64) = (4, 1.0 / 15.0);

/// The known members, without this node itself.
#[derive(Debug)]
pub struct Members {
    us: NodeName,
    known: BTreeMap<NodeName, Member>,
    /// Until when dials hurry: a flow waits for a route.
    hurry_until: Option<Instant>,
    /// By what this node may dial.
    ways: Ways,
}

/// What listings show of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberFacts {
    /// Its name.
    pub name: NodeName,
    /// Where it is dialled, and the port of its streams ([`reach`]).
    pub addresses: Vec<SocketAddr>,
    /// What its certificate says; `None` while none is here that is in force.
    pub certified: Option<Arc<Peer>>,
    /// When a link to it last stood or something of it was heard.
    pub heard: Instant,
}

impl MemberFacts {
    /// Whether its certificate lets it be an exit.
    #[must_use]
    pub fn is_exit(&self) -> bool {
        self.certified.as_ref().is_some_and(|peer| peer.roles.exit)
    }

    /// Whether its certificate lets it be a relay.
    #[must_use]
    pub fn is_relay(&self) -> bool {
        self.certified.as_ref().is_some_and(|peer| peer.roles.relay)
    }
}

#[derive(Debug)]
struct Member {
    /// What the authority said when we joined; used while there is no record.
    bootstrap: Vec<SocketAddr>,
    /// The addresses in its newest record that may be dialled; `None`: no record is here.
    recorded: Option<Vec<SocketAddr>>,
    /// What is written down, to be read again by the next process.
    record: Option<Arc<MemberRecord>>,
    /// Where a link of ours last saw it.
    observed: Option<SocketAddr>,
    /// Where its names led at the last look-up.
    named: Vec<SocketAddr>,
    /// Where a stream that this node dialled led to it.
    stream_at: Option<SocketAddr>,
    /// Its newest certificate, in force or not.
    certified: Option<Arc<Peer>>,
    /// Whether that certificate was in force at the last look.
    in_force: bool,
    failures: u32,
    /// How many addresses were tried: the next dial begins with the one after them, as not all may be under
    /// way at once.
    tried: usize,
    next_dial: Instant,
    /// Dials under way, and when the last one began.
    dials: usize,
    last_dial: Option<Instant>,
    fresh_dials: Bucket,
    /// When it is dialled by a stream, and when by UDP beside one.
    fallback: Fallback,
    /// When it is measured by another carrier than its link's.
    trials: Trials,
    linked: bool,
    /// The link's path is down. QUIC lets only the side that dialled change its address; if the
    /// other side moved, a new connection has to replace the link.
    path_down: bool,
    /// When a link of ours to it stood, or its newest record came.
    heard: Instant,
}

impl Member {
    fn new(now: Instant, next_dial: Instant) -> Self {
        Self {
            bootstrap: Vec::new(),
            recorded: None,
            record: None,
            observed: None,
            named: Vec::new(),
            stream_at: None,
            certified: None,
            in_force: false,
            failures: 0,
            tried: 0,
            next_dial,
            dials: 0,
            last_dial: None,
            fresh_dials: Bucket::new(FRESH_DIALS.0, FRESH_DIALS.1),
            fallback: Fallback::default(),
            trials: Trials::default(),
            linked: false,
            path_down: false,
            heard: now,
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        !self.linked && now.saturating_duration_since(self.heard) >= FORGET_AFTER
    }

    fn needs_dial(&self) -> bool {
        !self.linked || self.path_down
    }

    /// Whether its link stands and nothing says that it is silent: then a trial of another carrier may begin.
    fn is_calm(&self) -> bool {
        !self.needs_dial() && !self.fallback.is_suspected()
    }

    /// Ends the pause of its dials if it has addresses that it had not before.
    fn dial_fresh(&mut self, now: Instant, polite: Duration, before: &[SocketAddr]) {
        let fresh = self.addresses().iter().any(|address| !before.contains(address));
        if fresh && self.needs_dial() && self.fresh_dials.take(now, 1.0) {
            self.failures = 0;
            self.next_dial = now + polite;
        }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let told = self.recorded.as_ref().unwrap_or(&self.bootstrap);
        let mark = told.iter().copied().find(|address| reach::is_stream_mark(*address));
        let mut addresses: Vec<_> = self.observed.into_iter().collect();
        for address in self.named.iter().copied().chain(reach::udp_of(told)) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.truncate(MAX_ADDRESSES - mark.iter().count());
        addresses.extend(mark);
        addresses
    }
}

impl Members {
    /// A directory of node `us`, without other members.
    #[must_use]
    pub fn new(us: NodeName) -> Self {
        Self { us, known: BTreeMap::new(), hurry_until: None, ways: Ways::default() }
    }

    /// By what this node may dial from now on.
    pub(super) fn set_ways(&mut self, ways: Ways) {
        self.ways = ways;
    }

    /// Whether links may be over UDP.
    pub(super) fn uses_udp(&self) -> bool {
        self.ways.udp
    }

    /// Whether UDP was found blocked in the present network.
    pub(super) fn set_udp_blocked(&mut self, blocked: bool) {
        self.ways.udp_blocked = blocked;
    }

    /// Takes what the authority said of a member; it is dialled at once, until a record says more.
    pub fn bootstrap(&mut self, now: Instant, info: &MemberInfo) {
        let Some(member) = self.uncertified(now, &info.name) else { return };
        member.bootstrap.clone_from(&info.addresses);
        member.bootstrap.truncate(MAX_ADDRESSES);
    }

    /// Takes where a member was last seen before this node started, or its user knows it to be. It is
    /// dialled there, too.
    pub fn last_seen(&mut self, now: Instant, name: &NodeName, address: SocketAddr) {
        if let Some(member) = self.uncertified(now, name) {
            member.observed = Some(address);
        }
    }

    /// Takes where names of a member lead now, at most half of what is dialled of it. New addresses are tried at once.
    pub(super) fn named(&mut self, now: Instant, name: &NodeName, addresses: &[SocketAddr]) {
        let polite = politeness(&self.us, name);
        let Some(member) = self.uncertified(now, name) else { return };
        let before = member.addresses();
        member.named = addresses.iter().copied().take(MAX_NAMED).collect();
        member.dial_fresh(now, polite, &before);
    }

    /// The entry of a member that is known without its certificate, made if there is room.
    fn uncertified(&mut self, now: Instant, name: &NodeName) -> Option<&mut Member> {
        if *name == self.us || (self.is_full() && !self.known.contains_key(name)) {
            return None;
        }
        Some(self.known.entry(name.clone()).or_insert_with(|| Member::new(now, now)))
    }

    /// Takes a member's record, which was checked against the certificate of `peer`; `addresses` are those
    /// of its addresses that may be dialled. New ones are tried at once. A record under an older certificate
    /// than the known one changes nothing.
    ///
    /// False if there is no room: all of 256 members have links.
    pub fn recorded(
        &mut self,
        now: Instant,
        peer: &Arc<Peer>,
        mut addresses: Vec<SocketAddr>,
        record: &Arc<MemberRecord>,
    ) -> bool {
        let polite = politeness(&self.us, &peer.name);
        let Some(member) = self.certified(now, peer) else { return self.has(&peer.name) };
        addresses.truncate(MAX_ADDRESSES);
        let before = member.addresses();
        let same = member.recorded.as_ref() == Some(&addresses)
            && member.record.as_ref().is_some_and(|old| old.certificate == record.certificate);
        if !same {
            member.record = Some(record.clone());
        }
        member.recorded = Some(addresses);
        member.dial_fresh(now, polite, &before);
        true
    }

    /// Takes a record that was written down before this node started. It is dialled at once: the member does
    /// not know that we are back. Its certificate may have expired since.
    pub fn remember(
        &mut self,
        now: Instant,
        peer: &Arc<Peer>,
        addresses: Vec<SocketAddr>,
        record: &Arc<MemberRecord>,
    ) {
        self.recorded(now, peer, addresses, record);
        if let Some(member) = self.known.get_mut(&peer.name) {
            member.next_dial = now;
        }
    }

    /// Records that a link to the member stands, and where we see it: a stream says nothing of where UDP
    /// finds it. False if there is no room.
    pub fn linked(
        &mut self,
        now: Instant,
        peer: &Arc<Peer>,
        (we_dialled, observed): (bool, Option<SocketAddr>),
    ) -> bool {
        let cut_off = self.known.values().all(|member| !member.linked);
        self.certified(now, peer);
        let Some(member) = self.known.get_mut(&peer.name) else { return false };
        let carrier = observed.map_or(Carrier::Udp, Carrier::of);
        if carrier == Carrier::Udp {
            member.observed = observed;
        }
        member.fallback.linked(carrier);
        member.trials.linked(now, carrier, we_dialled);
        member.linked = true;
        member.path_down = false;
        member.failures = 0;
        if cut_off {
            self.dial_everyone(now);
        }
        true
    }

    /// Records where a stream led to the member: its record may name no address that may be dialled.
    pub(super) fn streamed(&mut self, name: &NodeName, at: Option<SocketAddr>) {
        if let Some(member) = self.known.get_mut(name) {
            member.stream_at = at;
        }
    }

    /// The trials of a member, if it is known.
    pub(super) fn trials(&mut self, name: &NodeName) -> Option<&mut Trials> {
        self.known.get_mut(name).map(|member| &mut member.trials)
    }

    /// The network works again, so no pause is justified any more.
    fn dial_everyone(&mut self, now: Instant) {
        for (name, member) in self.known.iter_mut().filter(|(_, member)| member.failures > 0) {
            member.failures = 0;
            member.next_dial = member.next_dial.min(now + politeness(&self.us, name));
        }
    }

    /// The entry of a certified member, made if there is room; `None` as well if a newer certificate of
    /// that name is known.
    fn certified(&mut self, now: Instant, peer: &Arc<Peer>) -> Option<&mut Member> {
        if peer.name == self.us || !self.make_room(&peer.name) {
            return None;
        }
        let dial = now + politeness(&self.us, &peer.name);
        let new = || Member::new(now, dial);
        let member = self.known.entry(peer.name.clone()).or_insert_with(new);
        let newer = |known: &Arc<Peer>| known.starts.as_secs() > peer.starts.as_secs();
        if member.certified.as_ref().is_some_and(newer) {
            return None;
        }
        if member.certified.as_ref().is_some_and(|known| known.key != peer.key) {
            // The name's next holder: where the last one was, and how dials of it failed, says nothing of
            // this one.
            let (dials, linked) = (member.dials, member.linked);
            *member = Member { dials, linked, ..new() };
        }
        member.certified = Some(peer.clone());
        member.in_force = true;
        member.heard = now;
        Some(member)
    }

    /// Makes room for a certified member: of those without a link, one that is known from the authority's
    /// word alone goes first, then the one not heard of for longest.
    fn make_room(&mut self, name: &NodeName) -> bool {
        if self.known.contains_key(name) || !self.is_full() {
            return true;
        }
        let idle = self.known.iter().filter(|(_, member)| !member.linked);
        let last = idle.min_by_key(|(_, member)| (member.certified.is_some(), member.heard));
        let Some(name) = last.map(|(name, _)| name.clone()) else { return false };
        self.known.remove(&name);
        true
    }

    fn is_full(&self) -> bool {
        self.known.len() >= MAX_MEMBERS
    }

    fn has(&self, name: &NodeName) -> bool {
        self.known.contains_key(name)
    }

    /// The network may be another one, or this machine has slept: all members without a link are dialled
    /// now.
    pub fn network_changed(&mut self, now: Instant) {
        for member in self.known.values_mut() {
            member.fallback.network_changed();
            member.trials.network_changed();
            if member.dials == 0 {
                member.failures = 0;
                member.next_dial = member.next_dial.min(now);
            }
        }
    }

    /// A lane suspects that the link to the member is silent: a stream is dialled beside it, and UDP beside
    /// a stream.
    pub(super) fn suspect(&mut self, now: Instant, name: &NodeName) {
        if let Some(member) = self.known.get_mut(name).filter(|member| member.linked) {
            member.fallback.suspect(now);
        }
    }

    /// Records that the link to the member has answered a probe that left then.
    pub(super) fn answered(&mut self, name: &NodeName, left: Instant) {
        if let Some(member) = self.known.get_mut(name) {
            member.fallback.answered(left);
        }
    }

    /// Records that packets on the link to the member come from another address now.
    pub fn moved(&mut self, name: &NodeName, address: SocketAddr) {
        let by_udp = Carrier::of(address) == Carrier::Udp;
        if let Some(member) = self.known.get_mut(name).filter(|member| member.linked && by_udp) {
            member.observed = Some(address);
        }
    }

    /// Records that the link is gone; it is dialled again at once (politely).
    pub fn unlinked(&mut self, now: Instant, name: &NodeName) {
        let dial = now + politeness(&self.us, name);
        if let Some(member) = self.known.get_mut(name) {
            member.linked = false;
            member.fallback.unlinked();
            member.trials.unlinked();
            member.heard = now;
            member.failures = 0;
            member.next_dial = dial;
        }
    }

    /// Records that the path of the link to the member is down: it is dialled beside the link.
    pub fn path_down(&mut self, now: Instant, name: &NodeName) {
        let dial = now + politeness(&self.us, name);
        if let Some(member) = self.known.get_mut(name).filter(|member| member.linked) {
            member.path_down = true;
            member.fallback.path_down();
            member.failures = 0;
            member.next_dial = dial;
        }
    }

    /// Records that the path of the link to the member is up again.
    pub fn path_up(&mut self, name: &NodeName) {
        if let Some(member) = self.known.get_mut(name) {
            member.path_down = false;
            member.fallback.path_up();
        }
    }

    /// Whether the path of the present link to the member went down since the link was made.
    #[must_use]
    pub fn is_path_down(&self, name: &NodeName) -> bool {
        self.known.get(name).is_some_and(|member| member.path_down)
    }

    fn forget(&mut self, now: Instant) {
        if self.known.values().all(|member| !member.linked) {
            return;
        }
        self.known.retain(|name, member| {
            let keep = !member.is_silent(now);
            if !keep {
                tracing::info!(%name, "member removed: no link and no advertisement of it for a day");
            }
            keep
        });
    }

    /// Looks which certificates are in force at `now`; returns the members whose certificate has just ended.
    /// They have no roles any more, and are dialled as before: they may have a new one.
    pub fn expire(&mut self, now: UnixTime) -> Vec<NodeName> {
        let mut ended = Vec::new();
        for (name, member) in &mut self.known {
            let over = |peer: &Arc<Peer>| peer.expires.as_secs() <= now.as_secs();
            if member.in_force && member.certified.as_ref().is_some_and(over) {
                member.in_force = false;
                ended.push(name.clone());
            }
        }
        ended
    }

    /// Forgets a member whose certificate was revoked.
    pub fn expel(&mut self, name: &NodeName) {
        self.known.remove(name);
    }

    /// Takes the next certificate of a member that has a link.
    pub fn renewed(&mut self, now: Instant, peer: &Arc<Peer>) {
        self.certified(now, peer);
    }

    /// All known members.
    #[must_use]
    pub fn all(&self) -> Vec<MemberFacts> {
        self.known.iter().map(facts).collect()
    }

    /// The known member of this name.
    #[must_use]
    pub fn get(&self, name: &NodeName) -> Option<MemberFacts> {
        self.known.get_key_value(name).map(facts)
    }

    /// The names of the known members.
    #[must_use]
    pub fn names(&self) -> Vec<NodeName> {
        self.known.keys().cloned().collect()
    }

    /// What is to be written down: the addresses of members that may be dialled, which are those of their
    /// records or, without one, what the authority said; and the records. It changes only when a member's
    /// addresses or certificate do.
    #[must_use]
    pub fn written(&self) -> (Vec<MemberInfo>, Vec<Arc<MemberRecord>>) {
        let records = self.known.values().filter_map(|member| member.record.clone());
        let mut records: Vec<_> = records.collect();
        records.sort_by_key(|record| (record.size(), record.name.clone()));
        let mut bytes = 0;
        records.retain(|record| {
            bytes += record.size();
            bytes <= WRITTEN_BYTES
        });
        let told = self.known.iter().filter_map(|(name, member)| {
            let addresses = match &member.recorded {
                // None may be dialled: that is to be written down, too.
                Some(addresses) => addresses,
                None if member.bootstrap.is_empty() => return None,
                None => &member.bootstrap,
            };
            Some(MemberInfo { name: name.clone(), addresses: addresses.clone(), key: None })
        });
        (told.collect(), records)
    }
}

/// The node with the larger name dials later, so that usually only one side does.
fn politeness(us: &NodeName, name: &NodeName) -> Duration {
    if us < name { Duration::ZERO } else { POLITENESS }
}

fn facts((name, member): (&NodeName, &Member)) -> MemberFacts {
    MemberFacts {
        name: name.clone(),
        addresses: member.addresses(),
        certified: member.certified.clone().filter(|_| member.in_force),
        heard: member.heard,
    }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
