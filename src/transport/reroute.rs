//! A congestion controller that knows about reroutes.
//!
//! QUIC does not see that the route beneath a lane changed. Without this module two things go wrong.
//! QUIC takes the packets lost on the dead route for congestion on the new one. And these packets still
//! fill the window, so QUIC sends only probes, at growing intervals, until one is acknowledged.
//!
//! [`RouteAware`] wraps any controller. From a reroute until the first packet sent after it is
//! acknowledged, it lets QUIC send what the [`RerouteMark`] allows, however much is in flight on the old
//! route. It hides the losses of packets sent before the reroute from the wrapped controller.
//!
//! On a lossy route CUBIC and BBR3 reduce their rate to very little. When the lane leaves such a route,
//! they start again, because that route's loss says nothing about the next one. BBR3 bounds the bytes in
//! flight by the least round trip of the last seconds, so it also starts again on a longer route.
//! [`Adaptive`] is told of the reroute and keeps its rate.
//!
//! This module also sees which packets arrive, by their size ([`Sizes`]), and decides how long packets leave.

use std::{
    any::Any,
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, Instant},
};

use noq::congestion::{Controller, ControllerFactory, ControllerMetrics};

use super::{
    adaptive::Adaptive,
    first_rtt::{FirstRtt, is_followed},
    recent_loss::RecentLoss,
    reroute_mark::{RerouteMark, is_misled},
    resume::RoutesTo,
    sizes::Sizes,
};

/// The slowest pace of a lane, in bytes per second: 1 Mbit/s.
///
/// After minutes of keystrokes BBR3 estimates a very slow path. It then delays the ping that tests the route by
/// tens of milliseconds, or by more than the time-out of its answer. Pacing by a window that losses have made
/// small delays pings and acknowledgements by seconds. The window still bounds the bytes in flight.
const LEAST_PACING: u64 = 125_000;

/// When a lane returns to a route within this time, it continues with the window that it had there. A trial of
/// another route takes less.
const PARKED_FOR: Duration = Duration::from_secs(10);

/// The rate of a route is recorded for the next lane at most this often.
const NOTED_EVERY: Duration = Duration::from_millis(100);

/// Makes congestion controllers.
pub(super) type Factory = Arc<dyn ControllerFactory + Send + Sync>;

/// The effect of a reroute on a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnReroute {
    /// It is told, and forgets the state of the old route.
    Told,
    /// It goes on, unless the route lost packets.
    Keeps,
    /// It restarts after loss, and on a longer route: it bounds the bytes in flight by the least round trip of the
    /// last seconds.
    RestartsIfLonger,
}

impl OnReroute {
    /// Whether the window of a route is kept for a lane that returns to it soon.
    fn resumes(self) -> bool {
        self != Self::RestartsIfLonger
    }
}

/// Makes [`RouteAware`] controllers that listen to one mark.
pub(super) struct RouteAwareFactory {
    pub(super) mark: Arc<RerouteMark>,
    pub(super) kind: Kind,
    /// The effect of a reroute on them.
    pub(super) on_reroute: OnReroute,
    /// The rates of earlier lanes on these routes.
    pub(super) routes: RoutesTo,
}

/// Which controller is wrapped.
#[derive(Clone)]
pub(super) enum Kind {
    Adaptive,
    Other(Factory),
}

impl Kind {
    fn build(&self, now: Instant, mtu: u16) -> Inner {
        match self {
            Self::Adaptive => Inner::Adaptive(Box::new(Adaptive::new(now, mtu))),
            Self::Other(factory) => Inner::Other(factory.clone().build(now, mtu)),
        }
    }
}

/// The controller of the packets on a route.
enum Inner {
    Adaptive(Box<Adaptive>),
    Other(Box<dyn Controller>),
}

impl Inner {
    /// Its window, where flows have written `opened` first bytes so far.
    fn window(&self, opened: u64) -> u64 {
        match self {
            Self::Adaptive(adaptive) => adaptive.window_with(opened),
            Self::Other(controller) => controller.window(),
        }
    }

    fn metrics(&self, opened: u64) -> ControllerMetrics {
        match self {
            Self::Adaptive(adaptive) => adaptive.metrics_with(opened),
            Self::Other(controller) => controller.metrics(),
        }
    }
}

impl Deref for Inner {
    type Target = dyn Controller;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Adaptive(adaptive) => &**adaptive,
            Self::Other(controller) => &**controller,
        }
    }
}

impl DerefMut for Inner {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::Adaptive(adaptive) => &mut **adaptive,
            Self::Other(controller) => &mut **controller,
        }
    }
}

impl Clone for Inner {
    fn clone(&self) -> Self {
        match self {
            Self::Adaptive(adaptive) => Self::Adaptive(adaptive.clone()),
            Self::Other(controller) => Self::Other(controller.clone_box()),
        }
    }
}

impl RouteAwareFactory {
    fn make(&self, now: Instant, current_mtu: u16) -> RouteAware {
        self.mark.set_resumes(self.on_reroute.resumes());
        let mut inner = self.kind.build(now, current_mtu);
        let carried = self.routes.recall(now, self.mark.route());
        if let (Inner::Adaptive(adaptive), Some(carried)) = (&mut inner, carried) {
            adaptive.resume(carried);
        }
        RouteAware {
            inner,
            kind: self.kind.clone(),
            routes: self.routes.clone(),
            noted: None,
            on_reroute: self.on_reroute,
            mtu: current_mtu,
            route: self.mark.route(),
            parked: None,
            restarted_at: None,
            awaits: None,
            loss: RecentLoss::default(),
            seen: self.mark.count(),
            urged: self.mark.urged(),
            left: self.mark.left(),
            sizes: Sizes::new(),
            told: None,
            mark: self.mark.clone(),
            in_flight: 0,
            rerouted_at: None,
            not_followed_since: None,
            first_after: None,
            newest: None,
            queues: false,
            quic_rtt: None,
        }
    }
}

impl ControllerFactory for RouteAwareFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(self.make(now, current_mtu))
    }
}

/// The controller of a route that was left, and when.
type Parked = (u64, Inner, Instant);

struct RouteAware {
    inner: Inner,
    kind: Kind,
    routes: RoutesTo,
    /// When the rate of the route was last recorded.
    noted: Option<Instant>,
    on_reroute: OnReroute,
    mtu: u16,
    /// Which route is in use.
    route: u64,
    /// The controller as it was when the route before was left, for a lane that returns to it soon.
    parked: Option<Parked>,
    /// When the controller last restarted. It does not know packets sent before.
    restarted_at: Option<Instant>,
    /// The condition for which it waits before it sees acknowledgements.
    awaits: Option<FirstRtt>,
    /// The recent loss on the route in use.
    loss: RecentLoss,
    mark: Arc<RerouteMark>,
    /// Bytes sent and neither acknowledged nor lost.
    in_flight: u64,
    /// How many reroutes have been taken into account.
    seen: u64,
    /// The same of calls for something that must not wait.
    urged: u64,
    /// Packets that had left the node when the last one was built.
    left: u64,
    /// Whether long packets pass on the route in use.
    sizes: Sizes,
    /// The bytes and the newest of the packets whose loss the controller has just been told of.
    told: Option<(u64, u64)>,
    /// When the last reroute was.
    rerouted_at: Option<Instant>,
    /// The same, while the far end may still answer on the route before, which may be faster.
    not_followed_since: Option<Instant>,
    /// The first packet sent after the last reroute.
    first_after: Option<u64>,
    /// When the newest packet of the acknowledgement at hand was sent, if on the route in use.
    newest: Option<Instant>,
    /// Whether the packets that arrive waited in a queue.
    queues: bool,
    /// The round-trip time by which QUIC paces, and whose samples may be those of an outage.
    quic_rtt: Option<Duration>,
}

impl RouteAware {
    fn note_reroutes(&mut self) {
        let count = self.mark.count();
        if count == self.seen {
            return;
        }
        self.seen = count;
        self.rerouted_at = self.mark.at();
        self.sizes.rerouted();
        self.not_followed_since = self.rerouted_at;
        self.first_after = None;
        self.queues = false;
        let lossy = std::mem::take(&mut self.loss).is_lossy();
        let left = std::mem::replace(&mut self.route, self.mark.route());
        let Some(at) = self.rerouted_at else { return };
        if self.takes_up_parked(at) {
            return;
        }
        if self.on_reroute.resumes() {
            self.parked = Some((left, self.inner.clone(), at));
        }
        let restarts = match self.on_reroute {
            OnReroute::Told => true,
            OnReroute::Keeps => lossy,
            OnReroute::RestartsIfLonger => lossy || self.mark.is_longer(),
        };
        if restarts {
            self.restart(at);
        }
    }

    /// A ping shall leave in a size that passes. QUIC builds the packets of a batch before the first one
    /// leaves, and the first long ones of a batch leave in pieces: so the ping counts from the next batch on.
    fn note_pings(&mut self) {
        let left = self.mark.left();
        let begins = std::mem::replace(&mut self.left, left) != left;
        let urged = self.mark.urged();
        if begins && urged != self.urged {
            self.urged = urged;
            self.sizes.asked();
        }
    }

    /// The controller restarts, with the state that it may keep.
    fn restart(&mut self, at: Instant) {
        match &mut self.inner {
            Inner::Adaptive(adaptive) => {
                adaptive.rerouted(at, self.routes.recall(at, self.route));
            }
            Inner::Other(_) => self.inner = self.kind.build(at, self.mtu),
        }
        self.restarted_at = Some(at);
        let waits = self.on_reroute != OnReroute::Keeps;
        self.awaits = waits.then(|| FirstRtt::of_one_that_began(at));
    }

    /// Whether the lane returned to the route that it left a moment ago. It then has the window that
    /// it had there. Packets that were sent on the route in between do not count for it.
    fn takes_up_parked(&mut self, at: Instant) -> bool {
        let Some((route, controller, left_at)) = self.parked.take() else { return false };
        let returns = route == self.route && at < left_at + PARKED_FOR;
        if returns {
            self.inner = controller;
            self.restarted_at = Some(at);
        }
        returns
    }

    /// A packet that was sent then on the route in use has just been acknowledged.
    fn answered(&mut self, now: Instant, sent: Instant) {
        self.mark.answered(now, sent);
        if self.not_followed_since.is_some_and(|at| is_followed(at, now, sent)) {
            self.not_followed_since = None;
            self.mark.followed(now.saturating_duration_since(sent));
        }
    }

    /// Whether the controller is to learn that a packet that was sent then has just been acknowledged.
    fn learns(&mut self, now: Instant, sent: Instant, smoothed: Duration) -> bool {
        if self.restarted_at.is_some_and(|at| sent < at) {
            return false;
        }
        // Only BBR3 takes QUIC's smoothed one for its first.
        let smoothed = (self.on_reroute == OnReroute::RestartsIfLonger).then_some(smoothed);
        if self.awaits.as_mut().is_some_and(|first| !first.is_known(now, sent, smoothed)) {
            return false;
        }
        self.awaits = None;
        true
    }

    /// Records the rate of the route in use, from time to time.
    fn note_carried(&mut self, now: Instant) {
        if self.noted.is_some_and(|noted| now < noted + NOTED_EVERY) {
            return;
        }
        if let Inner::Adaptive(adaptive) = &self.inner
            && let Some(carried) = adaptive.carries()
        {
            self.routes.note(now, self.route, carried);
            self.noted = Some(now);
        }
    }

    /// Whether a packet went over a route that has been left. (Its number says so better than its
    /// time, of which a coarse clock gives the last packet before and the reroute the same.)
    fn is_before_reroute(&self, pn: u64) -> bool {
        self.rerouted_at.is_some() && self.first_after.is_none_or(|first| pn < first)
    }
}

impl Controller for RouteAware {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.inner.on_sent(now, bytes, largest_pn);
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.note_reroutes();
        self.note_pings();
        self.mark.sent();
        if self.rerouted_at.is_some() && self.first_after.is_none() {
            self.first_after = Some(pn);
        }
        let this = self.sizes.sent(now, pn, bytes, self.mtu);
        self.mark.sizing().set(self.sizes.leave(), self.mtu, this);
        self.in_flight += u64::from(bytes);
        let window = self.inner.window(self.mark.opened());
        let excess = self.in_flight.saturating_sub(window);
        if excess > 0 {
            self.mark.spend(excess.min(bytes.into()));
        }
        self.inner.on_packet_sent(now, bytes, pn);
    }

    fn on_cwnd_limited(&mut self) {
        self.inner.on_cwnd_limited();
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &noq_proto::RttEstimator,
    ) {
        self.note_reroutes();
        self.quic_rtt = Some(rtt.get());
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.mark.acknowledged(sent);
        if !self.is_before_reroute(pn) {
            self.loss.acknowledged();
            let size = u16::try_from(bytes).unwrap_or(u16::MAX);
            self.sizes.acked(now, pn, size, self.mark.sizing().whole_came());
            self.answered(now, sent);
            self.newest = self.newest.max(Some(sent));
        }
        if self.learns(now, sent, rtt.get()) {
            self.inner.on_ack(now, sent, bytes, pn, app_limited, rtt);
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        if let Some(sent) = self.newest.take() {
            self.queues = self.mark.sampled(now.saturating_duration_since(sent), !app_limited);
        }
        // Packets that need no acknowledgement are not told otherwise.
        self.in_flight = in_flight;
        if let Inner::Adaptive(adaptive) = &mut self.inner {
            adaptive.set_opened(self.mark.opened());
        }
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
        self.note_carried(now);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        is_ecn: bool,
        lost_bytes: u64,
        largest_lost_pn: u64,
    ) {
        self.note_reroutes();
        if is_ecn {
            if !self.is_before_reroute(largest_lost_pn) {
                self.inner.on_congestion_event(now, sent, false, true, 0, largest_lost_pn);
            }
            return;
        }
        // QUIC reports each lost packet, and then all of them together.
        let Some((bytes, largest)) = self.told.take() else { return };
        let is_persistent = is_persistent_congestion && bytes == lost_bytes;
        self.inner.on_congestion_event(now, sent, is_persistent, false, bytes, largest);
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.note_reroutes();
        self.in_flight = self.in_flight.saturating_sub(lost_bytes.into());
        if self.is_before_reroute(pn) {
            return;
        }
        if self.sizes.lost(now, pn, lost_bytes) {
            return self.mark.lost_for_size();
        }
        self.loss.lost();
        if self.queues {
            self.mark.lost_in_queue();
        }
        // A packet with acknowledgements only has no bytes.
        if lost_bytes > 0 {
            let (bytes, _) = self.told.unwrap_or_default();
            self.told = Some((bytes + u64::from(lost_bytes), pn));
        }
        self.inner.on_packet_lost(lost_bytes, pn, now);
    }

    fn on_spurious_congestion_event(&mut self) {
        self.inner.on_spurious_congestion_event();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        if new_mtu > self.mtu {
            self.sizes.pass();
        }
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn on_ack_frequency_update(&mut self, threshold: u64, max_ack_delay: Duration) {
        self.inner.on_ack_frequency_update(threshold, max_ack_delay);
    }

    fn window(&self) -> u64 {
        let window = self.inner.window(self.mark.opened());
        match self.mark.allowance() {
            0 => window,
            more => window.max(self.in_flight).saturating_add(more),
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.inner.metrics(self.mark.opened());
        metrics.pacing_rate = match metrics.pacing_rate {
            Some(rate) => Some(rate.max(LEAST_PACING)),
            None => {
                let window = self.inner.window(0).saturating_add(self.mark.allowance());
                self.quic_rtt.and_then(|quic| pace(window, quic, self.mark.smoothed_rtt()))
            }
        };
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone(),
            kind: self.kind.clone(),
            routes: self.routes.clone(),
            noted: self.noted,
            on_reroute: self.on_reroute,
            mtu: self.mtu,
            route: self.route,
            parked: self.parked.clone(),
            restarted_at: self.restarted_at,
            awaits: self.awaits,
            loss: self.loss,
            mark: self.mark.clone(),
            in_flight: self.in_flight,
            seen: self.seen,
            urged: self.urged,
            left: self.left,
            sizes: self.sizes.clone(),
            told: self.told,
            rerouted_at: self.rerouted_at,
            not_followed_since: self.not_followed_since,
            first_after: self.first_after,
            newest: self.newest,
            queues: self.queues,
            quic_rtt: self.quic_rtt,
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        match self.inner {
            Inner::Adaptive(adaptive) => adaptive,
            Inner::Other(controller) => controller.into_any(),
        }
    }
}

impl fmt::Debug for RouteAware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteAware").field("mark", &self.mark).finish_non_exhaustive()
    }
}

/// The pace of a controller that knows only a window, in bytes per second, where QUIC's own, 5/4 of the
/// window in a round trip (RFC 9002, section 7.7), would be too slow.
fn pace(window: u64, quic: Duration, ours: Option<Duration>) -> Option<u64> {
    let ours = ours.map_or(quic, |ours| ours.min(quic));
    let micros = u64::try_from(ours.as_micros()).unwrap_or(u64::MAX).max(1);
    let pace = window.saturating_mul(1_250_000) / micros;
    (is_misled(quic, ours) || pace < LEAST_PACING).then(|| pace.max(LEAST_PACING))
}

#[cfg(test)]
#[path = "reroute_tests.rs"]
mod tests;
