//! The exit's side of flows: from a new stream of a lane to the end of what it carries.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use noq::{SendStream, VarInt};
use tokio::time::Instant;
use tracing::Instrument;

use super::{
    FlowAcceptor, Outward, OutwardStream, answer, association,
    datagrams::Datagrams,
    inflow::Inflow,
    open_lane::Streams,
    pump::{TcpIs, pump, pump_inside},
    room::{FlowRoom, LaneRoom},
    tally::{Outcome, Tally},
};
use crate::{
    flow::{
        Carried, DESTINATION_TARGET, DatagramDrops, DatagramSink, FlowLabel, FlowLimits,
        OutwardDatagrams, Refusal, RefusalKind, Target, with_destination,
    },
    identity::{NodeName, Peer},
    link::Buckets,
    overlay::linkstate::MAX_NODES,
    transport::code,
    wire::lane::{JudgeReply, Open, Opened, Purpose},
};

/// An OPEN header must be complete within this time of its stream's start.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Questions of one entry, at once and in a second. `why` asks each of four exits once, and with `--watch` once a
/// second. A question costs less than the flow that would show the same.
const QUESTIONS: (u32, f64) = (32, 4.0);

/// Serves the flows of the lanes that end here.
pub(super) struct FlowServer {
    acceptor: Arc<dyn FlowAcceptor>,
    limits: Arc<FlowLimits>,
    tally: Mutex<Tally>,
    questions: Mutex<Buckets>,
}

impl FlowServer {
    /// Of an exit that opens connections by `acceptor`.
    pub(super) fn new(acceptor: Arc<dyn FlowAcceptor>, limits: Arc<FlowLimits>) -> Self {
        let questions = Mutex::new(Buckets::new(QUESTIONS, MAX_NODES));
        Self { acceptor, limits, tally: Mutex::default(), questions }
    }

    /// How many flows of one entry it carries.
    pub(super) fn flows_per_entry(&self) -> usize {
        self.acceptor.flows_per_entry()
    }

    /// Whether a flow of `entry` to `target` would be carried. It may ask by a lane or by its link.
    pub(super) async fn judge(&self, entry: &Peer, target: &Target) -> JudgeReply {
        if !self.may_ask(&entry.name) {
            let detail = format!("{} asks too often; ask again in some seconds", entry.name);
            return Err(Refusal::new(RefusalKind::Overloaded, detail));
        }
        self.acceptor.judge(entry, target, false).await
    }

    fn may_ask(&self, entry: &NodeName) -> bool {
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        questions.take(Instant::now().into_std(), entry)
    }

    /// The flows that are not logged one by one.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a new stream of a lane of `entry`, until its flow ends.
    pub(super) async fn serve(
        self: Arc<Self>,
        entry: Peer,
        mut streams: Streams,
        window: u64,
        (room, datagrams): (Arc<LaneRoom>, Arc<Datagrams>),
    ) {
        let begun = begin(&room, &entry.name, &mut streams.recv).await;
        let told = self.tally().begin(&entry.name, Instant::now().into_std());
        let outcome = match begun {
            // In a box, so that a stream which has said nothing yet costs little.
            Ok((open, _room)) => {
                Box::pin(self.serve_opened(&entry, open, streams, (window, datagrams, told))).await
            }
            Err(refusal) => turn_away(&mut streams.send, &room, &entry, (refusal, told)).await,
        };
        if !told {
            self.tally().end(&entry.name, outcome, Instant::now().into_std());
        }
    }

    async fn serve_opened(
        &self,
        entry: &Peer,
        open: Open,
        streams: Streams,
        (window, datagrams, told): (u64, Arc<Datagrams>, bool),
    ) -> Outcome {
        let span = tracing::info_span!("flow", label = %open.label, entry = %entry.name);
        streams.port.allow(open.window);
        match open.purpose {
            Purpose::Connect(target) => {
                let span = with_destination(&span, &target);
                let to = (open.label, target);
                self.carry(entry, to, streams, window, told).instrument(span).await
            }
            Purpose::Datagrams => {
                let open = |back, drops| self.acceptor.associate(entry, back, drops);
                self.associate(open, streams, datagrams, told).instrument(span).await
            }
            Purpose::Packets => {
                let open = |back, drops| self.acceptor.receive(entry, open.label, back, drops);
                self.associate(open, streams, datagrams, told).instrument(span).await
            }
            Purpose::Question(target) => {
                let mut send = streams.send;
                answer::end_with(&mut send, &self.judge(entry, &target).await).await;
                Outcome::Ended
            }
        }
    }

    async fn carry(
        &self,
        entry: &Peer,
        (label, target): (FlowLabel, Target),
        mut streams: Streams,
        window: u64,
        told: bool,
    ) -> Outcome {
        let Streams { send, recv, .. } = &mut streams;
        let reached = tokio::select! {
            biased;
            reached = self.reach(entry, (label, &target), send, (window, told)) => reached,
            // What the entry sends meanwhile is read: inside QUIC it would pin the packets of others.
            error = recv.breaks() => {
                log_line!(told, %error, "flow reset before its connection");
                // A stream that the entry stopped has ended.
                let _ = send.reset(VarInt::from_u32(code::FLOW_RESET));
                Err(Outcome::Reset)
            }
        };
        let outward = match reached {
            Ok(outward) => outward,
            Err(outcome) => return outcome,
        };
        let counts = (&*outward.place.carried, &*self.limits);
        log_line!(told, "flow open");
        tracing::debug!(target: DESTINATION_TARGET, remote = %outward.remote, "connected");
        let done = match outward.stream {
            OutwardStream::Tcp(tcp) => {
                pump(tcp, streams, Bytes::new(), TcpIs::Destination, counts).await
            }
            OutwardStream::Inside(io) => pump_inside(io, streams, counts).await,
        };
        drop(outward.place);
        match done.result {
            Ok(()) => {
                log_line!(told, sent = done.sent, received = done.received, "flow ended");
                Outcome::Ended
            }
            Err(error) => {
                log_line!(told, sent = done.sent, received = done.received, %error, "flow reset");
                Outcome::Reset
            }
        }
    }

    /// Opens the connection of a flow, and tells the entry.
    async fn reach(
        &self,
        entry: &Peer,
        (label, target): (FlowLabel, &Target),
        send: &mut SendStream,
        (window, told): (u64, bool),
    ) -> Result<Outward, Outcome> {
        let opened = tokio::select! {
            biased;
            opened = self.acceptor.open(entry, label, target) => opened,
            // The entry gave up: do not go on connecting for nobody.
            _ = send.stopped() => return Err(Outcome::Reset),
        };
        let outward = match opened {
            Ok(outward) => outward,
            Err(refusal) => return Err(tell_refusal(send, refusal, told).await),
        };
        let counts = (&*outward.place.carried, &*self.limits);
        tell_open(send, Opened { remote: outward.remote, window }, counts, told).await?;
        Ok(outward)
    }

    /// Carries datagrams to what `open` opens. The entry has no bytes to send on their stream.
    async fn associate(
        &self,
        open: impl FnOnce(
            Arc<dyn DatagramSink>,
            Arc<DatagramDrops>,
        ) -> Result<OutwardDatagrams, Refusal>,
        mut streams: Streams,
        datagrams: Arc<Datagrams>,
        told: bool,
    ) -> Outcome {
        let (flow, counts) = (streams.send.id().index(), Arc::default());
        let (port, news) = datagrams.port(flow, None, counts);
        let outward = match open(port.clone(), datagrams.drops().clone()) {
            Ok(outward) => outward,
            Err(refusal) => return tell_refusal(&mut streams.send, refusal, told).await,
        };
        // The entry sends as soon as it has the answer.
        let _receiving = port.receive(outward.sink.clone());
        let opened = Opened { remote: outward.local, window: 0 };
        let counts = (&*outward.carried, &*self.limits);
        if let Err(outcome) = tell_open(&mut streams.send, opened, counts, told).await {
            return outcome;
        }
        log_line!(told, "flow open");
        tokio::select! {
            biased;
            () = association::tell_news(&mut streams, &port, news) => {}
            end = self.limits.association_overdue(outward.carried.activity()) => {
                log_line!(told, %end, "an association ends");
            }
        }
        // The lane may have ended.
        let _ = streams.send.finish();
        let (sent, received) = outward.carried.bytes();
        log_line!(told, sent, received, "flow ended");
        Outcome::Ended
    }
}

/// Tells the entry that its flow is open.
async fn tell_open(
    send: &mut SendStream,
    opened: Opened,
    counts: (&Carried, &FlowLimits),
    told: bool,
) -> Result<(), Outcome> {
    answer::accept(send, opened, counts).await.map_err(|reason| {
        log_line!(told, reason, "the entry does not take the answer");
        Outcome::Reset
    })
}

async fn tell_refusal(send: &mut SendStream, refusal: Refusal, told: bool) -> Outcome {
    log_line!(told, reason = refusal.kind.name(), "flow refused");
    tracing::debug!(target: DESTINATION_TARGET, detail = refusal.detail, "reason of the refusal");
    answer::refuse(send, refusal).await;
    Outcome::Refused
}

/// Waits until a new stream says what it is for, and makes room for its flow.
async fn begin(
    room: &Arc<LaneRoom>,
    entry: &NodeName,
    recv: &mut Inflow,
) -> Result<(Open, FlowRoom), Refusal> {
    let broken = |detail: String| Refusal::new(RefusalKind::Protocol, detail);
    let open = room.wait(OPEN_TIMEOUT, recv.first_message::<Open>()).await;
    let open = open.ok_or_else(|| broken("the OPEN header does not come".to_owned()))?;
    let open = open.map_err(|error| broken(error.to_string()))?;
    let room = room.open().ok_or_else(|| {
        Refusal::new(RefusalKind::Overloaded, format!("{entry} has too many flows here"))
    })?;
    Ok((open, room))
}

/// Refuses a stream that has no flow.
async fn turn_away(
    send: &mut SendStream,
    room: &LaneRoom,
    entry: &Peer,
    (refusal, told): (Refusal, bool),
) -> Outcome {
    let (kind, detail) = (refusal.kind, &refusal.detail);
    if told {
        tracing::warn!(entry = %entry.name, reason = kind.name(), detail, "a stream of an entry was refused");
    }
    if room.wait(answer::TIMEOUT, answer::refuse(send, refusal)).await.is_none() {
        // A stream that has ended needs no end.
        let _ = send.reset(VarInt::from_u32(code::FULL));
    }
    if kind == RefusalKind::Protocol { Outcome::Broken } else { Outcome::Refused }
}
