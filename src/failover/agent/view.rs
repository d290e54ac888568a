//! A look at the overlay, a few times a second: loss, better routes, trials, grants.

use std::time::Instant;

use super::RouteAgent;
use crate::{
    failover::{Command, Fault, View, capacity::Outcome, log::Cause, loss::Closed},
    flow::Route,
    identity::NodeName,
    overlay::{
        monitor::PassiveSample,
        units::{Bitrate, LossRate},
    },
    wire::{lane::RerouteReason, link::LaneEndRole},
};

impl RouteAgent {
    pub(super) fn on_view(&mut self, now: Instant, view: View) {
        let resting = self.look_at.is_none();
        self.next_view = now + if resting { self.timing.slow_tick } else { self.timing.tick };
        self.counts = view.counts;
        self.routes = view.routes;
        self.notice_restarts(now, view.far_process);
        let closed = self.loss.look(now, &self.timing, view.counts, view.trips);
        let loss = closed.and_then(|closed| self.on_window(now, &closed));
        if self.loss.is_quiet() {
            self.capacity.begins_anew();
        }
        if self.pending.is_none() && self.leaving.is_none() {
            self.look_for_better(now, loss, view.resumes);
        }
        self.prepare_grants(now);
        if self.look_at.is_some() && now >= self.next_watch {
            self.next_watch = now + self.timing.prepare_every;
            let links = self.watched_links(now);
            self.push(Command::Watch(links));
        }
        self.tell_limited(now);
    }

    /// Tells the far end whether this direction is limited by its route: if so, the delay in its queue
    /// is no reason to leave.
    pub(super) fn tell_limited(&mut self, now: Instant) {
        let limited = self.capacity.is_limited();
        let due = match self.told_limited {
            Some(told) => !limited || now >= told + self.timing.slow_tick,
            None => limited,
        };
        if due {
            self.told_limited = limited.then_some(now);
            self.silence.answering();
            self.tell(false);
        }
    }

    /// Whether the lane is limited by its route, in either direction.
    pub(super) fn is_bulk(&self, now: Instant) -> bool {
        self.capacity.is_limited() || self.far_limited_until.is_some_and(|until| now < until)
    }

    /// A far end that runs as a new process knows nothing of this lane. A relay that does so knows
    /// nothing of its grants.
    pub(super) fn notice_restarts(&mut self, now: Instant, far_process: Option<u64>) {
        if let (Some(known), Some(present)) = (self.far_process, far_process)
            && known != present
        {
            self.push(Command::Close("the far end has restarted"));
        }
        self.far_process = self.far_process.or(far_process);
        for seen in &self.routes {
            let route = &seen.candidate.route;
            if let (Route::Via(_), Some(process)) = (route, seen.process)
                && self.grants.relay_runs_as(route, process)
            {
                self.next_prepare = now;
            }
        }
    }

    /// A window of loss has ended. Returns the loss that persists.
    pub(super) fn on_window(&mut self, now: Instant, closed: &Closed) -> Option<LossRate> {
        let (began, answered) = self.window_began;
        let packets = self.traffic.answered.saturating_sub(answered);
        self.last_rate = (packets, now.saturating_duration_since(began));
        self.window_began = (now, self.traffic.answered);
        let bytes = closed.counts.sent_bytes.saturating_sub(closed.counts.lost_bytes);
        let delivered = Bitrate::from_bytes(bytes, closed.over).filter(|_| closed.limited);
        self.capacity.window(now, &self.route, delivered);
        let loss = closed.sustained?;
        if self.route == Route::Direct {
            self.push(Command::Observe(sample(closed, loss, bytes)));
        }
        (loss.ppm() >= self.timing.leave_above.ppm()).then_some(loss)
    }

    pub(super) fn look_for_better(&mut self, now: Instant, loss: Option<LossRate>, resumes: bool) {
        if self.trial.is_some() {
            return self.judge_trial(now);
        }
        if let Some(loss) = loss
            && self.leave_lossy(now, loss)
        {
            return;
        }
        if resumes {
            self.try_another(now);
        }
        if self.pending.is_some() || self.trial.is_some() {
            return;
        }
        match self.role {
            LaneEndRole::Entry if self.is_down_by_probes() => {
                if self.answered_at.is_none_or(|at| now >= at + self.timing.slow_tick) {
                    self.ping_now();
                }
            }
            LaneEndRole::Entry => {
                if let Some(better) = self.better(now) {
                    self.start_move(now, better, Cause::other(RerouteReason::Better));
                } else if let Some(lost) = self.lost_probes() {
                    self.leave_lossy(now, lost);
                }
            }
            LaneEndRole::Exit => {
                if let Some(roomier) = self.roomier(now) {
                    self.start_move(now, roomier, Cause::other(RerouteReason::Better));
                } else if let Some(route) = self.owed.take() {
                    let less = self.delivers_more(now, &route, RerouteReason::Better);
                    if !less && self.goes_along(now, &route) {
                        let cause = self.far_cause(now, &route, RerouteReason::Better);
                        self.start_move(now, route, cause);
                    } else {
                        self.owed = Some(route);
                    }
                }
            }
        }
    }

    /// Tries a route that may carry more, if the lane is limited by the one in use.
    pub(super) fn try_another(&mut self, now: Instant) {
        let (at, pause) = self.next_trial;
        if now < at {
            return;
        }
        let Some(route) = self.worth_a_trial(now) else { return };
        self.next_trial = (now + pause, (2 * pause).min(self.timing.memory));
        self.start_move(now, route, Cause::other(RerouteReason::Trial));
    }

    pub(super) fn judge_trial(&mut self, now: Instant) {
        let (timing, answered) = (self.timing, self.traffic.answered);
        let Some(trial) = self.trial.as_mut() else { return };
        if self.blame.fault(now, &trial.from).is_some() {
            // It failed meanwhile, as the far end told.
            self.trial = None;
            return;
        }
        match trial.judge(now, &timing, answered) {
            Outcome::Open => {}
            Outcome::Stay => self.trial = None,
            Outcome::Return { narrow } => {
                let (tried, back) = (self.route.clone(), trial.from.clone());
                let bound = self.capacity.carried(now, &timing, &back);
                let bound = bound.unwrap_or(Bitrate::from_bps(0));
                let most = if narrow { trial.rate(bound) } else { bound };
                self.trial = None;
                self.capacity.tried(now, &tried, (most, narrow));
                self.start_move(now, back, Cause::other(RerouteReason::Better));
            }
        }
    }

    /// Leaves a route that loses so much for one that promises to carry clearly more.
    pub(super) fn leave_lossy(&mut self, now: Instant, loss: LossRate) -> bool {
        let Some(cleaner) = self.cleaner(now, loss) else { return false };
        let percent = u8::try_from((loss.ppm() + 5_000) / 10_000).unwrap_or(100);
        let lossy = self.route.clone();
        self.blame.add(now, &self.timing, &lossy, Fault::Lossy(percent));
        self.start_move(now, cleaner, Cause::other(RerouteReason::Lossy { percent }));
        true
    }

    /// The first links of the direct route, of the one in use, of the next best ones, and of those that
    /// failed lately.
    pub(super) fn watched_links(&self, now: Instant) -> Vec<NodeName> {
        let routes = self.routes.iter().map(|seen| seen.candidate.route.clone());
        let failed = routes.filter(|route| self.blame.fault(now, route).is_some());
        let routes = [Route::Direct, self.route.clone()].into_iter().chain(failed);
        let routes = routes.chain(self.alternatives(now));
        routes.map(|route| route.first_node(&self.peer).clone()).collect()
    }

    /// Renews the grants that are to end, and asks for those of the next best routes, so that a move
    /// does not wait for a relay.
    pub(super) fn prepare_grants(&mut self, now: Instant) {
        if now < self.next_prepare {
            return;
        }
        self.next_prepare = now + self.timing.prepare_every;
        for (route, label) in self.grants.due(now, &self.timing) {
            self.push(Command::Renew { route, label });
        }
        let current = [self.route.clone()].into_iter();
        for route in current.chain(self.alternatives(now)) {
            if route != Route::Direct && self.grants.get(now, &self.timing, &route).is_none() {
                self.ask_grant(now, &route);
            }
        }
    }
}

/// The report of a window to the overlay. It has sustained loss only: a burst of loss that congestion
/// control causes while it looks for the path's rate is no property of the path.
fn sample(closed: &Closed, loss: LossRate, bytes: u64) -> PassiveSample {
    let rtt = closed.least_rtt;
    // Where nothing came back, nothing is known to be delivered.
    if closed.counts.received == 0 {
        return PassiveSample { rtt, ..PassiveSample::default() };
    }
    let packets = u32::try_from(closed.counts.sent).unwrap_or(u32::MAX);
    let lost = u64::from(loss.ppm()) * u64::from(packets) / 1_000_000;
    let lost = u32::try_from(lost).unwrap_or(packets);
    PassiveSample { rtt, lost, delivered: packets - lost, bytes, over: closed.over }
}
