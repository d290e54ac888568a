//! Finds links that send without an answer, among those that are probed rarely.
//!
//! On such a link only QUIC speaks, each 20 s, and it repeats what is not acknowledged. Its counters show that, so
//! finding a dead link costs no packet.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::identity::NodeName;

/// How often the counters are read. A path that fails just after QUIC's keep-alive is probed after 20 s, the
/// repeats of [`REPEATED`] and this time, and four probes later it is known to be dead: within 30 s in all.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Packets without an answer that are too many: the keep-alive and two repeats. One or two may be an
/// acknowledgement of ours and a keep-alive that is just under way.
const REPEATED: u64 = 3;

/// What links that are probed rarely have sent and heard.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    next: Option<Instant>,
    /// What was received, and what had been sent by then.
    links: BTreeMap<NodeName, (u64, u64)>,
}

impl Unanswered {
    /// When to look next at the links `rare`; `None` if there are none.
    pub(super) fn next_look(&mut self, now: Instant, rare: &[NodeName]) -> Option<Instant> {
        self.links.retain(|peer, _| rare.contains(peer));
        self.next = (!rare.is_empty()).then(|| self.next.unwrap_or(now + LOOK_EVERY));
        self.next
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            self.next = None;
        }
        due
    }

    /// Whether the link to `peer`, which has sent and received so many packets, is not answered.
    pub(super) fn look(&mut self, peer: &NodeName, (sent, received): (u64, u64)) -> bool {
        let last = self.links.entry(peer.clone()).or_insert((received, sent));
        if last.0 != received {
            *last = (received, sent);
        }
        sent.saturating_sub(last.1) >= REPEATED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_repeats_what_it_sends_is_not_answered() {
        let (mut links, now) = (Unanswered::default(), Instant::now());
        let peer: NodeName = "far".parse().unwrap();
        assert_eq!(links.next_look(now, &[]), None);
        let rare = [peer.clone()];
        assert_eq!(links.next_look(now, &rare), Some(now + LOOK_EVERY));
        assert!(!links.is_due(now));
        assert!(links.is_due(now + LOOK_EVERY) && !links.is_due(now + LOOK_EVERY));
        let looks = [(5, 5), (7, 5), (7, 6), (9, 6), (10, 6), (11, 6), (12, 7), (14, 7)];
        let silent = looks.map(|counters| links.look(&peer, counters));
        assert_eq!(silent, [false, false, false, false, true, true, false, false]);
        // A new connection counts from the start.
        assert!(!links.look(&peer, (1, 1)) && !links.look(&peer, (3, 1)));
        // One that is probed often again is forgotten.
        links.next_look(now, &[]);
        assert!(links.links.is_empty());
    }
}
