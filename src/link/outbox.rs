//! Notices that wait to be sent on a link. PURE.
//!
//! One task per link takes notices out and sends them. A newer advertisement of a node replaces the one
//! that still waits, so a slow neighbour gets the newest state and the queue has a bound.

use std::collections::VecDeque;

use crate::{identity::NodeName, wire::link::Notice};

/// Most notices that wait: the advertisements of 256 nodes, and some of other kinds.
const MAX_WAITING: usize = 320;

/// Most bytes that wait: the advertisements of 256 nodes with 255 links each, as the answer to a
/// digest.
const MAX_BYTES: usize = 2 << 20;

/// The topic of a notice. A newer notice of the same topic replaces the one that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// The advertisement of this node.
    Advertisement(NodeName),
    /// Which advertisements we hold.
    Digest,
    /// Where we see the neighbour.
    Seen,
    /// The revocation list.
    Revocations,
    /// This node's certificate.
    Certificate,
    /// What this node measures for its site.
    Shared,
    /// Another topic: each notice is sent.
    Other,
}

impl Topic {
    /// The topic of a notice that is no advertisement.
    #[must_use]
    pub fn of(notice: &Notice) -> Self {
        match notice {
            Notice::Digest(_) => Self::Digest,
            Notice::Seen(_) => Self::Seen,
            Notice::Revocations(_) => Self::Revocations,
            Notice::Certificate(_) => Self::Certificate,
            Notice::Shared(_) => Self::Shared,
            Notice::Advertisement { .. } => Self::Other,
        }
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<(Topic, Box<[u8]>)>,
    bytes: usize,
}

impl Outbox {
    /// Puts an encoded notice at the end, or in the place of an older one of its topic. False if there
    /// is no room: the notice is dropped.
    pub(super) fn push(&mut self, topic: Topic, notice: Vec<u8>) -> bool {
        // An encoder leaves up to as much room behind it.
        let notice = notice.into_boxed_slice();
        let same = |(other, _): &&mut (Topic, Box<[u8]>)| *other == topic && topic != Topic::Other;
        if let Some((_, old)) = self.waiting.iter_mut().find(same) {
            let bytes = self.bytes - old.len() + notice.len();
            let fits = bytes <= MAX_BYTES;
            if fits {
                self.bytes = bytes;
                *old = notice;
            }
            return fits;
        }
        let fits = self.waiting.len() < MAX_WAITING && self.bytes + notice.len() <= MAX_BYTES;
        if fits {
            self.bytes += notice.len();
            self.waiting.push_back((topic, notice));
        }
        fits
    }

    /// Takes the notice that has waited longest.
    pub(super) fn pop(&mut self) -> Option<Box<[u8]>> {
        let (_, notice) = self.waiting.pop_front()?;
        self.bytes -= notice.len();
        Some(notice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advert(n: usize) -> Topic {
        Topic::Advertisement(format!("n{n}").parse().unwrap())
    }

    #[test]
    fn a_newer_advertisement_takes_the_place_of_the_one_that_waits() {
        let mut outbox = Outbox::default();
        outbox.push(advert(1), vec![1]);
        outbox.push(Topic::Digest, vec![2]);
        outbox.push(advert(1), vec![3]);
        outbox.push(Topic::Digest, vec![4]);
        outbox.push(Topic::Other, vec![5]);
        outbox.push(Topic::Other, vec![6]);
        let sent: Vec<_> = std::iter::from_fn(|| outbox.pop()).flatten().collect();
        assert_eq!(sent, [3, 4, 5, 6]);
        assert_eq!(outbox.bytes, 0);
    }

    #[test]
    fn notices_without_end_fill_no_more_than_the_caps() {
        let mut outbox = Outbox::default();
        let taken = (0..1000).filter(|n| outbox.push(advert(*n), vec![0; 10])).count();
        assert_eq!(taken, MAX_WAITING);
        assert!(outbox.push(advert(1), vec![0; 20]), "a newer one of the same topic still fits");
        let mut outbox = Outbox::default();
        while outbox.push(Topic::Other, vec![0; 60_000]) {}
        assert!(outbox.bytes <= MAX_BYTES && outbox.waiting.len() < MAX_WAITING);
        assert!(!outbox.push(Topic::Digest, vec![0; 60_000]));
    }
}
