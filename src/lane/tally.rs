//! Decides which flows and lanes an exit logs one by one, and counts the others. Pure.
//!
//! A member can open any number of them. The first ones of each minute are logged with their
//! labels, so that an operator finds the same flow in the logs of both ends. The others make one
//! line a minute.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use crate::identity::NodeName;

/// Flows of one entry that are logged one by one in each [`PERIOD`]: enough to look into a fault, and
/// two lines each.
const TOLD: u32 = 10;

/// The counts of the other flows are logged after this time.
const PERIOD: Duration = Duration::from_secs(60);

/// How a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Both directions ended in order.
    Ended,
    /// It was reset.
    Reset,
    /// The exit refused it.
    Refused,
    /// The entry broke the protocol.
    Broken,
}

/// The counts of all entries with recent flows.
#[derive(Debug, Default)]
pub(super) struct Tally {
    entries: BTreeMap<NodeName, Period>,
}

#[derive(Debug)]
struct Period {
    since: Instant,
    told: u32,
    rest: Counts,
}

/// Flows that were not logged one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    begun: u32,
    ended: u32,
    reset: u32,
    refused: u32,
    broken: u32,
}

impl Tally {
    /// A flow begins. Returns whether it is logged.
    pub(super) fn begin(&mut self, entry: &NodeName, now: Instant) -> bool {
        let period = self.of(entry, now);
        let told = period.told < TOLD;
        match told {
            true => period.told += 1,
            false => period.rest.begun += 1,
        }
        told
    }

    /// A flow that is not logged has ended.
    pub(super) fn end(&mut self, entry: &NodeName, outcome: Outcome, now: Instant) {
        let rest = &mut self.of(entry, now).rest;
        *match outcome {
            Outcome::Ended => &mut rest.ended,
            Outcome::Reset => &mut rest.reset,
            Outcome::Refused => &mut rest.refused,
            Outcome::Broken => &mut rest.broken,
        } += 1;
    }

    /// The counts of periods that are over.
    pub(super) fn take(&mut self, now: Instant) -> Vec<(NodeName, Counts)> {
        let mut taken = Vec::new();
        self.entries.retain(|entry, period| {
            let over = now >= period.since + PERIOD;
            if over && period.rest != Counts::default() {
                taken.push((entry.clone(), period.rest));
            }
            !over
        });
        taken
    }

    fn of(&mut self, entry: &NodeName, now: Instant) -> &mut Period {
        let new = || Period { since: now, told: 0, rest: Counts::default() };
        self.entries.entry(entry.clone()).or_insert_with(new)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { begun, ended, reset, refused, broken } = self;
        write!(f, "{begun} begun, {ended} ended, {reset} reset, {refused} refused, ")?;
        write!(f, "{broken} against the protocol")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_beyond_the_first_of_a_minute_make_one_line() {
        let (mut tally, start) = (Tally::default(), Instant::now());
        let (mit, utah) = ("mit".parse().unwrap(), "utah".parse().unwrap());
        let told = (0..1_000).filter(|_| tally.begin(&mit, start)).count();
        assert_eq!(told, 10);
        for outcome in [Outcome::Ended, Outcome::Reset, Outcome::Refused, Outcome::Broken] {
            tally.end(&mit, outcome, start);
        }
        assert!(tally.begin(&utah, start), "another entry has its own");
        assert_eq!(tally.take(start + PERIOD / 2), []);
        let line: Vec<_> = tally.take(start + PERIOD);
        assert_eq!(line.len(), 1);
        assert_eq!(
            format!("{}: {}", line[0].0, line[0].1),
            "mit: 990 begun, 1 ended, 1 reset, 1 refused, 1 against the protocol"
        );
        assert!(tally.entries.is_empty(), "nothing is kept of an entry that rests");
        assert!(tally.begin(&mit, start + PERIOD));
    }
}
