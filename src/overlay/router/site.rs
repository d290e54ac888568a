//! The router's part in the performance database of its site.

use std::{collections::BTreeSet, time::Instant};

use super::{Due, Router};
use crate::{
    identity::NodeName,
    overlay::{
        linkstate::LinkReport,
        monitor::{LinkState, LinkSummary, Monitor},
        sharing::{Figure, Own, SharedLink, Use},
    },
};

impl Router {
    /// Names the nodes of the site, whose figures of remote members serve in place of own ones; at most 64.
    pub fn share_with(&mut self, sharers: impl IntoIterator<Item = NodeName>) {
        self.sharing.set_sharers(sharers);
    }

    /// Whether the configuration names this node as one of the site.
    #[must_use]
    pub fn shares_with(&self, node: &NodeName) -> bool {
        self.sharing.names(node)
    }

    /// Takes the figures that a sharer tells; false if the configuration does not name it.
    pub fn heard_shared(
        &mut self,
        now: Instant,
        sender: &NodeName,
        links: Vec<SharedLink>,
    ) -> bool {
        self.sharing.heard(now, sender, links)
    }

    /// Decides whom another node measures, and what sharers are told. True if the former has changed.
    pub(super) fn share(&mut self, now: Instant, due: &mut Due) -> bool {
        if !self.sharing.is_on() {
            return false;
        }
        let mut spared = BTreeSet::new();
        let (mut told, mut known) = (Vec::new(), Vec::new());
        let members: Vec<NodeName> =
            self.monitors.keys().filter(|peer| !self.sharing.names(peer)).cloned().collect();
        for peer in members {
            let own = self.own(now, &peer);
            let distrusted = self.sharing.review(now, &peer, &own);
            due.distrusted.extend(distrusted.into_iter().map(|by| (by, peer.clone())));
            let is_up = own.summary.state == LinkState::Up;
            let up = |node: &NodeName| self.is_up(now, node);
            let is_spared = self.sharing.is_measured_by_another(now, &peer, &own, &up);
            if is_up && own.measured && !is_spared || !is_up && self.sharing.has_told(now, &peer) {
                told.push(self.to_tell(now, &peer, true));
            } else if is_up {
                known.push(self.to_tell(now, &peer, false));
            }
            if is_spared {
                spared.insert(peer);
            }
        }
        self.sharing.measured(now, told, known);
        let up: BTreeSet<_> =
            self.monitors.keys().filter(|node| self.is_up(now, node)).cloned().collect();
        due.shared = self.sharing.poll(now, &|node| up.contains(node));
        std::mem::replace(&mut self.spared, spared) != self.spared
    }

    /// The link to `peer` for sharers: as this node measures it, or as it knows it from another one.
    fn to_tell(&self, now: Instant, peer: &NodeName, measured: bool) -> SharedLink {
        let own = self.own(now, peer).summary;
        let figure = self.shared(now, peer).filter(|_| !measured);
        let exchanged = self.monitors.get(peer).and_then(Monitor::exchanged);
        let at = figure.as_ref().map(|figure| figure.measured).or(exchanged);
        // That a link is down is news of now.
        let at = at.filter(|_| own.state == LinkState::Up);
        let age = at.map_or(0, |at| now.saturating_duration_since(at).as_secs());
        let link = figure.map_or(own, |figure| figure.over(own));
        let age_s = u16::try_from(age).unwrap_or(u16::MAX);
        SharedLink { link: LinkReport::new(peer.clone(), &link), age_s, measured }
    }

    fn own(&self, now: Instant, peer: &NodeName) -> Own {
        match self.monitors.get(peer) {
            Some(monitor) => {
                Own { summary: monitor.summary(now), measured: monitor.is_measured(now) }
            }
            None => Own { summary: LinkSummary::unmeasured(now), measured: false },
        }
    }

    pub(super) fn is_up(&self, now: Instant, node: &NodeName) -> bool {
        self.own(now, node).summary.state == LinkState::Up
    }

    /// The figure of another node that serves in place of own ones of the link to `peer`.
    pub fn shared(&self, now: Instant, peer: &NodeName) -> Option<Figure> {
        let own = self.own(now, peer);
        self.sharing.figure(now, peer, &own, &|node| self.is_up(now, node))
    }

    /// The figures that sharers tell, by member.
    pub fn database(&self, now: Instant) -> Vec<(Figure, Use)> {
        self.sharing.all(now, &|peer| self.own(now, peer), &|node| self.is_up(now, node))
    }
}
