//! The content of `ping`: the round trip of each route to a node, by a probe sent now.

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::{NodeView, SteerError};
use crate::{
    flow::{Route, RouteWish},
    identity::NodeName,
    lane::RouteControl as _,
    mesh::FarLink,
    overlay::candidates::Candidate,
    wire::link::LaneEndRole,
};

/// One probe of a route to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoutePing {
    /// The route.
    pub route: Route,
    /// Its round-trip time in milliseconds; `None`: the probe was lost, or the relay has no link to the node.
    pub rtt_ms: Option<f64>,
    /// The part of it that the relay advertises of its link to the node; `None` without a relay.
    pub beyond_ms: Option<f64>,
    /// The loss of that link towards the node in percent, as the relay advertises it.
    pub beyond_loss_percent: Option<f64>,
    /// Why no lane takes the route now; `None`: it may.
    pub excluded: Option<String>,
}

/// A node cannot be pinged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    /// It is this node.
    #[error("{0} is this node; name another one, as `ronproxy links` lists them")]
    Here(NodeName),
    /// A name is not known.
    #[error(transparent)]
    Unknown(#[from] SteerError),
}

impl NodeView {
    /// Probes each route to `node` once, or only the one via `relay`, at most for some seconds.
    ///
    /// The first link of a route is probed. What follows behind a relay is what the relay advertises.
    ///
    /// # Errors
    /// When `node` is this node, or a name is not known.
    pub async fn ping(
        &self,
        node: &NodeName,
        relay: Option<&NodeName>,
    ) -> Result<Vec<RoutePing>, PingError> {
        for name in std::iter::once(node).chain(relay) {
            if *name == self.mesh.us().name {
                return Err(PingError::Here(name.clone()));
            }
            if !self.mesh.knows(name) {
                return Err(SteerError::Unknown(name.clone()).into());
            }
        }
        let all = self.mesh.candidates(node, LaneEndRole::Entry, &RouteWish::default());
        let wanted = all.into_iter().filter(|candidate| match relay {
            Some(relay) => candidate.route.relay() == Some(relay),
            None => true,
        });
        let far = self.mesh.far_links();
        Ok(join_all(wanted.map(|candidate| self.ping_route(node, candidate, &far))).await)
    }

    async fn ping_route(
        &self,
        node: &NodeName,
        candidate: Candidate,
        far: &[FarLink],
    ) -> RoutePing {
        let first = candidate.route.first_node(node);
        let near = self.mesh.ping(first).await.ok().map(|rtt| rtt.as_secs_f64() * 1e3);
        let beyond = candidate.route.relay().map(|relay| {
            far.iter().find(|link| link.from == *relay && link.to == *node && link.up)
        });
        let beyond_ms = beyond.map(|link| link.and_then(|link| link.rtt_ms));
        let rtt_ms = match beyond_ms {
            None => near,
            Some(beyond) => near.zip(beyond).map(|(near, beyond)| near + beyond),
        };
        RoutePing {
            route: candidate.route,
            rtt_ms,
            beyond_ms: beyond_ms.flatten(),
            beyond_loss_percent: beyond.flatten().and_then(|link| link.loss_out_percent),
            excluded: candidate.excluded.map(|exclusion| exclusion.to_string()),
        }
    }
}
