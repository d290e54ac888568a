//! An association of a client: which of its flows carries a datagram.
//!
//! The rules choose the exit for each destination, as for connections. Destinations for which they allow
//! the same exits share a flow, so they see one source address.
//! A flow is opened when a datagram needs one, and again when the last one has ended or its exit is silent.
//!
//! The packets of a conduit are an association of their own for each node and label ([`ToNode`]): all go to
//! one exit, and in one packet each.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant as StdInstant},
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dialer::Dialer;
use crate::{
    config::Rules,
    flow::{
        Association, AssociationRequest, BoxFuture, DatagramDrop, DatagramFlow, DatagramSink,
        FlowLabel, FlowRequest, Ingress, PACKET_FITS, Refusal, Target,
    },
    lane::LaneKey,
};

/// Destinations whose flow is remembered. The one that was not used for longest is forgotten.
const MAX_DESTINATIONS: usize = 1_024;

/// Flows of one association: exits and hints that rules choose for its destinations.
const MAX_FLOWS: usize = 8;

/// New destinations in a second. For each one the rules and the exits are gone through.
const NEW_PER_SECOND: u32 = 256;

/// Datagrams that wait for a flow to open, and their bytes.
const MAX_WAITING: usize = 32;
const MAX_WAITING_BYTES: usize = 64 << 10;

/// A destination or a flow that was refused is not tried again for this long.
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(1);

/// A flow whose exit is silent for so long moves to another exit, if the rules allow one: twice as long as any
/// reroute takes, and as long as programs wait for a name server.
const SILENT_EXIT: Duration = Duration::from_secs(5);

/// Where all packets of a conduit's association go.
pub(super) struct ToNode {
    /// The node, as rules see it.
    pub(super) target: Target,
    /// The label that its flow is to have.
    pub(super) label: Option<FlowLabel>,
}

/// An association of this entry.
pub(super) struct Associated {
    dialer: Arc<Dialer>,
    request: AssociationRequest,
    /// `None`: each datagram has a destination of its own.
    to: Option<ToNode>,
    client: Arc<dyn DatagramSink>,
    state: Mutex<State>,
    refusal: watch::Sender<Option<Refusal>>,
    me: Weak<Self>,
    stop: CancellationToken,
    _drop_stops: DropGuard,
}

#[derive(Default)]
struct State {
    /// The rules that chose the flows of `known`.
    rules: Option<Arc<Rules>>,
    known: BTreeMap<Target, Known>,
    flows: Vec<Way>,
    next: u64,
    second: Option<(Instant, u32)>,
}

/// What is remembered of a destination.
struct Known {
    used: Instant,
    /// The number of the flow that carries it; `None`: it is refused until then.
    way: Result<u64, Instant>,
}

/// One flow of the association.
struct Way {
    number: u64,
    /// The lanes that may carry it, and how closely their exits serve its destinations.
    keys: Vec<(LaneKey, usize)>,
    stage: Stage,
    /// Since when its lane waits for an answer, and when it last heard of the exit then.
    waits: Option<(Instant, StdInstant)>,
}

enum Stage {
    Opening { waiting: VecDeque<(Target, Vec<u8>)>, bytes: usize },
    Open(Arc<dyn DatagramFlow>),
    Refused(Instant),
}

/// What the lock's holder decides for the time after.
enum Step {
    Deliver(Arc<dyn DatagramFlow>),
    Open(u64),
    Wait,
    Drop(DatagramDrop),
}

impl Associated {
    pub(super) fn begin(
        dialer: Arc<Dialer>,
        request: AssociationRequest,
        to: Option<ToNode>,
        client: Arc<dyn DatagramSink>,
    ) -> Arc<Self> {
        let stop = CancellationToken::new();
        Arc::new_cyclic(|me| Self {
            dialer,
            request,
            to,
            client,
            state: Mutex::default(),
            refusal: watch::Sender::new(None),
            me: me.clone(),
            stop: stop.clone(),
            _drop_stops: stop.drop_guard(),
        })
    }

    fn flow_request(&self, target: &Target) -> FlowRequest {
        let AssociationRequest { hint, exit, user, client } = self.request.clone();
        let (target, ingress, label) = match &self.to {
            Some(node) => (node.target.clone(), Ingress::Conduit, node.label),
            None => (target.clone(), Ingress::Socks5Udp, None),
        };
        FlowRequest { hint, exit, user, label, ..FlowRequest::new(target, client, ingress) }
    }

    /// Sends a datagram, or lets it wait for its flow.
    ///
    /// # Errors
    /// Why it was dropped, which is counted.
    pub(super) fn send(&self, peer: &Target, payload: &[u8]) -> Result<(), DatagramDrop> {
        let sent = match self.step(peer, payload) {
            Step::Deliver(flow) => self.hand(&*flow, peer, payload),
            Step::Open(number) => {
                self.open(number, peer);
                Ok(())
            }
            Step::Wait => Ok(()),
            Step::Drop(reason) => Err(reason),
        };
        sent.inspect_err(|reason| self.dialer.dropped(*reason))
    }

    fn hand(
        &self,
        flow: &dyn DatagramFlow,
        peer: &Target,
        payload: &[u8],
    ) -> Result<(), DatagramDrop> {
        // The packets of a conduit are never split.
        if self.to.is_some() && payload.len() > PACKET_FITS && payload.len() > flow.room(peer) {
            return Err(DatagramDrop::TooLarge);
        }
        flow.send(peer, payload)
    }

    /// The longest datagram that travels to `peer` in one packet at present; `None` without a flow.
    pub(super) fn room(&self, peer: &Target) -> Option<usize> {
        let mut state = self.lock();
        let number = state.known.get(peer)?.way.ok()?;
        match &state.way(number)?.stage {
            Stage::Open(flow) if flow.is_open() => Some(flow.room(peer)),
            _ => None,
        }
    }

    fn step(&self, target: &Target, payload: &[u8]) -> Step {
        let (now, mut state) = (Instant::now(), self.lock());
        state.follow(self.dialer.rules.get());
        let known = state.known.get_mut(target).map(|known| {
            known.used = now;
            known.way
        });
        let number = match known {
            Some(Err(until)) if now < until => return Step::Drop(DatagramDrop::Refused),
            Some(Ok(number)) if state.way(number).is_some() => number,
            _ => match self.choose(&mut state, now, target) {
                Ok(number) => number,
                Err(reason) => return Step::Drop(reason),
            },
        };
        state.use_way(now, number, target, payload)
    }

    /// Chooses a flow for a destination that has none.
    fn choose(
        &self,
        state: &mut State,
        now: Instant,
        target: &Target,
    ) -> Result<u64, DatagramDrop> {
        if !state.may_choose(now) {
            return Err(DatagramDrop::TooManyDestinations);
        }
        let way = match self.dialer.datagram_keys(&self.flow_request(target)) {
            Ok(keys) => Ok(state.way_for(now, keys).ok_or(DatagramDrop::TooManyDestinations)?),
            Err(refusal) => {
                self.dialer.log().refused(target, &refusal);
                self.client.refused(target, refusal);
                Err(now + REFUSED_FOR)
            }
        };
        state.remember(now, target, way);
        way.map_err(|_| DatagramDrop::Refused)
    }

    /// Opens the flow with this number, and sends what waited for it.
    fn open(&self, number: u64, target: &Target) {
        let (me, dialer, stop) = (self.me.clone(), self.dialer.clone(), self.stop.clone());
        let request = self.flow_request(target);
        let replies = Arc::new(Replies { client: self.client.clone(), dialer: dialer.clone() });
        tokio::spawn(async move {
            let opened = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                opened = dialer.open_datagrams(&request, replies) => opened,
            };
            if let Some(me) = me.upgrade() {
                me.opened(number, opened);
            }
        });
    }

    fn opened(&self, number: u64, opened: Result<Arc<dyn DatagramFlow>, Refusal>) {
        let (stage, opened) = match opened {
            Ok(flow) => (Stage::Open(flow.clone()), Ok(flow)),
            Err(refusal) => (Stage::Refused(Instant::now() + REFUSED_FOR), Err(refusal)),
        };
        let (waited, others) = {
            let mut state = self.lock();
            let before = state.way(number).map(|way| std::mem::replace(&mut way.stage, stage));
            (before, state.flows.iter().any(Way::may_carry))
        };
        let Some(Stage::Opening { waiting, .. }) = waited else { return };
        match opened {
            Ok(flow) => {
                tracing::info!(client = %self.request.client, label = %flow.label(), "flow open");
                for (target, payload) in &waiting {
                    if let Err(reason) = self.hand(&*flow, target, payload) {
                        self.dialer.dropped(reason);
                        self.client.dropped(target, reason);
                    }
                }
            }
            Err(refusal) => {
                let client = self.request.client;
                tracing::info!(%client, reason = refusal.kind.name(), "an association is refused");
                for (target, _) in &waiting {
                    self.dialer.dropped(DatagramDrop::Refused);
                    self.client.refused(target, refusal.clone());
                    self.client.dropped(target, DatagramDrop::Refused);
                }
                if !others {
                    self.refusal.send_replace(Some(refusal));
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn way(&mut self, number: u64) -> Option<&mut Way> {
        self.flows.iter_mut().find(|way| way.number == number)
    }

    /// Other rules may choose other flows.
    fn follow(&mut self, rules: Arc<Rules>) {
        if self.rules.as_ref().is_none_or(|followed| !Arc::ptr_eq(followed, &rules)) {
            self.rules = Some(rules);
            self.known.clear();
        }
    }

    fn may_choose(&mut self, now: Instant) -> bool {
        let chosen = match self.second {
            Some((since, count)) if now < since + Duration::from_secs(1) => (since, count + 1),
            _ => (now, 1),
        };
        let may = chosen.1 <= NEW_PER_SECOND;
        if may {
            self.second = Some(chosen);
        }
        may
    }

    /// The flow for a destination that may use these lanes: one that there is, or a new one.
    fn way_for(&mut self, now: Instant, keys: Vec<(LaneKey, usize)>) -> Option<u64> {
        // Their order follows the measured routes, and may change: the source address must not.
        let same = |way: &Way| {
            way.keys.len() == keys.len() && way.keys.iter().all(|key| keys.contains(key))
        };
        let shared = |way: &&Way| same(way) && (way.may_carry() || way.is_refused(now));
        if let Some(way) = self.flows.iter().find(shared) {
            return Some(way.number);
        }
        if self.flows.len() >= MAX_FLOWS {
            self.flows.retain(|way| way.may_carry() || way.is_refused(now));
        }
        if self.flows.len() >= MAX_FLOWS {
            return None;
        }
        self.next += 1;
        let number = self.next;
        self.flows.push(Way { number, keys, stage: Stage::Refused(now), waits: None });
        Some(number)
    }

    fn remember(&mut self, now: Instant, target: &Target, way: Result<u64, Instant>) {
        if self.known.len() >= MAX_DESTINATIONS && !self.known.contains_key(target) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.used);
            let oldest = oldest.map(|(target, _)| target.clone());
            oldest.and_then(|oldest| self.known.remove(&oldest));
        }
        self.known.insert(target.clone(), Known { used: now, way });
    }

    fn use_way(&mut self, now: Instant, number: u64, target: &Target, payload: &[u8]) -> Step {
        let Some(way) = self.way(number) else { return Step::Drop(DatagramDrop::FlowEnded) };
        let exit_is_silent = way.exit_is_silent(now);
        match &mut way.stage {
            Stage::Open(flow) if flow.is_open() && !exit_is_silent => Step::Deliver(flow.clone()),
            Stage::Refused(until) if now < *until => Step::Drop(DatagramDrop::Refused),
            Stage::Open(_) | Stage::Refused(_) => {
                let waiting = VecDeque::from([(target.clone(), payload.to_vec())]);
                way.stage = Stage::Opening { waiting, bytes: payload.len() };
                Step::Open(number)
            }
            Stage::Opening { waiting, bytes }
                if waiting.len() < MAX_WAITING && *bytes + payload.len() <= MAX_WAITING_BYTES =>
            {
                *bytes += payload.len();
                waiting.push_back((target.clone(), payload.to_vec()));
                Step::Wait
            }
            Stage::Opening { .. } => Step::Drop(DatagramDrop::QueueFull),
        }
    }
}

impl Way {
    fn may_carry(&self) -> bool {
        match &self.stage {
            Stage::Opening { .. } => true,
            Stage::Open(flow) => flow.is_open(),
            Stage::Refused(_) => false,
        }
    }

    /// Whether the flow's exit has not answered for too long, and there are others.
    fn exit_is_silent(&mut self, now: Instant) -> bool {
        let Stage::Open(flow) = &self.stage else { return false };
        let heard = flow.waits_since().filter(|_| self.keys.len() > 1);
        // A lane that was at rest has not waited since it last heard of the exit.
        self.waits = match (heard, self.waits) {
            (Some(heard), Some((since, before))) if heard == before => Some((since, before)),
            (heard, _) => heard.map(|heard| (now, heard)),
        };
        self.waits.is_some_and(|(since, _)| now.duration_since(since) >= SILENT_EXIT)
    }

    fn is_refused(&self, now: Instant) -> bool {
        matches!(self.stage, Stage::Refused(until) if now < until)
    }
}

impl DatagramSink for Associated {
    fn deliver(&self, peer: &Target, payload: &[u8]) {
        // It is counted.
        let _ = self.send(peer, payload);
    }

    fn refused(&self, _: &Target, _: Refusal) {}
}

impl Association for Associated {
    fn refusal(&self) -> BoxFuture<'_, Refusal> {
        let mut refusals = self.refusal.subscribe();
        Box::pin(async move {
            loop {
                if let Some(refusal) = refusals.borrow_and_update().clone() {
                    return refusal;
                }
                // The sender lives as long as this.
                let _ = refusals.changed().await;
            }
        })
    }
}

/// What comes back of an association's flow.
struct Replies {
    client: Arc<dyn DatagramSink>,
    dialer: Arc<Dialer>,
}

impl DatagramSink for Replies {
    fn deliver(&self, peer: &Target, payload: &[u8]) {
        self.client.deliver(peer, payload);
    }

    fn refused(&self, peer: &Target, refusal: Refusal) {
        self.dialer.log().refused(peer, &refusal);
        self.client.refused(peer, refusal);
    }
}
