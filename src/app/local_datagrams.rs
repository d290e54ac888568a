//! An association's flow that leaves at its own entry, because the node is an exit too: no lane carries it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::flow::{
    DatagramDrop, DatagramFlow, DatagramSink, FlowEntry, FlowGuard, FlowLabel, FlowLimits,
    FlowState, MAX_DATAGRAM, OutwardDatagrams, Refusal, Target,
};

/// An open flow without a lane.
pub(super) struct LocalDatagrams {
    entry: Arc<FlowEntry>,
    outward: Arc<dyn DatagramSink>,
    ended: CancellationToken,
    _drop_ends: DropGuard,
}

/// Counts what comes back.
struct Counted {
    client: Arc<dyn DatagramSink>,
    entry: Arc<FlowEntry>,
}

impl LocalDatagrams {
    /// Opens the flow by `open`, which is given what takes the answers; `client` gets them.
    pub(super) fn begin(
        guard: FlowGuard,
        client: Arc<dyn DatagramSink>,
        limits: Arc<FlowLimits>,
        open: impl FnOnce(Arc<dyn DatagramSink>) -> Result<OutwardDatagrams, Refusal>,
    ) -> Result<Self, Refusal> {
        let entry = guard.entry().clone();
        let opened = open(Arc::new(Counted { client, entry: entry.clone() }))?;
        entry.set_state(FlowState::Open);
        let (ended, dropped) = (CancellationToken::new(), CancellationToken::new());
        let (outward, done, until) = (opened.sink.clone(), ended.clone(), dropped.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = limits.association_overdue(opened.carried.activity()) => {}
                () = guard.entry().carried.activity().closed() => {}
                () = until.cancelled() => {}
            }
            done.cancel();
            drop((guard, opened));
        });
        Ok(Self { entry, outward, ended, _drop_ends: dropped.drop_guard() })
    }
}

impl DatagramFlow for LocalDatagrams {
    fn label(&self) -> FlowLabel {
        self.entry.label
    }

    fn is_open(&self) -> bool {
        !self.ended.is_cancelled()
    }

    fn waits_since(&self) -> Option<Instant> {
        None
    }

    fn room(&self, _: &Target) -> usize {
        MAX_DATAGRAM
    }

    fn send(&self, peer: &Target, payload: &[u8]) -> Result<(), DatagramDrop> {
        if !self.is_open() {
            return Err(DatagramDrop::FlowEnded);
        }
        self.entry.carried.add_sent(payload.len());
        if let Some(counts) = &self.entry.datagrams {
            counts.sent.fetch_add(1, Ordering::Relaxed);
        }
        self.outward.deliver(peer, payload);
        Ok(())
    }
}

impl DatagramSink for Counted {
    fn deliver(&self, peer: &Target, payload: &[u8]) {
        self.entry.carried.add_received(payload.len());
        if let Some(counts) = &self.entry.datagrams {
            counts.received.fetch_add(1, Ordering::Relaxed);
        }
        self.client.deliver(peer, payload);
    }

    fn refused(&self, peer: &Target, refusal: Refusal) {
        self.client.refused(peer, refusal);
    }
}
