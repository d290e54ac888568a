//! What runs beside every lane's end until its connection closes:
//!
//! - **guard** (`guard.rs`): watches the route in use and leaves it when it dies;
//! - **weigh** (`weigh.rs`): measures the loss of the route in use and leaves it when another is much
//!   cleaner;
//! - **steer**: moves the lane to a better route when the overlay finds one, if this is the entry;
//! - **follow** (`follow.rs`): does as the far end tells;
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
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{LaneEnd, history::Cause, suspects::Fault, watch::UNKNOWN_RTT};
use crate::{
    flow::Route,
    identity::peer_of,
    transport::code,
    wire::{
        self,
        lane::{LaneNotice, RerouteReason},
        link::{LaneEndRole, LinkRefusal},
    },
};

/// How often to see which grants are to be renewed, and what other routes lack one: a relay that was
/// away for a while has to grant anew before it is needed.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// How often an entry compares its route with the best one. The overlay's own hysteresis decides;
/// this only bounds how late a decision is carried out.
const STEER_EVERY: Duration = Duration::from_millis(250);

/// Slack for the watch's resolution and the clocks' when packets are sent again.
pub(super) const STEP: Duration = Duration::from_millis(20);

/// Longest wait for a label on the way to another route, besides two round trips.
const GRANTED_AFTER: Duration = Duration::from_millis(50);

/// Keeps one lane's end.
pub(super) struct Keeper {
    pub(super) conn: Connection,
    pub(super) end: Arc<LaneEnd>,
    sequence: AtomicU64,
    /// When this end last told the far end that it has moved.
    pub(super) announced: Mutex<Option<Instant>>,
    /// Where the entry is, if the exit did not go along.
    pub(super) owed: Mutex<Option<Route>>,
    /// Grants have to be asked for now.
    ungranted: Notify,
}

impl Keeper {
    pub(super) fn new(conn: Connection, end: Arc<LaneEnd>) -> Self {
        Self {
            conn,
            end,
            sequence: AtomicU64::new(0),
            announced: Mutex::default(),
            owed: Mutex::default(),
            ungranted: Notify::new(),
        }
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
            () = self.notice_restarts() => {}
        }
    }

    /// Compares the route in use with the overlay's best. The exit leaves that to the entry, and goes
    /// where it is once that route is no longer one to avoid.
    async fn steer(&self) {
        let mut tick = tokio::time::interval(STEER_EVERY);
        loop {
            tick.tick().await;
            match self.end.role() {
                LaneEndRole::Entry => match self.end.better() {
                    Some(best) => {
                        self.reroute(&best, Cause::other(RerouteReason::Better)).await;
                    }
                    None => self.heed_probes().await,
                },
                LaneEndRole::Exit => {
                    let owed = self.owed().clone();
                    if let Some(route) = owed.filter(|route| self.end.goes_along(route)) {
                        self.follow_on(&route, RerouteReason::Better).await;
                    }
                }
            }
        }
    }

    /// Moves our direction to `route` and tells the far end on it. False if the route cannot be had.
    pub(super) async fn reroute(&self, route: &Route, cause: Cause) -> bool {
        let (left, reason) = (self.end.route(), cause.reason);
        *self.owed() = None;
        match self.use_route(route, cause).await {
            Ok(true) => {
                let sequence = 1 + self.sequence.fetch_add(1, Ordering::Relaxed);
                let route = route.clone();
                let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
                *announced = Some(Instant::now());
                drop(announced);
                self.notify(&LaneNotice::Rerouted { sequence, left, route, reason });
                kick(&self.conn);
            }
            Ok(false) => {}
            Err(error) => {
                tracing::info!(lane = ?self.end, %route, %error, "route not taken");
                self.end.found(route, Fault::of(&error));
                return false;
            }
        }
        true
    }

    /// As [`LaneEnd::use_route`], but a relay that has yet to grant a label has to answer soon.
    pub(super) async fn use_route(&self, route: &Route, cause: Cause) -> Result<bool, LinkRefusal> {
        let rtt = self.end.measured(route).map_or(UNKNOWN_RTT, |metrics| metrics.rtt);
        let granted = timeout(2 * rtt + GRANTED_AFTER, self.end.use_route(route, cause)).await;
        let asked = || route.relay().unwrap_or(self.end.peer()).clone();
        granted.unwrap_or_else(|_| Err(LinkRefusal::NoLink(asked())))
    }

    /// The round-trip time of the lane's own packets.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.conn.rtt(PathId::ZERO).map(|quic| self.end.mark().believable(quic))
    }

    /// A far end that runs as a new process knows nothing of this lane: it ends now, with a clear
    /// reason, and not when its silence has lasted too long.
    ///
    /// A relay that does so knows nothing of its grants: others are asked for.
    ///
    /// A far end that is no member any more, as it was revoked or its certificate has ended, loses
    /// the lane.
    async fn notice_restarts(&self) {
        let far_end = peer_of(&self.conn);
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
            let expelled = far_end.as_ref().ok().and_then(|peer| self.end.far_end_expelled(peer));
            if let Some(reason) = expelled {
                tracing::warn!(lane = ?self.end, reason, "the lane ends");
                self.conn.close(VarInt::from_u32(code::UNAUTHORISED), reason.as_bytes());
            }
            if self.end.forget_restarted_relays() {
                self.ungranted.notify_one();
            }
        }
    }

    async fn renew(&self) {
        let mut tick = tokio::time::interval(RENEW_EVERY);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.ungranted.notified() => {}
            }
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
                self.end.heed_refusal(route, &error);
            }
        }
    }

    /// Sends a notice to the far end; it may get lost.
    pub(super) fn notify(&self, notice: &LaneNotice) {
        if let Err(error) = self.conn.send_datagram(Bytes::from(wire::encode(notice))) {
            tracing::debug!(%error, "lane notice not sent");
        }
    }
}

/// Sends something that must be acknowledged, now: the acknowledgement tells loss recovery what was
/// lost, long before its backed-off timer would.
pub(super) fn kick(conn: &Connection) {
    if let Some(path) = conn.path(PathId::ZERO)
        && let Err(error) = path.ping()
    {
        tracing::debug!(%error, "no ping");
    }
}

pub(super) fn now() -> std::time::Instant {
    Instant::now().into_std()
}

pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
