//! The outside addresses of this node, as its neighbours see it: one of each family. PURE.
//!
//! Each neighbour reports at which address it sees this node. One neighbour alone could name the
//! address of a third party, and all members would dial that. So two have to agree, unless there is
//! only one of that family: neighbours over IPv6 cannot tell the IPv4 address. (A member's own record may name any
//! address, so one that decides alone gains little.)

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use crate::identity::NodeName;

/// Neighbours that have to agree, where there is more than one.
const QUORUM: usize = 2;

/// The reports of neighbours with a working link.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// Every neighbour with a working link, and where it sees us since when. One entry per link, so it
    /// has as many as there are certified members.
    votes: BTreeMap<NodeName, Option<(SocketAddr, Instant)>>,
    ipv4: Elected,
    ipv6: Elected,
}

/// The outside address of a family.
#[derive(Debug, Default)]
struct Elected {
    address: Option<SocketAddr>,
    /// Whether several neighbours agreed on it.
    agreed: bool,
}

impl Outside {
    /// The link to a neighbour works; `seen` is where it sees us, if it told a usable address. True if
    /// an outside address is another now.
    pub(super) fn seen(&mut self, now: Instant, by: &NodeName, seen: Option<SocketAddr>) -> bool {
        let vote = self.votes.entry(by.clone()).or_default();
        if vote.map(|(address, _)| address) != seen {
            *vote = seen.map(|address| (address, now));
        }
        self.elect()
    }

    /// The link to a neighbour is gone or its path is down: it no longer says where we are. True
    /// if an outside address is another now.
    pub(super) fn gone(&mut self, by: &NodeName) -> bool {
        self.votes.remove(by);
        self.elect()
    }

    /// Our outside addresses, at most one of each family.
    #[must_use]
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        [&self.ipv6, &self.ipv4].into_iter().filter_map(|family| family.address).collect()
    }

    fn elect(&mut self) -> bool {
        // Without neighbours the last addresses stay.
        if self.votes.is_empty() {
            return false;
        }
        let ipv4 = self.ipv4.elect(self.votes.values(), IpAddr::is_ipv4);
        let ipv6 = self.ipv6.elect(self.votes.values(), IpAddr::is_ipv6);
        ipv4 || ipv6
    }
}

impl Elected {
    /// Counts the votes for addresses of a family. True if the address is another now.
    fn elect<'a>(
        &mut self,
        votes: impl Iterator<Item = &'a Option<(SocketAddr, Instant)>>,
        of_family: fn(&IpAddr) -> bool,
    ) -> bool {
        let mut count: BTreeMap<SocketAddr, (usize, Instant)> = BTreeMap::new();
        let mut voters = 0;
        for vote in votes {
            match vote {
                Some((address, _)) if !of_family(&address.ip()) => continue,
                Some((address, since)) => {
                    let (votes, newest) = count.entry(*address).or_insert((0, *since));
                    *votes += 1;
                    *newest = (*newest).max(*since);
                }
                // It may be of any family.
                None => {}
            }
            voters += 1;
        }
        let quorum = QUORUM.min(voters);
        // While neighbours notice a move one after the other, the address on which all agreed
        // stays.
        let kept = self.address.filter(|address| self.agreed && count.contains_key(address));
        let enough = count.into_iter().filter(|(_, (votes, _))| *votes >= quorum);
        // With equally many votes, the newest report shows the latest move.
        let elected = enough.max_by_key(|(_, (votes, newest))| (*votes, *newest));
        self.agreed = elected.map_or(kept.is_some(), |(_, (votes, _))| votes >= QUORUM);
        let before =
            std::mem::replace(&mut self.address, elected.map(|(address, _)| address).or(kept));
        before != self.address
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn name(n: usize) -> NodeName {
        format!("n{n}").parse().unwrap()
    }

    fn at(port: u16) -> SocketAddr {
        ([198, 51, 100, 1], port).into()
    }

    #[test]
    fn one_neighbour_decides_alone_only_where_there_is_no_other() {
        let (mut outside, now) = (Outside::default(), Instant::now());
        assert!(outside.seen(now, &name(1), Some(at(1))));
        assert_eq!(outside.addresses(), [at(1)]);
        assert!(outside.seen(now, &name(2), Some(at(2))), "now nobody agrees");
        assert_eq!(outside.addresses(), []);
        assert!(outside.seen(now, &name(3), Some(at(2))));
        assert_eq!(outside.addresses(), [at(2)]);
        assert!(!outside.seen(now, &name(1), Some(at(7))));
    }

    #[test]
    fn a_move_is_noticed_once_two_neighbours_see_it() {
        let (mut outside, now) = (Outside::default(), Instant::now());
        (0..5).for_each(|n| {
            outside.seen(now, &name(n), Some(at(1)));
        });
        let later = now + Duration::from_secs(9);
        // The paths of three links are down; two links followed us.
        (0..3).for_each(|n| {
            outside.gone(&name(n));
        });
        assert!(!outside.seen(later, &name(3), Some(at(2))));
        assert!(outside.seen(later, &name(4), Some(at(2))));
        assert_eq!(outside.addresses(), [at(2)]);
    }

    #[test]
    fn of_two_addresses_with_equally_many_votes_the_newer_wins() {
        let (mut outside, now) = (Outside::default(), Instant::now());
        (0..4).for_each(|n| {
            outside.seen(now, &name(n), Some(at(9)));
        });
        let later = now + Duration::from_secs(1);
        (0..2).for_each(|n| {
            outside.seen(later, &name(n), Some(at(2)));
        });
        assert_eq!(outside.addresses(), [at(2)]);
    }

    #[test]
    fn neighbours_of_one_family_do_not_outvote_those_of_the_other() {
        let (mut outside, now) = (Outside::default(), Instant::now());
        let v6 = |port: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], port));
        outside.seen(now, &name(1), Some(at(1)));
        assert!(outside.seen(now, &name(2), Some(v6(2))), "one alone of its family");
        assert_eq!(outside.addresses(), [v6(2), at(1)]);
        outside.seen(now, &name(3), Some(v6(2)));
        assert!(!outside.seen(now, &name(4), Some(v6(4))));
        assert_eq!(outside.addresses(), [v6(2), at(1)]);
        // Where it sees us is not known: it may be a second one of that family.
        assert!(outside.seen(now, &name(5), None));
        assert_eq!(outside.addresses(), [v6(2)]);
    }

    #[test]
    fn the_last_address_stays_when_all_links_are_gone() {
        let (mut outside, now) = (Outside::default(), Instant::now());
        outside.seen(now, &name(1), Some(at(1)));
        assert!(!outside.gone(&name(1)));
        assert_eq!(outside.addresses(), [at(1)]);
    }

    proptest! {
        #[test]
        fn one_liar_never_decides_where_there_are_two_neighbours(
            lies in prop::collection::vec(1u16..9, 1..30), honest in 1usize..5
        ) {
            let (mut outside, now) = (Outside::default(), Instant::now());
            (0..=honest).for_each(|n| { outside.seen(now, &name(n), Some(at(1000))); });
            for lie in lies {
                outside.seen(now, &name(0), Some(at(lie)));
                prop_assert!(outside.addresses().iter().all(|address| *address == at(1000)));
            }
        }
    }
}
