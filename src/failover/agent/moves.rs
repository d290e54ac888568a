//! Moves to another route, and the grants that they need.

use std::time::Instant;

use super::{Pending, RouteAgent};
use crate::{
    failover::{Command, Fault, capacity::Trial, log::Cause},
    flow::Route,
    overlay::{candidates::Exclusion, select::ChangeReason},
    wire::{
        lane::{Moved, RerouteReason},
        link::LaneEndRole,
    },
};

impl RouteAgent {
    /// Moves to `route`, at once if its label is held, else when its relay grants one.
    pub(super) fn start_move(&mut self, now: Instant, route: Route, cause: Cause) {
        // A grant for the route in use is asked for when its relay has forgotten the lane.
        let stays = route == self.route;
        if stays || route == Route::Direct || self.grants.get(now, &self.timing, &route).is_some() {
            return self.complete_move(now, route, cause);
        }
        // Its relay may be busy, and the link may have to send the request again.
        let answer = self.overdue_after(2 * self.assumed_rtt(&route));
        let until = now + answer + self.timing.step;
        self.ask_grant(now, &route);
        self.pending = Some(Pending { route, cause, until });
    }

    pub(super) fn complete_move(&mut self, now: Instant, route: Route, cause: Cause) {
        (self.pending, self.leaving, self.owed, self.returns_to) = (None, None, None, None);
        (self.suspected_at, self.compared_at, self.near_trouble) = (None, None, false);
        let assumed_rtt = self.assumed_rtt(&route) + self.lateness(&route);
        self.probes.clear();
        self.selector.adopt(now, &route, change_reason(&cause));
        if route == self.route {
            return;
        }
        let left = std::mem::replace(&mut self.route, route.clone());
        let expected_rtt = self.expected_rtt(&route);
        self.epoch += 1;
        self.last_move = Some(Moved { left: left.clone(), reason: cause.reason });
        self.log.add(now, &self.traffic, (left.clone(), route.clone()), &cause);
        self.silence.rerouted(now, Some(assumed_rtt));
        self.loss.rerouted(now, &self.timing, self.counts);
        self.capacity.begins_anew();
        self.trial = (cause.reason == RerouteReason::Trial)
            .then(|| Trial::new(now, left.clone(), assumed_rtt, self.last_rate));
        match &mut self.episode {
            Some(episode) => episode.moved = true,
            // A move for another reason is not taken back.
            None => self.before_episode = None,
        }
        self.answered_at = None;
        self.look_at = Some(now + self.timing.step);
        let label = self.grants.label(&route).filter(|_| route != Route::Direct);
        let lost = cause.lost;
        self.push(Command::Use { route, label, lost, expected_rtt, moved: true });
        self.tell(false);
        self.push(Command::Kick);
    }

    pub(super) fn ask_grant(&mut self, now: Instant, route: &Route) {
        if self.grants.ask(now, route, self.timing.prepare_every) {
            self.push(Command::AskGrant { route: route.clone() });
        }
    }

    pub(super) fn on_granted(&mut self, now: Instant, route: &Route) {
        if let Some(pending) = self.pending.take_if(|pending| pending.route == *route) {
            self.complete_move(now, pending.route, pending.cause);
        } else if *route == self.route {
            // The relay had forgotten the lane. The packets that it dropped meanwhile are sent again.
            let label = self.grants.label(route);
            let lost = self.leaving.and_then(|cause| cause.lost);
            let route = route.clone();
            self.push(Command::Use { route, label, lost, expected_rtt: None, moved: false });
            self.push(Command::Urge);
            self.push(Command::Kick);
        }
    }

    pub(super) fn on_refused(&mut self, now: Instant, route: &Route, fault: Fault) {
        let pending = self.pending.take_if(|pending| pending.route == *route);
        // Of a route that is not wanted now, a missing answer proves nothing.
        if pending.is_some() || fault == Fault::Refused {
            self.blame.add(now, &self.timing, route, fault);
        }
        let Some(pending) = pending else { return };
        self.selector.adopt(now, &self.route, ChangeReason::FarEnd);
        if pending.cause.lost.is_some() && pending.cause.far_reason.is_none() {
            self.leaving = Some(pending.cause);
            self.suspected_at.get_or_insert(now);
            self.try_leave(now);
        } else if pending.cause.far_reason.is_some() && self.role == LaneEndRole::Exit {
            self.owed = Some(route.clone());
        }
    }
}

fn change_reason(cause: &Cause) -> ChangeReason {
    match cause.reason {
        RerouteReason::Silent { .. } => ChangeReason::Excluded(Exclusion::Silent),
        RerouteReason::Lossy { percent } => ChangeReason::Excluded(Exclusion::Lossy { percent }),
        RerouteReason::Better => ChangeReason::Better,
        RerouteReason::FarEnd => ChangeReason::FarEnd,
        RerouteReason::Trial => ChangeReason::Trial,
    }
}
