//! Weighs what the route in use loses, and leaves it when another is much cleaner.

use std::time::Duration;

use noq::PathId;

use super::{
    evidence::{Closed, Counts, Evidence},
    history::Cause,
    keeper::{Keeper, now},
    suspects::Fault,
};
use crate::{
    flow::Route,
    overlay::{monitor::PassiveSample, units::LossRate},
    transport::RoundTrips,
    wire::lane::RerouteReason,
};

/// How often an end looks at what it lost.
const WEIGH_EVERY: Duration = Duration::from_millis(250);

/// Less sustained loss than this, in packets of a million, moves no lane; above it, what matters is
/// what another route promises. Congestion control alone stays far below it.
const LEAVE_ABOVE_PPM: u32 = 6_000;

/// So many lost probes of a million are believed without packets of the lane's own; of the last
/// hundred, that is ten.
const PROBES_LOST_PPM: u32 = 100_000;

impl Keeper {
    /// Weighs what is lost on the route in use, as far as this end sends on it.
    pub(super) async fn weigh(&self) {
        let mut evidence = Evidence::new(now(), self.counts());
        let mut route = self.end.route();
        let mut tick = tokio::time::interval(WEIGH_EVERY);
        loop {
            tick.tick().await;
            let present = self.end.route();
            if present != route {
                route = present;
                evidence.rerouted(now(), self.counts());
            } else {
                // Jitter lets a few round trips look as if they had waited in a queue, congestion most.
                let mut trips = RoundTrips::default();
                let queued = || {
                    trips = self.end.mark().take_round_trips();
                    4 * trips.queued > trips.all
                };
                if let Some(closed) = evidence.look(now(), self.counts(), queued) {
                    self.judge_loss(&route, &closed, trips.least).await;
                }
            }
        }
    }

    async fn judge_loss(&self, route: &Route, closed: &Closed, rtt: Option<Duration>) {
        let Some(loss) = closed.sustained else { return };
        if *route == Route::Direct {
            self.end.observed(&PassiveSample { rtt, ..sample(closed, loss) });
        }
        if loss.ppm() >= LEAVE_ABOVE_PPM {
            self.leave_lossy_route(route, loss).await;
        }
    }

    /// Leaves a route that loses many of the probes for one that this lane avoided for a while, if
    /// probes find that clean. A lane that carries little does not notice by its own packets.
    pub(super) async fn heed_probes(&self) {
        let route = self.end.route();
        let Some(metrics) = self.end.measured(&route) else { return };
        let loss = metrics.worse_loss();
        if loss.ppm() >= PROBES_LOST_PPM {
            self.leave_lossy_route(&route, loss).await;
        }
    }

    async fn leave_lossy_route(&self, route: &Route, loss: LossRate) {
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
