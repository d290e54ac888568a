//! How much memory the lanes of each far end may hold: those of an entry at an exit, and those to
//! an exit at an entry. Pure.
//!
//! The windows of a lane's connection bound its memory: unread bytes of one direction,
//! unacknowledged bytes of the other. A [`Ledger`] gives each lane a share of its peer's budget. A
//! lane begins with a small share, gets more when it needs it, and gives it back when it rests or
//! when another lane of the peer needs it. A window that is taken back counts until the far end
//! has used up the bytes that it was told.

use std::collections::BTreeMap;

use crate::identity::NodeName;

/// Lanes of one peer for which the least share is kept.
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

    /// Each lane has the same.
    pub(super) const fn fixed(size: u64) -> Self {
        Self { least: size, first: size, most: size }
    }
}

/// Whose bytes a ledger counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// The far end's, which are not read. A window that it was told cannot be taken back, so an idle
    /// lane keeps it. So a lane grows to at most twice the memory that it leaves to others.
    Unread,
    /// This end's, which are not acknowledged. A lane without flows has none.
    Unacknowledged,
}

/// The shares of all lanes, in one direction.
#[derive(Debug)]
pub(super) struct Ledger {
    sizes: Sizes,
    per_peer: u64,
    in_all: u64,
    bytes: Of,
    shares: BTreeMap<u32, Share>,
}

#[derive(Debug)]
struct Share {
    peer: NodeName,
    window: u64,
    owed: u64,
}

/// Windows that change, by lane.
pub(super) type Changes = Vec<(u32, u64)>;

impl Ledger {
    /// A ledger with this many bytes for each peer, and for all.
    pub(super) fn new(bytes: Of, sizes: Sizes, per_peer: u64, in_all: u64) -> Self {
        Self { bytes, sizes, per_peer, in_all, shares: BTreeMap::new() }
    }

    /// The first window of a new lane.
    pub(super) fn open(&mut self, lane: u32, peer: &NodeName) -> u64 {
        let window = (self.free(peer) / 2).clamp(self.sizes.least, self.sizes.first);
        self.shares.insert(lane, Share { peer: peer.clone(), window, owed: 0 });
        window
    }

    /// A lane needs more. Its window doubles, as far as there is room. If there is not enough, the
    /// largest lane of the peer gives a part of its share above the mean.
    pub(super) fn grow(&mut self, lane: u32) -> Changes {
        let Some(share) = self.shares.get(&lane) else { return Changes::new() };
        let room = self.sizes.most.saturating_sub(share.window);
        let (peer, wanted) = (share.peer.clone(), share.window.min(room));
        let free = self.free(&peer);
        let given = wanted.min(match self.bytes {
            Of::Unread => (2 * free).saturating_sub(share.window) / 3,
            Of::Unacknowledged => free,
        });
        let mut changes = Changes::new();
        if given < wanted {
            changes.extend(self.take_back(lane, &peer));
        }
        if let Some(share) = self.shares.get_mut(&lane)
            && given > 0
        {
            share.window += given;
            changes.push((lane, share.window));
        }
        changes
    }

    /// The far end has used up this many bytes of a window that was taken back.
    pub(super) fn paid(&mut self, lane: u32, bytes: u64) {
        if let Some(share) = self.shares.get_mut(&lane) {
            share.owed = share.owed.saturating_sub(bytes);
        }
    }

    /// A lane has no flow. It gives back its share: above the first window, if the far end was told of it,
    /// so that its next flow need not wait; else nearly all, as it grows again at once.
    pub(super) fn rest(&mut self, lane: u32) -> Option<u64> {
        let share = self.shares.get_mut(&lane)?;
        let kept = match self.bytes {
            Of::Unread => self.sizes.first,
            Of::Unacknowledged => self.sizes.least,
        };
        let back = share.window.saturating_sub(kept);
        share.window -= back;
        match self.bytes {
            Of::Unread => share.owed += back,
            Of::Unacknowledged => share.owed = 0,
        }
        (back > 0).then_some(share.window)
    }

    /// A lane has ended.
    pub(super) fn close(&mut self, lane: u32) {
        self.shares.remove(&lane);
    }

    /// The memory that the lanes of all peers may hold now.
    pub(super) fn held(&self) -> u64 {
        self.shares.values().map(|share| share.window + share.owed).sum()
    }

    fn free(&self, peer: &NodeName) -> u64 {
        let of_peer = self.shares.values().filter(|share| share.peer == *peer);
        let held: u64 = of_peer.map(|share| share.window + share.owed).sum();
        let own = self.per_peer.saturating_sub(RESERVED * self.sizes.least).saturating_sub(held);
        own.min(self.in_all.saturating_sub(self.held()))
    }

    fn take_back(&mut self, lane: u32, peer: &NodeName) -> Option<(u32, u64)> {
        let least = self.sizes.least;
        let of_peer = self.shares.iter_mut().filter(|(_, share)| share.peer == *peer);
        let mut of_peer: Vec<_> = of_peer.collect();
        let mean = self.per_peer / u64::try_from(of_peer.len()).unwrap_or(1).max(1);
        of_peer.sort_by_key(|(_, share)| share.window);
        let (other, share) = of_peer.pop()?;
        if *other == lane || share.owed > 0 {
            return None;
        }
        let back = share.window.saturating_sub(mean.max(least)) / 2;
        share.window -= back;
        share.owed += back;
        (back > 0).then_some((*other, share.window))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const LEAST: u64 = Sizes::HOSTED.least;
    const FIRST: u64 = Sizes::HOSTED.first;

    fn entry(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn ledger(of: Of) -> Ledger {
        Ledger::new(of, Sizes::HOSTED, 5 * MIB, 100 * MIB)
    }

    /// Lets a lane grow as far as it may; its window then.
    fn grow_fully(ledger: &mut Ledger, lane: u32) -> u64 {
        while ledger.grow(lane).iter().any(|(changed, _)| *changed == lane) {}
        ledger.shares[&lane].window
    }

    #[test]
    fn one_lane_may_have_nearly_all_and_gives_it_back_when_it_rests() {
        let mut ledger = ledger(Of::Unacknowledged);
        assert_eq!(ledger.open(1, &entry("utah")), FIRST);
        assert_eq!(grow_fully(&mut ledger, 1), 9 * MIB / 2);
        assert_eq!(ledger.rest(1), Some(LEAST));
        assert_eq!(ledger.held(), LEAST);
        ledger.close(1);
        assert_eq!(ledger.held(), 0);
    }

    #[test]
    fn an_announced_window_counts_until_it_is_used_up() {
        let mut ledger = ledger(Of::Unread);
        ledger.open(1, &entry("utah"));
        let most = grow_fully(&mut ledger, 1);
        assert!((MIB * 11 / 4..=3 * MIB).contains(&most), "{most}");
        assert_eq!(ledger.rest(1), Some(FIRST));
        assert_eq!(ledger.held(), most);
        // The lane rests, and still the next ones get something, each two thirds of what is left.
        for (lane, least) in [(2, MIB * 3 / 4), (3, MIB / 4), (4, MIB / 16)] {
            ledger.open(lane, &entry("utah"));
            let window = grow_fully(&mut ledger, lane);
            assert!(window >= least, "lane {lane}: {window}");
        }
        ledger.paid(1, 10 * MIB);
        ledger.close(2);
        ledger.close(3);
        ledger.close(4);
        assert_eq!(ledger.held(), FIRST);
    }

    #[test]
    fn a_lane_that_needs_more_gets_it_from_the_largest_of_its_entry() {
        let mut ledger = ledger(Of::Unacknowledged);
        ledger.open(1, &entry("utah"));
        grow_fully(&mut ledger, 1);
        assert_eq!(ledger.open(2, &entry("utah")), LEAST);
        let changes = ledger.grow(2);
        assert_eq!(changes, [(1, 7 * MIB / 2)]);
        assert!(ledger.grow(2).is_empty(), "nothing is given twice");
        ledger.paid(1, MIB);
        let changes = ledger.grow(2);
        assert_eq!(changes.last(), Some(&(2, 2 * LEAST)));
        // Another entry has its own budget.
        assert_eq!(ledger.open(3, &entry("mit")), FIRST);
    }

    #[test]
    fn all_entries_together_stay_within_the_nodes_budget() {
        let mut ledger = Ledger::new(Of::Unread, Sizes::HOSTED, 5 * MIB, 6 * MIB);
        for lane in 0..4 {
            ledger.open(lane, &entry(&format!("n{lane}")));
            grow_fully(&mut ledger, lane);
        }
        assert!(ledger.held() <= 6 * MIB + 4 * LEAST, "{}", ledger.held());
    }

    proptest! {
        #[test]
        fn no_entry_exceeds_its_budget_whatever_its_lanes_do(
            of in prop::sample::select(vec![Of::Unread, Of::Unacknowledged]),
            steps in prop::collection::vec((0_u8..5, 0_u32..64, 0_u64..MIB), 1..300)
        ) {
            let mut ledger = ledger(of);
            for (step, lane, bytes) in steps {
                match step {
                    0 if !ledger.shares.contains_key(&lane) => drop(ledger.open(lane, &entry("utah"))),
                    1 => ledger.paid(lane, bytes),
                    2 => drop(ledger.rest(lane)),
                    3 => ledger.close(lane),
                    _ => drop(ledger.grow(lane)),
                }
                prop_assert!(ledger.held() <= 5 * MIB);
            }
        }
    }
}
