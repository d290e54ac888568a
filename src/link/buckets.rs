//! A budget for each of several nodes. PURE: time is an argument.

use std::{collections::BTreeMap, time::Instant};

use super::Bucket;
use crate::identity::NodeName;

/// Buckets of one size, by name, of at most so many nodes. A bucket that is full again is forgotten when there
/// is need of its place, so the next holder of a name hardly notices the last one.
#[derive(Debug)]
pub struct Buckets {
    size: (u32, f64),
    most: usize,
    of: BTreeMap<NodeName, Bucket>,
}

impl Buckets {
    /// Buckets that hold and gain, in a second, so many tokens, of `most` nodes.
    #[must_use]
    pub fn new(size: (u32, f64), most: usize) -> Self {
        Self { size, most, of: BTreeMap::new() }
    }

    /// Takes one token of the node's bucket; false if none is left, or all places are taken.
    pub fn take(&mut self, now: Instant, node: &NodeName) -> bool {
        let (capacity, per_second) = self.size;
        if self.of.len() >= self.most && !self.of.contains_key(node) {
            self.of.retain(|_, bucket| !bucket.has(now, capacity.into()));
            if self.of.len() >= self.most {
                return false;
            }
        }
        let bucket = || Bucket::new(capacity, per_second);
        self.of.entry(node.clone()).or_insert_with(bucket).take(now, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    #[test]
    fn a_node_that_asks_without_end_leaves_others_theirs() {
        let (mut buckets, start) = (Buckets::new((256, 16.0), 256), Instant::now());
        // A hundred a second for a minute.
        let at = |n: &u64| start + Duration::from_millis(10 * n);
        let taken = (0..6000).filter(|n| buckets.take(at(n), &name("mallory"))).count();
        assert!((1200..=1216).contains(&taken), "{taken}");
        assert!((0..256).all(|_| buckets.take(start, &name("mit"))));
    }

    #[test]
    fn nodes_that_ask_no_more_give_their_places_to_others() {
        let (mut buckets, now) = (Buckets::new((2, 1.0), 16), Instant::now());
        let numbered = |n: usize| name(&format!("n{n}"));
        assert!((0..16).all(|n| buckets.take(now, &numbered(n))));
        assert!(!buckets.take(now, &numbered(16)), "all places are taken");
        let later = now + Duration::from_secs(1);
        assert!((16..32).all(|n| buckets.take(later, &numbered(n))));
        assert_eq!(buckets.of.len(), 16);
    }
}
