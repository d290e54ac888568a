//! Who belongs to the overlay and where each may be dialled. Pure: time is an argument.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    identity::{MemberInfo, NodeName, Roles},
    wire::link::MAX_ADDRESSES,
};

/// Most members a node keeps. The overlay is for a few dozen; RON's figures end at 50.
pub const MAX_MEMBERS: usize = 256;

/// First pause between two attempts to dial the same member; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause. A node that comes back is found within this time even if it cannot dial us.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The head start of the node with the smaller name, so that usually only one side dials: longer
/// than most handshakes, and short enough for flows to work a second after a node restarted.
const POLITENESS: Duration = Duration::from_millis(300);

/// A member is forgotten when it had no link to us, and nobody told us of it, for so long; and we
/// tell others only of those we had a link to within this time. So a node that left for good is
/// gone everywhere after two days at most, and a laptop that sleeps over night is not.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The known members, without this node itself.
#[derive(Debug)]
pub struct Members {
    us: NodeName,
    known: BTreeMap<NodeName, Member>,
}

#[derive(Debug)]
struct Member {
    /// What the member says of itself.
    advertised: Vec<SocketAddr>,
    /// Where a link of ours or of another member last saw it: its outside address behind a NAT.
    observed: Option<SocketAddr>,
    /// By hearsay, until a link shows its certificate.
    roles: Roles,
    failures: u32,
    next_dial: Instant,
    linked: bool,
    /// The link's path is down. QUIC lets only the side that dialled change its address; if the
    /// other side moved, a new connection has to replace the link.
    path_down: bool,
    /// When a link of ours to it last stood, if one ever did.
    seen: Option<Instant>,
    /// When we last heard of it from anyone.
    heard: Instant,
}

impl Member {
    fn is_recent(since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) < FORGET_AFTER
    }

    fn is_worth_telling(&self, now: Instant) -> bool {
        self.linked || self.seen.is_some_and(|seen| Self::is_recent(seen, now))
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = self.advertised.clone();
        addresses.extend(self.observed.filter(|a| !self.advertised.contains(a)));
        addresses.truncate(MAX_ADDRESSES);
        addresses
    }
}

impl Members {
    /// A directory of node `us`, without other members.
    #[must_use]
    pub fn new(us: NodeName) -> Self {
        Self { us, known: BTreeMap::new() }
    }

    /// Learns of a member, by hearsay. New addresses are tried at once.
    ///
    /// False when it brought nothing new, or the directory is full.
    pub fn learn(&mut self, now: Instant, info: &MemberInfo) -> bool {
        if info.name == self.us {
            return false;
        }
        let polite = self.politeness(&info.name);
        let full = self.known.len() >= MAX_MEMBERS;
        let news = match self.known.get_mut(&info.name) {
            None if full => return false,
            None => {
                let member = Member {
                    advertised: Vec::new(),
                    observed: None,
                    roles: info.roles,
                    failures: 0,
                    next_dial: now + polite,
                    linked: false,
                    path_down: false,
                    seen: None,
                    heard: now,
                };
                self.known.insert(info.name.clone(), member);
                true
            }
            // What a working link of ours says goes before hearsay.
            Some(member) if member.linked && !member.path_down => return false,
            Some(_) => false,
        };
        let Some(member) = self.known.get_mut(&info.name) else { return false };
        member.heard = now;
        let mut changed = false;
        for address in info.addresses.iter().take(MAX_ADDRESSES) {
            let known = member.advertised.contains(address) || member.observed == Some(*address);
            if !known && member.advertised.len() < MAX_ADDRESSES {
                member.advertised.push(*address);
                changed = true;
            } else if !known {
                member.advertised.remove(0);
                member.advertised.push(*address);
                changed = true;
            }
        }
        if changed && !news {
            member.failures = 0;
            member.next_dial = now + polite;
        }
        news || changed
    }

    /// Learns of members that were written down before this node started. All are dialled at once:
    /// they do not know that we are back.
    pub fn remember(&mut self, now: Instant, members: &[MemberInfo]) {
        for info in members {
            self.learn(now, info);
            if let Some(member) = self.known.get_mut(&info.name) {
                member.next_dial = now;
            }
        }
    }

    /// Records that a link to the member stands: what it says of itself, and where we see it.
    pub fn linked(&mut self, now: Instant, info: MemberInfo, observed: Option<SocketAddr>) {
        let MemberInfo { name, addresses, roles } = info;
        self.learn(now, &MemberInfo { name: name.clone(), addresses: Vec::new(), roles });
        if let Some(member) = self.known.get_mut(&name) {
            member.advertised = addresses;
            member.advertised.truncate(MAX_ADDRESSES);
            member.roles = roles;
            member.observed = observed;
            member.linked = true;
            member.path_down = false;
            member.seen = Some(now);
            member.failures = 0;
        }
    }

    /// Records that packets on the link to the member come from another address now, which others
    /// may want to know.
    pub fn moved(&mut self, name: &NodeName, address: SocketAddr) {
        if let Some(member) = self.known.get_mut(name).filter(|member| member.linked) {
            member.observed = Some(address);
        }
    }

    /// Records that the link is gone; it is dialled again at once (politely).
    pub fn unlinked(&mut self, now: Instant, name: &NodeName) {
        let polite = self.politeness(name);
        if let Some(member) = self.known.get_mut(name) {
            member.linked = false;
            member.seen = Some(now);
            member.failures = 0;
            member.next_dial = now + polite;
        }
    }

    /// Records that the path of the link to the member is down: it is dialled beside the link.
    pub fn path_down(&mut self, now: Instant, name: &NodeName) {
        let polite = self.politeness(name);
        if let Some(member) = self.known.get_mut(name).filter(|member| member.linked) {
            member.path_down = true;
            member.failures = 0;
            member.next_dial = now + polite;
        }
    }

    /// Records that the path of the link to the member is up again.
    pub fn path_up(&mut self, name: &NodeName) {
        if let Some(member) = self.known.get_mut(name) {
            member.path_down = false;
        }
    }

    /// Forgets a member whose certificate was revoked.
    pub fn expel(&mut self, name: &NodeName) {
        self.known.remove(name);
    }

    /// Whether the path of the present link to the member went down since the link was made.
    #[must_use]
    pub fn is_path_down(&self, name: &NodeName) -> bool {
        self.known.get(name).is_some_and(|member| member.path_down)
    }

    /// The node with the larger name dials later, so that usually only one side does.
    fn politeness(&self, name: &NodeName) -> Duration {
        if self.us < *name { Duration::ZERO } else { POLITENESS }
    }

    /// Records that no address of the member answered.
    pub fn dial_failed(&mut self, now: Instant, name: &NodeName) {
        if let Some(member) = self.known.get_mut(name) {
            let pause = FIRST_PAUSE * 2u32.saturating_pow(member.failures.min(8));
            member.failures += 1;
            member.next_dial = now + pause.min(LONGEST_PAUSE);
        }
    }

    /// The members to dial now, with the addresses to try; each is counted as being dialled.
    pub fn due(&mut self, now: Instant) -> Vec<(NodeName, Vec<SocketAddr>)> {
        self.forget(now);
        let due = self.known.iter_mut();
        let due = due.filter(|(_, m)| (!m.linked || m.path_down) && m.next_dial <= now);
        due.filter_map(|(name, member)| {
            let addresses = member.addresses();
            if addresses.is_empty() {
                return None;
            }
            // Not again before this attempt has ended one way or the other.
            member.next_dial = now + LONGEST_PAUSE;
            Some((name.clone(), addresses))
        })
        .collect()
    }

    fn forget(&mut self, now: Instant) {
        self.known.retain(|name, member| {
            let keep = member.is_worth_telling(now) || Member::is_recent(member.heard, now);
            if !keep {
                tracing::info!(%name, "member forgotten: no link and no word of it for a day");
            }
            keep
        });
    }

    /// The members as told to others, with `us`: those that we know ourselves, not by hearsay.
    #[must_use]
    pub fn tell(&self, us: MemberInfo, now: Instant) -> Vec<MemberInfo> {
        let known = self.known.iter().filter(|(_, member)| member.is_worth_telling(now));
        std::iter::once(us).chain(known.map(info)).collect()
    }

    /// All known members.
    #[must_use]
    pub fn all(&self) -> Vec<MemberInfo> {
        self.known.iter().map(info).collect()
    }

    /// The names of the known members.
    #[must_use]
    pub fn names(&self) -> Vec<NodeName> {
        self.known.keys().cloned().collect()
    }
}

fn info((name, member): (&NodeName, &Member)) -> MemberInfo {
    MemberInfo { name: name.clone(), addresses: member.addresses(), roles: member.roles }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
