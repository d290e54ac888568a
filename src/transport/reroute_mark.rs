//! State shared by a lane's congestion controller and the owner of its route.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::adaptive::{FLOWS_AT_ONCE, INITIAL_WINDOW};
use crate::underlay::{Sizing, SlotActivity};

/// Bytes that may leave at once after a reroute although the window is full. They are enough for the new route's
/// acknowledgements to show all losses at once. They delay the packets that are sent again by little (4 ms at
/// 100 Mbit/s); a whole window took 40 ms.
const BURST: u64 = 32 * 1_443;

/// At most this many bursts add up over reroutes in a row, while none of them works.
const MOST_BURSTS: u64 = 4;

/// Bytes that may leave at once for each further reroute, or ping. Without them, a lane that tried four
/// routes in vain could not ping on the fifth until a timer of seconds ran out. It could not answer
/// either: while the window holds data back, QUIC sends no acknowledgements.
const URGENT: u64 = 2 * 1_443;

/// A round trip counts for no more than twice the smoothed one and this, in microseconds.
const LATE_MICROS: u64 = 100_000;

/// A round-trip time counts as longer when it exceeds the other by one part in this many. Jitter makes equal
/// ones differ by less.
const LONGER: u32 = 16;

/// Most bytes that may leave in this way until a packet is answered: more than an outage of two minutes takes.
const MOST_ALLOWED: u64 = 512 * 1_024;

/// Tells a connection's controller that the route changed, and the route's owner whether packets
/// arrive at the far end.
#[derive(Debug)]
pub struct RerouteMark {
    count: AtomicU64,
    /// Which route is in use.
    route: AtomicU64,
    longer: AtomicBool,
    resumes: AtomicBool,
    at: Mutex<Option<Instant>>,
    /// How often [`Self::urge`] was called.
    urged: AtomicU64,
    /// Bytes that were allowed to leave although the window is full, since one was answered.
    allowed: AtomicU64,
    /// Those of them that left.
    spent: AtomicU64,
    sent: AtomicU64,
    /// Packets that had come in when the last of these left.
    heard_before: AtomicU64,
    acknowledged: AtomicU64,
    /// Packets that were lost because they were too long for the route.
    too_long: AtomicU64,
    /// Packets that were lost while others waited in a queue.
    lost_in_queue: AtomicU64,
    /// First bytes of flows so far.
    opened: AtomicU64,
    /// In microseconds; `u64::MAX` where none was measured.
    least_rtt: AtomicU64,
    /// The same.
    smoothed_rtt: AtomicU64,
    lately: Lately,
    activity: Arc<SlotActivity>,
}

impl RerouteMark {
    /// The mark of the lane whose packets pass there.
    #[must_use]
    pub fn new(activity: Arc<SlotActivity>) -> Self {
        Self {
            count: AtomicU64::new(0),
            route: AtomicU64::new(0),
            longer: AtomicBool::new(false),
            resumes: AtomicBool::new(false),
            at: Mutex::default(),
            urged: AtomicU64::new(0),
            allowed: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            heard_before: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            too_long: AtomicU64::new(0),
            lost_in_queue: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            least_rtt: AtomicU64::new(u64::MAX),
            smoothed_rtt: AtomicU64::new(u64::MAX),
            lately: Lately::default(),
            activity,
        }
    }

    /// Records that the lane begins on the route with this number.
    pub fn begins_on(&self, route: u64) {
        self.route.store(route, Ordering::Relaxed);
    }

    /// Records a reroute, to the route with this number, whose round-trip time is that, if known. Call
    /// it before the first packet on the new route.
    pub fn rerouted(&self, now: Instant, route: u64, rtt: Option<Duration>) {
        self.route.store(route, Ordering::Relaxed);
        // If no packet was answered on the route before, the controller knows an earlier route.
        if let Some(old) = self.least_rtt() {
            let longer = rtt.is_some_and(|new| new > old + old / LONGER);
            self.longer.store(longer, Ordering::Relaxed);
        }
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        self.least_rtt.store(u64::MAX, Ordering::Relaxed);
        self.take_round_trips();
        let few = self.allowed.load(Ordering::Relaxed) < MOST_BURSTS * BURST;
        self.allow(if few { BURST } else { URGENT });
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Whether the controller resumes on a route with the window that it had there a moment ago.
    #[must_use]
    pub fn resumes(&self) -> bool {
        self.resumes.load(Ordering::Relaxed)
    }

    /// A controller of this kind was made.
    pub(super) fn set_resumes(&self, resumes: bool) {
        self.resumes.store(resumes, Ordering::Relaxed);
    }

    /// The number of the route in use.
    pub(super) fn route(&self) -> u64 {
        self.route.load(Ordering::Relaxed)
    }

    /// Whether the route in use is clearly longer than the one before.
    pub(super) fn is_longer(&self) -> bool {
        self.longer.load(Ordering::Relaxed)
    }

    /// Lets a few packets leave although the window is full of packets that are probably lost. Call it
    /// before a packet that must not wait for loss recovery's backed-off timer. That packet leaves in a size that passes.
    pub fn urge(&self) {
        self.allow(URGENT);
        self.urged.fetch_add(1, Ordering::Release);
    }

    /// How often [`Self::urge`] was called.
    pub(super) fn urged(&self) -> u64 {
        self.urged.load(Ordering::Acquire)
    }

    /// How many packets have left the node.
    pub(super) fn left(&self) -> u64 {
        self.activity.packets().0
    }

    /// How packets leave that may be too long for the route.
    pub(super) fn sizing(&self) -> &Sizing {
        self.activity.sizing()
    }

    /// How many bytes may leave now although the window is full.
    pub(super) fn allowance(&self) -> u64 {
        let allowed = self.allowed.load(Ordering::Relaxed);
        allowed.saturating_sub(self.spent.load(Ordering::Relaxed))
    }

    /// Records that this many bytes left although the window was full.
    pub(super) fn spend(&self, bytes: u64) {
        let allowed = self.allowed.load(Ordering::Relaxed);
        add_up_to(allowed, &self.spent, bytes);
    }

    fn allow(&self, bytes: u64) {
        add_up_to(MOST_ALLOWED, &self.allowed, bytes);
    }

    /// Records that a flow, which wrote `before` bytes so far, writes more. While the lane does not know the path,
    /// it may send in addition as much as a TCP connection of the flow's own would send in its first round trip.
    pub fn writes(&self, before: u64, bytes: u64) {
        self.opens(before, bytes, 1);
    }

    /// The same for the datagrams of an association. A program sends them at a rate of its own from the first one on,
    /// without a round trip in which it would learn one, so they count as those of many flows.
    pub fn sends_datagram(&self, before: u64, bytes: u64) {
        self.opens(before, bytes, FLOWS_AT_ONCE);
    }

    fn opens(&self, before: u64, bytes: u64, flows: u64) {
        let first = |bytes: u64| bytes.min(INITIAL_WINDOW);
        let opened = first(before.saturating_add(bytes)) - first(before);
        if opened > 0 {
            self.opened.fetch_add(flows * opened, Ordering::Relaxed);
        }
    }

    /// First bytes of flows so far.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
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

    /// The smoothed round-trip time (RFC 9002, section 5.3) of packets that were answered on the route on
    /// which they were sent; `None` before the first. It outlasts a reroute.
    ///
    /// QUIC's own also counts a packet that was lost, sent again beneath it on another route, and
    /// answered there, and then takes the outage for the path's round-trip time.
    #[must_use]
    pub fn smoothed_rtt(&self) -> Option<Duration> {
        measured(self.smoothed_rtt.load(Ordering::Relaxed))
    }

    /// QUIC's round-trip time, or ours, which is coarser, where QUIC has taken an outage for one.
    #[must_use]
    pub fn believable(&self, quic: Duration) -> Duration {
        self.smoothed_rtt().filter(|ours| is_misled(quic, *ours)).unwrap_or(quic)
    }

    /// The round trips seen since this was last asked, or since the last reroute.
    pub fn take_round_trips(&self) -> RoundTrips {
        RoundTrips {
            least: measured(self.lately.least.swap(u64::MAX, Ordering::Relaxed)),
            all: self.lately.all.swap(0, Ordering::Relaxed),
            limited: self.lately.limited.swap(0, Ordering::Relaxed),
        }
    }

    /// Records that a packet that must be acknowledged was sent.
    pub(super) fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.heard_before.store(self.activity.packets().1, Ordering::Relaxed);
    }

    /// Whether no packet has come in since the last one left that must be acknowledged. The counts of
    /// [`Self::progress`] do not show this: a lost packet is never acknowledged.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        let heard_before = self.heard_before.load(Ordering::Relaxed);
        self.sent.load(Ordering::Relaxed) > 0 && heard_before == self.activity.packets().1
    }

    /// Records that a packet was lost because it was too long for the route.
    pub(super) fn lost_for_size(&self) {
        self.too_long.fetch_add(1, Ordering::Relaxed);
    }

    /// How many such packets there were so far. They do not show the loss of a route.
    #[must_use]
    pub fn too_long(&self) -> u64 {
        self.too_long.load(Ordering::Relaxed)
    }

    /// Records that a packet was lost while those that arrived waited in a queue.
    pub(super) fn lost_in_queue(&self) {
        self.lost_in_queue.fetch_add(1, Ordering::Relaxed);
    }

    /// How many such packets there were so far. Most of them overflowed the queue, so they do not show the loss of a
    /// route.
    #[must_use]
    pub fn in_queue(&self) -> u64 {
        self.lost_in_queue.load(Ordering::Relaxed)
    }

    /// Records that a packet that was sent then has been acknowledged.
    pub(super) fn acknowledged(&self, sent: Instant) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.activity.acknowledged(sent);
    }

    /// Records that one that was sent then on the route in use has just been acknowledged.
    pub(super) fn answered(&self, now: Instant, sent: Instant) {
        self.allowed.store(0, Ordering::Relaxed);
        self.spent.store(0, Ordering::Relaxed);
        let rtt = micros(now.saturating_duration_since(sent));
        self.least_rtt.fetch_min(rtt, Ordering::Relaxed);
        self.lately.least.fetch_min(rtt, Ordering::Relaxed);
    }

    /// Records that the far end has had the time to move to the route in use, too; its first answer since
    /// took that long. Before, answers may have come on a faster one.
    pub(super) fn followed(&self, rtt: Duration) {
        self.least_rtt.store(micros(rtt), Ordering::Relaxed);
        self.take_round_trips();
    }

    /// Records how long the newest packet of an acknowledgement took. The older ones do not show the path's round
    /// trip: on a lossy path, they waited because earlier acknowledgements were lost.
    /// `limited`: the congestion window was the limit then, not the application. Returns whether it waited in a
    /// queue: it took an eighth longer than the route's least.
    pub(super) fn sampled(&self, rtt: Duration, limited: bool) -> bool {
        let sample = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX - 1);
        let smoothed = match self.smoothed_rtt.load(Ordering::Relaxed) {
            u64::MAX => sample,
            // One answer of a node that slept does not show the path's round trip.
            old => (7 * old + sample.min(2 * old + LATE_MICROS)) / 8,
        };
        self.smoothed_rtt.store(smoothed, Ordering::Relaxed);
        let least = self.least_rtt.load(Ordering::Relaxed);
        self.lately.all.fetch_add(1, Ordering::Relaxed);
        self.lately.limited.fetch_add(u64::from(limited), Ordering::Relaxed);
        sample > least.saturating_add(least / 8)
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    pub(super) fn at(&self) -> Option<Instant> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Round trips on the route in use, over some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoundTrips {
    /// The smallest; `None` without one.
    pub least: Option<Duration>,
    /// How many there were, one for each acknowledgement.
    pub all: u64,
    /// How many of them came while the congestion window, not the application, was the limit.
    pub limited: u64,
}

/// The same as it is counted.
#[derive(Debug)]
struct Lately {
    /// In microseconds; `u64::MAX` where none was measured.
    least: AtomicU64,
    all: AtomicU64,
    limited: AtomicU64,
}

impl Default for Lately {
    fn default() -> Self {
        Self { least: AtomicU64::new(u64::MAX), all: AtomicU64::new(0), limited: AtomicU64::new(0) }
    }
}

/// Whether QUIC's round-trip time is so much longer than ours that it must have counted an outage.
pub(super) fn is_misled(quic: Duration, ours: Duration) -> bool {
    quic > 2 * ours
}

fn add_up_to(most: u64, sum: &AtomicU64, bytes: u64) {
    let more = |sum: u64| Some((sum + bytes).min(most));
    // `more` never says no.
    let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn measured(micros: u64) -> Option<Duration> {
    (micros != u64::MAX).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_awaits_an_answer_until_a_packet_comes_in_whatever_was_lost() {
        let activity = Arc::<SlotActivity>::default();
        let mark = RerouteMark::new(activity.clone());
        assert!(!mark.awaits_answer(), "nothing has left");
        // Two leave, of which one is lost: only the other one is ever acknowledged.
        (0..2).for_each(|_| mark.sent());
        assert!(mark.awaits_answer());
        activity.add_received(1);
        assert!(!mark.awaits_answer());
        mark.sent();
        assert!(mark.awaits_answer());
    }

    #[test]
    fn a_lane_without_a_route_may_ask_on_the_next_but_not_flood_it() {
        let (mark, now) = (RerouteMark::new(Arc::default()), Instant::now());
        mark.spend(BURST);
        let mut left = 0;
        for n in 1..=20 {
            mark.rerouted(now, 1, None);
            let allowed = mark.allowance();
            assert_eq!(allowed, if n <= MOST_BURSTS { BURST } else { URGENT }, "reroute {n}");
            mark.spend(allowed);
            left += allowed;
        }
        (0..1_000).for_each(|_| mark.urge());
        assert_eq!(left + mark.allowance(), MOST_ALLOWED);
        mark.answered(now, now);
        assert_eq!(mark.allowance(), 0, "a route works; the window decides again");
    }

    #[test]
    fn the_first_ten_packets_of_each_flow_count() {
        let mark = RerouteMark::new(Arc::default());
        for (before, bytes) in [(0, 10_000), (10_000, 100_000), (110_000, 100_000), (0, 20)] {
            mark.writes(before, bytes);
        }
        assert_eq!(mark.opened(), INITIAL_WINDOW + 20);
    }

    #[test]
    fn the_first_datagrams_count_as_those_of_many_flows() {
        let mark = RerouteMark::new(Arc::default());
        mark.sends_datagram(0, 1_200);
        assert_eq!(mark.opened(), FLOWS_AT_ONCE * 1_200);
        (1..1_000).for_each(|sent| mark.sends_datagram(sent * 1_200, 1_200));
        assert_eq!(mark.opened(), FLOWS_AT_ONCE * INITIAL_WINDOW);
    }

    #[test]
    fn packets_whose_acknowledgement_was_lost_did_not_wait_in_a_queue() {
        let (mark, t0) = (RerouteMark::new(Arc::default()), Instant::now());
        let (ms, rtt) = (Duration::from_millis, Duration::from_millis(60));
        // Acknowledged together, a round trip after the last of them was sent.
        (0..=40).for_each(|late| mark.answered(t0 + rtt + ms(40), t0 + ms(late)));
        assert!(!mark.sampled(rtt, false));
        assert_eq!(mark.take_round_trips(), RoundTrips { least: Some(rtt), all: 1, limited: 0 });
        mark.answered(t0 + 2 * rtt, t0);
        assert!(mark.sampled(2 * rtt, false));
    }

    #[test]
    fn the_smoothed_rtt_follows_the_path_but_not_one_late_answer() {
        let mark = RerouteMark::new(Arc::default());
        let ms = Duration::from_millis;
        assert_eq!(mark.smoothed_rtt(), None);
        let sample = |rtt| _ = mark.sampled(rtt, false);
        (0..50).for_each(|_| sample(ms(60)));
        sample(ms(9_000));
        assert!(mark.smoothed_rtt().unwrap() <= ms(80), "{mark:?}");
        (0..50).for_each(|_| sample(ms(300)));
        assert!(mark.smoothed_rtt().unwrap() >= ms(290), "{mark:?}");
    }
}
