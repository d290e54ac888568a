//! The route agent: states, inputs and moves. `choice.rs` has the choice of routes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    Command, Fault, Input, Lost, Reroute, SeenRoute, Timing, Traffic, View,
    blame::Blame,
    capacity::{Capacity, Outcome, Trial},
    grants::Grants,
    log::{Cause, RouteLog},
    loss::{Closed, Counts, Loss},
    silence::{Finding, Silence},
};
use crate::{
    flow::Route,
    identity::NodeName,
    overlay::{
        candidates::Exclusion,
        monitor::PassiveSample,
        select::{ChangeReason, Selector},
        units::{Bitrate, LossRate},
    },
    wire::{
        label::Label,
        lane::{LaneNotice, Moved, RerouteReason},
        link::LaneEndRole,
    },
};

/// How much earlier than computed the first lost packet may have been sent: the smoothed round-trip
/// time lags behind a queue that grows or shrinks.
const UNSURE: Duration = Duration::from_millis(10);

/// Decides which route one end of a lane sends on.
#[derive(Debug)]
pub struct RouteAgent {
    pub(super) timing: Timing,
    pub(super) role: LaneEndRole,
    pub(super) peer: NodeName,
    pub(super) route: Route,
    /// Rises with each move of this end.
    epoch: u64,
    /// The far end's last epoch that was heard of.
    seen: u64,
    /// Where the far end went and this end did not follow.
    owed: Option<Route>,
    /// The last move, as it is told in every notice.
    last_move: Option<Moved>,
    pub(super) pending: Option<Pending>,
    silence: Silence,
    /// When silence was first suspected and is not over.
    pub(super) suspected_at: Option<Instant>,
    /// The links asked since then, and when each answer is overdue.
    pub(super) probes: BTreeMap<NodeName, Instant>,
    /// When a link answered again in an episode in which other links were silent, too.
    pub(super) relieved_at: Option<Instant>,
    episode: Option<Episode>,
    /// The route in use before the last episode.
    before_episode: Option<Route>,
    /// Several links of this node are silent in this episode: the trouble is near this end.
    pub(super) near_trouble: bool,
    /// Until then the far end may still complain of trouble near this end that is over.
    near_trouble_until: Option<Instant>,
    /// The route in use is silent, and this is why it is to be left.
    leaving: Option<Cause>,
    loss: Loss,
    pub(super) capacity: Capacity,
    /// Until then the far end's direction is limited by its route, as far as it told.
    far_limited_until: Option<Instant>,
    /// When this end last told that its direction is.
    told_limited: Option<Instant>,
    trial: Option<Trial>,
    /// Not before then is a route tried, and how long the pause after it is.
    next_trial: (Instant, Duration),
    /// Packets acknowledged at the last look at the loss windows, and when that was.
    window_began: (Instant, u64),
    /// The rate in the last window: packets acknowledged, in which time.
    last_rate: (u64, Duration),
    pub(super) blame: Blame,
    pub(super) grants: Grants,
    pub(super) selector: Selector,
    log: RouteLog,
    pub(super) routes: Vec<SeenRoute>,
    traffic: Traffic,
    /// When a packet was acknowledged last on the route in use.
    pub(super) answered_at: Option<Instant>,
    counts: Counts,
    far_process: Option<u64>,
    look_at: Option<Instant>,
    next_view: Instant,
    next_prepare: Instant,
    commands: VecDeque<Command>,
}

/// A move that waits for a grant. A newer one replaces it.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    route: Route,
    cause: Cause,
    until: Instant,
}

/// The time from a silence to the next answer.
#[derive(Debug, Clone)]
struct Episode {
    /// When the first verdict was.
    began: Instant,
    /// The route in use then.
    from: Route,
    /// No packet at all came in: then any packet ends it. Else only an acknowledgement does.
    heard_nothing: bool,
    moved: bool,
}

impl RouteAgent {
    /// The agent of a lane to `peer` that begins on `route`, which `selector` has chosen.
    #[must_use]
    pub fn new(
        now: Instant,
        role: LaneEndRole,
        peer: NodeName,
        route: Route,
        selector: Selector,
        timing: Timing,
    ) -> Self {
        Self {
            timing,
            role,
            peer,
            route,
            epoch: 0,
            seen: 0,
            owed: None,
            last_move: None,
            pending: None,
            silence: Silence::new(now),
            suspected_at: None,
            probes: BTreeMap::new(),
            relieved_at: None,
            episode: None,
            before_episode: None,
            near_trouble: false,
            near_trouble_until: None,
            leaving: None,
            loss: Loss::new(now, Counts::default()),
            capacity: Capacity::default(),
            far_limited_until: None,
            told_limited: None,
            trial: None,
            next_trial: (now + timing.trial_pause, timing.trial_pause),
            window_began: (now, 0),
            last_rate: (0, timing.loss_window),
            blame: Blame::default(),
            grants: Grants::default(),
            selector,
            log: RouteLog::default(),
            routes: Vec::new(),
            traffic: Traffic::NONE,
            answered_at: None,
            counts: Counts::default(),
            far_process: None,
            look_at: Some(now),
            next_view: now,
            next_prepare: now,
            commands: VecDeque::new(),
        }
    }

    /// Takes note of what happened; then drain [`Self::poll_command`].
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Traffic(traffic) => self.on_traffic(now, traffic),
            Input::View(view) => self.on_view(now, view),
            Input::Heard(heard) => self.on_heard(now, &heard),
            Input::Notice(notice) => self.on_notice(now, notice),
            Input::Granted { route, label, process } => {
                self.grants.granted(now, &self.timing, &route, label, process);
                self.on_granted(now, &route);
            }
            Input::Refused { route, fault } => {
                self.grants.not_granted(&route);
                self.on_refused(now, &route, fault);
            }
            Input::Renewed { route, label, holds } => {
                self.grants.renewed(now, &route, label, holds);
                if !holds && route == self.route {
                    self.ask_grant(now, &route);
                }
            }
            Input::Forgotten => self.push(Command::Close("forgotten by the far end")),
        }
    }

    /// When `Traffic` is due next; `None` while nothing is outstanding: then when a packet goes out.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let pending = self.pending.as_ref().map(|pending| pending.until);
        self.look_at.into_iter().chain(pending).min()
    }

    /// When a `View` is due next.
    #[must_use]
    pub fn next_view(&self) -> Instant {
        self.next_view
    }

    /// Whether the agent waits for links to answer.
    #[must_use]
    pub fn wants_heard(&self) -> bool {
        self.suspected_at.is_some()
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The route in use.
    #[must_use]
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// The last moves, oldest first, and how many there were in all.
    #[must_use]
    pub fn history(&self) -> (Vec<Reroute>, u64) {
        (self.log.last(), self.log.count())
    }

    /// Ends the stall of the last move if a packet has come in since, so that listings show it.
    pub fn settle(&mut self, traffic: &Traffic) {
        self.log.settle(traffic);
    }

    /// The relay of the lane's first route granted `label` when the lane was opened.
    pub fn hold_grant(&mut self, now: Instant, route: &Route, label: Label, process: Option<u64>) {
        self.grants.granted(now, &self.timing, route, label, process);
    }

    /// The neighbours whose links were asked since silence was suspected.
    #[must_use]
    pub fn asked_links(&self) -> Vec<NodeName> {
        self.probes.keys().cloned().collect()
    }

    pub(super) fn push(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    // -- Traffic and silence ---------------------------------------------------------------------

    fn on_traffic(&mut self, now: Instant, traffic: Traffic) {
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
            Finding::Rest => self.look_at = None,
            Finding::Ping(at) => {
                self.look_at = Some(at);
                self.on_suspicion(now);
            }
            Finding::Silent(silence) => {
                self.look_at = Some(now + self.timing.step);
                self.on_silence(now, silence);
            }
        }
        if self.silence.suspected_since().is_none() && self.episode.is_none() {
            (self.suspected_at, self.leaving, self.near_trouble) = (None, None, false);
            self.probes.clear();
        }
        self.notice_near_trouble(now);
        self.try_leave(now);
    }

    /// The silence is over.
    fn on_answer(&mut self, now: Instant) {
        (self.leaving, self.relieved_at) = (None, None);
        let Some(episode) = self.episode.take() else { return };
        let rtt = self.silence.rtt(&self.timing, &self.traffic).smoothed;
        let verdict = rtt + rtt / 2 + self.timing.ping_after + self.timing.verdict_after;
        if self.near_trouble {
            // What was lost meanwhile says nothing of the route. The far end may have found us silent:
            // its news is about the same trouble.
            self.silence.rerouted(now, None);
            self.near_trouble_until = Some(now + verdict);
            self.near_trouble = false;
        }
        if !episode.moved {
            return;
        }
        if self.log.moved_at().is_some_and(|at| now <= at + verdict) {
            return self.blame.confirm();
        }
        // No move helped: the trouble was at an end, and is over.
        self.blame.withdraw();
        if episode.from != self.route {
            self.start_move(now, episode.from, Cause::other(RerouteReason::Better));
        }
    }

    fn on_suspicion(&mut self, now: Instant) {
        self.suspected_at.get_or_insert(now);
        self.ping_now();
        if let Some(route) = self.alternatives(now).into_iter().next() {
            self.probe_first_link(now, &route);
        }
    }

    /// Asks the far end for an answer, whatever the congestion window says.
    pub(super) fn ping_now(&mut self) {
        self.push(Command::Urge);
        let ping = self.notice(true);
        self.push(Command::Tell(ping));
    }

    fn on_silence(&mut self, now: Instant, silence: Duration) {
        let began = self.silence_began(now, silence);
        let reason = RerouteReason::Silent { ms: millis(now.saturating_duration_since(began)) };
        let lost = self.lost_since(began, self.breaks_of(&self.route));
        if self.episode.is_none() {
            // What was blamed in an earlier episode stands.
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

    fn on_heard(&mut self, now: Instant, heard: &[(NodeName, Instant)]) {
        for seen in &mut self.routes {
            let first = seen.candidate.route.relay().unwrap_or(&self.peer);
            let at = heard.iter().find(|(name, _)| name == first).map(|(_, at)| *at);
            seen.heard = seen.heard.max(at);
        }
        self.try_leave(now);
    }

    /// Leaves a silent route if another one promises to work.
    fn try_leave(&mut self, now: Instant) {
        if self.pending.is_some() {
            return;
        }
        let Some(cause) = self.leaving else { return };
        let Some(instead) = self.instead(now) else { return };
        let silent = self.route.clone();
        self.capacity.forget(&silent);
        self.blame.add(now, &self.timing, &silent, Fault::Silent);
        self.start_move(now, instead, cause);
    }

    /// When a silence began: with the last packet that came in, unless nothing was due then.
    fn silence_began(&self, now: Instant, silence: Duration) -> Instant {
        let noticed = now.checked_sub(silence).unwrap_or(now);
        let last = self.traffic.arrived;
        last.filter(|last| *last <= noticed && *last + self.timing.step >= noticed)
            .unwrap_or(noticed)
    }

    /// What was lost by a silence that began then: the packets that were on their way, and those
    /// whose acknowledgements were. The first of them had waited in the queue, and was sent one of
    /// `ways` before.
    fn lost_since(&self, began: Instant, ways: [Duration; 2]) -> Option<Lost> {
        let rtt = self.traffic.smoothed_rtt.unwrap_or_default();
        // The packet that was answered last may have been followed by the first lost one at once.
        let since = began.checked_sub(2 * rtt + self.timing.step)?;
        let queue = rtt.saturating_sub(2 * self.one_way());
        let [first, second] = ways.map(|way| began.checked_sub(queue + way + UNSURE));
        Some(Lost { since, from: first.zip(second).map(<[Instant; 2]>::from)? })
    }

    /// How long a packet takes to the far end when no queue is in its way.
    fn one_way(&self) -> Duration {
        self.traffic.least_rtt.unwrap_or_default() / 2
    }

    /// How long before our last packet from the far end the first one was sent that was lost: for each
    /// link of `route` that may have broken, the farther one first.
    ///
    /// The last packet from the far end had just left a link whose near end is `a` away from us, and
    /// the last one from us had left its far end, `b` away: they came in after `a`, and had been sent
    /// `b` before.
    fn breaks_of(&self, route: &Route) -> [Duration; 2] {
        let way = self.one_way();
        if *route == Route::Direct {
            return [way; 2];
        }
        let link = self.seen(route).and_then(|seen| seen.link_rtt);
        let to_relay = link.map_or(way / 2, |rtt| way.min(rtt / 2));
        [to_relay + way, to_relay]
    }

    // -- Moves -----------------------------------------------------------------------------------

    /// Moves to `route`, at once if its label is held, else when its relay grants one.
    pub(super) fn start_move(&mut self, now: Instant, route: Route, cause: Cause) {
        // A grant for the route in use is asked for when its relay has forgotten the lane.
        let stays = route == self.route;
        if stays || route == Route::Direct || self.grants.get(now, &self.timing, &route).is_some() {
            return self.complete_move(now, route, cause);
        }
        let rtt = self.assumed_rtt(&route);
        let until = now + 2 * rtt + self.timing.grant_answer;
        self.ask_grant(now, &route);
        self.pending = Some(Pending { route, cause, until });
    }

    fn complete_move(&mut self, now: Instant, route: Route, cause: Cause) {
        (self.pending, self.leaving, self.owed) = (None, None, None);
        (self.suspected_at, self.relieved_at, self.near_trouble) = (None, None, false);
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
        let assumed_rtt = self.assumed_rtt(&route);
        self.silence.rerouted(now, Some(assumed_rtt));
        self.loss.rerouted(now, self.counts);
        self.capacity.rerouted();
        self.trial = (cause.reason == RerouteReason::Trial)
            .then(|| Trial::new(now, left.clone(), assumed_rtt, self.last_rate));
        if let Some(episode) = &mut self.episode {
            episode.moved = true;
        }
        self.answered_at = None;
        self.look_at = Some(now + self.timing.step);
        let label = self.grants.label(&route).filter(|_| route != Route::Direct);
        let lost = cause.lost;
        self.push(Command::Use { route, label, lost, expected_rtt, moved: true });
        let news = self.notice(false);
        self.push(Command::Tell(news));
        self.push(Command::Kick);
    }

    pub(super) fn ask_grant(&mut self, now: Instant, route: &Route) {
        if self.grants.ask(now, route, self.timing.prepare_every) {
            self.push(Command::AskGrant { route: route.clone() });
        }
    }

    fn on_granted(&mut self, now: Instant, route: &Route) {
        if let Some(pending) = self.pending.take_if(|pending| pending.route == *route) {
            self.complete_move(now, pending.route, pending.cause);
        } else if *route == self.route {
            // The relay had forgotten the lane. What it dropped meanwhile is sent again.
            let label = self.grants.label(route);
            let lost = self.leaving.and_then(|cause| cause.lost);
            let route = route.clone();
            self.push(Command::Use { route, label, lost, expected_rtt: None, moved: false });
            self.push(Command::Urge);
            self.push(Command::Kick);
        }
    }

    fn on_refused(&mut self, now: Instant, route: &Route, fault: Fault) {
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

    // -- The far end -----------------------------------------------------------------------------

    fn notice(&self, ping: bool) -> LaneNotice {
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

    fn on_notice(&mut self, now: Instant, notice: LaneNotice) {
        if notice.ping {
            self.silence.answering();
            let answer = self.notice(false);
            self.push(Command::Tell(answer));
        }
        self.far_limited_until = notice.limited.then(|| now + 3 * self.timing.tell_limited);
        let knows_our_route = notice.seen >= self.epoch;
        if notice.mine && knows_our_route {
            self.undo_move(now);
        }
        if notice.epoch > self.seen {
            self.seen = notice.epoch;
            if let Some(moved) = notice.moved {
                self.on_far_move(now, &moved, notice.route, knows_our_route);
            }
        } else if !knows_our_route && self.is_unheard(now) && notice.route != self.route {
            let since = self.log.moved_at().unwrap_or(now);
            let lost = self.lost_since(since, [self.one_way(); 2]);
            let ms = millis(now.saturating_duration_since(since));
            let dead = self.route.clone();
            self.blame.add(now, &self.timing, &dead, Fault::Silent);
            let cause = Cause { reason: RerouteReason::Silent { ms }, far_reason: None, lost };
            self.start_move(now, notice.route, cause);
        }
    }

    /// The silence for which this end moved last was of the far end's own line.
    fn undo_move(&mut self, now: Instant) {
        let Some(before) = self.before_episode.take() else { return };
        self.blame.forget(&before);
        self.start_move(now, before, Cause::other(RerouteReason::Better));
    }

    /// Whether the far end should have heard of our last move by now, and nothing was answered since.
    fn is_unheard(&self, now: Instant) -> bool {
        let rtt = self.silence.rtt(&self.timing, &self.traffic).smoothed;
        let overdue = rtt + rtt / 4 + self.timing.verdict_after;
        self.traffic.least_rtt.is_none()
            && self.log.moved_at().is_some_and(|moved| now > moved + overdue)
    }

    /// The far end moved. `knows_our_route`: it had heard of our last move then.
    fn on_far_move(&mut self, now: Instant, moved: &Moved, route: Route, knows_our_route: bool) {
        let fault = match moved.reason {
            RerouteReason::Silent { .. } => Some(Fault::Silent),
            RerouteReason::Lossy { percent } => Some(Fault::Lossy(percent.min(100))),
            RerouteReason::Better | RerouteReason::FarEnd | RerouteReason::Trial => None,
        };
        let shared = self.route == moved.left;
        let ours = self.near_trouble || self.near_trouble_until.is_some_and(|until| now < until);
        if ours && fault == Some(Fault::Silent) {
            // It heard nothing because nothing left our end.
            let mine = LaneNotice { mine: true, ..self.notice(false) };
            self.silence.answering();
            return self.push(Command::Tell(mine));
        }
        // A complaint about a route on which it has not heard us yet is about the time before.
        if let Some(fault) = fault.filter(|_| knows_our_route || !shared) {
            self.blame.add(now, &self.timing, &moved.left, fault);
        }
        let follows = match self.role {
            // A trial concerns the far end's direction alone.
            LaneEndRole::Exit if moved.reason == RerouteReason::Trial => false,
            LaneEndRole::Exit => self.goes_along(now, &route),
            LaneEndRole::Entry => fault.is_some() && shared && knows_our_route,
        };
        if follows {
            let cause = self.far_cause(now, &route, moved.reason);
            self.start_move(now, route, cause);
        } else if self.role == LaneEndRole::Exit && moved.reason != RerouteReason::Trial {
            self.owed = Some(route);
        }
    }

    /// Why to go where the far end is, which moved there for `reason`.
    fn far_cause(&self, now: Instant, route: &Route, reason: RerouteReason) -> Cause {
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

    // -- A look at the overlay, a few times a second -----------------------------------------------

    fn on_view(&mut self, now: Instant, view: View) {
        let resting = self.look_at.is_none();
        self.next_view = now + if resting { self.timing.idle_tick } else { self.timing.tick };
        self.counts = view.counts;
        self.routes = view.routes;
        self.notice_restarts(now, view.far_process);
        let closed = self.loss.look(now, &self.timing, view.counts, view.trips);
        let loss = closed.and_then(|closed| self.on_window(now, &closed));
        if self.pending.is_none() && self.leaving.is_none() {
            self.look_for_better(now, loss, view.resumes);
        }
        self.prepare_grants(now);
        self.tell_limited(now);
    }

    /// Tells the far end whether this direction is limited by its route: if so, the delay in its queue
    /// is no reason to leave.
    fn tell_limited(&mut self, now: Instant) {
        let limited = self.capacity.is_limited();
        let due = match self.told_limited {
            Some(told) => !limited || now >= told + self.timing.tell_limited,
            None => limited,
        };
        if due {
            self.told_limited = limited.then_some(now);
            let news = self.notice(false);
            self.silence.answering();
            self.push(Command::Tell(news));
        }
    }

    /// Whether the lane is limited by its route, in either direction.
    pub(super) fn is_bulk(&self, now: Instant) -> bool {
        self.capacity.is_limited() || self.far_limited_until.is_some_and(|until| now < until)
    }

    /// A far end that runs as a new process knows nothing of this lane. A relay that does so knows
    /// nothing of its grants.
    fn notice_restarts(&mut self, now: Instant, far_process: Option<u64>) {
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
    fn on_window(&mut self, now: Instant, closed: &Closed) -> Option<LossRate> {
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

    fn look_for_better(&mut self, now: Instant, loss: Option<LossRate>, resumes: bool) {
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
                    if self.goes_along(now, &route) {
                        let cause = self.far_cause(now, &route, RerouteReason::Better);
                        self.start_move(now, route, cause);
                    } else {
                        self.owed = Some(route);
                    }
                }
            }
        }
    }

    /// Tries a route of which nothing is known, if the lane is limited by the one in use.
    fn try_another(&mut self, now: Instant) {
        let (at, pause) = self.next_trial;
        if now < at {
            return;
        }
        let Some(route) = self.untried(now) else { return };
        self.next_trial = (now + pause, (2 * pause).min(self.timing.capacity_memory));
        self.start_move(now, route, Cause::other(RerouteReason::Trial));
    }

    fn judge_trial(&mut self, now: Instant) {
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
            Outcome::Return => {
                let (tried, back) = (self.route.clone(), trial.from.clone());
                self.trial = None;
                let bound = self.capacity.carried(now, &timing, &back);
                self.capacity.tried(now, &tried, bound.unwrap_or(Bitrate::from_bps(0)));
                self.start_move(now, back, Cause::other(RerouteReason::Better));
            }
        }
    }

    /// Leaves a route that loses so much for one that promises to carry clearly more.
    fn leave_lossy(&mut self, now: Instant, loss: LossRate) -> bool {
        let Some(cleaner) = self.cleaner(now, loss) else { return false };
        let percent = u8::try_from((loss.ppm() + 5_000) / 10_000).unwrap_or(100);
        let lossy = self.route.clone();
        self.capacity.forget(&lossy);
        self.blame.add(now, &self.timing, &lossy, Fault::Lossy(percent));
        self.start_move(now, cleaner, Cause::other(RerouteReason::Lossy { percent }));
        true
    }

    /// Renews the grants that are to end, and asks for those of the next best routes, so that a move
    /// waits for nobody.
    fn prepare_grants(&mut self, now: Instant) {
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

/// What a window says to the overlay. Only the loss that persists is told: a burst that congestion
/// control makes while it looks for the path's rate is no property of the path.
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

fn change_reason(cause: &Cause) -> ChangeReason {
    match cause.reason {
        RerouteReason::Silent { .. } => ChangeReason::Excluded(Exclusion::Silent),
        RerouteReason::Lossy { percent } => ChangeReason::Excluded(Exclusion::Lossy { percent }),
        RerouteReason::Better => ChangeReason::Better,
        RerouteReason::FarEnd => ChangeReason::FarEnd,
        RerouteReason::Trial => ChangeReason::Trial,
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
