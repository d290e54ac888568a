//! How much memory the lanes of each far end may hold: those of an entry at an exit, and those to
//! an exit at an entry. Pure.
//!
//! The windows of a lane's connection bound its memory: unread bytes of one direction,
//! unacknowledged bytes of the other. A [`Ledger`] gives each of them a share of its peer's budget, by
//! what its bytes cost. A lane begins with small shares, gets more when it needs it, and gives it back
//! when it rests or when another share of the peer needs it. A window that is taken back counts until
//! the far end has used up the bytes that it was told.

use std::collections::BTreeMap;

use super::windows::held_back;
use crate::identity::NodeName;

/// Lanes of one peer for which the least shares are kept.
const RESERVED: u64 = 64;

/// The sizes of shares, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// The least share of a lane.
    pub(super) least: u64,
    /// The share of a new lane, if it is at most half of the free memory.
    pub(super) first: u64,
    /// The most of one lane.
    pub(super) most: u64,
}

impl Sizes {
    /// Of lanes that other nodes open, to use this node's memory: at least a request, or a few
    /// packets.
    pub(super) const HOSTED: Self = Self { least: 8 << 10, first: 2 << 20, most: 16 << 20 };
}

/// Whose bytes a share is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    /// The far end's, which are not read. A window that it was told cannot be taken back, so an idle
    /// lane keeps it.
    Unread,
    /// This end's, which are not acknowledged. A lane without flows has none.
    Unacknowledged,
}

impl Of {
    /// The memory that a window may take. Bytes that wait for a reader, or for one before them, take up to
    /// 4/3 of their size. Behind those that are not acknowledged flows hold back others.
    fn cost(self, window: u64) -> u64 {
        match self {
            Self::Unread => window.div_ceil(3).saturating_mul(4),
            Self::Unacknowledged => window + held_back(window),
        }
    }

    /// The largest window that costs no more.
    fn window(self, cost: u64) -> u64 {
        match self {
            Self::Unread => cost / 4 * 3,
            // It is at most half of a window, and of a large one the same as of any other.
            Self::Unacknowledged => (cost / 3 * 2).max(cost.saturating_sub(held_back(u64::MAX))),
        }
    }
}

/// The shares of all lanes.
#[derive(Debug)]
pub(super) struct Ledger {
    sizes: Sizes,
    /// The kinds of shares that each lane has.
    kinds: &'static [Of],
    per_peer: u64,
    in_all: u64,
    shares: BTreeMap<(u32, Of), Share>,
}

#[derive(Debug)]
struct Share {
    peer: NodeName,
    window: u64,
    owed: u64,
}

/// A lane's window that changes.
pub(super) type Change = (u32, Of, u64);

impl Ledger {
    /// A ledger with this many bytes of memory for each peer, and for all.
    pub(super) fn new(sizes: Sizes, kinds: &'static [Of], per_peer: u64, in_all: u64) -> Self {
        Self { sizes, kinds, per_peer, in_all, shares: BTreeMap::new() }
    }

    /// The kinds of shares that each lane has.
    pub(super) fn kinds(&self) -> &'static [Of] {
        self.kinds
    }

    /// The first window of a new lane.
    pub(super) fn open(&mut self, lane: u32, of: Of, peer: &NodeName) -> u64 {
        let Sizes { least, first, .. } = self.sizes;
        let window = of.window(self.free(peer) / 2).clamp(least, first);
        self.shares.insert((lane, of), Share { peer: peer.clone(), window, owed: 0 });
        window
    }

    /// A lane needs more. Its window doubles, as far as it costs no more than twice what is left for
    /// others. If that is not enough, the largest share of the peer gives a part of what it has above the
    /// mean.
    pub(super) fn grow(&mut self, lane: u32, of: Of) -> Vec<Change> {
        let Some(share) = self.shares.get(&(lane, of)) else { return Vec::new() };
        let room = self.sizes.most.saturating_sub(share.window);
        let (peer, wanted) = (share.peer.clone(), share.window.min(room));
        let available = of.cost(share.window).saturating_add(self.free(&peer));
        let given = of.window(available / 3 * 2).saturating_sub(share.window).min(wanted);
        let mut changes = Vec::new();
        if given < wanted {
            changes.extend(self.take_back((lane, of), &peer));
        }
        if let Some(share) = self.shares.get_mut(&(lane, of))
            && given > 0
        {
            share.window += given;
            changes.push((lane, of, share.window));
        }
        changes
    }

    /// The far end has used up this many bytes of a window that was taken back.
    pub(super) fn paid(&mut self, lane: u32, of: Of, bytes: u64) {
        if let Some(share) = self.shares.get_mut(&(lane, of)) {
            share.owed = share.owed.saturating_sub(bytes);
        }
    }

    /// A lane has no flow. It gives back its share: above the first window, if the far end was told of it,
    /// so that its next flow need not wait; else nearly all, as it grows again at once.
    pub(super) fn rest(&mut self, lane: u32, of: Of) -> Option<Change> {
        let share = self.shares.get_mut(&(lane, of))?;
        let kept = match of {
            Of::Unread => self.sizes.first,
            Of::Unacknowledged => self.sizes.least,
        };
        let back = share.window.saturating_sub(kept);
        share.window -= back;
        match of {
            Of::Unread => share.owed += back,
            Of::Unacknowledged => share.owed = 0,
        }
        (back > 0).then_some((lane, of, share.window))
    }

    /// A lane has ended.
    pub(super) fn close(&mut self, lane: u32) {
        self.shares.remove(&(lane, Of::Unread));
        self.shares.remove(&(lane, Of::Unacknowledged));
    }

    /// The bytes of one kind that the lanes of all peers may hold now.
    pub(super) fn held(&self, of: Of) -> u64 {
        let shares = self.shares.iter().filter(|((_, other), _)| *other == of);
        shares.map(|(_, share)| share.window + share.owed).sum()
    }

    fn cost<'a>(shares: impl Iterator<Item = (&'a (u32, Of), &'a Share)>) -> u64 {
        let costs = shares.map(|((_, of), share)| of.cost(share.window + share.owed));
        costs.fold(0, u64::saturating_add)
    }

    fn free(&self, peer: &NodeName) -> u64 {
        let reserved =
            RESERVED * self.kinds.iter().map(|of| of.cost(self.sizes.least)).sum::<u64>();
        let of_peer = self.shares.iter().filter(|(_, share)| share.peer == *peer);
        let own = self.per_peer.saturating_sub(reserved).saturating_sub(Self::cost(of_peer));
        own.min(self.in_all.saturating_sub(Self::cost(self.shares.iter())))
    }

    fn take_back(&mut self, for_share: (u32, Of), peer: &NodeName) -> Option<Change> {
        let least = self.sizes.least;
        let of_peer = self.shares.iter_mut().filter(|(_, share)| share.peer == *peer);
        let mut of_peer: Vec<_> = of_peer.collect();
        let mean = self.per_peer / u64::try_from(of_peer.len()).unwrap_or(1).max(1);
        of_peer.sort_by_key(|(_, share)| share.window);
        let (other, share) = of_peer.pop()?;
        if *other == for_share || share.owed > 0 {
            return None;
        }
        let back = share.window.saturating_sub(mean.max(least)) / 2;
        share.window -= back;
        share.owed += back;
        (back > 0).then_some((other.0, other.1, share.window))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const LEAST: u64 = Sizes::HOSTED.least;
    const FIRST: u64 = Sizes::HOSTED.first;
    const BOTH: &[Of] = &[Of::Unread, Of::Unacknowledged];

    fn entry(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn ledger() -> Ledger {
        Ledger::new(Sizes::HOSTED, BOTH, 12 * MIB, 100 * MIB)
    }

    fn cost(ledger: &Ledger) -> u64 {
        Ledger::cost(ledger.shares.iter())
    }

    /// Lets a lane grow as far as it may; its window then.
    fn grow_fully(ledger: &mut Ledger, lane: u32, of: Of) -> u64 {
        while ledger.grow(lane, of).iter().any(|(changed, _, _)| *changed == lane) {}
        ledger.shares[&(lane, of)].window
    }

    #[test]
    fn one_lane_may_have_most_and_gives_it_back_when_it_rests() {
        let mut ledger = ledger();
        let of = Of::Unacknowledged;
        assert_eq!(ledger.open(1, of, &entry("utah")), FIRST);
        let most = grow_fully(&mut ledger, 1, of);
        assert!((5 * MIB..=6 * MIB).contains(&most), "{most}");
        assert_eq!(ledger.rest(1, of), Some((1, of, LEAST)));
        assert_eq!(ledger.held(of), LEAST);
        ledger.close(1);
        assert_eq!(cost(&ledger), 0);
    }

    #[test]
    fn what_one_direction_does_not_need_the_other_may_have() {
        let mut ledger = Ledger::new(Sizes::HOSTED, BOTH, 24 * MIB, 100 * MIB);
        let open = |ledger: &mut Ledger| {
            for of in BOTH {
                ledger.open(1, *of, &entry("utah"));
            }
        };
        open(&mut ledger);
        assert!(grow_fully(&mut ledger, 1, Of::Unacknowledged) > 11 * MIB);
        ledger.close(1);
        open(&mut ledger);
        assert!(grow_fully(&mut ledger, 1, Of::Unread) > 9 * MIB);
        assert!(grow_fully(&mut ledger, 1, Of::Unacknowledged) > 3 * MIB);
    }

    #[test]
    fn an_announced_window_counts_until_it_is_used_up() {
        let (mut ledger, of) = (ledger(), Of::Unread);
        ledger.open(1, of, &entry("utah"));
        let most = grow_fully(&mut ledger, 1, of);
        assert!((5 * MIB..=6 * MIB).contains(&most), "{most}");
        assert_eq!(ledger.rest(1, of), Some((1, of, FIRST)));
        assert_eq!(ledger.held(of), most);
        // The lane rests, and still the next ones get something, each two thirds of what is left.
        for (lane, least) in [(2, MIB * 3 / 2), (3, MIB / 2), (4, MIB / 8)] {
            ledger.open(lane, of, &entry("utah"));
            let window = grow_fully(&mut ledger, lane, of);
            assert!(window >= least, "lane {lane}: {window}");
        }
        ledger.paid(1, of, 10 * MIB);
        for lane in 2..=4 {
            ledger.close(lane);
        }
        assert_eq!(ledger.held(of), FIRST);
    }

    #[test]
    fn a_lane_that_needs_more_gets_it_from_the_largest_of_its_entry() {
        let (mut ledger, of) = (ledger(), Of::Unacknowledged);
        ledger.open(1, of, &entry("utah"));
        let before = grow_fully(&mut ledger, 1, of);
        ledger.open(2, of, &entry("utah"));
        ledger.open(3, of, &entry("utah"));
        let changes = ledger.grow(3, of);
        let (lane, _, window) = changes[0];
        assert!(lane == 1 && window < before, "{changes:?}, {before} before");
        let rest = ledger.shares[&(3, of)].window;
        ledger.grow(3, of);
        assert_eq!(ledger.shares[&(1, of)].window, window, "nothing is given twice");
        ledger.paid(1, of, 10 * MIB);
        ledger.grow(3, of);
        assert!(ledger.shares[&(3, of)].window > rest);
        // Another entry has its own budget.
        assert_eq!(ledger.open(9, of, &entry("mit")), FIRST);
    }

    #[test]
    fn all_entries_together_stay_within_the_nodes_budget() {
        let mut ledger = Ledger::new(Sizes::HOSTED, BOTH, 5 * MIB, 6 * MIB);
        for lane in 0..4 {
            ledger.open(lane, Of::Unread, &entry(&format!("n{lane}")));
            grow_fully(&mut ledger, lane, Of::Unread);
        }
        assert!(cost(&ledger) <= 6 * MIB + 4 * 2 * LEAST, "{}", cost(&ledger));
    }

    #[test]
    fn as_many_lanes_as_an_entry_may_have_stay_within_its_budget() {
        let budget = 24 * MIB;
        let mut ledger = Ledger::new(Sizes::HOSTED, BOTH, budget, 100 * budget);
        for lane in 0..64 {
            for of in BOTH {
                ledger.open(lane, *of, &entry("utah"));
                grow_fully(&mut ledger, lane, *of);
            }
        }
        assert!(cost(&ledger) <= budget, "{}", cost(&ledger));
    }

    proptest! {
        #[test]
        fn a_window_of_a_cost_costs_no_more(of in prop::sample::select(BOTH.to_vec()), cost in 3..100 * MIB) {
            let window = of.window(cost);
            prop_assert!(of.cost(window) <= cost + 1, "{window}");
            prop_assert!(of.cost(window + 8) >= cost, "{window}");
        }

        #[test]
        fn no_entry_exceeds_its_budget_whatever_its_lanes_do(
            steps in prop::collection::vec(
                (0_u8..5, 0_u32..64, prop::sample::select(BOTH.to_vec()), 0_u64..MIB), 1..300)
        ) {
            let mut ledger = ledger();
            for (step, lane, of, bytes) in steps {
                match step {
                    0 if !ledger.shares.contains_key(&(lane, of)) => drop(ledger.open(lane, of, &entry("utah"))),
                    1 => ledger.paid(lane, of, bytes),
                    2 => drop(ledger.rest(lane, of)),
                    3 => ledger.close(lane),
                    _ => drop(ledger.grow(lane, of)),
                }
                prop_assert!(cost(&ledger) <= 12 * MIB);
            }
        }
    }
}
