//! Does as the far end tells.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    history::Cause,
    keeper::{Keeper, STEP, kick},
    suspects::Fault,
};
use crate::{
    flow::Route,
    wire::{
        self,
        lane::{LaneNotice, RerouteReason},
        link::LaneEndRole,
    },
};

impl Keeper {
    /// Follows the far end's notices; returns when the connection ends.
    pub(super) async fn follow(&self) {
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

    /// The exit follows the entry, unless it knows the route to be dead and a better one.
    ///
    /// The entry follows the exit only away from a dead route that it uses itself, or from one on
    /// which nothing was answered yet: the exit's notice has come through where the exit is. And not
    /// where the exit is about to follow it: two ends that do as the other did would swap their
    /// routes.
    async fn follow_to(&self, left: &Route, route: &Route, reason: RerouteReason) {
        let fault = match reason {
            RerouteReason::Silent { .. } => Some(Fault::Silent),
            RerouteReason::Lossy { percent } => Some(Fault::Lossy(percent.min(100))),
            RerouteReason::Better | RerouteReason::FarEnd => None,
        };
        if fault == Some(Fault::Silent) && self.is_news_of_before(left) {
            tracing::debug!(lane = ?self.end, %left, %route, "the far end has not heard us there yet");
            return;
        }
        if let Some(fault) = fault {
            self.end.found(left, fault);
        }
        let unproven = self.end.mark().least_rtt().is_none();
        let heed = match self.end.role() {
            LaneEndRole::Exit => self.end.goes_along(route),
            LaneEndRole::Entry => {
                fault.is_some()
                    && (self.end.route() == *left || unproven)
                    && !self.notices_cross(left)
            }
        };
        if heed {
            self.follow_on(route, reason).await;
        } else if self.end.role() == LaneEndRole::Exit {
            *self.owed() = Some(route.clone());
        }
    }

    /// Whether the far end cannot have meant our packets on `left` when it found that route silent:
    /// we have not been there for the time of a verdict. Such a notice was sent long ago, and once more
    /// with all that was lost.
    fn is_news_of_before(&self, left: &Route) -> bool {
        let rtt = self.rtt_of(left);
        self.end.route() == *left && self.end.moved_within(rtt + rtt / 2 + 2 * STEP)
    }

    /// Moves our direction to where the far end is, which moved there for this reason.
    pub(super) async fn follow_on(&self, route: &Route, reason: RerouteReason) {
        *self.owed() = None;
        let began = match reason {
            RerouteReason::Silent { ms } => self.far_silence_began(route, ms),
            _ => None,
        };
        let cause = began.map_or(Cause::other(RerouteReason::FarEnd), |began| {
            self.silent_since(began, [self.one_way(); 2], RerouteReason::FarEnd)
        });
        let cause = Cause { far_reason: Some(reason), ..cause };
        match self.use_route(route, cause).await {
            Ok(true) => kick(&self.conn),
            Ok(false) => {}
            Err(error) => {
                tracing::info!(lane = ?self.end, %route, %error, "cannot follow the far end");
                if self.end.role() == LaneEndRole::Exit {
                    *self.owed() = Some(route.clone());
                }
            }
        }
    }

    /// Whether the far end may not have heard yet, when it sent the notice that is just here, that we
    /// have moved to `route`.
    fn notices_cross(&self, route: &Route) -> bool {
        let announced = *self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        let rtt = self.rtt_of(route);
        announced.is_some_and(|at| at.elapsed() < rtt + STEP)
    }

    /// The longer of the round-trip times of `route` as probes have it, and of the lane's own packets.
    fn rtt_of(&self, route: &Route) -> Duration {
        let measured = self.end.measured(route).map(|metrics| metrics.rtt);
        self.rtt().max(measured).unwrap_or_default()
    }

    /// Where the entry is, if the exit did not go along.
    pub(super) fn owed(&self) -> MutexGuard<'_, Option<Route>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
