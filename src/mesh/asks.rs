//! How often relays are asked for labels because of one far end. PURE: time is an argument.
//!
//! A lane follows its far end to another route, and the far end may tell of moves at any pace. A relay
//! that is asked too often ends its link with this node.

use std::{collections::BTreeMap, time::Instant};

use crate::{identity::NodeName, link::Bucket, overlay::linkstate::MAX_NODES};

/// Requests for labels of lanes with one far end, at once and in a second: after an outage each of its 64 lanes
/// asks for three routes, and labels last for two minutes. A relay answers 64 a second.
const ASKS: (u32, f64) = (256, 16.0);

/// The buckets of far ends, by name: they are full again within 16 s, so the next holder of a name hardly
/// notices the last one.
#[derive(Debug, Default)]
pub(super) struct Asks(BTreeMap<NodeName, Bucket>);

impl Asks {
    /// Takes one request because of `far_end`; false if it is over the budget.
    pub(super) fn take(&mut self, now: Instant, far_end: &NodeName) -> bool {
        if self.0.len() >= MAX_NODES && !self.0.contains_key(far_end) {
            self.0.retain(|_, bucket| !bucket.has(now, ASKS.0.into()));
        }
        let bucket = || Bucket::new(ASKS.0, ASKS.1);
        self.0.entry(far_end.clone()).or_insert_with(bucket).take(now, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_far_end_that_asks_without_end_leaves_others_theirs() {
        let (mut asks, start) = (Asks::default(), Instant::now());
        let [mallory, mit] = ["mallory", "mit"].map(|name| name.parse().unwrap());
        // A hundred a second for a minute.
        let at = |n: &u64| start + Duration::from_millis(10 * n);
        let taken = (0..6000).filter(|n| asks.take(at(n), &mallory)).count();
        assert!((1200..=1216).contains(&taken), "{taken}");
        assert!((0..192).all(|_| asks.take(start, &mit)), "three routes of 64 lanes");
    }

    #[test]
    fn far_ends_that_ask_no_more_are_forgotten() {
        let (mut asks, mut now) = (Asks::default(), Instant::now());
        for n in 0..3 * MAX_NODES {
            assert!(asks.take(now, &format!("n{n}").parse().unwrap()));
            now += Duration::from_millis(100);
            assert!(asks.0.len() <= MAX_NODES);
        }
    }
}
