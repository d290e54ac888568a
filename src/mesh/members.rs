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

/// The node with the larger name dials this much later, so that usually only one side does: longer
/// than most handshakes, and short enough for flows to work a second after a node restarted.
const POLITENESS: Duration = Duration::from_millis(300);

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
        let polite = if self.us < info.name { Duration::ZERO } else { POLITENESS };
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
                };
                self.known.insert(info.name.clone(), member);
                true
            }
            // What a link of ours says goes before hearsay.
            Some(member) if member.linked => return false,
            Some(_) => false,
        };
        let Some(member) = self.known.get_mut(&info.name) else { return false };
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
            member.failures = 0;
        }
    }

    /// Records that the link is gone; it is dialled again at once (politely).
    pub fn unlinked(&mut self, now: Instant, name: &NodeName) {
        let polite = if self.us < *name { Duration::ZERO } else { POLITENESS };
        if let Some(member) = self.known.get_mut(name) {
            member.linked = false;
            member.failures = 0;
            member.next_dial = now + polite;
        }
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
        let due = self.known.iter_mut().filter(|(_, m)| !m.linked && m.next_dial <= now);
        due.filter_map(|(name, member)| {
            let mut addresses = member.advertised.clone();
            addresses.extend(member.observed.filter(|a| !member.advertised.contains(a)));
            if addresses.is_empty() {
                return None;
            }
            // Not again before this attempt has ended one way or the other.
            member.next_dial = now + LONGEST_PAUSE;
            Some((name.clone(), addresses))
        })
        .collect()
    }

    /// The members as told to others, with `us`.
    #[must_use]
    pub fn tell(&self, us: MemberInfo) -> Vec<MemberInfo> {
        let others = self.known.iter().map(|(name, member)| {
            let mut addresses = member.advertised.clone();
            addresses.extend(member.observed.filter(|a| !member.advertised.contains(a)));
            addresses.truncate(MAX_ADDRESSES);
            MemberInfo { name: name.clone(), addresses, roles: member.roles }
        });
        std::iter::once(us).chain(others).collect()
    }

    /// The names of the known members.
    #[must_use]
    pub fn names(&self) -> Vec<NodeName> {
        self.known.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, port: u16) -> MemberInfo {
        let addresses = vec![([127, 0, 0, 1], port).into()];
        MemberInfo { name: name.parse().unwrap(), addresses, roles: Roles::default() }
    }

    fn members(us: &str) -> Members {
        Members::new(us.parse().unwrap())
    }

    #[test]
    fn a_new_member_is_dialled_at_once_by_the_smaller_name_and_later_by_the_larger() {
        let t0 = Instant::now();
        let (mut a, mut z) = (members("a"), members("z"));
        a.learn(t0, &info("m", 1));
        z.learn(t0, &info("m", 1));
        assert_eq!(a.due(t0).len(), 1);
        assert_eq!(z.due(t0).len(), 0);
        assert_eq!(z.due(t0 + POLITENESS).len(), 1);
    }

    #[test]
    fn failures_back_off_and_a_new_address_is_tried_at_once() {
        let mut t = Instant::now();
        let mut a = members("a");
        a.learn(t, &info("m", 1));
        let name = "m".parse().unwrap();
        for _ in 0..10 {
            t += LONGEST_PAUSE;
            assert_eq!(a.due(t).len(), 1);
            a.dial_failed(t, &name);
            assert!(a.due(t).is_empty());
        }
        assert!(a.learn(t, &info("m", 2)));
        assert_eq!(
            a.due(t),
            [(name, vec![([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()])]
        );
    }

    #[test]
    fn a_node_never_learns_of_itself() {
        let mut a = members("a");
        assert!(!a.learn(Instant::now(), &info("a", 1)));
        assert!(a.names().is_empty());
    }

    #[test]
    fn hearsay_without_end_fills_no_more_than_the_cap() {
        let mut a = members("a");
        let now = Instant::now();
        for i in 0..2 * MAX_MEMBERS {
            a.learn(now, &info(&format!("n{i}"), 1));
        }
        for port in 1..100 {
            a.learn(now, &info("n1", port));
        }
        assert_eq!(a.names().len(), MAX_MEMBERS);
        let addresses = |m: &MemberInfo| m.addresses.len();
        assert_eq!(a.tell(info("a", 1)).iter().map(addresses).max(), Some(MAX_ADDRESSES));
    }

    #[test]
    fn hearsay_does_not_touch_a_linked_member() {
        let mut a = members("a");
        let now = Instant::now();
        a.linked(now, info("m", 7), None);
        assert!(!a.learn(now, &info("m", 666)));
        assert_eq!(a.tell(info("a", 1))[1], info("m", 7));
    }
}
