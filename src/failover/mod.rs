//! PURE: decides which route the packets of one lane's end take, and when to leave it.
//!
//! Each end of a lane has one [`RouteAgent`]. It moves its own direction; the other end moves the
//! other one. The agent reads no clock and does no I/O: the driver (`lane/driver.rs`) gives it inputs
//! and carries out its commands.
//!
//! ```text
//!            Input                                              Command
//!  Traffic ─────────┐   silence.rs  is the route silent?    ┌──► Use     send on this route now
//!  View ────────────┤   loss.rs     what does it lose?      ├──► Tell    a notice to the far end
//!  Answered ────────┤   capacity.rs what do routes carry?   ├──► Watch, Probe, Suspect   links
//!  Notice ──────────┼─► agent/   ◄─ selector (overlay)      ├──► AskGrant, Renew, AskFar
//!  Granted, Refused ┤   blame.rs    which routes failed?    ├──► Urge, Kick
//!  Renewed ─────────┤   grants.rs   which may be used?      └──► Observe, Close
//!  Forgotten ───────┘
//!                       log.rs      what happened?
//! ```
//!
//! # Silence
//!
//! When the route in use is silent (`silence.rs`), the agent asks whether another route would help. It takes a
//! route whose first link has answered a probe that left with the ping. If no other link of
//! this node answers either, the fault is near this end (access line, Wi-Fi, sleep), and a move does not help.
//! So the agent stays. It moves to the first link that answers, unless the route in use answers
//! before. The time from the first silence to the next answer is an *episode*. A move
//! that did not bring the answer is undone if the first link of the route before answers, and no route is blamed for the
//! silence.
//!
//! # Two ends
//!
//! Each notice carries the sender's `epoch`, which rises with each of its moves, and `seen`, the last
//! epoch that it has heard of the receiver. So each end knows by comparing integers whether a
//! complaint concerns the route that it uses now. The exit follows the entry; the entry follows the
//! exit only away from a route that failed and that it uses itself.
//!
//! # Better routes
//!
//! The entry compares its route with the others by its hint (`overlay::select`). A lane that is
//! limited by its route compares the rates of routes instead, because the delay in its own queue is
//! not the route's fault.

mod agent;
mod blame;
mod capacity;
mod grants;
mod log;
mod loss;
mod silence;
mod timing;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub(crate) use agent::RouteAgent;
pub(crate) use blame::Fault;
pub(crate) use log::{Lost, Reroute};
pub(crate) use loss::{Counts, Trips};
pub(crate) use silence::Traffic;
pub(crate) use timing::Timing;

use crate::{
    flow::Route,
    identity::NodeName,
    overlay::{candidates::Candidate, monitor::PassiveSample},
    wire::{label::Label, lane::LaneNotice},
};

/// Most routes of which a lane's end remembers something: direct, and every relay of a large overlay.
const MAX_ROUTES: usize = 64;

/// A route, its figures, and its first link.
#[derive(Debug, Clone)]
pub(crate) struct SeenRoute {
    /// The route and its figures.
    pub candidate: Candidate,
    /// The least round-trip time of its first link lately; `None` before the first.
    pub link_rtt: Option<Duration>,
    /// Which process the far end of its first link is; `None` if not known.
    pub process: Option<u64>,
}

/// What the agent looks at a few times a second.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// All conceivable routes.
    pub routes: Vec<SeenRoute>,
    /// What the lane sent and lost so far.
    pub counts: Counts,
    /// The round trips since the last look.
    pub trips: Trips,
    /// Which process the far end is; `None` if not known.
    pub far_process: Option<u64>,
    /// Whether the congestion controller resumes on a route with the window that it had there. If
    /// not, a trial of another route costs more than it gains.
    pub resumes: bool,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// What has passed through the slot. Due at [`RouteAgent::poll_timeout`].
    Traffic(Traffic),
    /// The overlay and the lane's losses. Due at [`RouteAgent::next_view`].
    View(View),
    /// When the newest probes left that neighbours have answered. Due with each `Traffic` while
    /// [`RouteAgent::wants_answers`].
    Answered(Vec<(NodeName, Instant)>),
    /// The far end's notice.
    Notice(LaneNotice),
    /// A relay, running as `process`, granted a label.
    Granted {
        /// The route through it.
        route: Route,
        /// The label.
        label: Label,
        /// Which process the relay is, if known.
        process: Option<u64>,
    },
    /// A relay gave no grant.
    Refused {
        /// The route through it.
        route: Route,
        /// [`Fault::Refused`] if it said no, [`Fault::Silent`] if it did not answer.
        fault: Fault,
    },
    /// A relay answered whether it still holds a grant.
    Renewed {
        /// The route through it.
        route: Route,
        /// The label.
        label: Label,
        /// Whether it does.
        holds: bool,
    },
    /// The far end says that it does not know the lane.
    Forgotten,
}

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    /// Send on `route` from the next packet on.
    Use {
        /// The route.
        route: Route,
        /// The relay's label; `None` for the direct route, which uses the far end's.
        label: Option<Label>,
        /// What to send again first.
        lost: Option<Lost>,
        /// The route's round-trip time, by probes.
        expected_rtt: Option<Duration>,
        /// Whether it is another route than before, and not only another label.
        moved: bool,
    },
    /// Ask the relay of `route` for a label.
    AskGrant {
        /// The route.
        route: Route,
    },
    /// Ask the relay of `route` to extend its grant.
    Renew {
        /// The route.
        route: Route,
        /// The label.
        label: Label,
    },
    /// Ask the far end over its link whether it still knows the lane.
    AskFar,
    /// Watch these links closely: they lead to the routes of a lane in use.
    Watch(Vec<NodeName>),
    /// Probe the link to this neighbour now.
    Probe(NodeName),
    /// Nothing comes in on this route: probe its first link, and look at the network.
    Suspect(Route),
    /// Send a notice to the far end.
    Tell(LaneNotice),
    /// Let a few packets leave although the congestion window is full.
    Urge,
    /// Send something that must be acknowledged, now: the acknowledgement tells loss recovery what
    /// was lost, long before its backed-off timer would.
    Kick,
    /// Tell the overlay what the lane saw on the direct path.
    Observe(PassiveSample),
    /// Close the lane, for this reason.
    Close(&'static str),
}
