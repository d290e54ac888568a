//! From an application's wish to a flow: rules, the choice of the exit, the lane.

use std::{fmt, sync::Arc};

use crate::{
    config::{Action, Rules},
    flow::{BoxFuture, Flow, FlowDialer, FlowRequest, Refusal, RefusalKind, RouteWish},
    identity::NodeName,
    lane::{LaneKey, LanePool},
    mesh::Mesh,
};

/// Opens flows for the entry.
pub(super) struct Dialer {
    pub(super) rules: Rules,
    pub(super) mesh: Arc<Mesh>,
    pub(super) pool: Arc<LanePool>,
}

impl FlowDialer for Dialer {
    fn dial(&self, request: FlowRequest) -> BoxFuture<'_, Result<Box<dyn Flow>, Refusal>> {
        Box::pin(async move {
            let keys = self.keys(&request)?;
            let mut last = Refusal::new(RefusalKind::NoExit, "no exit is known yet");
            for key in keys {
                match self.pool.open_flow(&request, &key).await {
                    // Another exit may do better only where this one could not be reached.
                    Err(refusal) if refusal.kind == RefusalKind::ExitUnreachable => last = refusal,
                    outcome => return outcome,
                }
            }
            Err(last)
        })
    }
}

impl Dialer {
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
        let exits = match (&request.exit, wishes.exits) {
            (Some(exit), _) => vec![exit.clone()],
            (None, named) if !named.is_empty() => named,
            (None, _) => self.mesh.exits_for(&request.target.host),
        };
        let hint = request.hint.clone().or(wishes.hint).unwrap_or_default();
        let wish = RouteWish { hint, class: wishes.class, pin: wishes.pin, avoid: wishes.avoid };
        let key = |exit: NodeName| LaneKey { exit, wish: wish.clone() };
        Ok(exits.into_iter().map(key).collect())
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}
