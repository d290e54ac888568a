//! The task of each lane end, until its connection closes. It gives the [`RouteAgent`] inputs and
//! carries out the agent's commands. The agent makes all decisions.
//!
//! [`RouteAgent`]: crate::failover::RouteAgent

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use noq::{Connection, PathId, VarInt};
use tokio::{task::JoinSet, time::sleep_until};

use super::{LaneEnd, datagrams::Datagrams, end::now, unread::Unread};
use crate::{
    failover::{Command, Counts, Fault, Input, Traffic, Trips, View},
    flow::{DatagramDrop, Route},
    identity::{NodeName, peer_of},
    transport::code,
    wire::{
        self,
        datagram::is_datagram,
        label::Label,
        lane::{LaneNotice, RerouteReason},
        link::LinkRefusal,
    },
};

/// DATAGRAM frames that are taken in one turn, so that a far end that sends many does not keep the agent
/// from its timers. One received batch of packets has about as many.
const FRAMES: usize = 32;

/// The driver of one lane's end.
pub(super) struct Driver {
    conn: Connection,
    end: Arc<LaneEnd>,
    /// Takes the datagrams of flows, which come among the notices.
    datagrams: Arc<Datagrams>,
    /// Counts those of them that were not taken in time.
    unread: Unread,
    /// Requests to relays and to the far end; each ends with an input.
    asked: JoinSet<Option<Input>>,
    /// How many of the end's moves were reported, and whether there are others.
    reported: (u64, bool),
}

impl Driver {
    pub(super) fn new(conn: Connection, end: Arc<LaneEnd>, datagrams: Arc<Datagrams>) -> Self {
        let unread = Unread::default();
        Self { conn, end, datagrams, unread, asked: JoinSet::new(), reported: (0, false) }
    }

    /// Runs until the connection closes.
    pub(super) async fn run(mut self) {
        let mut frames = vec![Bytes::new(); FRAMES];
        let reason = loop {
            self.look();
            let (end, conn) = (self.end.clone(), self.conn.clone());
            let (wake, resting) = (self.wake(), self.is_resting());
            tokio::select! {
                biased;
                reason = conn.closed() => break reason,
                Some(answer) = self.asked.join_next() => {
                    if let Ok(Some(input)) = answer {
                        self.handle(input);
                    }
                }
                () = sleep_until(wake.into()) => {}
                () = end.activity().sent_again(), if resting => self.view(),
                // The last one: a far end can send as many as it likes.
                Ok(count) = conn.read_many_datagrams(&mut frames) => {
                    frames.iter_mut().take(count).for_each(|frame| self.on_frame(std::mem::take(frame)));
                    let dropped = self.unread.took(count, count < FRAMES);
                    self.datagrams.drops().add(DatagramDrop::Unread, dropped);
                }
            }
        };
        self.report_moves(true);
        tracing::debug!(lane = ?self.end, %reason, "lane closed");
    }

    fn is_resting(&self) -> bool {
        self.end.agent().poll_timeout().is_none()
    }

    fn wake(&self) -> Instant {
        self.end.agent().wakes_at()
    }

    /// Gives the agent the inputs that are due.
    fn look(&mut self) {
        if now() >= self.end.agent().next_view() {
            self.view();
        }
        if self.end.agent().wants_answers() {
            let answered = self.answered();
            self.handle(Input::Answered(answered));
        }
        let quic = self.conn.rtt(PathId::ZERO);
        let smoothed_rtt = quic.map(|quic| self.end.mark().believable(quic));
        let traffic = Traffic { smoothed_rtt, ..self.end.traffic() };
        self.handle(Input::Traffic(traffic));
        self.report_moves(false);
    }

    /// Reports the moves whose stall is over; the last one also when the lane `ended` before that.
    fn report_moves(&mut self, ended: bool) {
        let (reported, true) = self.reported else { return };
        let traffic = self.end.traffic();
        let (moves, count) = {
            let mut agent = self.end.agent();
            agent.settle(&traffic);
            agent.history()
        };
        let new = usize::try_from(count - reported).unwrap_or(usize::MAX).min(moves.len());
        let lasts = !ended && moves.last().is_some_and(|last| last.stall.is_none());
        let over = moves.len() - usize::from(lasts);
        for reroute in moves.get(moves.len() - new..over).unwrap_or_default() {
            self.end.control.rerouted(&self.end, reroute);
        }
        self.reported = (count - u64::from(lasts), lasts);
    }

    fn view(&mut self) {
        if let Some(stats) = self.conn.path_stats(PathId::ZERO) {
            self.unread.received(stats.frame_rx.datagram);
        }
        let trips = self.end.mark().take_round_trips();
        let view = View {
            routes: self.end.seen_routes(),
            counts: self.counts(),
            trips: Trips { least: trips.least, all: trips.all, limited: trips.limited },
            resumes: self.end.mark().resumes(),
            far_process: self.end.control.incarnation(self.end.peer()),
        };
        self.handle(Input::View(view));
        self.end_if_expelled();
    }

    /// A far end that is no member any more, as it was revoked or its certificate has ended, loses the
    /// lane.
    fn end_if_expelled(&self) {
        let Ok(far_end) = peer_of(&self.conn) else { return };
        if let Some(reason) = self.end.far_end_expelled(&far_end) {
            tracing::warn!(lane = self.end.slot().0, peer = %self.end.peer(), reason, "the lane ends");
            self.conn.close(VarInt::from_u32(code::UNAUTHORISED), reason.as_bytes());
        }
    }

    fn answered(&self) -> Vec<(NodeName, Instant)> {
        let links = self.end.agent().asked_links();
        let answered = |name: NodeName| self.end.control.answered(&name).map(|at| (name, at));
        links.into_iter().filter_map(answered).collect()
    }

    /// Takes a DATAGRAM frame: a datagram of a flow, or a notice.
    fn on_frame(&mut self, frame: Bytes) {
        if is_datagram(&frame) {
            return self.datagrams.arrived(&frame);
        }
        match wire::decode::<LaneNotice>(&frame) {
            Ok(notice) => self.handle(Input::Notice(notice)),
            Err(error) => tracing::debug!(lane = ?self.end, %error, "ignoring a notice"),
        }
    }

    fn handle(&mut self, input: Input) {
        self.end.agent().handle_input(now(), input);
        loop {
            let Some(command) = self.end.agent().poll_command() else { return };
            self.execute(command);
        }
    }

    fn execute(&mut self, command: Command) {
        let end = &self.end;
        match command {
            Command::Use { .. } => self.send_on(command),
            Command::AskGrant { route } => drop(self.asked.spawn(ask_grant(end.clone(), route))),
            Command::Renew { route, label } => {
                self.asked.spawn(renew(end.clone(), route, label));
            }
            Command::AskFar => drop(self.asked.spawn(ask_far(end.clone()))),
            Command::Watch(links) => end.control.watch(&links),
            Command::Probe(neighbour) => end.control.probe(&neighbour),
            Command::Suspect(route) => end.control.suspect(end.peer(), &route),
            Command::Tell(notice) => {
                if let Err(error) = self.conn.send_datagram(Bytes::from(wire::encode(&notice))) {
                    tracing::debug!(%error, "lane notice not sent");
                }
            }
            Command::Urge => end.mark().urge(),
            Command::Kick => self.kick(),
            Command::Observe(sample) => end.control.observe(end.peer(), &sample),
            Command::Close(reason) => {
                tracing::info!(lane = end.slot().0, peer = %end.peer(), reason, "the lane ends");
                self.conn.close(VarInt::from_u32(code::DONE), reason.as_bytes());
            }
        }
    }

    fn send_on(&mut self, command: Command) {
        let Command::Use { route, label, lost, expected_rtt, moved } = command else { return };
        let end = &self.end;
        if let Some(lost) = lost {
            end.switch.send_again(end.slot(), lost.since, lost.from);
        }
        if moved {
            self.reported.1 = true;
            end.mark().rerouted(now(), route_number(&route), expected_rtt);
            let last = end.agent().history().0.pop();
            let (from, reason) = last.map(|last| (last.from, last.reason)).unzip();
            // The far end may say so at any pace.
            let told = reason != Some(RerouteReason::FarEnd);
            log_line!(
                told,
                lane = end.slot().0,
                peer = %end.peer(),
                from = from.as_ref().map(display),
                to = %route,
                reason = reason.as_ref().map(display),
                "rerouted"
            );
        }
        end.switch.route_slot(end.slot(), Some(end.hop(&route, label)));
    }

    fn kick(&self) {
        if let Some(path) = self.conn.path(PathId::ZERO)
            && let Err(error) = path.ping()
        {
            tracing::debug!(%error, "no ping");
        }
    }

    fn counts(&self) -> Counts {
        let Some(stats) = self.conn.path_stats(PathId::ZERO) else { return Counts::default() };
        Counts {
            // A probe for a larger packet size is meant to be lost where the path is narrower.
            sent: stats.sent_packets - stats.sent_plpmtud_probes,
            lost: (stats.lost_packets - stats.lost_plpmtud_probes)
                .saturating_sub(self.end.mark().too_long()),
            lost_in_queue: self.end.mark().in_queue(),
            received: self.end.activity().packets().1,
            sent_bytes: stats.sent_bytes,
            lost_bytes: stats.lost_bytes,
        }
    }
}

/// A number by which the congestion controller knows a route again.
pub(super) fn route_number(route: &Route) -> u64 {
    let mut hasher = DefaultHasher::new();
    route.hash(&mut hasher);
    hasher.finish()
}

async fn ask_grant(end: Arc<LaneEnd>, route: Route) -> Option<Input> {
    Some(match end.ask(&route).await {
        Ok(hop) => {
            let process = route.relay().and_then(|relay| end.control.incarnation(relay));
            Input::Granted { route, label: hop.label, process }
        }
        Err(error) => {
            tracing::debug!(lane = ?end, %route, %error, "no label for the route");
            Input::Refused { route, fault: fault_of(&error) }
        }
    })
}

/// The fault of a route for which no label was granted.
fn fault_of(refusal: &LinkRefusal) -> Fault {
    match refusal {
        LinkRefusal::Policy(_)
        | LinkRefusal::NotMyRole(_)
        | LinkRefusal::Full(_)
        | LinkRefusal::Unproved(_) => Fault::Refused,
        LinkRefusal::NoLink(_) | LinkRefusal::Unexpected | LinkRefusal::Renewal(_) => Fault::Silent,
    }
}

/// Asks the relay of `route` to extend the grant. A relay that does not answer may still hold it.
async fn renew(end: Arc<LaneEnd>, route: Route, label: Label) -> Option<Input> {
    let renewed = end.control.renew(route.relay()?, vec![label]).await;
    renewed.first().map(|holds| Input::Renewed { route, label, holds: *holds })
}

/// Asks the far end whether it knows the lane: after a long sleep of ours it does not.
async fn ask_far(end: Arc<LaneEnd>) -> Option<Input> {
    let renewed = end.control.renew(end.peer(), vec![end.far_label]).await;
    (renewed.first() == Some(&false)).then_some(Input::Forgotten)
}
