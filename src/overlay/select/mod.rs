//! Chooses the route of one destination and hint, and says why.
//!
//! The selector takes the best usable candidate when there is no route, or when the current one can
//! no longer be used. Otherwise a change needs a margin, and waits until the hold-down after the
//! last change is over. A route that is only faster must stay faster for a while: the larger the
//! gain, the shorter. When no candidate is usable the current route stays, because a dead route may
//! come back. Only a route that a pin, a rule or a policy forbids is left without a replacement.
//!
//! # Loss under the hint `latency`
//!
//! The paper's latency optimiser ignores loss. In overlays that do the same, users stay on a fast
//! path that delivers nothing (EasyTier#1687, nebula#893). Here the latency of a route is its
//! *expected* latency, retransmissions included
//! ([`PathMetrics::expected_latency`](super::metrics::PathMetrics::expected_latency)), and a route
//! that loses more than [`LOSSY`] of its round trips is only used when there is no cleaner one.

mod carriers;
mod decision;
mod merit;
mod rank;
mod share;

use std::time::{Duration, Instant};

pub use carriers::{is_lossy, leaves_udp, returns_to_udp};
pub use decision::{ChangeReason, Decision, Explained, Verdict, VerdictKind};
pub use rank::{LOSSY, LOSSY_IN_USE, Rank, Tier};

use self::{merit::Merit, rank::Compared, share::Share};
use super::{
    candidates::{Candidate, Exclusion},
    history::{RouteChange, RouteHistory},
};
use crate::flow::{Hint, Route};

/// How long a change must stand before a merely better route replaces it: four of the fastest probes, so
/// that the estimates have taken in what the change itself has caused.
pub const HOLD_DOWN: Duration = Duration::from_secs(2);

/// The same for a return to a route that failed lately; it doubles with each failure and each return.
const FAILED_HOLD_DOWN: Duration = Duration::from_secs(5);

/// The longest hold-down. A lane returns to a route that flaps every few seconds every two minutes
/// at most, and leaves it again each time. That makes one change a minute.
pub const MAX_HOLD_DOWN: Duration = Duration::from_secs(120);

/// A change this soon after the previous one doubles the hold-down. A longer time without a change
/// resets it. It is twice the longest hold-down, so that the hold-down itself does not reset it.
const CALM: Duration = Duration::from_secs(240);

/// How many routes are prepared: the labels of the two best are granted in advance.
const ALTERNATIVES: usize = 2;

/// The choice of a route for one destination and one hint.
#[derive(Debug, Clone)]
pub struct Selector {
    hint: Hint,
    current: Option<Route>,
    changed_at: Option<Instant>,
    /// How long a return to a route that failed lately waits.
    hold_down: Duration,
    merit: Merit,
    history: RouteHistory,
    share: Option<Share>,
}

/// A change to make: to which route, why, and whether it makes the next one wait longer.
struct Change {
    to: Option<Route>,
    reason: ChangeReason,
    counts: bool,
}

impl Selector {
    /// A selector without a route.
    #[must_use]
    pub fn new(hint: Hint) -> Self {
        Self {
            hint,
            current: None,
            changed_at: None,
            hold_down: FAILED_HOLD_DOWN,
            merit: Merit::default(),
            history: RouteHistory::default(),
            share: None,
        }
    }

    /// A selector for lane `way` of several to one exit, numbered from 0. Of routes that are nearly
    /// equal, each lane takes its own. `None`: the only lane, which may take any route.
    #[must_use]
    pub fn sharing(hint: Hint, way: Option<u8>) -> Self {
        Self { share: way.map(Share::new), ..Self::new(hint) }
    }

    /// The route in use; `None` before the first decision, or when none was left.
    #[must_use]
    pub fn current(&self) -> Option<&Route> {
        self.current.as_ref()
    }

    /// What it chooses by.
    #[must_use]
    pub fn hint(&self) -> &Hint {
        &self.hint
    }

    /// The last changes of route.
    #[must_use]
    pub fn history(&self) -> &RouteHistory {
        &self.history
    }

    /// Decides which of `candidates` to use from `now` on, and remembers it.
    ///
    /// The caller marks a route that a lane has found dead as [`Exclusion::Silent`].
    pub fn decide(&mut self, now: Instant, mut candidates: Vec<Candidate>) -> Decision {
        if let Some(share) = &mut self.share {
            share.claim(&self.hint, self.current.as_ref(), &mut candidates);
        }
        let ranked = self.rank(&candidates);
        let before = self.current.clone();
        match ranked.iter().find(|rank| Some(rank.route()) == before.as_ref()) {
            Some(current) => self.merit.add(now, &self.hint, &ranked, current),
            None => self.merit.clear(now),
        }
        let change = self.choose(now, &ranked, &candidates);
        let changed = change.as_ref().map(|change| change.reason.clone());
        let current_rank = ranked.iter().find(|rank| Some(rank.route()) == before.as_ref());
        let current_rank = current_rank.filter(|_| change.is_none()).cloned();
        if let Some(change) = change {
            self.apply(now, change);
        }
        // Routes left to other lanes are nearly as good, so they are used if this lane's own route
        // fails.
        let left = candidates.iter().filter(|c| c.excluded == Some(Exclusion::LeftToOthers));
        let alternatives = left
            .map(|candidate| &candidate.route)
            .chain(ranked.iter().map(Rank::route))
            .filter(|route| Some(*route) != self.current.as_ref())
            .take(ALTERNATIVES)
            .cloned()
            .collect();
        let candidates = self.explain(now, candidates, &ranked, current_rank.as_ref());
        Decision { route: self.current.clone(), changed, candidates, alternatives }
    }

    /// Records that `route` is in use from `now` on. Only moves to a better route make the next one wait
    /// longer: a route that failed is excluded for a time of its own.
    pub fn adopt(&mut self, now: Instant, route: &Route, reason: ChangeReason) {
        if self.current.as_ref() != Some(route) {
            let counts = reason == ChangeReason::Better;
            self.apply(now, Change { to: Some(route.clone()), reason, counts });
        }
    }

    /// Restarts the sums of gains at `now`: before, gains did not matter.
    pub fn forget_merit(&mut self, now: Instant) {
        self.merit.clear(now);
    }

    /// The ranks of the usable candidates, best first.
    fn rank(&self, candidates: &[Candidate]) -> Vec<Rank> {
        let usable = || candidates.iter().filter(|candidate| candidate.excluded.is_none());
        let in_use = |candidate: &Candidate| self.current.as_ref() == Some(&candidate.route);
        let current = usable().find(|candidate| in_use(candidate));
        let compared = |candidate: &Candidate| match current {
            None => Compared::Alike,
            Some(_) if in_use(candidate) => Compared::InUse,
            Some(current) => Compared::With(current.metrics),
        };
        let mut ranked: Vec<_> = usable().map(|c| Rank::of(&self.hint, c, compared(c))).collect();
        ranked.sort_unstable();
        ranked
    }

    fn choose(&self, now: Instant, ranked: &[Rank], candidates: &[Candidate]) -> Option<Change> {
        let best = ranked.first().map(|rank| rank.route().clone());
        let Some(current) = &self.current else {
            let to = Some(best?);
            return Some(Change { to, reason: ChangeReason::First, counts: false });
        };
        if let Some(current) = ranked.iter().find(|rank| rank.route() == current) {
            let unmeasured = current.tier == Tier::Unmeasured;
            let may = |rank: &&Rank| unmeasured || self.held_down(now, rank.route()).is_none();
            let mut better = ranked.iter().filter(|rank| self.is_better(rank, current));
            let better = better.find(may)?;
            let reason = if better.tier == current.tier {
                ChangeReason::Better
            } else {
                ChangeReason::BetterTier { from: current.tier, to: better.tier }
            };
            let counts = self.has_failed(now, better.route());
            return Some(Change { to: Some(better.route().clone()), reason, counts });
        }
        let known = candidates.iter().find(|candidate| candidate.route == *current);
        let excluded = known.and_then(|candidate| candidate.excluded.clone());
        let forbidden = excluded.as_ref().is_some_and(|reason| reason.is_forbidden());
        if best.is_none() && !forbidden {
            return None;
        }
        let reason = excluded.map_or(ChangeReason::Vanished, ChangeReason::Excluded);
        Some(Change { to: best, reason, counts: true })
    }

    /// Whether `rank` beats the rank of the route in use by the margin and for long enough.
    fn is_better(&self, rank: &Rank, current: &Rank) -> bool {
        rank.beats(&self.hint, current)
            && (!rank.is_only_faster(&self.hint, current) || self.merit.proves(rank.route()))
    }

    fn apply(&mut self, now: Instant, change: Change) {
        let Change { to, reason, counts } = change;
        let recent = |at: Instant| now.saturating_duration_since(at) < CALM;
        self.hold_down = match (self.changed_at.is_some_and(recent), counts) {
            (true, true) => (self.hold_down * 2).min(MAX_HOLD_DOWN),
            (true, false) => self.hold_down,
            (false, _) => FAILED_HOLD_DOWN,
        };
        self.changed_at = Some(now);
        self.merit.clear(now);
        let from = std::mem::replace(&mut self.current, to.clone());
        self.history.push(RouteChange { at: now, from, to, reason });
    }

    /// How long the hold-down still keeps the lane from moving to `route`; `None` when it is over. It is longer
    /// than [`HOLD_DOWN`] for a route that failed lately.
    fn held_down(&self, now: Instant, route: &Route) -> Option<Duration> {
        let hold_down = if self.has_failed(now, route) { self.hold_down } else { HOLD_DOWN };
        let passed = now.saturating_duration_since(self.changed_at?);
        hold_down.checked_sub(passed).filter(|left| !left.is_zero())
    }

    /// Whether `route` was left within [`CALM`] because it could not be used.
    fn has_failed(&self, now: Instant, route: &Route) -> bool {
        let recent = |change: &&RouteChange| now.saturating_duration_since(change.at) < CALM;
        let mut recent = self.history.newest_first().take_while(recent);
        recent.any(|change| change.from.as_ref() == Some(route) && change.reason.is_failure())
    }

    /// `stayed` is the rank of the current route if it could have been kept and was.
    fn explain(
        &self,
        now: Instant,
        candidates: Vec<Candidate>,
        ranked: &[Rank],
        stayed: Option<&Rank>,
    ) -> Vec<Explained> {
        let verdict = |candidate: &Candidate| {
            let chosen = self.current.as_ref() == Some(&candidate.route);
            if let Some(reason) = &candidate.excluded {
                let reason = reason.clone();
                return if chosen { Verdict::Kept(reason) } else { Verdict::Excluded(reason) };
            }
            let rank = ranked.iter().find(|rank| *rank.route() == candidate.route);
            let held = self.held_down(now, &candidate.route);
            match (rank, stayed, held) {
                _ if chosen => Verdict::Chosen,
                (Some(rank), Some(stayed), Some(left)) if rank.beats(&self.hint, stayed) => {
                    Verdict::HeldDown(left)
                }
                (Some(rank), Some(stayed), None) if rank.beats(&self.hint, stayed) => {
                    Verdict::Unproven
                }
                (Some(rank), Some(stayed), _) if rank < stayed => Verdict::WithinMargin,
                (rank, ..) => Verdict::Worse(rank.map_or(Tier::Unmeasured, |rank| rank.tier)),
            }
        };
        let mut explained: Vec<_> = candidates
            .into_iter()
            .map(|candidate| Explained { verdict: verdict(&candidate), candidate })
            .collect();
        explained.sort_by_cached_key(|explained| {
            let place = ranked.iter().position(|rank| *rank.route() == explained.candidate.route);
            (place.unwrap_or(usize::MAX), explained.candidate.route.clone())
        });
        explained
    }
}

#[cfg(test)]
mod tests;
