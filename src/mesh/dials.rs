//! How many dials are under way, and how fast first packets go to one address. PURE.
//!
//! A member's record may name any address. So the cost of dialling for others is bounded for the
//! whole node, and not per member.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// Dials under way at once. A dial of a live member takes two round trips, so a mesh of 50 is dialled
/// within some two seconds; one of a dead member takes 5 s.
pub(super) const MAX_DIALS: usize = 8;

/// Addresses under way at once, of all dials together. Each gets up to six packets of 1,200 bytes in 5 s: the
/// first, two after a second, two after three, and the end of the connection. While a link is silent, QUIC
/// looks once a second whether the node has moved, which is a packet more each time.
pub(super) const MAX_ADDRESSES_DIALLED: usize = 16;

/// First packets to one IP address within [`WINDOW`], and addresses under way there: enough for a few nodes
/// behind one NAT or on one machine, and little for a third party. The wire sees more than first packets,
/// see [`MAX_ADDRESSES_DIALLED`]: an IP address where nobody answers gets 24 to 44 packets in 5 s.
const FIRST_PACKETS: usize = 4;

/// The time in which first packets to one IP address are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// The dials under way.
#[derive(Debug, Default)]
pub(super) struct Dials {
    dials: usize,
    addresses: usize,
    /// How many of these addresses are at an IP address.
    under_way: BTreeMap<IpAddr, usize>,
    /// When first packets were sent to an IP address within the last second. It has at most as many
    /// entries as addresses are dialled in a second.
    recent: BTreeMap<IpAddr, Vec<Instant>>,
}

impl Dials {
    /// Whether another dial may begin.
    #[must_use]
    pub(super) fn has_room(&self) -> bool {
        self.dials < MAX_DIALS && self.addresses < MAX_ADDRESSES_DIALLED
    }

    /// Begins a dial; returns the addresses to which a packet may be sent now, in their order. If
    /// it returns none, no dial begins.
    pub(super) fn begin(&mut self, now: Instant, wanted: &[SocketAddr]) -> Vec<SocketAddr> {
        self.recent.retain(|_, sent| {
            sent.retain(|at| now.saturating_duration_since(*at) < WINDOW);
            !sent.is_empty()
        });
        if !self.has_room() {
            return Vec::new();
        }
        let mut admitted = Vec::new();
        for address in wanted.iter().take(MAX_ADDRESSES_DIALLED - self.addresses) {
            let ip = address.ip().to_canonical();
            let sent = self.recent.entry(ip).or_default();
            let under_way = self.under_way.get(&ip).copied().unwrap_or(0);
            if sent.len() < FIRST_PACKETS && under_way < FIRST_PACKETS {
                sent.push(now);
                self.under_way.insert(ip, under_way + 1);
                admitted.push(*address);
            }
        }
        if !admitted.is_empty() {
            self.dials += 1;
            self.addresses += admitted.len();
        }
        admitted
    }

    /// The dial of these addresses has ended.
    pub(super) fn end(&mut self, addresses: &[SocketAddr]) {
        self.dials = self.dials.saturating_sub(1);
        self.addresses = self.addresses.saturating_sub(addresses.len());
        for address in addresses {
            let ip = address.ip().to_canonical();
            if let Some(under_way) = self.under_way.get_mut(&ip) {
                *under_way -= 1;
                if *under_way == 0 {
                    self.under_way.remove(&ip);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(host: u8, port: u16) -> SocketAddr {
        ([192, 0, 2, host], port).into()
    }

    #[test]
    fn at_most_eight_dials_and_sixteen_addresses_are_under_way() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        let begun = (0..20).filter(|host| !dials.begin(now, &[at(*host, 1)]).is_empty()).count();
        assert_eq!(begun, MAX_DIALS);
        dials.end(&[at(0, 1)]);
        assert_eq!(dials.begin(now, &[at(100, 1)]).len(), 1);
        let mut dials = Dials::default();
        let many: Vec<_> = (0..8).map(|host| at(host, 1)).collect();
        assert_eq!(dials.begin(now, &many).len(), 8);
        let others: Vec<_> = (50..62).map(|host| at(host, 1)).collect();
        assert_eq!(dials.begin(now, &others).len(), 8);
        assert!(!dials.has_room());
    }

    #[test]
    fn one_ip_address_gets_four_first_packets_a_second_whatever_the_port() {
        let (mut dials, start) = (Dials::default(), Instant::now());
        let mut sent = Vec::new();
        for n in 0..1000u16 {
            let now = start + Duration::from_millis(u64::from(n) * 10);
            let admitted = dials.begin(now, &[at(1, n + 1), at(1, n + 2000)]);
            sent.extend(admitted.iter().map(|_| now));
            if !admitted.is_empty() {
                dials.end(&admitted);
            }
        }
        assert!(sent.windows(5).all(|five| five[4] - five[0] >= WINDOW), "in any second");
        assert!((36..=44).contains(&sent.len()), "{}", sent.len());
        let mapped = "[::ffff:192.0.2.1]:9".parse().unwrap();
        let now = start + Duration::from_secs(100);
        assert_eq!(dials.begin(now, &[at(1, 1), mapped, at(1, 2), at(1, 3), at(1, 4)]).len(), 4);
    }

    #[test]
    fn at_most_four_addresses_of_one_ip_address_are_under_way() {
        let (mut dials, start) = (Dials::default(), Instant::now());
        let begun: Vec<_> = (1..=20u16)
            .map(|n| dials.begin(start + WINDOW * u32::from(n), &[at(1, n)]))
            .filter(|admitted| !admitted.is_empty())
            .collect();
        assert_eq!(begun.len(), 4);
        let later = start + WINDOW * 30;
        assert_eq!(dials.begin(later, &[at(1, 99), at(2, 99)]), [at(2, 99)]);
        dials.end(&begun[0]);
        assert_eq!(dials.begin(later, &[at(1, 99)]), [at(1, 99)]);
    }

    proptest! {
        #[test]
        fn no_sequence_of_dials_exceeds_the_caps(
            steps in prop::collection::vec((0u64..400, 1u8..6, 1u16..9, any::<bool>()), 1..200)
        ) {
            let (mut dials, mut now) = (Dials::default(), Instant::now());
            let mut under_way: Vec<Vec<SocketAddr>> = Vec::new();
            for (wait, host, count, end) in steps {
                now += Duration::from_millis(wait);
                if end && let Some(addresses) = under_way.pop() {
                    dials.end(&addresses);
                }
                let wanted: Vec<_> = (1..=count).map(|port| at(host, port)).collect();
                let admitted = dials.begin(now, &wanted);
                if !admitted.is_empty() {
                    under_way.push(admitted);
                }
                prop_assert!(under_way.len() <= MAX_DIALS);
                prop_assert!(under_way.iter().map(Vec::len).sum::<usize>() <= MAX_ADDRESSES_DIALLED);
                prop_assert!(dials.under_way.values().all(|addresses| *addresses <= FIRST_PACKETS));
                prop_assert!(dials.recent.values().all(|sent| sent.len() <= FIRST_PACKETS));
            }
        }
    }
}
