//! Obtains, renews and replaces the relays' grants that a lane's end holds.

use super::{HopRequest, LaneEnd, keeper::now, suspects::Fault};
use crate::{
    flow::Route,
    underlay::NextHop,
    wire::{label::Label, link::LinkRefusal},
};

impl LaneEnd {
    /// Obtains what is needed to use `route`, without using it yet.
    ///
    /// # Errors
    /// When the relay refuses, or a link is down.
    pub async fn prepare(&self, route: &Route) -> Result<NextHop, LinkRefusal> {
        let held = self.state().hops.get(now(), route, self.granter(route));
        if let Some(hop) = held {
            return Ok(hop);
        }
        let request = HopRequest {
            peer: self.peer().clone(),
            far_label: self.far_label,
            route: route.clone(),
            role: self.role(),
            class: self.wish.class.clone(),
        };
        let hop = self.control.next_hop(request).await?;
        let granter = self.granter(route);
        Ok(self.state().hops.hold(now(), route, hop, granter))
    }

    /// Which process the relay of `route` is, as far as we know.
    fn granter(&self, route: &Route) -> Option<u64> {
        self.control.incarnation(route.relay()?)
    }

    /// Renews the grants that are to end; forgets those that are gone.
    ///
    /// If the grant of the route in use is gone (its relay restarted), a new one is asked for.
    pub async fn renew_grants(&self) {
        let due = self.state().hops.due(now());
        for (route, label) in due {
            self.renew_grant(&route, label).await;
        }
        let route = self.route();
        if self.state().hops.label(&route).is_none() {
            self.replace_grant(&route).await;
        }
    }

    /// Asks the relay of `route`, which was found silent, whether it still knows our label: one
    /// that restarted does not, and would swallow all packets after the route is trusted again. True
    /// if it did not and has given the route, which is still in use, another.
    pub(super) async fn check_grant(&self, route: &Route) -> bool {
        let held = self.state().hops.label(route);
        if let Some(label) = held {
            self.renew_grant(route, label).await;
        }
        let gone = self.state().hops.label(route).is_none();
        gone && self.route() == *route && self.replace_grant(route).await
    }

    /// Forgets the grants of relays that have restarted; true if there was one.
    pub(super) fn forget_restarted_relays(&self) -> bool {
        self.state().hops.forget_restarted(|relay| self.control.incarnation(relay))
    }

    async fn renew_grant(&self, route: &Route, label: Label) {
        let Some(relay) = route.relay() else { return };
        match self.control.renew(relay, vec![label]).await.first() {
            Some(true) => self.state().hops.renewed(now(), route, label),
            Some(false) => self.state().hops.forget(route, label),
            // A relay that does not answer may still hold the grant.
            None => {}
        }
    }

    /// Obtains a grant in place of one that is gone; true if the route is still in use then.
    async fn replace_grant(&self, route: &Route) -> bool {
        match self.prepare(route).await {
            Ok(hop) => {
                let state = self.state();
                let used = state.route == *route;
                if used {
                    self.switch.route_slot(self.slot(), Some(hop));
                }
                used
            }
            Err(error) => {
                tracing::info!(%route, peer = %self.peer(), %error, "the relay's grant is gone");
                self.heed_refusal(route, &error);
                false
            }
        }
    }

    /// Avoids `route` if its relay said no. A lack of an answer proves nothing of a route that is not
    /// in use.
    pub(super) fn heed_refusal(&self, route: &Route, error: &LinkRefusal) {
        if Fault::of(error) == Fault::Refused {
            self.found(route, Fault::Refused);
        }
    }

    /// Whether the far end says that it knows nothing of this lane any more, as after a long sleep of
    /// ours. False also where it cannot be asked.
    pub(super) async fn is_forgotten(&self) -> bool {
        let renewed = self.control.renew(self.peer(), vec![self.far_label]).await;
        renewed.first() == Some(&false)
    }
}
