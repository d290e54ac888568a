//! How many flows the exit carries, in total and for each entry, and which one goes when a place is
//! needed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    flow::{Carried, FlowLabel, Refusal, RefusalKind, Target},
    identity::NodeName,
};

/// A flow with traffic within this time keeps its place. It is longer than a pause in typing or a
/// server's response time.
const ACTIVE: Duration = Duration::from_secs(10);

/// The last places, one part in so many of all, are kept for entries that have few flows, one part in so many
/// or none: two entries with as many flows as they may have would else keep every other one out.
const KEPT: usize = 8;
const FEW: usize = 64;

/// Counts flows against the exit's limits. Clones share the counts.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    total: usize,
    per_entry: usize,
    counts: Arc<Mutex<Counts>>,
}

/// Entries without a flow are not kept, so the maps are bounded by the total limit.
#[derive(Debug, Default)]
struct Counts {
    next: u64,
    flows: HashMap<u64, Place>,
    by_entry: HashMap<NodeName, usize>,
}

#[derive(Debug)]
struct Place {
    entry: NodeName,
    since: Instant,
    label: Option<FlowLabel>,
    /// Where it goes; `None`: an association.
    target: Option<String>,
    carried: Arc<Carried>,
}

/// A flow of a member that leaves at this exit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExitFlow {
    /// The member: the flow's entry.
    pub member: NodeName,
    /// Its label, as at the entry; `None`: it is an association.
    pub label: Option<FlowLabel>,
    /// Where it goes; `None`: an association, or the operator logs no destinations.
    pub target: Option<String>,
    /// Its age in seconds.
    pub seconds: f64,
    /// Bytes from the member.
    pub sent: u64,
    /// Bytes to the member.
    pub received: u64,
    /// Seconds since a byte moved.
    pub quiet_seconds: f64,
}

/// One flow's place at the exit; dropping it gives the place back.
#[derive(Debug)]
#[must_use = "dropping the permit gives the flow's place to another"]
pub struct ExitPermit {
    number: u64,
    carried: Arc<Carried>,
    counts: Arc<Mutex<Counts>>,
}

impl ExitPermit {
    /// What the flow carries; it is to end when this says so.
    #[must_use]
    pub fn carried(&self) -> Arc<Carried> {
        self.carried.clone()
    }

    /// Takes note of the flow's label, for listings.
    pub(crate) fn set_label(&self, label: FlowLabel) {
        if let Some(place) = lock(&self.counts).flows.get_mut(&self.number) {
            place.label = Some(label);
        }
    }

    /// Takes note of where the flow goes, for listings.
    pub(super) fn set_target(&self, target: &Target) {
        if let Some(place) = lock(&self.counts).flows.get_mut(&self.number) {
            place.target = Some(target.to_string());
        }
    }
}

impl Limits {
    pub(super) fn new(total: usize, per_entry: usize) -> Self {
        Self { total, per_entry, counts: Arc::default() }
    }

    /// A place for a flow of `entry`; where there is none, that of the longest idle flow.
    ///
    /// An entry takes places of its own flows, and of entries that have as many flows or more.
    pub(super) fn admit(&self, entry: &NodeName) -> Result<ExitPermit, Refusal> {
        let counts = &mut *lock(&self.counts);
        let own = counts.of(entry);
        if own >= self.per_entry && !counts.evict(|place, _| place.entry == *entry) {
            return Err(full(format!("{} flows for {entry}", self.per_entry)));
        }
        if counts.flows.len() >= self.places(own)
            && !counts.evict(|place, held| place.entry == *entry || held >= own)
        {
            return Err(full(format!("{} flows", self.places(own))));
        }
        counts.next += 1;
        let (number, carried) = (counts.next, Arc::<Carried>::default());
        counts.flows.insert(number, Place::new(entry, &carried));
        *counts.by_entry.entry(entry.clone()).or_default() += 1;
        Ok(ExitPermit { number, carried, counts: self.counts.clone() })
    }

    /// How many flows there may be for an entry with so many to have another one.
    fn places(&self, own: usize) -> usize {
        let has_few = own < (self.total / FEW).max(1);
        if has_few { self.total } else { self.total - self.total / KEPT }
    }

    /// The flows, of each member the oldest first; with their destinations if they may be shown.
    pub(super) fn flows(&self, with_targets: bool) -> Vec<ExitFlow> {
        let counts = lock(&self.counts);
        let mut flows: Vec<_> = counts.flows.iter().collect();
        flows.sort_by_key(|(number, place)| (&place.entry, **number));
        flows.into_iter().map(|(_, place)| place.describe(with_targets)).collect()
    }

    /// How many places are taken.
    pub(super) fn taken(&self) -> usize {
        lock(&self.counts).flows.len()
    }
}

impl Place {
    fn new(entry: &NodeName, carried: &Arc<Carried>) -> Self {
        let (entry, carried) = (entry.clone(), carried.clone());
        Self { entry, since: Instant::now(), label: None, target: None, carried }
    }

    fn describe(&self, with_target: bool) -> ExitFlow {
        let (sent, received) = self.carried.bytes();
        ExitFlow {
            member: self.entry.clone(),
            label: self.label,
            target: self.target.clone().filter(|_| with_target),
            seconds: self.since.elapsed().as_secs_f64(),
            sent,
            received,
            quiet_seconds: self.carried.activity().last().elapsed().as_secs_f64(),
        }
    }
}

impl Counts {
    fn of(&self, entry: &NodeName) -> usize {
        self.by_entry.get(entry).copied().unwrap_or(0)
    }

    /// Ends the longest idle flow of those that `may_go`, judged with the number of its entry's flows.
    fn evict(&mut self, may_go: impl Fn(&Place, usize) -> bool) -> bool {
        let last = |place: &Place| place.carried.activity().last();
        let idle = self.flows.iter().filter(|(_, place)| {
            may_go(place, self.of(&place.entry)) && last(place).elapsed() >= ACTIVE
        });
        let longest = idle.min_by_key(|(_, place)| last(place)).map(|(number, _)| *number);
        let Some(place) = longest.and_then(|number| self.remove(number)) else { return false };
        let idle = Instant::now().duration_since(last(&place));
        tracing::info!(entry = %place.entry, idle_seconds = idle.as_secs(), "the longest idle flow was ended to make room");
        place.carried.activity().evict();
        true
    }

    fn remove(&mut self, number: u64) -> Option<Place> {
        let place = self.flows.remove(&number)?;
        if let Some(of_entry) = self.by_entry.get_mut(&place.entry) {
            *of_entry -= 1;
            if *of_entry == 0 {
                self.by_entry.remove(&place.entry);
            }
        }
        Some(place)
    }
}

fn full(limit: String) -> Refusal {
    Refusal::new(RefusalKind::Overloaded, format!("the exit carries its limit of {limit}"))
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for ExitPermit {
    fn drop(&mut self) {
        lock(&self.counts).remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    fn names() -> (NodeName, NodeName) {
        ("utah".parse().unwrap(), "mit".parse().unwrap())
    }

    fn is_evicted(permit: &ExitPermit) -> bool {
        permit.carried.activity().evicted().now_or_never().is_some()
    }

    #[test]
    fn one_entry_cannot_take_every_place() {
        let (utah, mit) = names();
        let limits = Limits::new(3, 2);
        let held = [limits.admit(&utah).unwrap(), limits.admit(&utah).unwrap()];
        let refusal = limits.admit(&utah).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Overloaded);
        assert_eq!(refusal.detail, "the exit carries its limit of 2 flows for utah");
        let other = limits.admit(&mit).unwrap();
        assert_eq!(limits.admit(&mit).unwrap_err().detail, "the exit carries its limit of 3 flows");
        drop((held, other));
        assert_eq!(limits.taken(), 0);
        assert!(lock(&limits.counts).by_entry.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn flows_are_listed_by_member_and_destinations_only_if_they_may_be() {
        let (utah, mit) = names();
        let limits = Limits::new(8, 8);
        let first = limits.admit(&utah).unwrap();
        advance(Duration::from_secs(3)).await;
        let other = limits.admit(&mit).unwrap();
        first.set_target(&"web.test:443".parse().unwrap());
        first.set_label("0000000a".parse().unwrap());
        first.carried.add_sent(5);
        let flows = limits.flows(true);
        let members: Vec<_> = flows.iter().map(|flow| flow.member.as_str()).collect();
        assert_eq!(members, ["mit", "utah"]);
        assert_eq!(flows[1].target.as_deref(), Some("web.test:443"));
        assert_eq!((flows[1].sent, flows[1].seconds, flows[1].quiet_seconds), (5, 3.0, 0.0));
        assert!(flows[1].label.is_some() && flows[0].label.is_none());
        assert!(limits.flows(false).iter().all(|flow| flow.target.is_none()));
        drop((first, other));
        assert!(limits.flows(true).is_empty());
    }

    #[test]
    fn entries_with_as_many_flows_as_they_may_have_leave_places_for_others() {
        let limits = Limits::new(256, 128);
        let admit = |name: &str, flows: usize| {
            let name: NodeName = name.parse().unwrap();
            let held: Vec<_> = (0..flows).map_while(|_| limits.admit(&name).ok()).collect();
            (held.len(), held)
        };
        let greedy = [admit("mit", 200), admit("utah", 200)];
        assert_eq!([greedy[0].0, greedy[1].0], [128, 96]);
        let others = ["cmu", "nyu", "ucla", "cornell"].map(|name| admit(name, 8));
        assert!(others.iter().all(|(flows, _)| *flows == 4), "{others:?}");
        drop(greedy);
        assert_eq!(admit("cmu", 8).0, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_flow_goes_first_and_an_active_one_never() {
        let (utah, _) = names();
        let limits = Limits::new(8, 3);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(limits.admit(&utah).unwrap());
            advance(Duration::from_secs(4)).await;
        }
        // 12, 8 and 4 seconds old; bytes move on the first.
        held[0].carried.add_sent(1);
        assert_eq!(limits.admit(&utah).unwrap_err().kind, RefusalKind::Overloaded);
        advance(Duration::from_secs(3)).await;
        let new = limits.admit(&utah).unwrap();
        assert_eq!([0, 1, 2].map(|n| is_evicted(&held[n])), [false, true, false]);
        assert_eq!(limits.taken(), 3);
        drop((held, new));
        assert_eq!(limits.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_with_many_flows_takes_no_place_of_one_with_few() {
        let (utah, mit) = names();
        let limits = Limits::new(4, 4);
        let few = limits.admit(&mit).unwrap();
        advance(Duration::from_secs(100)).await;
        let many: Vec<_> = (0..3).map(|_| limits.admit(&utah).unwrap()).collect();
        assert!(limits.admit(&utah).is_err());
        advance(Duration::from_secs(20)).await;
        let more = limits.admit(&utah).unwrap();
        assert!(!is_evicted(&few));
        let gone = many.iter().filter(|permit| is_evicted(permit)).count();
        assert_eq!(gone, 1);
        // The other way round, the one with few may.
        advance(Duration::from_secs(20)).await;
        few.carried.add_sent(1);
        let second = limits.admit(&mit).unwrap();
        assert_eq!(limits.taken(), 4);
        drop((more, second));
    }
}
