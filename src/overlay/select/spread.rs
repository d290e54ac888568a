//! Spreads lanes over routes that are nearly equal.

use super::rank::Rank;
use crate::{
    flow::{Hint, Route},
    overlay::candidates::Candidate,
};

/// The route for the lane or flow `label`, among those within `tolerance` (a fraction, 0.1 for
/// 10 %) of the best usable one; `None` when none is usable.
///
/// The choice depends on nothing but the label and the set of near routes. When a route leaves the
/// set, only its own lanes move, and when one joins, it takes its share from each other
/// (rendezvous hashing).
#[must_use]
pub fn spread<'a>(
    hint: &Hint,
    candidates: &'a [Candidate],
    label: u64,
    tolerance: f64,
) -> Option<&'a Route> {
    let usable = candidates.iter().filter(|candidate| candidate.excluded.is_none());
    let ranked: Vec<_> =
        usable.map(|candidate| (Rank::of(hint, candidate, false), &candidate.route)).collect();
    let best = ranked.iter().map(|(rank, _)| rank).min()?;
    let near = ranked.iter().filter(|(rank, _)| rank.is_near(hint, best, tolerance.max(0.0)));
    near.map(|(_, route)| *route).max_by_key(|route| (weight(label, route), *route))
}

/// A well-mixed number from the label and the route: FNV-1a, finished as in `SplitMix64`. It need
/// not resist an adversary: both inputs are this node's own.
fn weight(label: u64, route: &Route) -> u64 {
    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x0100_0000_01b3;
    let name = route.relay().map_or("", |relay| relay.as_str());
    let bytes = label.to_le_bytes().into_iter().chain(name.bytes());
    let mut hash =
        bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
