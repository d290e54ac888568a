//! The rate that lanes lately had on each route. The next lane on that route begins with a part of it, as in
//! draft-ietf-tsvwg-careful-resume. PURE: time is an argument.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::adaptive::Carried;
use crate::identity::NodeName;

/// A rate is remembered for this long: as long as a lane without flows is kept, which remembers its rate,
/// too.
const KEPT: Duration = Duration::from_secs(600);

/// Routes remembered. With as many members as an overlay has, each by several routes, the oldest give way.
const MOST: usize = 1024;

/// What lanes carried, by far end and route. Each direction of a lane is remembered by its sender.
#[derive(Debug, Default)]
pub(super) struct RouteMemory(Mutex<BTreeMap<(NodeName, u64), (Carried, Instant)>>);

/// The routes to one far end.
#[derive(Debug, Clone)]
pub(super) struct RoutesTo {
    pub(super) memory: Arc<RouteMemory>,
    pub(super) peer: NodeName,
}

impl RoutesTo {
    /// What was carried lately on the route with this number.
    pub(super) fn recall(&self, now: Instant, route: u64) -> Option<Carried> {
        let routes = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (carried, at) = routes.get(&(self.peer.clone(), route))?;
        (now < *at + KEPT).then_some(*carried)
    }

    /// Records what is carried now.
    pub(super) fn note(&self, now: Instant, route: u64, carried: Carried) {
        let mut routes = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.peer.clone(), route);
        if routes.len() >= MOST && !routes.contains_key(&key) {
            let oldest = routes.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| key.clone());
            oldest.and_then(|key| routes.remove(&key));
        }
        routes.insert(key, (carried, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(memory: &Arc<RouteMemory>, peer: &str) -> RoutesTo {
        RoutesTo { memory: memory.clone(), peer: peer.parse().unwrap() }
    }

    fn carried(rate: f64) -> Carried {
        Carried { rate, rtt: Duration::from_millis(60) }
    }

    #[test]
    fn a_route_is_remembered_by_far_end_for_ten_minutes() {
        let (memory, t0) = (Arc::<RouteMemory>::default(), Instant::now());
        to(&memory, "mit").note(t0, 1, carried(1e6));
        let later = |s| t0 + Duration::from_secs(s);
        assert_eq!(to(&memory, "mit").recall(later(599), 1), Some(carried(1e6)));
        assert_eq!(to(&memory, "mit").recall(later(601), 1), None);
        assert_eq!(to(&memory, "mit").recall(t0, 2), None);
        assert_eq!(to(&memory, "utah").recall(t0, 1), None);
    }

    #[test]
    fn the_oldest_of_too_many_routes_gives_way() {
        let (memory, t0) = (Arc::<RouteMemory>::default(), Instant::now());
        let mit = to(&memory, "mit");
        let most = u64::try_from(MOST).unwrap();
        (0..=most).for_each(|n| mit.note(t0 + Duration::from_millis(n), n, carried(1e6)));
        assert_eq!(memory.0.lock().unwrap().len(), MOST);
        let now = t0 + Duration::from_secs(2);
        assert_eq!(mit.recall(now, 0), None);
        assert!(mit.recall(now, 1).is_some() && mit.recall(now, most).is_some());
    }
}
