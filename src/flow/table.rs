//! The live flows of a node, for listings and for unique labels.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::{Activity, DatagramCounts, FlowLabel, Hint, Target};
use crate::identity::NodeName;

/// The protocol an application spoke to the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "kebab-case")]
pub enum Ingress {
    /// SOCKS version 5 (RFC 1928).
    Socks5,
    /// SOCKS version 4 or 4a.
    Socks4,
    /// HTTP CONNECT (RFC 9110, §9.3.6).
    HttpConnect,
    /// An HTTP request in absolute form (RFC 9112, §3.2.2).
    HttpForward,
    /// UDP ASSOCIATE of SOCKS version 5 (RFC 1928 §7).
    Socks5Udp,
    /// None: the application has the node in its own process ([`Node`](crate::Node)).
    Library,
    /// The same, for packets between programs of two nodes ([`crate::Conduit`]).
    Conduit,
}

impl Ingress {
    /// Whether its flows carry datagrams instead of bytes.
    #[must_use]
    pub fn has_datagrams(self) -> bool {
        matches!(self, Self::Socks5Udp | Self::Conduit)
    }
}

impl fmt::Display for Ingress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socks5 => "SOCKS5",
            Self::Socks4 => "SOCKS4",
            Self::HttpConnect => "CONNECT",
            Self::HttpForward => "HTTP",
            Self::Socks5Udp => "SOCKS5 UDP",
            Self::Library => "library",
            Self::Conduit => "conduit",
        })
    }
}

/// Where a flow is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    /// The exit has been asked and has not answered yet.
    Opening,
    /// Bytes can flow.
    Open,
}

/// One live flow, as listings show it.
#[derive(Debug)]
pub struct FlowEntry {
    /// The flow's label.
    pub label: FlowLabel,
    /// Where it goes; of an association, the first destination on this flow; of a conduit, the node.
    pub target: Target,
    /// The exit that carries it.
    pub exit: NodeName,
    /// Its routing hint.
    pub hint: Hint,
    /// The application's address.
    pub client: SocketAddr,
    /// The application's protocol.
    pub ingress: Ingress,
    /// When it was accepted.
    pub since: Instant,
    /// Bytes carried so far.
    pub carried: Arc<Carried>,
    /// The datagrams of an association or a conduit; `None`: it is a connection.
    pub datagrams: Option<Arc<DatagramCounts>>,
    state: Mutex<FlowState>,
    lane: Mutex<Option<OnLane>>,
}

/// The lane that carries a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnLane {
    /// The lane's number at this node.
    pub lane: u32,
    /// How often the lane had been rerouted when the flow began.
    pub reroutes_before: u64,
}

/// What a flow that stands still waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "kebab-case")]
pub enum WaitsFor {
    /// Its lane, in which nothing comes in.
    Lane,
    /// The application, which takes no more bytes.
    Client,
    /// The destination, which takes no more bytes.
    Destination,
}

/// Bytes a flow has carried so far. Updated by the flow, read by listings.
#[derive(Debug, Default)]
pub struct Carried {
    sent: AtomicU64,
    received: AtomicU64,
    activity: Activity,
    /// Whether the client, and whether the destination, takes no more of the bytes that there are for it.
    held_up: [AtomicBool; 2],
    /// What of it was counted for metrics.
    counted: Mutex<(u64, u64)>,
}

/// The live flows of one entry. Cheap to clone; all clones share the table.
#[derive(Clone, Default)]
pub struct FlowTable {
    flows: Arc<Mutex<BTreeMap<FlowLabel, Arc<FlowEntry>>>>,
    watcher: Arc<OnceLock<Arc<dyn FlowWatcher>>>,
}

/// Is told when flows end.
pub trait FlowWatcher: Send + Sync + 'static {
    /// The flow has ended, or was not opened.
    fn ended(&self, flow: &FlowEntry);
}

/// Keeps one flow listed; dropping it removes the flow.
pub struct FlowGuard {
    table: FlowTable,
    entry: Arc<FlowEntry>,
}

impl FlowTable {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<FlowLabel, Arc<FlowEntry>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a new flow under a label that no live flow has; `draw` gives candidate labels.
    pub fn insert(
        &self,
        draw: &mut dyn FnMut() -> u32,
        describe: impl FnOnce(FlowLabel) -> FlowEntry,
    ) -> FlowGuard {
        let mut flows = self.lock();
        let label = loop {
            let label = FlowLabel(draw());
            if !flows.contains_key(&label) {
                break label;
            }
        };
        let entry = Arc::new(describe(label));
        flows.insert(label, entry.clone());
        FlowGuard { table: self.clone(), entry }
    }

    /// The live flows, oldest first.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Arc<FlowEntry>> {
        let mut flows: Vec<_> = self.lock().values().cloned().collect();
        flows.sort_by_key(|flow| (flow.since, flow.label));
        flows
    }

    /// The live flow with this label.
    #[must_use]
    pub fn get(&self, label: FlowLabel) -> Option<Arc<FlowEntry>> {
        self.lock().get(&label).cloned()
    }

    /// Tells `watcher` of each flow that ends. Only the first watcher counts: there is one per node.
    pub fn watch(&self, watcher: Arc<dyn FlowWatcher>) {
        let _ = self.watcher.set(watcher);
    }

    /// How many flows are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no flow is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FlowEntry {
    /// A flow that is being opened, with nothing carried yet.
    #[must_use]
    pub fn opening(
        label: FlowLabel,
        request: &super::FlowRequest,
        exit: NodeName,
        hint: Hint,
        since: Instant,
    ) -> Self {
        Self {
            label,
            target: request.target.clone(),
            exit,
            hint,
            client: request.client,
            ingress: request.ingress,
            since,
            carried: Arc::default(),
            datagrams: request.ingress.has_datagrams().then(Arc::default),
            state: Mutex::new(FlowState::Opening),
            lane: Mutex::default(),
        }
    }

    /// The flow's state.
    #[must_use]
    pub fn state(&self) -> FlowState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane that carries the flow; `None` before there is one.
    #[must_use]
    pub fn lane(&self) -> Option<OnLane> {
        *self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the lane that carries the flow.
    pub fn set_lane(&self, lane: OnLane) {
        *self.lane.lock().unwrap_or_else(PoisonError::into_inner) = Some(lane);
    }

    /// Moves the flow to `state`.
    pub fn set_state(&self, state: FlowState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl Carried {
    /// Bytes from the client, and to the client.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// The bytes that were carried since this was asked last.
    #[must_use]
    pub fn take_new(&self) -> (u64, u64) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let (sent, received) = self.bytes();
        let new = (sent.saturating_sub(counted.0), received.saturating_sub(counted.1));
        *counted = (sent, received);
        new
    }

    /// Counts bytes that came from the client.
    pub fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.activity.touch();
    }

    /// Counts bytes that went to the client.
    pub fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.activity.touch();
    }

    /// Takes note of whether the client takes no more bytes.
    pub fn hold_client(&self, held: bool) {
        self.held_up[0].store(held, Ordering::Relaxed);
    }

    /// Takes note of whether the destination takes no more bytes.
    pub fn hold_destination(&self, held: bool) {
        self.held_up[1].store(held, Ordering::Relaxed);
    }

    /// Which side takes no more bytes, if one does not.
    #[must_use]
    pub fn held_up(&self) -> Option<WaitsFor> {
        let sides = self.held_up.iter().zip([WaitsFor::Client, WaitsFor::Destination]);
        sides.into_iter().find(|(held, _)| held.load(Ordering::Relaxed)).map(|(_, side)| side)
    }

    /// When bytes last moved, and whether the flow is to end.
    #[must_use]
    pub fn activity(&self) -> &Activity {
        &self.activity
    }
}

impl FlowGuard {
    /// The listed flow.
    #[must_use]
    pub fn entry(&self) -> &Arc<FlowEntry> {
        &self.entry
    }
}

impl Drop for FlowGuard {
    fn drop(&mut self) {
        self.table.lock().remove(&self.entry.label);
        if let Some(watcher) = self.table.watcher.get() {
            watcher.ended(&self.entry);
        }
    }
}

impl fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowTable").field("live", &self.len()).finish()
    }
}

impl fmt::Debug for FlowGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FlowGuard").field(&self.entry.label).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowRequest;

    fn request() -> FlowRequest {
        let (target, client) = ("example.org:80".parse().unwrap(), ([127, 0, 0, 1], 4000).into());
        FlowRequest::new(target, client, Ingress::Socks5)
    }

    #[test]
    fn a_label_in_use_is_never_given_again() {
        let table = FlowTable::default();
        let mut draws = [7, 7, 8].into_iter();
        let mut draw = || draws.next().unwrap();
        let describe = |label| {
            let exit = "mit".parse().unwrap();
            FlowEntry::opening(label, &request(), exit, Hint::Latency, Instant::now())
        };
        let first = table.insert(&mut draw, describe);
        let second = table.insert(&mut draw, describe);
        assert_eq!((first.entry().label, second.entry().label), (FlowLabel(7), FlowLabel(8)));
        drop(first);
        assert_eq!(table.len(), 1);
    }
}
