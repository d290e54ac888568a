//! The events of this entry's flows, and what they carry by exit and route.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    events::{Event, Events},
    flow::{FlowEntry, FlowLabel, FlowState, FlowWatcher, Refusal, Route, Target},
    lane::LanePool,
};

/// How often bytes are counted for the route that their flow takes. What a flow carried in the second in
/// which it moved may be counted for its next route.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Records what becomes of this entry's flows.
pub(super) struct FlowLog {
    events: Arc<Events>,
    pool: Weak<LanePool>,
}

impl FlowLog {
    /// A log of the flows of `pool`.
    pub(super) fn start(events: Arc<Events>, pool: &Arc<LanePool>) -> Arc<Self> {
        let log = Arc::new(Self { events, pool: Arc::downgrade(pool) });
        pool.flows().watch(log.clone());
        log
    }

    /// A flow is open.
    pub(super) fn opened(&self, label: FlowLabel) {
        let Some(flow) = self.pool.upgrade().and_then(|pool| pool.flows().get(label)) else {
            return;
        };
        let age = Instant::now().into_std().saturating_duration_since(flow.since);
        self.events.record(Event::FlowOpened {
            label: flow.label,
            target: flow.target.to_string(),
            exit: flow.exit.clone(),
            route: self.route(&flow),
            hint: flow.hint.clone(),
            opened_ms: age.as_secs_f64() * 1e3,
        });
    }

    /// A flow was refused.
    pub(super) fn refused(&self, target: &Target, refusal: &Refusal) {
        self.events.record(Event::refused(target.to_string(), refusal));
    }

    /// Counts what live flows carry, until it is dropped.
    pub(super) async fn count(self: Arc<Self>) {
        let mut ticks = interval(COUNT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.count_now();
        }
    }

    /// Counts what live flows carried since the last time.
    pub(super) fn count_now(&self) {
        let Some(pool) = self.pool.upgrade() else { return };
        pool.flows().snapshot().iter().for_each(|flow| self.count_flow(flow));
    }

    fn count_flow(&self, flow: &FlowEntry) {
        let new = flow.carried.take_new();
        if new != (0, 0) {
            let route = self.route(flow).map(|route| route.to_string());
            self.events.carried(flow.exit.as_str(), route.as_deref(), new);
        }
    }

    pub(super) fn route(&self, flow: &FlowEntry) -> Option<Route> {
        let end = self.pool.upgrade()?.end_of(flow.lane()?.lane)?;
        Some(end.route())
    }
}

impl FlowWatcher for FlowLog {
    fn ended(&self, flow: &FlowEntry) {
        if flow.state() == FlowState::Opening {
            // It was refused, which is an event of its own.
            return;
        }
        self.count_flow(flow);
        let (sent, received) = flow.carried.bytes();
        let age = Instant::now().into_std().saturating_duration_since(flow.since);
        self.events.record(Event::FlowClosed {
            label: flow.label,
            target: flow.target.to_string(),
            exit: flow.exit.clone(),
            route: self.route(flow),
            seconds: age.as_secs_f64(),
            sent,
            received,
        });
    }
}
