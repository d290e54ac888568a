//! From an application's wish to a flow: rules, the choice of the exit, the lane.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use tokio::time::Instant;

use super::exits::{Held, Offer, cost, order};
use crate::{
    config::{Action, Rules, Wishes},
    flow::{BoxFuture, Flow, FlowDialer, FlowRequest, Host, Refusal, RefusalKind, RouteWish},
    identity::NodeName,
    lane::{LaneKey, LanePool, RouteControl},
    mesh::Mesh,
    overlay::select::Selector,
    wire::link::LaneEndRole,
};

/// Opens flows for the entry.
pub(super) struct Dialer {
    pub(super) rules: Rules,
    mesh: Arc<Mesh>,
    pool: Arc<LanePool>,
    held: Mutex<Held>,
    /// Counts the flows that are spread.
    spread: AtomicU8,
}

impl FlowDialer for Dialer {
    fn dial(&self, request: FlowRequest) -> BoxFuture<'_, Result<Box<dyn Flow>, Refusal>> {
        Box::pin(async move {
            let keys = self.keys(&request)?;
            if keys.iter().any(|key| key.way.is_some()) {
                // The next flow takes the next way.
                self.spread.fetch_add(1, Ordering::Relaxed);
            }
            let mut last = Refusal::new(RefusalKind::NoExit, "no exit is known yet");
            for (at, key) in keys.iter().enumerate() {
                let others = at + 1 < keys.len();
                match self.pool.open_flow(&request, key, others).await {
                    // Another exit may do better only where this one could not be reached.
                    Err(refusal) if refusal.kind == RefusalKind::ExitUnreachable => last = refusal,
                    opened => {
                        if opened.is_ok() {
                            self.held().hold(&request.target.host, &key.exit);
                        }
                        return opened;
                    }
                }
            }
            Err(last)
        })
    }
}

impl Dialer {
    pub(super) fn new(rules: Rules, mesh: Arc<Mesh>, pool: Arc<LanePool>) -> Self {
        Self { rules, mesh, pool, held: Mutex::default(), spread: AtomicU8::new(0) }
    }

    /// The lanes that may carry the flow, in the order to be tried.
    pub(super) fn keys(&self, request: &FlowRequest) -> Result<Vec<LaneKey>, Refusal> {
        let choice =
            self.rules.choose(&request.target, request.user.as_deref(), request.client.ip());
        let wishes = match choice.action {
            Action::Overlay(wishes) => wishes,
            Action::Reject => {
                let rule = choice.rule.unwrap_or_default();
                let detail = format!("rule {rule} of this entry rejects {}", request.target);
                return Err(Refusal::new(RefusalKind::Policy, detail));
            }
        };
        let host = &request.target.host;
        let Wishes { exits, hint, class, pin, avoid, fallback, patience, spread } = wishes;
        let hint = request.hint.clone().or(hint).unwrap_or_default();
        let wish = RouteWish { hint, class, pin, avoid };
        let any = |names: Vec<NodeName>| names.into_iter().map(|name| (name, 0)).collect();
        let (exits, fallback) = match &request.exit {
            Some(exit) => (vec![(exit.clone(), 0)], Vec::new()),
            None if exits.is_empty() => (self.mesh.exits_serving(host), fallback),
            None => (any(exits), fallback),
        };
        let ordered = [self.ordered(exits, host, &wish), self.ordered(any(fallback), host, &wish)];
        let way = spread.map(|lanes| self.spread.load(Ordering::Relaxed) % lanes.max(1));
        let key = |exit: NodeName| LaneKey { exit, wish: wish.clone(), patience, way };
        Ok(ordered.into_iter().flatten().map(key).collect())
    }

    /// The exits, each given with how closely it serves `host`, in the order to be tried.
    fn ordered(
        &self,
        exits: Vec<(NodeName, usize)>,
        host: &Host,
        wish: &RouteWish,
    ) -> Vec<NodeName> {
        let offer = |(exit, fit): (NodeName, usize)| {
            let candidates = self.mesh.candidates(&exit, LaneEndRole::Entry, wish);
            let mut selector = Selector::new(wish.hint.clone());
            let decision = selector.decide(Instant::now().into_std(), candidates);
            let cost = decision.route.map(|route| {
                let taken = decision.candidates.iter().find(|c| c.candidate.route == route);
                cost(&wish.hint, taken.and_then(|taken| taken.candidate.metrics))
            });
            Offer { exit, fit, cost }
        };
        order(exits.into_iter().map(offer).collect(), self.held().exit(host))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}
