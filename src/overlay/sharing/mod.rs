//! The performance database of a site (SOSP 2001, section 3.1): its nodes tell each other what they measured of
//! remote members, so that not each has to probe them. PURE.
//!
//! Every node may be a part of it and none has to be. A node believes, and tells, only the nodes that its own
//! configuration names: its *sharers*.
//!
//! # Who probes
//!
//! For each remote member the names of the nodes give an order. A node measures a member itself, and
//! tells all sharers, unless one that comes before it in this order tells fresh figures of the member that agree
//! with its own. Then it probes the member once in 100 s, as a check. So there is nothing to agree upon: a sharer
//! that is gone, silent or wrong is one that does not tell.
//!
//! # What is believed
//!
//! A figure serves in place of the node's own ones while these are missing or old: at the start, and of a link
//! that is probed rarely. It is never the state of a link: whether the link is up is each node's own matter, and only
//! that is advertised. A figure is used while its sharer's link is up, its age is under 75 s, and it agrees with
//! the own ones ([`Comparison`]). Who still tells what differs from the node's own fresh figures after half a
//! minute is not believed about this member for ten minutes.

mod compare;
mod teller;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

pub use self::compare::{Comparison, Own};
use self::{compare::compare, teller::Teller};
use super::{
    linkstate::{LinkReport, MAX_LINKS, ReportedState},
    metrics::PathMetrics,
    monitor::{LinkState, LinkSummary},
};
use crate::identity::{Fingerprint, NodeName};

/// The most nodes that a configuration may name: a site, far below a mesh's 256.
pub const MAX_SHARERS: usize = 64;

/// A figure older than this is not used: two regular messages were missed, or one and an exchange.
const STALE: Duration = Duration::from_secs(75);

/// How long a sharer may differ from the own figures: its next regular message has come by then.
const DOUBT: Duration = Duration::from_secs(30);

/// How long a sharer is not believed about a member after that. One that never agrees, as its own access
/// differs, costs a comparison in this time.
const DISTRUST: Duration = Duration::from_secs(600);

/// The figures of one link, as they travel: those of an advertisement, and how old they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedLink {
    /// The member, and the figures, seen from the node that tells them.
    pub link: LinkReport,
    /// Seconds since the last exchange.
    pub age_s: u16,
    /// Whether the teller measures the link itself. Otherwise it passes on what it uses, once, to a node that has
    /// just come up: that may be the one which measured it before.
    pub measured: bool,
}

/// What became of a figure that a sharer tells; also its stable name in listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Use {
    /// It serves in place of own figures.
    Used,
    /// The node's own figures are fresh, or another sharer's go first.
    Spare,
    /// It differs from the node's own figures.
    Differs,
    /// It differed for half a minute, and is not believed for ten.
    Distrusted,
    /// The sharer says that its link is down, or the link to the sharer is.
    Down,
}

impl Use {
    /// The stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Spare => "spare",
            Self::Differs => "differs",
            Self::Distrusted => "distrusted",
            Self::Down => "down",
        }
    }
}

/// A figure of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// The member.
    pub of: NodeName,
    /// Who told it.
    pub by: NodeName,
    /// When it was measured there.
    pub measured: Instant,
    /// The path, as the sharer sees it.
    pub metrics: PathMetrics,
}

/// What sharers told, and what they are told.
#[derive(Debug)]
pub struct Sharing {
    us: NodeName,
    sharers: BTreeMap<NodeName, BTreeMap<NodeName, Entry>>,
    teller: Teller,
}

#[derive(Debug)]
struct Entry {
    link: LinkReport,
    measured: Instant,
    /// Whether the sharer measures it itself.
    itself: bool,
    /// The sharer's place in the order for this member: who is greater goes first.
    rank: [u8; 32],
    differs_since: Option<Instant>,
    distrusted_until: Option<Instant>,
}

/// The place of `node` in the order of those who probe `member`: the greatest is first. It is the same at
/// every node, and each member has another first one.
fn rank(node: &NodeName, member: &NodeName) -> [u8; 32] {
    *Fingerprint::of(format!("{node} probes {member}").as_bytes()).bytes()
}

impl Sharing {
    /// A database without sharers.
    #[must_use]
    pub fn new(us: NodeName) -> Self {
        Self { us, sharers: BTreeMap::new(), teller: Teller::default() }
    }

    /// Names the sharers; at most 64, and not this node.
    pub fn set_sharers(&mut self, names: impl IntoIterator<Item = NodeName>) {
        let others = names.into_iter().filter(|name| *name != self.us).take(MAX_SHARERS);
        self.sharers = others.map(|name| (name, BTreeMap::new())).collect();
        self.teller = Teller::of(self.sharers.keys());
    }

    /// Whether the configuration names this node.
    #[must_use]
    pub fn names(&self, node: &NodeName) -> bool {
        self.sharers.contains_key(node)
    }

    /// Whether it names anyone.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.sharers.is_empty()
    }

    /// The path to `node` works, perhaps again: if it is a sharer, it is told everything.
    pub fn greet(&mut self, node: &NodeName) {
        self.teller.tell_everything_to(node);
    }

    /// The connection to `node` has ended: what it told is not used any more.
    pub fn gone(&mut self, now: Instant, node: &NodeName) {
        if let Some(entries) = self.sharers.get_mut(node) {
            entries.retain(|_, entry| entry.is_distrusted(now));
            entries.values_mut().for_each(|entry| entry.link.state = ReportedState::Unmeasured);
        }
    }

    /// Takes the message of a sharer; false if the configuration does not name it.
    ///
    /// Its first message shows that it names this node, too, and it is told everything.
    pub fn heard(&mut self, now: Instant, from: &NodeName, links: Vec<SharedLink>) -> bool {
        if !self.sharers.contains_key(from) {
            return false;
        }
        self.teller.heard(now, from);
        for shared in links.into_iter().take(MAX_LINKS) {
            let of = &shared.link.peer;
            if *of != self.us && !self.names(of) {
                self.keep(now, from, shared);
            }
        }
        true
    }

    fn keep(&mut self, now: Instant, from: &NodeName, shared: SharedLink) {
        let SharedLink { link, age_s, measured: itself } = shared;
        let Some(entries) = self.sharers.get_mut(from) else { return };
        let age = Duration::from_secs(age_s.into());
        let Some(measured) = now.checked_sub(age).filter(|_| age < STALE) else { return };
        if let Some(entry) = entries.get_mut(&link.peer) {
            (entry.link, entry.measured, entry.itself) = (link, measured, itself);
        } else if entries.len() < MAX_LINKS {
            let (of, rank) = (link.peer.clone(), rank(from, &link.peer));
            let entry =
                Entry { link, measured, itself, rank, differs_since: None, distrusted_until: None };
            entries.insert(of, entry);
        }
    }

    /// Deletes what a member told, and what was told of it.
    pub fn forget(&mut self, member: &NodeName) {
        self.sharers.values_mut().for_each(|entries| drop(entries.remove(member)));
        self.sharers.get_mut(member).into_iter().for_each(BTreeMap::clear);
    }

    /// Compares what is told of `member` with the own figures; returns the sharers that are not believed
    /// about it from now on.
    pub fn review(&mut self, now: Instant, member: &NodeName, own: &Own) -> Vec<NodeName> {
        let mut distrusted = Vec::new();
        for (by, entries) in &mut self.sharers {
            let Some(entry) = entries.get_mut(member) else { continue };
            let differs =
                entry.metrics().is_some_and(|told| compare(own, told) == Comparison::Differs);
            if !differs || entry.is_distrusted(now) {
                entry.differs_since = None;
                continue;
            }
            let since = *entry.differs_since.get_or_insert(now);
            // It has measured anew since, and this node as well.
            let again = entry.measured > since && own.measured;
            if again && now.saturating_duration_since(since) >= DOUBT {
                entry.distrusted_until = Some(now + DISTRUST);
                entry.differs_since = None;
                distrusted.push(by.clone());
            }
        }
        distrusted
    }

    /// Whether a sharer that goes before this node measures `member` for it. `up`: whether the link to a node
    /// is.
    #[must_use]
    pub fn is_measured_by_another(
        &self,
        now: Instant,
        member: &NodeName,
        own: &Own,
        up: &dyn Fn(&NodeName) -> bool,
    ) -> bool {
        let first = self.first(now, member, own, up);
        own.summary.state == LinkState::Up
            && first.is_some_and(|(_, entry, told)| {
                entry.itself
                    && entry.rank > rank(&self.us, member)
                    && compare(own, told) == Comparison::Agrees
            })
    }

    /// The figure that serves in place of the own ones; `None` while these are fresh, or say that the link
    /// is not up, or nobody tells.
    #[must_use]
    pub fn figure(
        &self,
        now: Instant,
        member: &NodeName,
        own: &Own,
        up: &dyn Fn(&NodeName) -> bool,
    ) -> Option<Figure> {
        let open = matches!(own.summary.state, LinkState::Up | LinkState::Unmeasured);
        if own.measured || !open {
            return None;
        }
        let (by, entry, metrics) = self.first(now, member, own, up)?;
        Some(Figure { of: member.clone(), by: by.clone(), measured: entry.measured, metrics })
    }

    /// Of the figures that may be believed, that of the sharer that goes first.
    fn first<'a>(
        &'a self,
        now: Instant,
        member: &NodeName,
        own: &Own,
        up: &dyn Fn(&NodeName) -> bool,
    ) -> Option<(&'a NodeName, &'a Entry, PathMetrics)> {
        let told = self.sharers.iter().filter_map(|(by, entries)| {
            let entry = entries.get(member)?;
            Some((by, entry, entry.metrics()?))
        });
        told.filter(|(by, entry, told)| {
            entry.is_fresh(now)
                && !entry.is_distrusted(now)
                && compare(own, *told) != Comparison::Differs
                && up(by)
        })
        .max_by_key(|(_, entry, _)| (entry.itself, entry.rank))
    }

    /// Everything that is held, by member, with what became of it. `own` are the own figures of a member.
    #[must_use]
    pub fn all(
        &self,
        now: Instant,
        own: &dyn Fn(&NodeName) -> Own,
        up: &dyn Fn(&NodeName) -> bool,
    ) -> Vec<(Figure, Use)> {
        let held = self.sharers.iter().flat_map(|(by, entries)| {
            entries.iter().filter(|(_, entry)| entry.is_fresh(now)).map(move |held| (by, held))
        });
        let mut all: Vec<_> = held
            .filter_map(|(by, (of, entry))| {
                let metrics = entry.link.metrics()?;
                let figure =
                    Figure { of: of.clone(), by: by.clone(), measured: entry.measured, metrics };
                let own = own(of);
                let used = || self.figure(now, of, &own, up).is_some_and(|used| used.by == *by);
                let of_it = match entry.metrics() {
                    _ if entry.is_distrusted(now) => Use::Distrusted,
                    Some(told) if compare(&own, told) == Comparison::Differs => Use::Differs,
                    Some(_) if !up(by) => Use::Down,
                    Some(_) if used() => Use::Used,
                    Some(_) => Use::Spare,
                    None => Use::Down,
                };
                Some((figure, of_it))
            })
            .collect();
        all.sort_by(|(a, _), (b, _)| (&a.of, &a.by).cmp(&(&b.of, &b.by)));
        all
    }

    /// Takes what this node measures itself now, and what else it knows; see [`Self::poll`].
    pub fn measured(&mut self, now: Instant, links: Vec<SharedLink>, known: Vec<SharedLink>) {
        self.teller.measured(now, links, known);
    }

    /// How many nodes the last message to all went to, and of how many links it was.
    pub fn load(&self) -> (usize, usize) {
        self.teller.load()
    }

    /// Whether sharers were told lately that the link to `member` is up, or that it no longer is.
    #[must_use]
    pub fn has_told(&self, now: Instant, member: &NodeName) -> bool {
        self.teller.has_told(now, member)
    }

    /// Forgets what is out of date; returns what is to be told now, and to whom.
    pub fn poll(
        &mut self,
        now: Instant,
        up: &dyn Fn(&NodeName) -> bool,
    ) -> Option<(Vec<NodeName>, Vec<SharedLink>)> {
        for entries in self.sharers.values_mut() {
            entries.retain(|_, entry| entry.is_fresh(now) || entry.is_distrusted(now));
        }
        self.teller.poll(now, up)
    }

    /// When [`Self::poll`] is to be called next; `None`: nothing is told and nothing is held.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant, up: &dyn Fn(&NodeName) -> bool) -> Option<Instant> {
        let held = self.sharers.values().flat_map(BTreeMap::values).map(|entry| {
            let fresh = entry.measured + STALE;
            let trusted = entry.distrusted_until.filter(|until| now < *until);
            if now < fresh { fresh } else { trusted.unwrap_or(fresh) }
        });
        held.chain(self.teller.poll_timeout(now, up)).min()
    }
}

impl Entry {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.measured) < STALE
    }

    fn is_distrusted(&self, now: Instant) -> bool {
        self.distrusted_until.is_some_and(|until| now < until)
    }

    /// The figures, while the sharer says that its link is up.
    fn metrics(&self) -> Option<PathMetrics> {
        self.link.metrics().filter(|_| self.link.state == ReportedState::Up)
    }
}

impl Figure {
    /// The own summary with these figures.
    #[must_use]
    pub fn over(&self, own: LinkSummary) -> LinkSummary {
        LinkSummary {
            rtt: Some(self.metrics.rtt),
            loss_out: Some(self.metrics.loss_out),
            loss_in: Some(self.metrics.loss_in),
            exchanges: self.metrics.exchanges,
            delivered: own.delivered.max(self.metrics.delivered),
            ..own
        }
    }
}

#[cfg(test)]
mod tests;
