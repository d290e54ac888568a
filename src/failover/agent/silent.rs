//! The route in use is silent: what the agent asks, and when it leaves.

use std::time::{Duration, Instant};

use super::{Episode, RouteAgent, choice::Evidence};
use crate::{
    failover::{Command, Fault, Lost, Traffic, log::Cause, silence::Finding},
    flow::Route,
    identity::NodeName,
    wire::lane::RerouteReason,
};

impl RouteAgent {
    pub(super) fn on_traffic(&mut self, now: Instant, traffic: Traffic) {
        let answered = traffic.answered != self.traffic.answered;
        self.traffic = traffic;
        self.log.settle(&traffic);
        let heard = self.episode.as_ref().is_some_and(|episode| {
            episode.heard_nothing && traffic.arrived.is_some_and(|at| at > episode.began)
        });
        if answered {
            self.answered_at = Some(now);
        }
        if answered || heard {
            self.on_answer(now);
        }
        if self.pending.as_ref().is_some_and(|pending| now >= pending.until) {
            let route = self.pending.as_ref().map(|pending| pending.route.clone());
            route.into_iter().for_each(|route| self.on_refused(now, &route, Fault::Silent));
        }
        match self.silence.look(now, &self.timing, &traffic) {
            Finding::LookAt(at) => self.look_at = Some(at),
            Finding::Rest => (self.look_at, self.next_watch) = (None, now),
            Finding::Ping(at) => {
                self.look_at = Some(at);
                self.on_suspicion(now);
            }
            Finding::Silent(silence) => {
                self.look_at = Some(now + self.timing.step);
                self.on_silence(now, silence);
            }
        }
        self.try_return(now);
        let suspects = self.silence.suspected_since().is_some() || self.returns_to.is_some();
        if !suspects && self.episode.is_none() {
            let unanswered = |found| matches!(found, Evidence::Late | Evidence::Overdue);
            if self.finds_on_others(now, unanswered) {
                self.near_trouble_ended = Some(now);
            }
            (self.suspected_at, self.leaving, self.near_trouble) = (None, None, false);
            self.probes.clear();
        }
        self.notice_near_trouble(now);
        self.try_leave(now);
    }

    /// The silence is over.
    pub(super) fn on_answer(&mut self, now: Instant) {
        (self.leaving, self.compared_at) = (None, None);
        let Some(episode) = self.episode.take() else { return };
        let rtt = self.silence.rtt(&self.timing, &self.traffic).smoothed;
        let verdict = rtt + rtt / 2 + self.timing.ping_after + self.timing.verdict_after;
        if self.near_trouble {
            // Losses meanwhile were not the route's. The far end may have found us silent: its notice is about
            // the same trouble.
            self.silence.rerouted(now, None);
            self.near_trouble_ended = Some(now);
            self.near_trouble = false;
        }
        if !episode.moved {
            return;
        }
        if self.log.moved_at().is_some_and(|at| now <= at + verdict) {
            // The far end may have lost the notice in a pause of its own line. When it hears this one, it answers `mine`.
            self.tell(false);
            return self.blame.confirm();
        }
        // No move helped: the trouble was at an end, and is over.
        self.blame.withdraw();
        self.return_to(now, episode.from);
    }

    /// Returns to `route` once its first link answers: perhaps the route did fail, and the one in use only
    /// answers later than it did.
    pub(super) fn return_to(&mut self, now: Instant, route: Route) {
        if route == self.route {
            return;
        }
        (self.suspected_at, self.leaving) = (Some(now), None);
        self.ask_to_return(now, route, true);
    }

    /// Asks the first link of `route`; `again`: once more, if no answer comes in time.
    fn ask_to_return(&mut self, now: Instant, route: Route, again: bool) {
        // Answers that are under way are of the trouble.
        self.probes.clear();
        self.probe_first_link(now, &route);
        self.returns_to = Some((route, again));
    }

    fn try_return(&mut self, now: Instant) {
        let Some((route, again)) = self.returns_to.take() else { return };
        match self.evidence(now, &route) {
            Evidence::Answered(_) => {
                self.start_move(now, route, Cause::other(RerouteReason::Better));
            }
            Evidence::Overdue if again => self.ask_to_return(now, route, false),
            // That it does not answer is no trouble near this end.
            Evidence::Overdue => self.probes.clear(),
            Evidence::NotAsked | Evidence::Pending | Evidence::Late => {
                self.returns_to = Some((route, again));
            }
        }
    }

    pub(super) fn on_suspicion(&mut self, now: Instant) {
        self.suspected_at.get_or_insert(now);
        self.ping_now();
        if let Some(route) = self.alternatives(now).into_iter().next() {
            self.probe_first_link(now, &route);
        }
        if let Route::Via(_) = self.route {
            // Which of its links broke shows which packets were lost.
            self.probe_first_link(now, &self.route.clone());
        }
    }

    /// Asks the far end for an answer, whatever the congestion window says.
    pub(super) fn ping_now(&mut self) {
        self.push(Command::Urge);
        self.tell(true);
    }

    pub(super) fn on_silence(&mut self, now: Instant, silence: Duration) {
        if self.returns_to.is_some() {
            // What was sent on the route in use, before the trouble was over, is not answered.
            return;
        }
        let began = self.silence_began(now, silence);
        let reason = RerouteReason::Silent { ms: millis(now.saturating_duration_since(began)) };
        let lost = self.lost_since(began, self.breaks_of(&self.route));
        if self.episode.is_none() {
            // Blame of an earlier episode stands.
            self.blame.confirm();
            let suspected = *self.suspected_at.get_or_insert(now);
            let heard_nothing = self.traffic.arrived.is_none_or(|arrived| arrived < suspected);
            let from = self.route.clone();
            self.before_episode = Some(from.clone());
            self.episode = Some(Episode { began: now, from, heard_nothing, moved: false });
        }
        self.suspected_at.get_or_insert(now);
        self.leaving.get_or_insert(Cause { reason, far_reason: None, lost });
        self.push(Command::Suspect(self.route.clone()));
        if let Some(label) = self.grants.label(&self.route) {
            self.push(Command::Renew { route: self.route.clone(), label });
        }
        self.push(Command::AskFar);
        self.push(Command::Urge);
        self.push(Command::Kick);
    }

    pub(super) fn on_answered(&mut self, now: Instant, answered: &[(NodeName, Instant)]) {
        for (link, left) in answered {
            let Some(asked) = self.probes.get_mut(link) else { continue };
            if Some(*left) >= self.suspected_at {
                asked.proof.get_or_insert(*left);
                if asked.newest.is_none_or(|(newest, _)| newest < *left) {
                    asked.newest = Some((*left, now.saturating_duration_since(*left)));
                }
            } else if asked.before.replace(*left).is_some_and(|before| before < *left) {
                // An answer to a probe that left before does not show whether the link works now.
                asked.at = now;
                self.commands.push_back(Command::Probe(link.clone()));
            }
        }
        self.try_leave(now);
    }

    /// Leaves a silent route if another one promises to work.
    pub(super) fn try_leave(&mut self, now: Instant) {
        if self.pending.is_some() {
            return;
        }
        let Some(cause) = self.leaving else { return };
        if self.far_tries_until.is_some_and(|until| now < until) {
            // A narrow route that the far end tries loses its answers. It returns in time.
            return;
        }
        let Some(instead) = self.instead(now) else { return };
        let silent = self.route.clone();
        self.capacity.forget(&silent);
        self.blame.add(now, &self.timing, &silent, Fault::Silent);
        self.start_move(now, instead, cause);
    }

    /// When a silence began: with the last packet that came in, unless nothing was due then.
    pub(super) fn silence_began(&self, now: Instant, silence: Duration) -> Instant {
        let noticed = now.checked_sub(silence).unwrap_or(now);
        let last = self.traffic.arrived;
        last.filter(|last| *last <= noticed && *last + self.timing.step >= noticed)
            .unwrap_or(noticed)
    }

    /// The packets lost by a silence that began then: those that were under way, and those
    /// whose acknowledgements were. The first of them had waited in the queue, and was sent one of
    /// `ways` before.
    pub(super) fn lost_since(&self, began: Instant, ways: [Duration; 2]) -> Option<Lost> {
        let rtt = self.traffic.smoothed_rtt.unwrap_or_default();
        // The packet that was answered last may have been followed by the first lost one at once.
        let since = began.checked_sub(2 * rtt + self.timing.step)?;
        let queue = rtt.saturating_sub(2 * self.one_way());
        // It may have been sent a little earlier: the smoothed round-trip time lags behind a queue.
        let unsure = self.timing.step / 2;
        let [first, second] = ways.map(|way| began.checked_sub(queue + way + unsure));
        Some(Lost { since, from: first.zip(second).map(<[Instant; 2]>::from)? })
    }

    /// How long a packet takes to the far end when no queue is in its way.
    pub(super) fn one_way(&self) -> Duration {
        self.traffic.least_rtt.unwrap_or_default() / 2
    }

    /// How long before our last packet from the far end the first one was sent that was lost: for each
    /// place where `route` may have broken, the farther one first.
    ///
    /// The last packet from the far end had just left a place whose near end is `a` away from us, and
    /// the last one from us had left its far end, `b` away: they came in after `a`, and had been sent
    /// `b` before. The place is the link beyond the relay if ours works, else the relay or our link to it.
    pub(super) fn breaks_of(&self, route: &Route) -> [Duration; 2] {
        let way = self.one_way();
        let Some(relay) = route.relay() else { return [way; 2] };
        let link = self.seen(route).and_then(|seen| seen.link_rtt);
        let to_relay = link.map_or(way / 2, |rtt| way.min(rtt / 2));
        let works = self.probes.get(relay).is_some_and(|asked| asked.proof.is_some());
        if works { [to_relay + way; 2] } else { [2 * to_relay, to_relay] }
    }
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
