//! Watches the route in use and leaves it when it dies.

use std::time::Duration;

use noq::VarInt;
use tokio::time::Instant;

use super::{
    history::Cause,
    keeper::{Keeper, STEP, kick, millis, now},
    suspects::Fault,
    watch::{Finding, Rtt, Watch},
};
use crate::{
    flow::Route,
    transport::code,
    underlay::SlotActivity,
    wire::lane::{LaneNotice, RerouteReason},
};

/// How much earlier than computed the first lost packet may have been sent: the smoothed round-trip
/// time lags behind a queue that grows or shrinks.
const UNSURE: Duration = Duration::from_millis(10);

/// Room for a queue, and for a late acknowledgement (25 ms, RFC 9000), that was not there when the
/// round-trip time was measured.
const QUEUE: Duration = Duration::from_millis(40);

/// How many routes are tried at once that turn out not to be had.
const ATTEMPTS: usize = 3;

impl Keeper {
    /// Two watches look at the same route. One sees packets of any kind, also those that need no
    /// answer: it tells the receiver of a download. The other sees acknowledgements of what needs
    /// one: where only our own direction is dead, the far end's packets still come.
    pub(super) async fn guard(&self) {
        let mut packets = Watch::new(now(), self.end.activity().packets());
        let mut answers = Watch::new(now(), self.end.mark().progress());
        let mut route = self.end.route();
        // What the lane has measured is of the route before; a longer one is not dead for that.
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
            let rtt = Rtt::new(self.rtt().max(longer), mark.least_rtt());
            let (activity, at) = (self.end.activity(), now());
            let heard = packets.look(at, activity.packets(), last(activity, at), rtt);
            let answered = answers.look(at, mark.progress(), (at, at), unhurried(rtt));
            match heard.and(answered) {
                Finding::LookAt(at) => tokio::time::sleep_until(at.into()).await,
                Finding::Rest => self.end.activity().sent_again().await,
                Finding::Ping(at) => {
                    self.end.mark().urge();
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

    async fn leave_dead_route(&self, silence: Duration) {
        let dead = self.end.route();
        self.end.found(&dead, Fault::Silent);
        let began = self.silence_began(silence);
        let reason = RerouteReason::Silent { ms: millis(began.elapsed()) };
        let cause = self.silent_since(began, self.breaks_of(&dead), reason);
        self.check_labels(dead.clone(), cause);
        for _ in 0..ATTEMPTS {
            let Some(instead) = self.end.instead_of(&dead) else { break };
            if self.reroute(&instead, cause).await {
                return;
            }
        }
        tracing::debug!(lane = ?self.end, ?silence, "the only route is silent");
        self.end.mark().urge();
        kick(&self.conn);
    }

    /// Asks whether the relay, and the far end, still know the labels that we send under: whoever
    /// restarted does not, nor does a far end that outlived our sleep, and both drop our packets.
    fn check_labels(&self, route: Route, cause: Cause) {
        let (end, conn) = (self.end.clone(), self.conn.clone());
        tokio::spawn(async move {
            let (replaced, forgotten) = tokio::join!(end.check_grant(&route), end.is_forgotten());
            if forgotten {
                tracing::info!(lane = ?end, "the far end knows nothing of the lane; it ends");
                conn.close(VarInt::from_u32(code::DONE), b"forgotten by the far end");
            } else if replaced {
                tracing::info!(lane = ?end, "the relay had forgotten the lane, and granted anew");
                end.send_again(&cause);
                end.mark().urge();
                kick(&conn);
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
    pub(super) fn far_silence_began(&self, route: &Route, ms: u32) -> Option<Instant> {
        let way = self.end.measured(route).map_or(Duration::ZERO, |new| new.rtt / 2);
        Instant::now().checked_sub(Duration::from_millis(ms.into()) + way)
    }

    /// What follows from a silence that began then: the packets that were on their way, and those
    /// whose acknowledgements were, are lost. The first of them had waited in the queue, and was sent
    /// one of `ways` before.
    pub(super) fn silent_since(
        &self,
        began: Instant,
        ways: [Duration; 2],
        reason: RerouteReason,
    ) -> Cause {
        let rtt = self.rtt().unwrap_or_default();
        // What answered the last packet at once may have been the first to be lost: the watch counts
        // from the packet after it.
        let dead_since = began.checked_sub(2 * rtt + STEP);
        let queue = rtt.saturating_sub(2 * self.one_way());
        let [first, second] = ways.map(|way| began.checked_sub(queue + way + UNSURE));
        Cause {
            reason,
            far_reason: None,
            dead_since,
            lost_from: first.zip(second).map(<[Instant; 2]>::from),
        }
    }

    /// How long a packet takes to the far end when no queue is in its way.
    pub(super) fn one_way(&self) -> Duration {
        self.end.mark().least_rtt().unwrap_or_default() / 2
    }

    /// How long before our last packet from the far end the first one was sent that was lost: for each
    /// link of `route` that may have broken, the farther one first.
    ///
    /// The last packet from the far end had just left a link whose near end is `a` away from us, and
    /// the last one from us had left its far end, `b` away: they came in after `a`, and had been sent
    /// `b` before.
    fn breaks_of(&self, route: &Route) -> [Duration; 2] {
        let way = self.one_way();
        let Some(relay) = route.relay() else { return [way; 2] };
        let to_relay = self.end.least_rtt_to(relay).map_or(way / 2, |rtt| way.min(rtt / 2));
        [to_relay + way, to_relay]
    }
}

/// When the last packet went out and came in; `now` where there was none.
fn last(
    activity: &SlotActivity,
    now: std::time::Instant,
) -> (std::time::Instant, std::time::Instant) {
    let arrived = activity.arrivals().last().map(Instant::into_std);
    (activity.departed().unwrap_or(now).min(now), arrived.unwrap_or(now).min(now))
}

/// The round-trip time to be assumed for acknowledgements while other packets come in: they may
/// wait behind a bulk transfer in a queue that our own last measurement did not meet.
fn unhurried(rtt: Rtt) -> Rtt {
    Rtt { smoothed: rtt.smoothed + rtt.smoothed / 2 + QUEUE, ..rtt }
}
