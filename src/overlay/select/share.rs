//! The share of one lane in the routes that are nearly equal: where a rule spreads flows over several
//! lanes to one exit, each lane takes a route of its own as long as there are enough.

use super::rank::{Compared, Rank};
use crate::{
    flow::{Hint, Route},
    overlay::candidates::{Candidate, Exclusion},
};

/// A route within this of the best is nearly as good.
const NEAR: f64 = 0.1;

/// A route is kept while it is within this of the best: measurements vary by more than [`NEAR`].
const STILL_NEAR: f64 = 0.25;

/// The share of one of several lanes to the same exit, numbered from 0.
#[derive(Debug, Clone)]
pub(super) struct Share {
    way: u8,
    own: Option<Route>,
}

impl Share {
    pub(super) fn new(way: u8) -> Self {
        Self { way, own: None }
    }

    /// Excludes the routes that other lanes use: all that are nearly as good as the best usable
    /// one, except this lane's own. `current` is the route in use.
    ///
    /// An own route in use that has become slower is left only when another one has proved itself
    /// faster, as in a lane that shares with nobody. Nothing is excluded meanwhile.
    pub(super) fn claim(
        &mut self,
        hint: &Hint,
        current: Option<&Route>,
        candidates: &mut [Candidate],
    ) {
        let still_near = near(hint, candidates, STILL_NEAR);
        let own = self.own.as_ref();
        if !own.is_some_and(|own| still_near.contains(own)) {
            let usable = |c: &Candidate| c.excluded.is_none() && Some(&c.route) == own;
            if current == own && candidates.iter().any(usable) {
                return;
            }
            self.own = assigned(self.way, &near(hint, candidates, NEAR));
        }
        let others = candidates.iter_mut().filter(|candidate| {
            still_near.contains(&candidate.route) && self.own.as_ref() != Some(&candidate.route)
        });
        others.for_each(|candidate| candidate.excluded = Some(Exclusion::LeftToOthers));
    }
}

/// The usable routes within `tolerance` of the best.
fn near(hint: &Hint, candidates: &[Candidate], tolerance: f64) -> Vec<Route> {
    let usable = candidates.iter().filter(|candidate| candidate.excluded.is_none());
    let ranks: Vec<_> = usable
        .map(|candidate| (Rank::of(hint, candidate, Compared::Alike), &candidate.route))
        .collect();
    let Some(best) = ranks.iter().map(|(rank, _)| rank).min() else { return Vec::new() };
    let near = ranks.iter().filter(|(rank, _)| rank.is_near(hint, best, tolerance));
    near.map(|(_, route)| (*route).clone()).collect()
}

/// The route of a lane among nearly equal `routes`. The lanes choose one after the other. Each
/// takes, of the routes that the fewest have chosen, the one with its largest hash. The hash
/// depends on the lane's number and the route alone (rendezvous hashing), so that few lanes move
/// when a route comes or goes.
fn assigned(way: u8, routes: &[Route]) -> Option<Route> {
    let mut chosen = vec![0u32; routes.len()];
    let mut last = None;
    for way in 0..=way {
        let fewest = *chosen.iter().min()?;
        let free = (0..routes.len()).filter(|&i| chosen[i] == fewest);
        let best = free.max_by_key(|&i| (weight(way, &routes[i]), &routes[i]))?;
        chosen[best] += 1;
        last = Some(best);
    }
    Some(routes[last?].clone())
}

/// A hash of the lane's number and the route: FNV-1a, finished as in `SplitMix64`. Both inputs are
/// this node's own, so it does not have to resist an adversary.
fn weight(way: u8, route: &Route) -> u64 {
    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x0100_0000_01b3;
    let name = route.relay().map_or("", |relay| relay.as_str());
    let bytes = std::iter::once(way).chain(name.bytes());
    let mut hash =
        bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
