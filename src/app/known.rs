//! Present and recent addresses of neighbours. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use crate::identity::NodeName;

/// Addresses kept of a member: a laptop's at home, at work and on its way, in two protocols, would be six;
/// one that is forgotten counts as a stranger's. A member with many addresses takes no place of others'.
pub(super) const MAX_PER_NAME: usize = 4;

/// Addresses kept: those of 256 members.
const MAX: usize = 256 * MAX_PER_NAME;

/// A member that was away for a night still counts as a member.
const LATELY: Duration = Duration::from_secs(24 * 3600);

/// Where members lately were.
#[derive(Debug, Default)]
pub(super) struct KnownAddresses {
    /// By address (IPv6: /64): the members there, and when each was last there. Several may share one.
    seen: BTreeMap<IpAddr, BTreeMap<NodeName, Instant>>,
    len: usize,
}

impl KnownAddresses {
    /// Records that this neighbour's packets come from `ip`.
    pub(super) fn note(&mut self, now: Instant, name: &NodeName, ip: IpAddr) {
        let ip = site(ip);
        if self.seen.entry(ip).or_default().insert(name.clone(), now).is_some() {
            return;
        }
        self.len += 1;
        let of_name = self.seen.values().filter(|names| names.contains_key(name)).count();
        if of_name > MAX_PER_NAME {
            self.forget_oldest(|other| other == name);
        } else if self.len > MAX {
            self.forget_oldest(|_| true);
        }
    }

    /// Whether this neighbour is, or lately was, at `ip`.
    pub(super) fn is_at(&self, now: Instant, name: &NodeName, ip: IpAddr) -> bool {
        let seen = self.seen.get(&site(ip)).and_then(|names| names.get(name));
        seen.is_some_and(|seen| now.saturating_duration_since(*seen) < LATELY)
    }

    fn forget_oldest(&mut self, of: impl Fn(&NodeName) -> bool) {
        let all = self.seen.iter().flat_map(|(ip, names)| names.iter().map(move |n| (*ip, n)));
        let oldest = all.filter(|(_, (name, _))| of(name)).min_by_key(|(_, (_, seen))| **seen);
        let Some((ip, name)) = oldest.map(|(ip, (name, _))| (ip, name.clone())) else { return };
        if let Some(names) = self.seen.get_mut(&ip) {
            names.remove(&name);
            self.len -= 1;
            if names.is_empty() {
                self.seen.remove(&ip);
            }
        }
    }
}

/// The addresses of one machine: an IPv4 address or an IPv6 /64.
pub(super) fn site(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32) -> NodeName {
        format!("m{n}").parse().unwrap()
    }

    fn ip(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn addresses_are_known_for_a_day_and_the_oldest_goes_first() {
        let (mut known, start) = (KnownAddresses::default(), Instant::now());
        for n in 0..=u32::try_from(MAX).unwrap() {
            known.note(start + Duration::from_millis(n.into()), &name(n / 4), ip(n));
        }
        assert_eq!(known.len, MAX);
        assert_eq!(known.seen.len(), MAX);
        assert!(!known.is_at(start, &name(0), ip(0)));
        assert!(known.is_at(start, &name(0), ip(1)) && !known.is_at(start, &name(1), ip(1)));
        assert!(known.is_at(start, &name(0), "::ffff:0.0.0.1".parse().unwrap()));
        assert!(!known.is_at(start + LATELY + Duration::from_secs(2), &name(0), ip(1)));
    }

    #[test]
    fn a_member_is_known_at_its_last_four_addresses_and_evicts_nobody() {
        let (mut known, start) = (KnownAddresses::default(), Instant::now());
        known.note(start, &name(1), ip(7));
        for n in 0..2_000_u32 {
            let v6 = IpAddr::from(Ipv6Addr::from_bits((0x2001_0db8 << 96) | (u128::from(n) << 64)));
            known.note(start + Duration::from_millis(n.into()), &name(0), v6);
            // In its /64 each address is the same.
            let other =
                IpAddr::from(Ipv6Addr::from_bits((0x2001_0db8 << 96) | (u128::from(n) << 64) | 9));
            assert!(known.is_at(start, &name(0), other));
        }
        assert_eq!((known.len, known.seen.len()), (MAX_PER_NAME + 1, MAX_PER_NAME + 1));
        assert!(known.is_at(start, &name(1), ip(7)));
    }

    #[test]
    fn members_share_an_address() {
        let (mut known, now) = (KnownAddresses::default(), Instant::now());
        (0..50).for_each(|n| known.note(now, &name(n), ip(1)));
        assert!((0..50).all(|n| known.is_at(now, &name(n), ip(1))));
    }
}
