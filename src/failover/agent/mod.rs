//! The route agent: its states and inputs.
//!
//! | file | what the agent does |
//! |---|---|
//! | `silent` | notices that the route in use is silent, and leaves it |
//! | `moves` | moves to another route, with the grant that it needs |
//! | `far_end` | follows the far end, or tells it why not |
//! | `view` | looks at the overlay: loss, better routes, trials, grants |
//! | `choice` | chooses among the routes |

mod choice;
mod far_end;
mod moves;
mod silent;
mod view;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    Command, Input, Reroute, SeenRoute, Timing, Traffic,
    blame::Blame,
    capacity::{Capacity, Trial},
    grants::Grants,
    log::{Cause, RouteLog},
    loss::{Counts, Loss},
    silence::Silence,
};
use crate::{
    flow::Route,
    identity::NodeName,
    overlay::select::Selector,
    wire::{label::Label, lane::Moved, link::LaneEndRole},
};

/// Decides which route one end of a lane sends on.
#[derive(Debug)]
pub(crate) struct RouteAgent {
    timing: Timing,
    role: LaneEndRole,
    peer: NodeName,
    route: Route,
    /// Rises with each move of this end.
    epoch: u64,
    /// The far end's last epoch that was heard of.
    seen: u64,
    /// Where the far end went and this end did not follow.
    owed: Option<Route>,
    /// The last move, as it is told in every notice.
    last_move: Option<Moved>,
    pending: Option<Pending>,
    silence: Silence,
    /// When silence was first suspected and is not over, or a link was asked in order to return to its route.
    suspected_at: Option<Instant>,
    /// The links asked since then.
    probes: BTreeMap<NodeName, Asked>,
    /// When the far end was asked on the route in use, to compare it with the link that answers.
    compared_at: Option<Instant>,
    episode: Option<Episode>,
    /// The route in use before the last episode.
    before_episode: Option<Route>,
    /// The route to return to once its first link answers, as the silence on it was at an end; and whether that link
    /// is asked again.
    returns_to: Option<(Route, bool)>,
    /// Several links of this node are silent in this episode: the trouble is near this end.
    near_trouble: bool,
    /// When trouble near this end, or its sleep, was over last. The far end may still complain of it.
    near_trouble_ended: Option<Instant>,
    /// The route in use is silent, and this is why it is to be left.
    leaving: Option<Cause>,
    loss: Loss,
    capacity: Capacity,
    /// Until then the far end's direction is limited by its route, as far as it told.
    far_limited_until: Option<Instant>,
    /// Until then the far end may be trying a route for its direction, or returning from one.
    far_tries_until: Option<Instant>,
    /// When this end last told that its direction is.
    told_limited: Option<Instant>,
    trial: Option<Trial>,
    /// Not before then is a route tried, and how long the pause after it is.
    next_trial: (Instant, Duration),
    /// Packets acknowledged at the last look at the loss windows, and when that was.
    window_began: (Instant, u64),
    /// The rate in the last window: packets acknowledged, in which time.
    last_rate: (u64, Duration),
    blame: Blame,
    grants: Grants,
    selector: Selector,
    log: RouteLog,
    routes: Vec<SeenRoute>,
    traffic: Traffic,
    /// When a packet was acknowledged last on the route in use.
    answered_at: Option<Instant>,
    counts: Counts,
    far_process: Option<u64>,
    look_at: Option<Instant>,
    next_view: Instant,
    next_prepare: Instant,
    next_watch: Instant,
    commands: VecDeque<Command>,
}

/// A link that was asked whether it works.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    /// When the newest answered probe left that left before silence was suspected.
    before: Option<Instant>,
    /// When the first probe left since silence was suspected that was answered.
    proof: Option<Instant>,
    /// When the newest one left that was answered, and how long the answer took.
    newest: Option<(Instant, Duration)>,
}

impl Asked {
    fn new(at: Instant) -> Self {
        Self { at, before: None, proof: None, newest: None }
    }
}

/// A move that waits for a grant. A newer one replaces it.
#[derive(Debug, Clone)]
struct Pending {
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
    pub(crate) fn new(
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
            compared_at: None,
            episode: None,
            before_episode: None,
            returns_to: None,
            near_trouble: false,
            near_trouble_ended: None,
            leaving: None,
            loss: Loss::new(now, Counts::default()),
            capacity: Capacity::default(),
            far_limited_until: None,
            far_tries_until: None,
            told_limited: None,
            trial: None,
            next_trial: (now + timing.first_hold, timing.first_hold),
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
            next_watch: now,
            commands: VecDeque::new(),
        }
    }

    /// Takes note of what happened; then drain [`Self::poll_command`].
    pub(crate) fn handle_input(&mut self, now: Instant, input: Input) {
        if now > self.wakes_at() + self.timing.overslept {
            // What the far end found silent meanwhile was this end.
            self.near_trouble_ended = Some(now);
        }
        match input {
            Input::Traffic(traffic) => self.on_traffic(now, traffic),
            Input::View(view) => self.on_view(now, view),
            Input::Answered(answered) => self.on_answered(now, &answered),
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
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let pending = self.pending.as_ref().map(|pending| pending.until);
        self.look_at.into_iter().chain(pending).min()
    }

    /// When a `View` is due next.
    #[must_use]
    pub(crate) fn next_view(&self) -> Instant {
        self.next_view
    }

    /// When an input is due next.
    #[must_use]
    pub(crate) fn wakes_at(&self) -> Instant {
        self.poll_timeout().map_or(self.next_view, |at| at.min(self.next_view))
    }

    /// Whether the agent waits for links to answer.
    #[must_use]
    pub(crate) fn wants_answers(&self) -> bool {
        self.suspected_at.is_some()
    }

    /// The next thing to do.
    pub(crate) fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The route in use.
    #[must_use]
    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    /// The last moves, oldest first, and how many there were in all.
    #[must_use]
    pub(crate) fn history(&self) -> (Vec<Reroute>, u64) {
        (self.log.last(), self.log.count())
    }

    /// Ends the stall of the last move if a packet has come in since, so that listings show it.
    pub(crate) fn settle(&mut self, traffic: &Traffic) {
        self.log.settle(traffic);
    }

    /// The relay of the lane's first route granted `label` when the lane was opened.
    pub(crate) fn hold_grant(
        &mut self,
        now: Instant,
        route: &Route,
        label: Label,
        process: Option<u64>,
    ) {
        self.grants.granted(now, &self.timing, route, label, process);
    }

    /// The neighbours whose links were asked since silence was suspected.
    #[must_use]
    pub(crate) fn asked_links(&self) -> Vec<NodeName> {
        self.probes.keys().cloned().collect()
    }

    fn push(&mut self, command: Command) {
        self.commands.push_back(command);
    }
}
