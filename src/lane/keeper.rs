//! What runs beside every lane's end until its connection closes:
//!
//! - **guard**: watches the route in use and leaves it when it dies;
//! - **weigh**: measures the loss of the route in use and leaves it when another is much cleaner;
//! - **steer** (entry only): moves the lane to a better route when the overlay finds one;
//! - **follow**: does as the far end tells;
//! - **renew**: keeps the relays' grants alive, and those of the next best routes ready.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use noq::{Connection, PathId, VarInt};
use tokio::time::Instant;

use super::{
    LaneEnd,
    evidence::{Closed, Counts, Evidence},
    history::Cause,
    suspects::Fault,
    watch::{Finding, Rtt, Watch},
};
use crate::{
    flow::Route,
    overlay::{monitor::PassiveSample, units::LossRate},
    transport::code,
    wire::{
        self,
        lane::{LaneNotice, RerouteReason},
        link::LaneEndRole,
    },
};

/// Grants last 120 s; renewing this often survives two lost attempts.
const RENEW_EVERY: Duration = Duration::from_secs(40);

/// How often an entry compares its route with the best one. The overlay's own hysteresis decides;
/// this only bounds how late a decision is carried out.
const STEER_EVERY: Duration = Duration::from_millis(250);

/// How often an end looks at what it lost.
const WEIGH_EVERY: Duration = Duration::from_millis(250);

/// Less sustained loss than this, in packets of a million, moves no lane; above it, what matters is
/// what another route promises. Congestion control alone stays far below it.
const LEAVE_ABOVE_PPM: u32 = 6_000;

/// Slack for the watch's resolution and the clocks' when packets are sent again.
const STEP: Duration = Duration::from_millis(20);

/// How much earlier than computed the first lost packet may have been sent: the smoothed round-trip
/// time lags behind a queue that grows or shrinks.
const UNSURE: Duration = Duration::from_millis(5);

/// Room for a queue, and for a late acknowledgement (25 ms, RFC 9000), that was not there when the
/// round-trip time was measured.
const QUEUE: Duration = Duration::from_millis(40);

/// Keeps one lane's end.
pub(super) struct Keeper {
    pub(super) conn: Connection,
    pub(super) end: Arc<LaneEnd>,
    sequence: AtomicU64,
    /// When this end last told the far end that it has moved.
    announced: Mutex<Option<Instant>>,
}

impl Keeper {
    pub(super) fn new(conn: Connection, end: Arc<LaneEnd>) -> Self {
        Self { conn, end, sequence: AtomicU64::new(0), announced: Mutex::default() }
    }

    /// Runs until the connection closes.
    pub(super) async fn run(self) {
        tokio::select! {
            reason = self.conn.closed() => {
                tracing::debug!(lane = ?self.end, %reason, "lane closed");
            }
            () = self.guard() => {}
            () = self.weigh() => {}
            () = self.steer() => {}
            () = self.follow() => {}
            () = self.renew() => {}
            () = self.notice_restart() => {}
        }
    }

    /// Two watches look at the same route. One sees packets of any kind, also those that need no
    /// answer: it tells the receiver of a download. The other sees acknowledgements of what needs
    /// one: where only our own direction is dead, the far end's packets still come.
    async fn guard(&self) {
        let mut packets = Watch::new(now(), self.end.activity().packets());
        let mut answers = Watch::new(now(), self.end.mark().progress());
        let mut route = self.end.route();
        // What QUIC has measured is of the route before; a longer one is not dead for being longer.
        let mut longer = None;
        loop {
            let present = self.end.route();
            if present != route {
                // Moved by somebody else; the new route is not to blame for the old one's silence.
                route = present;
                longer = self.end.measured(&route).map(|metrics| metrics.rtt);
                packets.rerouted(now());
                answers.rerouted(now());
            }
            let mark = self.end.mark();
            let rtt = Rtt::new(self.conn.rtt(PathId::ZERO).max(longer), mark.least_rtt());
            let heard = packets.look(now(), self.end.activity().packets(), rtt);
            let answered = answers.look(now(), mark.progress(), unhurried(rtt));
            match heard.and(answered) {
                Finding::LookAt(at) => tokio::time::sleep_until(at.into()).await,
                Finding::Rest => self.end.activity().sent_again().await,
                Finding::Ping(at) => {
                    self.notify(&LaneNotice::Ping);
                    tokio::time::sleep_until(at.into()).await;
                }
                Finding::Dead(silence) => {
                    self.leave_dead_route(silence).await;
                    route = self.end.route();
                    longer = self.end.measured(&route).map(|metrics| metrics.rtt);
                    packets.rerouted(now());
                    answers.rerouted(now());
                }
            }
        }
    }

    /// Weighs what is lost on the route in use, as far as this end sends on it.
    async fn weigh(&self) {
        let mut evidence = Evidence::new(now(), self.counts());
        let mut route = self.end.route();
        let mut tick = tokio::time::interval(WEIGH_EVERY);
        loop {
            tick.tick().await;
            let present = self.end.route();
            if present != route {
                route = present;
                evidence.rerouted(now(), self.counts());
            } else if let Some(closed) = evidence.look(now(), self.counts()) {
                self.judge_loss(&route, &closed).await;
            }
        }
    }

    async fn judge_loss(&self, route: &Route, closed: &Closed) {
        let rtt = self.end.mark().take_least_rtt();
        let Some(loss) = closed.sustained else { return };
        if *route == Route::Direct {
            self.end.observed(&PassiveSample { rtt, ..sample(closed, loss) });
        }
        if loss.ppm() < LEAVE_ABOVE_PPM {
            return;
        }
        let Some(cleaner) = self.end.cleaner(loss) else { return };
        let percent = u8::try_from((loss.ppm() + 5_000) / 10_000).unwrap_or(100);
        self.end.found(route, Fault::Lossy(percent));
        self.reroute(&cleaner, Cause::other(RerouteReason::Lossy { percent })).await;
    }

    fn counts(&self) -> Counts {
        let Some(stats) = self.conn.path_stats(PathId::ZERO) else { return Counts::default() };
        Counts {
            // A probe for a larger packet size is meant to be lost where the path is narrower.
            sent: stats.sent_packets - stats.sent_plpmtud_probes,
            lost: stats.lost_packets - stats.lost_plpmtud_probes,
            received: self.end.activity().packets().1,
            sent_bytes: stats.sent_bytes,
            lost_bytes: stats.lost_bytes,
        }
    }

    async fn leave_dead_route(&self, silence: Duration) {
        let dead = self.end.route();
        self.end.found(&dead, Fault::Silent);
        self.check_labels(dead.clone());
        let Some(instead) = self.end.instead_of(&dead) else {
            tracing::debug!(lane = ?self.end, ?silence, "the only route is silent");
            self.kick();
            return;
        };
        let began = self.silence_began(silence);
        let reason = RerouteReason::Silent { ms: millis(began.elapsed()) };
        let cause = self.silent_since(began, reason);
        self.reroute(&instead, cause).await;
    }

    /// Asks whether the relay, and the far end, still know the labels that we send under: whoever
    /// restarted does not, nor does a far end that outlived our sleep, and both drop our packets.
    fn check_labels(&self, route: Route) {
        let (end, conn) = (self.end.clone(), self.conn.clone());
        tokio::spawn(async move {
            let ((), forgotten) = tokio::join!(end.check_grant(&route), end.is_forgotten());
            if forgotten {
                tracing::info!(lane = ?end, "the far end knows nothing of the lane; it ends");
                conn.close(VarInt::from_u32(code::DONE), b"forgotten by the far end");
            }
        });
    }

    /// When a silence began: with the last packet that came in, unless nothing was due then.
    fn silence_began(&self, silence: Duration) -> Instant {
        let now = Instant::now();
        let noticed = now.checked_sub(silence).unwrap_or(now);
        let last = self.end.activity().arrivals().last();
        last.filter(|last| *last <= noticed && *last + STEP >= noticed).unwrap_or(noticed)
    }

    /// The same of a silence that lasted `ms` at the far end when it sent a notice over `route`, which
    /// was on its way for half a round trip.
    fn far_silence_began(&self, route: &Route, ms: u32) -> Option<Instant> {
        let way = self.end.measured(route).map_or(Duration::ZERO, |new| new.rtt / 2);
        Instant::now().checked_sub(Duration::from_millis(ms.into()) + way)
    }

    /// What follows from a silence that began at one of the two ends then: the packets that were on
    /// their way to it, and those whose acknowledgements were, are lost.
    fn silent_since(&self, began: Instant, reason: RerouteReason) -> Cause {
        let rtt = self.conn.rtt(PathId::ZERO).unwrap_or_default();
        let way_back = self.end.mark().least_rtt().unwrap_or_default() / 2;
        let way_there = rtt.saturating_sub(way_back);
        Cause {
            reason,
            far_reason: None,
            dead_since: began.checked_sub(rtt + STEP),
            lost_from: began.checked_sub(way_there + UNSURE),
        }
    }

    /// Compares the route in use with the overlay's best; the exit leaves that to the entry.
    async fn steer(&self) {
        if self.end.role() == LaneEndRole::Exit {
            return std::future::pending().await;
        }
        let mut tick = tokio::time::interval(STEER_EVERY);
        loop {
            tick.tick().await;
            if let Some(best) = self.end.better() {
                self.reroute(&best, Cause::other(RerouteReason::Better)).await;
            }
        }
    }

    /// Follows the far end's notices; returns when the connection ends.
    async fn follow(&self) {
        let mut last_sequence = 0;
        while let Ok(datagram) = self.conn.read_datagram().await {
            match wire::decode::<LaneNotice>(&datagram) {
                Ok(LaneNotice::Rerouted { sequence, left, route, reason })
                    if sequence > last_sequence =>
                {
                    last_sequence = sequence;
                    self.follow_to(&left, &route, reason).await;
                }
                Ok(LaneNotice::Ping) => self.notify(&LaneNotice::Alive),
                Ok(LaneNotice::Rerouted { .. } | LaneNotice::Alive) => {}
                Err(error) => tracing::debug!(lane = ?self.end, %error, "ignoring a notice"),
            }
        }
    }

    /// The exit follows the entry, unless it knows the route to be dead and a better one. The entry
    /// follows the exit only away from a dead route that it uses itself, and not where the exit is
    /// about to follow it: two ends that do as the other did would swap their routes.
    async fn follow_to(&self, left: &Route, route: &Route, reason: RerouteReason) {
        let fault = match reason {
            RerouteReason::Silent { .. } => Some(Fault::Silent),
            RerouteReason::Lossy { percent } => Some(Fault::Lossy(percent.min(100))),
            RerouteReason::Better | RerouteReason::FarEnd => None,
        };
        if let Some(fault) = fault {
            self.end.found(left, fault);
        }
        let heed = match self.end.role() {
            LaneEndRole::Exit => self.end.goes_along(route),
            LaneEndRole::Entry => {
                fault.is_some() && self.end.route() == *left && !self.notices_cross(left)
            }
        };
        if heed {
            let began = match reason {
                RerouteReason::Silent { ms } => self.far_silence_began(route, ms),
                _ => None,
            };
            let cause = began.map_or(Cause::other(RerouteReason::FarEnd), |began| {
                self.silent_since(began, RerouteReason::FarEnd)
            });
            let cause = Cause { far_reason: Some(reason), ..cause };
            match self.end.use_route(route, cause).await {
                Ok(true) => self.kick(),
                Ok(false) => {}
                Err(error) => {
                    tracing::info!(lane = ?self.end, %route, %error, "cannot follow the far end");
                }
            }
        }
    }

    /// Whether the far end may not have heard yet, when it sent the notice that is just here, that we
    /// have moved to `route`.
    fn notices_cross(&self, route: &Route) -> bool {
        let announced = *self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = self.end.measured(route).map(|metrics| metrics.rtt);
        let rtt = self.conn.rtt(PathId::ZERO).max(measured).unwrap_or_default();
        announced.is_some_and(|at| at.elapsed() < rtt + STEP)
    }

    /// Moves our direction to `route` and tells the far end on it.
    async fn reroute(&self, route: &Route, cause: Cause) {
        let (left, reason) = (self.end.route(), cause.reason);
        match self.end.use_route(route, cause).await {
            Ok(true) => {
                let sequence = 1 + self.sequence.fetch_add(1, Ordering::Relaxed);
                let route = route.clone();
                let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
                *announced = Some(Instant::now());
                drop(announced);
                self.notify(&LaneNotice::Rerouted { sequence, left, route, reason });
                self.kick();
            }
            Ok(false) => {}
            Err(error) => {
                tracing::info!(lane = ?self.end, %route, %error, "route not taken");
                self.end.found(route, Fault::of(&error));
            }
        }
    }

    /// Sends something that must be acknowledged, now: the acknowledgement tells loss recovery what
    /// was lost, long before its backed-off timer would.
    fn kick(&self) {
        if let Some(path) = self.conn.path(PathId::ZERO)
            && let Err(error) = path.ping()
        {
            tracing::debug!(%error, "no ping");
        }
    }

    /// A far end that runs as a new process knows nothing of this lane: it ends now, with a clear
    /// reason, and not when its silence has lasted too long.
    async fn notice_restart(&self) {
        let mut known = self.end.far_incarnation();
        let mut tick = tokio::time::interval(STEER_EVERY);
        loop {
            tick.tick().await;
            let present = self.end.far_incarnation();
            known = known.or(present);
            if known != present {
                tracing::info!(lane = ?self.end, "the far end has restarted; the lane ends");
                self.conn.close(VarInt::from_u32(code::DONE), b"the far end has restarted");
            }
        }
    }

    async fn renew(&self) {
        let mut tick = tokio::time::interval(RENEW_EVERY);
        loop {
            tick.tick().await;
            self.end.renew_grants().await;
            self.make_ready().await;
        }
    }

    /// Asks for the labels of the next best routes, so that a reroute waits for nobody.
    async fn make_ready(&self) {
        let current = self.end.route();
        let decision = self.end.decide();
        let others = decision.alternatives.iter().chain(&decision.route);
        for route in others.filter(|route| **route != current) {
            if let Err(error) = self.end.prepare(route).await {
                tracing::debug!(lane = ?self.end, %route, %error, "no label ahead");
                // A lack of an answer proves nothing of a route that is not in use; a no does.
                if Fault::of(&error) == Fault::Refused {
                    self.end.found(route, Fault::Refused);
                }
            }
        }
    }

    /// Sends a notice to the far end; it may get lost.
    fn notify(&self, notice: &LaneNotice) {
        if let Err(error) = self.conn.send_datagram(Bytes::from(wire::encode(notice))) {
            tracing::debug!(%error, "lane notice not sent");
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// What a window says to the overlay. Only the loss that persists is told: a burst that congestion
/// control makes while it looks for the path's rate is no property of the path.
fn sample(closed: &Closed, loss: LossRate) -> PassiveSample {
    let Closed { counts, over, .. } = closed;
    // Where nothing came back, nothing is known to be delivered.
    if counts.received == 0 {
        return PassiveSample::default();
    }
    let packets = u32::try_from(counts.sent).unwrap_or(u32::MAX);
    let lost = u64::from(loss.ppm()) * u64::from(packets) / 1_000_000;
    let lost = u32::try_from(lost).unwrap_or(packets);
    PassiveSample {
        rtt: None,
        lost,
        delivered: packets - lost,
        bytes: counts.sent_bytes.saturating_sub(counts.lost_bytes),
        over: *over,
    }
}

/// The round-trip time to be assumed for acknowledgements while other packets come in: they may
/// wait behind a bulk transfer in a queue that our own last measurement did not meet.
fn unhurried(rtt: Rtt) -> Rtt {
    Rtt { smoothed: rtt.smoothed + rtt.smoothed / 2 + QUEUE, ..rtt }
}
