//! A congestion controller that knows about reroutes.
//!
//! QUIC does not see that the route beneath a lane changed. Two things would then go wrong. The
//! packets lost on the dead route would be taken for congestion on the new one. And the window
//! would still be full of them, so that nothing but a backed-off probe timeout could leave, which
//! alone tells loss recovery that the path works again.
//!
//! [`RouteAware`] wraps any controller. From a reroute until the first packet sent after it is
//! acknowledged, it opens the window by a small burst, so that new packets leave at once; and it
//! keeps the losses of packets sent before the reroute from the wrapped controller.
//!
//! On a lossy route a controller learns to crawl. Leaving one, for whatever reason, it begins anew:
//! what it learnt from that route's loss says nothing about the next one.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use noq::congestion::{Controller, ControllerFactory, ControllerMetrics};

use super::recent_loss::RecentLoss;
use crate::underlay::SlotActivity;

/// The bursts that several reroutes in a row may add up to, before one of them worked.
const MAX_EXTRA: u64 = 4;

/// What may leave at once after a reroute although the window is full: enough for the new route's
/// acknowledgements to show all losses at once, and so little that what is sent again waits for
/// next to nothing in the new route's queue (4 ms at 100 Mbit/s). A whole window took 40 ms.
const BURST: u64 = 32 * 1_443;

/// The slowest pace of a lane, in bytes per second: 1 Mbit/s.
///
/// After minutes of keystrokes BBR3 takes the path for a very slow one and holds back the very ping
/// that is to show that the route lives, by tens of milliseconds, or by more than the answer's
/// time-out. The window still bounds what is in flight.
const LEAST_PACING: u64 = 125_000;

/// Tells a connection's controller that the route changed, and the route's owner whether packets
/// arrive at the far end.
#[derive(Debug)]
pub struct RerouteMark {
    count: AtomicU64,
    at: Mutex<Option<Instant>>,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    /// In microseconds; `u64::MAX` where none was measured.
    least_rtt: AtomicU64,
    lately: Lately,
    activity: Arc<SlotActivity>,
}

impl RerouteMark {
    /// The mark of the lane whose packets pass there.
    #[must_use]
    pub fn new(activity: Arc<SlotActivity>) -> Self {
        Self {
            count: AtomicU64::new(0),
            at: Mutex::default(),
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            least_rtt: AtomicU64::new(u64::MAX),
            lately: Lately::default(),
            activity,
        }
    }

    /// Records a reroute. Call it before the first packet on the new route.
    pub fn rerouted(&self, now: Instant) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        self.least_rtt.store(u64::MAX, Ordering::Relaxed);
        self.take_round_trips();
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Packets sent that must be acknowledged, and those that newly were, so far. Other than packets
    /// coming in, an acknowledgement shows that our own direction works.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.acknowledged.load(Ordering::Relaxed))
    }

    /// The least round-trip time seen on the route in use; `None` before the first. No answer comes
    /// sooner.
    #[must_use]
    pub fn least_rtt(&self) -> Option<Duration> {
        measured(self.least_rtt.load(Ordering::Relaxed))
    }

    /// The round trips seen since this was last asked, or since the last reroute.
    pub fn take_round_trips(&self) -> RoundTrips {
        RoundTrips {
            least: measured(self.lately.least.swap(u64::MAX, Ordering::Relaxed)),
            all: self.lately.all.swap(0, Ordering::Relaxed),
            queued: self.lately.queued.swap(0, Ordering::Relaxed),
        }
    }

    /// Records that a packet that was sent then on the route in use has just been acknowledged.
    fn answered(&self, now: Instant, sent: Instant) {
        let rtt = now.saturating_duration_since(sent).as_micros();
        let rtt = u64::try_from(rtt).unwrap_or(u64::MAX);
        let ever = self.least_rtt.fetch_min(rtt, Ordering::Relaxed).min(rtt);
        self.lately.least.fetch_min(rtt, Ordering::Relaxed);
        self.lately.all.fetch_add(1, Ordering::Relaxed);
        self.lately.queued.fetch_add(u64::from(rtt > ever + ever / 8), Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    fn at(&self) -> Option<Instant> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Round trips on the route in use, over some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoundTrips {
    /// The smallest; `None` without one.
    pub least: Option<Duration>,
    /// How many there were.
    pub all: u64,
    /// How many of them took an eighth longer than the route's least: they waited in a queue.
    pub queued: u64,
}

/// The same as it is counted.
#[derive(Debug)]
struct Lately {
    /// In microseconds; `u64::MAX` where none was measured.
    least: AtomicU64,
    all: AtomicU64,
    queued: AtomicU64,
}

impl Default for Lately {
    fn default() -> Self {
        Self { least: AtomicU64::new(u64::MAX), all: AtomicU64::new(0), queued: AtomicU64::new(0) }
    }
}

fn measured(micros: u64) -> Option<Duration> {
    (micros != u64::MAX).then(|| Duration::from_micros(micros))
}

/// Makes [`RouteAware`] controllers that listen to one mark.
pub(super) struct RouteAwareFactory<F: ?Sized> {
    pub(super) mark: Arc<RerouteMark>,
    pub(super) inner: Arc<F>,
}

impl<F: ControllerFactory + Send + Sync + ?Sized + 'static> ControllerFactory
    for RouteAwareFactory<F>
{
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(RouteAware {
            inner: self.inner.clone().build(now, current_mtu),
            factory: self.inner.clone(),
            mtu: current_mtu,
            restarted_at: None,
            loss: RecentLoss::default(),
            seen: self.mark.count(),
            mark: self.mark.clone(),
            rerouted_at: None,
            first_after: None,
            extra: 0,
        })
    }
}

struct RouteAware<F: ?Sized> {
    inner: Box<dyn Controller>,
    factory: Arc<F>,
    mtu: u16,
    /// When the controller last began anew; it knows nothing of packets sent before.
    restarted_at: Option<Instant>,
    /// What was lost lately on the route in use.
    loss: RecentLoss,
    mark: Arc<RerouteMark>,
    /// How many reroutes have been taken into account.
    seen: u64,
    /// When the last reroute was.
    rerouted_at: Option<Instant>,
    /// The first packet sent after the last reroute.
    first_after: Option<u64>,
    /// Bursts added since the last acknowledgement over a working route.
    extra: u64,
}

impl<F: ControllerFactory + Send + Sync + ?Sized + 'static> RouteAware<F> {
    fn note_reroutes(&mut self) {
        let count = self.mark.count();
        if count != self.seen {
            self.extra = (self.extra + count - self.seen).min(MAX_EXTRA);
            self.seen = count;
            self.rerouted_at = self.mark.at();
            self.first_after = None;
            let loss = std::mem::take(&mut self.loss);
            if loss.is_lossy()
                && let Some(at) = self.rerouted_at
            {
                self.inner = self.factory.clone().build(at, self.mtu);
                self.restarted_at = Some(at);
            }
        }
    }

    /// Whether a packet sent then went over a route that has been left.
    fn is_before_reroute(&self, sent: Instant) -> bool {
        self.rerouted_at.is_some_and(|at| sent < at)
    }
}

impl<F: ControllerFactory + Send + Sync + ?Sized + 'static> Controller for RouteAware<F> {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.inner.on_sent(now, bytes, largest_pn);
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.note_reroutes();
        self.mark.sent.fetch_add(1, Ordering::Relaxed);
        if self.rerouted_at.is_some() && self.first_after.is_none() {
            self.first_after = Some(pn);
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
        self.mark.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.mark.activity.acknowledged(sent);
        if !self.is_before_reroute(sent) {
            self.extra = 0;
            self.loss.acknowledged();
            self.mark.answered(now, sent);
        }
        if self.restarted_at.is_none_or(|at| sent >= at) {
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
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
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
        if self.is_before_reroute(sent) {
            return;
        }
        self.inner.on_congestion_event(
            now,
            sent,
            is_persistent_congestion,
            is_ecn,
            lost_bytes,
            largest_lost_pn,
        );
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.note_reroutes();
        let before = self.rerouted_at.is_some() && self.first_after.is_none_or(|first| pn < first);
        if !before {
            self.loss.lost();
            self.inner.on_packet_lost(lost_bytes, pn, now);
        }
    }

    fn on_spurious_congestion_event(&mut self) {
        self.inner.on_spurious_congestion_event();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn on_ack_frequency_update(&mut self, threshold: u64, max_ack_delay: Duration) {
        self.inner.on_ack_frequency_update(threshold, max_ack_delay);
    }

    fn window(&self) -> u64 {
        let unseen = self.mark.count() - self.seen;
        let extra = (self.extra + unseen).min(MAX_EXTRA);
        self.inner.window().saturating_add(extra * BURST)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.inner.metrics();
        metrics.pacing_rate = metrics.pacing_rate.map(|rate| rate.max(LEAST_PACING));
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            factory: self.factory.clone(),
            mtu: self.mtu,
            restarted_at: self.restarted_at,
            loss: self.loss,
            mark: self.mark.clone(),
            seen: self.seen,
            rerouted_at: self.rerouted_at,
            first_after: self.first_after,
            extra: self.extra,
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.inner.into_any()
    }
}

impl<F: ?Sized> fmt::Debug for RouteAware<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteAware").field("extra", &self.extra).finish_non_exhaustive()
    }
}
