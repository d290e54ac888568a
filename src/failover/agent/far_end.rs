//! Notices from the far end, and notices to it.

use std::time::{Duration, Instant};

use super::{RouteAgent, silent::millis};
use crate::{
    failover::{Command, Fault, log::Cause},
    flow::Route,
    wire::{
        lane::{LaneNotice, Moved, RerouteReason},
        link::LaneEndRole,
    },
};

impl RouteAgent {
    pub(super) fn notice(&self, ping: bool) -> LaneNotice {
        LaneNotice {
            epoch: self.epoch,
            seen: self.seen,
            route: self.route.clone(),
            moved: self.last_move.clone(),
            limited: self.capacity.is_limited(),
            mine: false,
            ping,
        }
    }

    /// Sends a notice. `ping`: the far end answers it.
    pub(super) fn tell(&mut self, ping: bool) {
        let notice = self.notice(ping);
        self.push(Command::Tell(notice));
    }

    pub(super) fn on_notice(&mut self, now: Instant, notice: LaneNotice) {
        if notice.ping {
            self.silence.answering();
            // The window may be full of packets that do not pass.
            self.push(Command::Urge);
            self.tell(false);
        }
        self.far_limited_until = notice.limited.then(|| now + 3 * self.timing.slow_tick);
        let knows_our_route = notice.seen >= self.epoch;
        if notice.mine && knows_our_route {
            self.undo_move(now);
        }
        if notice.epoch > self.seen {
            self.seen = notice.epoch;
            if let Some(moved) = notice.moved {
                self.on_far_move(now, &moved, notice.route, knows_our_route);
            }
        } else if notice.epoch == self.seen
            && !knows_our_route
            && self.is_unheard(now)
            && notice.route != self.route
        {
            let since = self.log.moved_at().unwrap_or(now);
            let lost = self.lost_since(since, [self.one_way(); 2]);
            let ms = millis(now.saturating_duration_since(since));
            let dead = self.route.clone();
            self.blame.add(now, &self.timing, &dead, Fault::Silent);
            // The far end is heard on it.
            self.blame.excuse(now, &notice.route);
            let cause = Cause { reason: RerouteReason::Silent { ms }, far_reason: None, lost };
            self.start_move(now, notice.route, cause);
        }
    }

    /// The silence that caused this end's last move was on the far end's own access link.
    pub(super) fn undo_move(&mut self, now: Instant) {
        let Some(before) = self.before_episode.take() else { return };
        self.blame.forget(&before);
        self.return_to(now, before);
    }

    /// Whether the far end should have heard of our last move by now, and nothing was answered since.
    pub(super) fn is_unheard(&self, now: Instant) -> bool {
        let rtt = self.silence.rtt(&self.timing, &self.traffic).smoothed;
        self.traffic.least_rtt.is_none()
            && self.log.moved_at().is_some_and(|moved| now > moved + self.overdue_after(rtt))
    }

    /// The far end moved. `knows_our_route`: it had heard of our last move then.
    pub(super) fn on_far_move(
        &mut self,
        now: Instant,
        moved: &Moved,
        route: Route,
        knows_our_route: bool,
    ) {
        let fault = match moved.reason {
            RerouteReason::Silent { .. } => Some(Fault::Silent),
            RerouteReason::Lossy { percent } => Some(Fault::Lossy(percent.min(100))),
            RerouteReason::Better | RerouteReason::FarEnd | RerouteReason::Trial => None,
        };
        let tries = moved.reason == RerouteReason::Trial;
        // A narrow route is left after two round trips and three looks; the way there and back takes another.
        let narrow = 3 * (self.assumed_rtt(&route) + self.timing.tick);
        // What is under way when it returns is lost in the narrow route's queue.
        let tried = self.far_tries_until.take().is_some_and(|until| now < until);
        let returns = tried.then(|| now + self.overdue_after(self.assumed_rtt(&self.route)));
        self.far_tries_until =
            if tries { Some(now + narrow.min(self.timing.trial)) } else { returns };
        let shared = self.route == moved.left;
        if self.was_ours(now, moved) {
            // It heard nothing because nothing left our end.
            let mine = LaneNotice { mine: true, ..self.notice(false) };
            self.silence.answering();
            return self.push(Command::Tell(mine));
        }
        // A complaint about a route on which it has not heard us yet is about the time before.
        let less = self.delivers_more(now, &route, moved.reason);
        if let Some(fault) = fault.filter(|_| !shared || knows_our_route && !less) {
            self.blame.add(now, &self.timing, &moved.left, fault);
        }
        let follows = match self.role {
            // A trial concerns the far end's direction alone.
            LaneEndRole::Exit if tries => false,
            LaneEndRole::Exit => !less && self.goes_along(now, &route),
            LaneEndRole::Entry => !less && fault.is_some() && shared && knows_our_route,
        };
        if follows {
            let cause = self.far_cause(now, &route, moved.reason);
            self.start_move(now, route, cause);
        } else if self.role == LaneEndRole::Exit && !tries {
            self.owed = Some(route);
        }
    }

    /// Whether this end delivers more than `route` ever carried, also since the far end found its own direction to fail.
    pub(super) fn delivers_more(&self, now: Instant, route: &Route, reason: RerouteReason) -> bool {
        let works = match reason {
            // What was answered later probably had arrived after the silence began. If not, this end finds out itself.
            RerouteReason::Silent { ms } => {
                let silence = Duration::from_millis(ms.into());
                self.answered_at.is_some_and(|at| at + silence > now + self.timing.step)
            }
            _ => true,
        };
        works && self.capacity.is_less(now, &self.timing, route)
    }

    /// Whether the silence of which the far end complains began before trouble near this end was over, or is of its trial.
    fn was_ours(&self, now: Instant, moved: &Moved) -> bool {
        let RerouteReason::Silent { ms } = moved.reason else { return false };
        let rtt = self.silence.rtt(&self.timing, &self.traffic).smoothed;
        let ago = Duration::from_millis(ms.into()) + rtt;
        // What it waited for was lost in the queue of the route that this end tries.
        let tries = self.trial.as_ref().is_some_and(|trial| trial.from == moved.left);
        tries
            || self.near_trouble
            || self.near_trouble_ended.is_some_and(|ended| now <= ended + ago)
    }

    /// Why to go where the far end is, which moved there for `reason`.
    pub(super) fn far_cause(&self, now: Instant, route: &Route, reason: RerouteReason) -> Cause {
        let lost = match reason {
            RerouteReason::Silent { ms } => {
                let way = self.expected_rtt(route).unwrap_or_default() / 2;
                let began = now.checked_sub(Duration::from_millis(ms.into()) + way);
                began.and_then(|began| self.lost_since(began, [self.one_way(); 2]))
            }
            _ => None,
        };
        Cause { reason: RerouteReason::FarEnd, far_reason: Some(reason), lost }
    }
}
