//! How many dials are under way, and how fast first packets go to one address. PURE.
//!
//! A member's record may name any address. So the cost of dialling for others is bounded for the
//! whole node, and not per member.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::identity::NodeName;

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

/// Of these, one member may have so many, in all and of one IP address: it may name any address, also
/// that of another member, and its dials that nobody answers take 5 s each. Three hurried dials of one
/// address fit.
const OF_ONE_MEMBER: (usize, usize) = (8, 3);

/// The time in which first packets to one IP address are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// The dials under way.
#[derive(Debug, Default)]
pub(super) struct Dials {
    dials: usize,
    /// Whom they are to, and at which IP addresses.
    under_way: Vec<(NodeName, IpAddr)>,
    /// When first packets were sent to an IP address within the last second. It has at most as many
    /// entries as addresses are dialled in a second.
    recent: BTreeMap<IpAddr, Vec<Instant>>,
}

impl Dials {
    /// Whether another dial may begin.
    #[must_use]
    pub(super) fn has_room(&self) -> bool {
        self.dials < MAX_DIALS && self.under_way.len() < MAX_ADDRESSES_DIALLED
    }

    /// Begins a dial of `name`; returns the addresses to which a packet may be sent now, in their order. If
    /// it returns none, no dial begins.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        name: &NodeName,
        wanted: &[SocketAddr],
    ) -> Vec<SocketAddr> {
        self.recent.retain(|_, sent| {
            sent.retain(|at| now.saturating_duration_since(*at) < WINDOW);
            !sent.is_empty()
        });
        if !self.has_room() {
            return Vec::new();
        }
        let mut admitted = Vec::new();
        for address in wanted {
            let ip = address.ip().to_canonical();
            let sent = self.recent.get(&ip).map_or(0, Vec::len);
            if sent < FIRST_PACKETS && self.has_place(name, ip) {
                self.recent.entry(ip).or_default().push(now);
                self.under_way.push((name.clone(), ip));
                admitted.push(*address);
            }
        }
        self.dials += usize::from(!admitted.is_empty());
        admitted
    }

    /// Whether another address of `name`, at this IP address, may be under way.
    fn has_place(&self, name: &NodeName, ip: IpAddr) -> bool {
        let own = self.under_way.iter().filter(|(of, _)| of == name);
        let there = self.under_way.iter().filter(|(_, at)| *at == ip).count();
        let own_there = own.clone().filter(|(_, at)| *at == ip).count();
        self.under_way.len() < MAX_ADDRESSES_DIALLED
            && own.count() < OF_ONE_MEMBER.0
            && there < FIRST_PACKETS
            && own_there < OF_ONE_MEMBER.1
    }

    /// The dial of `name` at these addresses has ended.
    pub(super) fn end(&mut self, name: &NodeName, addresses: &[SocketAddr]) {
        self.dials = self.dials.saturating_sub(1);
        for address in addresses {
            let ip = address.ip().to_canonical();
            let found = self.under_way.iter().position(|(of, at)| of == name && *at == ip);
            found.map(|place| self.under_way.swap_remove(place));
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

    fn name(number: impl std::fmt::Display) -> NodeName {
        format!("n{number}").parse().unwrap()
    }

    #[test]
    fn at_most_eight_dials_and_sixteen_addresses_are_under_way() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        let mut begin = |host| dials.begin(now, &name(host), &[at(host, 1)]);
        let begun = (0..20).filter(|host| !begin(*host).is_empty()).count();
        assert_eq!(begun, MAX_DIALS);
        dials.end(&name(0), &[at(0, 1)]);
        assert_eq!(dials.begin(now, &name(100), &[at(100, 1)]).len(), 1);
        let mut dials = Dials::default();
        let many = |first: u8| (first..first + 12).map(|host| at(host, 1)).collect::<Vec<_>>();
        assert_eq!(dials.begin(now, &name(1), &many(0)[..7]).len(), 7);
        assert_eq!(dials.begin(now, &name(2), &many(50)).len(), 8);
        assert_eq!(dials.begin(now, &name(3), &many(100)).len(), 1);
        assert!(!dials.has_room());
    }

    #[test]
    fn one_ip_address_gets_four_first_packets_a_second_whatever_the_port() {
        let (mut dials, start) = (Dials::default(), Instant::now());
        let mut sent = Vec::new();
        for n in 0..1000u16 {
            let now = start + Duration::from_millis(u64::from(n) * 10);
            let admitted = dials.begin(now, &name(n), &[at(1, n + 1), at(1, n + 2000)]);
            sent.extend(admitted.iter().map(|_| now));
            if !admitted.is_empty() {
                dials.end(&name(n), &admitted);
            }
        }
        assert!(sent.windows(5).all(|five| five[4] - five[0] >= WINDOW), "in any second");
        assert!((36..=44).contains(&sent.len()), "{}", sent.len());
        let mapped = "[::ffff:192.0.2.1]:9".parse().unwrap();
        let now = start + Duration::from_secs(100);
        let admitted = [[at(1, 1), mapped], [at(1, 2), mapped], [at(1, 3), at(1, 4)]];
        let admitted = admitted.iter().enumerate();
        let admitted = admitted.flat_map(|(n, wanted)| dials.begin(now, &name(n), wanted));
        assert_eq!(admitted.count(), 4);
    }

    #[test]
    fn at_most_four_addresses_of_one_ip_address_are_under_way() {
        let (mut dials, start) = (Dials::default(), Instant::now());
        let mut begin = |n: u16| dials.begin(start + WINDOW * n.into(), &name(n), &[at(1, n)]);
        let begun = (1..=20).filter(|n| !begin(*n).is_empty()).count();
        assert_eq!(begun, 4);
        let later = start + WINDOW * 30;
        assert_eq!(dials.begin(later, &name(7), &[at(1, 99), at(2, 99)]), [at(2, 99)]);
        dials.end(&name(1), &[at(1, 1)]);
        assert_eq!(dials.begin(later, &name(8), &[at(1, 99)]), [at(1, 99)]);
    }

    #[test]
    fn a_member_that_names_anothers_address_leaves_it_places() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        let ports: Vec<_> = (1..=8).map(|port| at(1, port)).collect();
        assert_eq!(dials.begin(now, &name("mallory"), &ports).len(), 3);
        assert!(dials.begin(now, &name("mallory"), &ports).is_empty(), "a hurried dial");
        assert_eq!(dials.begin(now, &name("exit"), &[at(1, 4600)]), [at(1, 4600)]);
        let hosts: Vec<_> = (10..26).map(|host| at(host, 1)).collect();
        assert_eq!(dials.begin(now, &name("mallory"), &hosts).len(), 5);
        assert!(dials.has_room());
    }

    proptest! {
        #[test]
        fn no_sequence_of_dials_exceeds_the_caps(
            steps in prop::collection::vec(
                (0u64..400, 1u8..6, 1u16..9, 0u8..4, any::<bool>()), 1..200
            )
        ) {
            let (mut dials, mut now) = (Dials::default(), Instant::now());
            let mut under_way: Vec<(NodeName, Vec<SocketAddr>)> = Vec::new();
            for (wait, host, count, who, end) in steps {
                now += Duration::from_millis(wait);
                if end && let Some((name, addresses)) = under_way.pop() {
                    dials.end(&name, &addresses);
                }
                let wanted: Vec<_> = (1..=count).map(|port| at(host, port)).collect();
                let admitted = dials.begin(now, &name(who), &wanted);
                if !admitted.is_empty() {
                    under_way.push((name(who), admitted));
                }
                prop_assert!(under_way.len() <= MAX_DIALS);
                let addresses = under_way.iter().flat_map(|(name, addresses)| {
                    addresses.iter().map(move |address| (name.clone(), address.ip()))
                });
                let addresses: Vec<_> = addresses.collect();
                prop_assert!(addresses.len() <= MAX_ADDRESSES_DIALLED);
                prop_assert_eq!(addresses.len(), dials.under_way.len());
                let at_host =
                    |host| addresses.iter().filter(move |(_, ip)| *ip == at(host, 1).ip());
                prop_assert!((1..6).all(|host| at_host(host).count() <= FIRST_PACKETS));
                let own = |who| addresses.iter().filter(move |(of, _)| *of == name(who));
                prop_assert!((0..4).all(|who| own(who).count() <= OF_ONE_MEMBER.0));
                prop_assert!(dials.recent.values().all(|sent| sent.len() <= FIRST_PACKETS));
            }
        }
    }
}
