//! Present and recent addresses of neighbours. Pure.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Addresses kept: four of each of 256 members.
const MAX: usize = 1024;

/// A member that was away for a night still counts as a member.
const LATELY: Duration = Duration::from_secs(24 * 3600);

/// The addresses and when each was last a neighbour's.
#[derive(Debug, Default)]
pub(super) struct KnownAddresses(BTreeMap<IpAddr, Instant>);

impl KnownAddresses {
    /// Records that a neighbour's packets come from `ip`.
    pub(super) fn note(&mut self, now: Instant, ip: IpAddr) {
        let ip = ip.to_canonical();
        if self.0.len() >= MAX && !self.0.contains_key(&ip) {
            let oldest = self.0.iter().min_by_key(|(_, seen)| **seen).map(|(ip, _)| *ip);
            self.0.remove(&oldest.unwrap_or(ip));
        }
        self.0.insert(ip, now);
    }

    /// Whether a neighbour is, or lately was, at `ip`.
    pub(super) fn contains(&self, now: Instant, ip: IpAddr) -> bool {
        let seen = self.0.get(&ip.to_canonical());
        seen.is_some_and(|seen| now.saturating_duration_since(*seen) < LATELY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_known_for_a_day_and_the_oldest_goes_first() {
        let (mut known, start) = (KnownAddresses::default(), Instant::now());
        let ip = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..=u32::try_from(MAX).unwrap() {
            known.note(start + Duration::from_millis(n.into()), ip(n));
        }
        assert_eq!(known.0.len(), MAX);
        assert!(!known.contains(start, ip(0)));
        assert!(known.contains(start, ip(1)));
        assert!(known.contains(start, "::ffff:0.0.0.1".parse().unwrap()));
        assert!(!known.contains(start + LATELY + Duration::from_secs(2), ip(1)));
    }
}
