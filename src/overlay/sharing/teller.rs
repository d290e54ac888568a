//! When sharers are told, and what.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{STALE, SharedLink};
use crate::{
    identity::NodeName,
    overlay::{
        budget::SHARED_EVERY,
        linkstate::{MAX_LINKS, ReportedState},
    },
};

/// A sharer that was silent for longer is told nothing until its link stands anew: it is gone, or does not
/// name this node.
const HEARD_WITHIN: Duration = Duration::from_secs(90);

/// The least time between two messages to a sharer.
const SPACING: Duration = Duration::from_secs(1);

/// The same when figures have only moved, as far as an advertisement would say so at once.
const MOVED_SPACING: Duration = Duration::from_secs(5);

/// Whom to tell, and what they were told.
#[derive(Debug, Default)]
pub(super) struct Teller {
    listeners: BTreeMap<NodeName, Listener>,
    /// What this node measures itself.
    now: Vec<SharedLink>,
    /// What else it knows, for those who have just come up.
    known: Vec<SharedLink>,
    /// What all were told, and since when the link is in that state.
    told: BTreeMap<NodeName, (SharedLink, Instant)>,
    last: Option<Instant>,
    /// How many were told then, and of how many links.
    load: (usize, usize),
    /// How soon after the last message to all the next one is due; `None`: at the regular time.
    pending: Option<Duration>,
}

#[derive(Debug, Default)]
struct Listener {
    heard: Option<Instant>,
    told: Option<Instant>,
    /// It is told everything as soon as may be.
    owed: bool,
}

impl Teller {
    pub(super) fn of<'a>(sharers: impl Iterator<Item = &'a NodeName>) -> Self {
        let listeners =
            sharers.map(|name| (name.clone(), Listener { owed: true, ..Listener::default() }));
        Self { listeners: listeners.collect(), ..Self::default() }
    }

    /// The sharer is told everything as soon as may be.
    pub(super) fn tell_everything_to(&mut self, sharer: &NodeName) {
        self.listeners.get_mut(sharer).into_iter().for_each(|listener| listener.owed = true);
    }

    pub(super) fn heard(&mut self, now: Instant, sharer: &NodeName) {
        if let Some(listener) = self.listeners.get_mut(sharer) {
            listener.owed |= !listener.listens(now);
            listener.heard = Some(now);
        }
    }

    pub(super) fn measured(
        &mut self,
        now: Instant,
        links: Vec<SharedLink>,
        known: Vec<SharedLink>,
    ) {
        (self.now, self.known) = (links, known);
        self.now.truncate(MAX_LINKS);
        self.known.truncate(MAX_LINKS - self.now.len());
        let need = self.now.iter().filter_map(|shared| {
            let Some((told, _)) = self.told.get(&shared.link.peer) else { return Some(SPACING) };
            if told.link.state != shared.link.state {
                return Some(SPACING);
            }
            shared.link.moved_since(&told.link).then_some(MOVED_SPACING)
        });
        self.pending = need.min();
        self.told.retain(|_, (_, since)| now.saturating_duration_since(*since) < STALE);
    }

    /// How many nodes the last message to all went to, and of how many links it was.
    pub(super) fn load(&self) -> (usize, usize) {
        self.load
    }

    pub(super) fn has_told(&self, now: Instant, member: &NodeName) -> bool {
        self.told
            .get(member)
            .is_some_and(|(_, since)| now.saturating_duration_since(*since) < STALE)
    }

    /// What is told now, and to whom. `up`: whether the link to a node is.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        up: &dyn Fn(&NodeName) -> bool,
    ) -> Option<(Vec<NodeName>, Vec<SharedLink>)> {
        let all = self.next(now) <= now;
        let (mut due, mut newcomers) = (Vec::new(), false);
        for (name, listener) in self.listeners.iter_mut().filter(|(name, _)| up(name)) {
            if !(listener.owed || all && listener.listens(now)) {
                continue;
            }
            let newcomer = listener.owed;
            listener.owed = now < listener.next(now);
            if !listener.owed {
                newcomers |= newcomer;
                listener.told = Some(now);
                due.push(name.clone());
            }
        }
        if all {
            self.last = Some(now);
            self.pending = None;
            self.load = (due.len(), self.now.len());
            self.note_told(now);
        }
        let known = self.known.iter().filter(|_| newcomers);
        (!due.is_empty()).then(|| (due, self.now.iter().chain(known).cloned().collect()))
    }

    fn note_told(&mut self, now: Instant) {
        for shared in &self.now {
            let before = self.told.get(&shared.link.peer);
            // That a link is down is told for as long as its figures may be in use.
            let down = before.filter(|(told, _)| {
                told.link.state == shared.link.state && shared.link.state != ReportedState::Up
            });
            let since = down.map_or(now, |(_, since)| *since);
            self.told.insert(shared.link.peer.clone(), (shared.clone(), since));
        }
    }

    /// When all are told next.
    fn next(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| last + self.pending.unwrap_or(SHARED_EVERY))
    }

    pub(super) fn poll_timeout(
        &self,
        now: Instant,
        up: &dyn Fn(&NodeName) -> bool,
    ) -> Option<Instant> {
        let due = self.listeners.iter().filter(|(name, _)| up(name)).filter_map(|(_, listener)| {
            let owed = listener.owed.then(|| listener.next(now));
            let all = listener.listens(now).then(|| self.next(now));
            owed.into_iter().chain(all).min()
        });
        due.min()
    }
}

impl Listener {
    fn listens(&self, now: Instant) -> bool {
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) < HEARD_WITHIN)
    }

    fn next(&self, now: Instant) -> Instant {
        self.told.map_or(now, |told| told + SPACING)
    }
}
