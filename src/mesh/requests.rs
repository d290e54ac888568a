//! Recently answered requests for lanes, so that none is answered twice. PURE: time is an argument.
//!
//! A request may reach its exit through another node. That node could send it again later, and the
//! exit would hold a lane for which no entry asked. Requests of one entry may overtake each other,
//! so a request may be older than the last one, but not older than the oldest remembered one.

use std::collections::{BTreeMap, BTreeSet};

use crate::{identity::Fingerprint, wire::link::RequestFault};

/// How far the entry's clock may differ from ours, in seconds. Certificates are backdated by an
/// hour, so other nodes refuse a node with a larger difference in any case. The same holds for
/// requests from the future: this node's clock may be the one that is behind.
pub(super) const TOLERATED: u64 = 3600;

/// Requests remembered of one entry: four times the lanes it may hold here.
const MAX_REMEMBERED: usize = 256;

/// Entries remembered. They are members: an overlay has 256 at most, and some leave or get a new key.
const MAX_ENTRIES: usize = 1024;

/// The requests answered lately, by the entry's key: those of a name's last holder are not the next
/// one's.
#[derive(Debug, Default)]
pub(super) struct Requests {
    answered: BTreeMap<Fingerprint, Answered>,
}

#[derive(Debug, Default)]
struct Answered {
    latest: BTreeSet<u64>,
    /// A request issued before this may have been removed.
    forgotten: Option<u64>,
}

impl Answered {
    /// Forgets requests issued after `seconds`: this node's clock has been set back. They would shadow
    /// those that are issued now, for as long as the clock was wrong.
    fn forget_after(&mut self, seconds: u64) {
        let first = number(seconds + 1, 0);
        drop(self.latest.split_off(&first));
        self.forgotten = self.forgotten.filter(|forgotten| *forgotten < first);
    }
}

/// The number of a request: its time in seconds since 1970, and 20 bits that distinguish requests
/// of one second.
pub(super) fn number(seconds: u64, low: u32) -> u64 {
    seconds << 20 | u64::from(low & 0xf_ffff)
}

impl Requests {
    /// Records the request of the entry with the key `entry` and the number `issued`, which comes in at
    /// `now` (seconds since 1970).
    ///
    /// # Errors
    /// Why it must not be answered.
    pub(super) fn admit(
        &mut self,
        now: u64,
        entry: &Fingerprint,
        issued: u64,
    ) -> Result<(), RequestFault> {
        if (issued >> 20).abs_diff(now) > TOLERATED {
            return Err(RequestFault::Clock);
        }
        if self.answered.len() >= MAX_ENTRIES && !self.answered.contains_key(entry) {
            // A request that is too old is refused without being remembered.
            self.answered.retain(|_, answered| {
                answered.latest.last().is_some_and(|last| (last >> 20) + TOLERATED >= now)
            });
            if self.answered.len() >= MAX_ENTRIES {
                return Err(RequestFault::TooMany);
            }
        }
        let answered = self.answered.entry(*entry).or_default();
        answered.forget_after(now + TOLERATED);
        if answered.forgotten.is_some_and(|forgotten| issued <= forgotten)
            || !answered.latest.insert(issued)
        {
            return Err(RequestFault::Replayed);
        }
        if answered.latest.len() > MAX_REMEMBERED {
            answered.forgotten = answered.latest.pop_first();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_893_456_000;

    #[test]
    fn requests_from_before_a_clock_was_set_back_shadow_no_later_ones() {
        let (mut requests, aros) = (Requests::default(), key("aros"));
        let ahead = NOW + 24 * 3600;
        for low in 0..2 * u32::try_from(MAX_REMEMBERED).unwrap() {
            assert_eq!(requests.admit(ahead, &aros, number(ahead, low)), Ok(()));
        }
        for low in [5, 3, 4] {
            assert_eq!(requests.admit(NOW, &aros, number(NOW, low)), Ok(()));
            let again = requests.admit(NOW, &aros, number(NOW, low));
            assert_eq!(again, Err(RequestFault::Replayed));
        }
    }

    fn key(of: &str) -> Fingerprint {
        Fingerprint::of(of.as_bytes())
    }

    #[test]
    fn requests_that_overtake_each_other_are_answered_and_none_is_twice() {
        let (mut requests, aros) = (Requests::default(), key("aros"));
        let [early, late] = [number(NOW, 1), number(NOW, 2)];
        for (issued, expected) in [
            (late, Ok(())),
            (early, Ok(())),
            (late, Err(RequestFault::Replayed)),
            (early, Err(RequestFault::Replayed)),
        ] {
            assert_eq!(requests.admit(NOW, &aros, issued), expected);
        }
        assert_eq!(requests.admit(NOW, &key("utah"), early), Ok(()), "another entry's number");
    }

    #[test]
    fn a_request_of_another_hour_is_refused_before_and_after() {
        let (mut requests, aros) = (Requests::default(), key("aros"));
        for (seconds, expected) in [
            (NOW - TOLERATED, Ok(())),
            (NOW + TOLERATED, Ok(())),
            (NOW - TOLERATED - 1, Err(RequestFault::Clock)),
            (NOW + TOLERATED + 1, Err(RequestFault::Clock)),
            (0, Err(RequestFault::Clock)),
            (u64::MAX >> 20, Err(RequestFault::Clock)),
        ] {
            assert_eq!(requests.admit(NOW, &aros, number(seconds, 0)), expected, "{seconds}");
        }
    }

    #[test]
    fn entries_over_the_cap_are_refused_until_old_ones_are_out_of_date() {
        let mut requests = Requests::default();
        for i in 0..MAX_ENTRIES {
            assert_eq!(requests.admit(NOW, &key(&format!("n{i}")), number(NOW, 0)), Ok(()));
        }
        let (late, more) = (NOW + TOLERATED + 1, key("more"));
        assert_eq!(requests.admit(NOW, &more, number(NOW, 0)), Err(RequestFault::TooMany));
        assert_eq!(requests.admit(NOW, &key("n7"), number(NOW, 1)), Ok(()));
        assert_eq!(requests.admit(late, &more, number(late, 0)), Ok(()));
        assert_eq!(requests.answered.len(), 1);
    }

    proptest! {
        #[test]
        fn no_number_is_answered_twice_and_little_is_remembered(
            numbers in prop::collection::vec(0u32..600, 1..900),
        ) {
            let (mut requests, aros) = (Requests::default(), key("aros"));
            let mut answered = BTreeSet::new();
            for low in numbers {
                if requests.admit(NOW, &aros, number(NOW, low)).is_ok() {
                    prop_assert!(answered.insert(low));
                }
                prop_assert!(requests.answered[&aros].latest.len() <= MAX_REMEMBERED);
            }
        }
    }
}
