//! The exit's side: lanes that entries open to us, and the flows on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use noq::{Connection, RecvStream, SendStream, VarInt};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tracing::Instrument;

use super::{
    LaneEnd, LaneFacts, RouteControl, answer, association,
    datagrams::Datagrams,
    driver::Driver,
    end::Parts,
    facts::bytes,
    open_lane::Streams,
    pump::{TcpIs, pump, pump_inside},
    room::{FlowRoom, LaneRoom, Rooms},
    tally::{Outcome, Tally},
    windows::{LaneBudget, LaneMemory},
};
use crate::{
    flow::{
        BoxFuture, Carried, DESTINATION_TARGET, DatagramDrops, DatagramSink, FlowIo, FlowLabel,
        FlowLimits, Hint, OutwardDatagrams, Refusal, RefusalKind, Target, with_destination,
    },
    identity::{NodeName, Peer},
    overlay::select::Selector,
    transport::{RerouteMark, code, read_frame},
    turns::{Limits, Turns},
    underlay::{MAX_SLOTS, SlotId, Switch},
    wire::{
        label::Label,
        lane::{Open, Opened, Purpose},
        link::{LaneAsker, LinkRefusal, SignedLaneRequest},
    },
};

/// A lane that was granted but never connected is forgotten after this long: QUIC's handshake
/// takes three round trips at most, and an entry gives up after 10 s.
const PENDING_LIFETIME: Duration = Duration::from_secs(15);

/// Lanes one entry may hold here, connected or not.
const MAX_LANES_PER_ENTRY: usize = 64;

/// Traffic classes among the lanes of one entry. Each has lanes of its own; an entry's rules name a
/// handful.
const MAX_CLASSES_PER_ENTRY: usize = 16;

/// Lanes of all entries together; the other slots of the node are for the lanes it opens itself.
const MAX_LANES: usize = MAX_SLOTS - 512;

/// How long a relay may take to grant the exit's direction of a lane: more than two round trips around the
/// world.
const GRANT_TIMEOUT: Duration = Duration::from_secs(2);

/// Grants of one entry that wait for a relay: half of the places of a neighbour that passes them on.
const GRANTS: Limits = Limits { each: 4, waiting: 4, in_all: MAX_LANES };

/// How often pending lanes and the labels granted as a relay are swept: what has ended costs memory
/// that much longer.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// An ended lane keeps its slot so long, for the packet that tells the entry: it leaves at the
/// connection's next turn.
const LINGER: Duration = Duration::from_secs(1);

/// An OPEN header must be complete within this time of its stream's start.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection an exit opened for a flow.
pub struct Outward {
    /// The connection.
    pub stream: OutwardStream,
    /// The address it goes to.
    pub remote: SocketAddr,
    /// What it counts against.
    pub place: Place,
}

/// A flow's place among those of an exit.
#[derive(Default)]
pub struct Place {
    /// What the flow carries; it is to end when this says so.
    pub carried: Arc<Carried>,
    /// Kept until the flow ends; dropping it gives the place back.
    pub permit: Option<Box<dyn Send + Sync>>,
}

/// Where a flow goes on beyond the exit.
pub enum OutwardStream {
    /// To a real destination.
    Tcp(TcpStream),
    /// To a service inside this process: the demo's campus site, or a test's server.
    Inside(Box<dyn FlowIo>),
}

/// Opens real connections for flows. Implemented over the exit role.
pub trait FlowAcceptor: Send + Sync + 'static {
    /// How many flows of one entry it carries.
    fn flows_per_entry(&self) -> usize;

    /// Opens a connection to `target` for the flow `label` of `entry`; bounds its own waiting.
    fn open<'a>(
        &'a self,
        entry: &'a Peer,
        label: FlowLabel,
        target: &'a Target,
    ) -> BoxFuture<'a, Result<Outward, Refusal>>;

    /// A place for a flow of `entry` to `target`, a name that a program in this process serves.
    ///
    /// # Errors
    /// When a rule of the exit denies it, or it carries no more flows.
    fn admit(&self, entry: &Peer, target: &Target) -> Result<Place, Refusal>;

    /// Opens what an association of `entry` needs. `back` takes what destinations send, and the
    /// refusals of destinations; `drops` counts what is dropped.
    ///
    /// # Errors
    /// Why the exit carries no datagrams, or no more of this entry.
    fn associate(
        &self,
        entry: &Peer,
        back: Arc<dyn DatagramSink>,
        drops: Arc<DatagramDrops>,
    ) -> Result<OutwardDatagrams, Refusal>;

    /// Takes packets of the flow `label` of `entry` for programs in this process. `back` tells the entry of
    /// types that nobody takes; `drops` counts what is dropped.
    ///
    /// # Errors
    /// When no program takes packets, a rule denies it, or there are too many flows.
    fn receive(
        &self,
        _entry: &Peer,
        _label: FlowLabel,
        _back: Arc<dyn DatagramSink>,
        _drops: Arc<DatagramDrops>,
    ) -> Result<OutwardDatagrams, Refusal> {
        Err(Refusal::new(RefusalKind::ConnectionRefused, "no program of this node takes packets"))
    }
}

/// A lane that waits for its connection.
#[derive(Debug, Clone)]
pub struct Granted {
    /// Who may connect.
    pub entry: NodeName,
    /// What its flows want of the route.
    pub hint: Hint,
    /// Tells its congestion controller of reroutes.
    pub mark: Arc<RerouteMark>,
}

/// The lanes that end here.
pub struct LaneHost {
    switch: Arc<Switch>,
    control: Weak<dyn RouteControl>,
    acceptor: Arc<dyn FlowAcceptor>,
    limits: Arc<FlowLimits>,
    drops: Arc<DatagramDrops>,
    memory: Arc<LaneMemory>,
    rooms: Rooms,
    lanes: Mutex<BTreeMap<SlotId, Hosted>>,
    /// Of flows, and of lanes.
    tally: Mutex<Tally>,
    lane_tally: Mutex<Tally>,
    turns: Turns<NodeName>,
}

struct Hosted {
    end: Arc<LaneEnd>,
    stage: Stage,
}

enum Stage {
    /// Granted then; no connection has come yet.
    Pending(Instant),
    Connected(Connection),
}

impl Hosted {
    fn facts(&self) -> LaneFacts {
        let facts = self.end.facts();
        match &self.stage {
            Stage::Pending(_) => facts,
            Stage::Connected(conn) => LaneFacts { bytes: bytes(conn), ..facts },
        }
    }

    fn is_overdue(&self) -> bool {
        matches!(self.stage, Stage::Pending(since) if since.elapsed() >= PENDING_LIFETIME)
    }
}

impl LaneHost {
    /// A host without lanes.
    #[must_use]
    pub fn new(
        switch: Arc<Switch>,
        control: Weak<dyn RouteControl>,
        acceptor: Arc<dyn FlowAcceptor>,
        (limits, drops, budget): (Arc<FlowLimits>, Arc<DatagramDrops>, LaneBudget),
    ) -> Self {
        let lanes = Mutex::default();
        let memory = Arc::new(LaneMemory::of_exit(budget));
        let (tally, lane_tally) = (Mutex::default(), Mutex::default());
        let (rooms, turns) = (Rooms::default(), Turns::new(GRANTS));
        Self {
            switch,
            control,
            acceptor,
            limits,
            drops,
            memory,
            rooms,
            lanes,
            tally,
            lane_tally,
            turns,
        }
    }

    /// Grants the entry of `request` the lane it asks for; answers with our label for it. The request
    /// has been checked: it is its entry's.
    ///
    /// # Errors
    /// When a cap is reached or the route for our direction cannot be had.
    pub async fn grant(&self, request: SignedLaneRequest) -> Result<Label, LinkRefusal> {
        let (entry, open) = (request.request.entry.clone(), request.request.open.clone());
        self.judge_room(&entry, open.wish.class.as_deref())?;
        // A relay may take its time, and whoever passed this request on has few places.
        let turn = self.turns.next(&entry).await;
        let _turn = turn.ok_or_else(|| LinkRefusal::Full("requests of one entry".into()))?;
        let Some(control) = self.control.upgrade() else {
            return Err(LinkRefusal::Full("the node is stopping".into()));
        };
        let slot = self.switch.open_slot().ok_or_else(|| LinkRefusal::Full("lane slots".into()))?;
        let id = slot.0;
        let end = Arc::new(LaneEnd::new(Parts {
            switch: self.switch.clone(),
            slot,
            control,
            peer: entry.clone(),
            far_label: open.reply_label,
            asker: LaneAsker::Exit(Box::new(request)),
            selector: Selector::new(open.wish.hint.clone()),
            wish: open.wish,
            route: open.route,
        }));
        let label = Label(self.switch.chance().draw());
        self.switch
            .with_labels(|labels| labels.grant_slot(label, &entry, id))
            .map_err(|error| LinkRefusal::Full(error.to_string()))?;
        // It counts from here on: an entry must not have more requests under way than lanes.
        let stage = Stage::Pending(Instant::now());
        self.lanes().insert(id, Hosted { end: end.clone(), stage });
        let begun = timeout(GRANT_TIMEOUT, end.begin()).await;
        if let Err(refusal) =
            begun.unwrap_or_else(|_| Err(LinkRefusal::Full("the relay does not answer".into())))
        {
            self.lanes().remove(&id);
            return Err(refusal);
        }
        Ok(label)
    }

    /// Refuses a lane that would be one too many.
    fn judge_room(&self, entry: &NodeName, class: Option<&str>) -> Result<(), LinkRefusal> {
        let lanes = self.lanes();
        if lanes.len() >= MAX_LANES {
            return Err(LinkRefusal::Full(format!("{MAX_LANES} lanes")));
        }
        let (mut held, mut classes) = (0, BTreeSet::new());
        for lane in lanes.values().filter(|lane| lane.end.peer() == entry && !lane.is_overdue()) {
            held += 1;
            classes.extend(lane.end.wish.class.as_deref());
        }
        if held >= MAX_LANES_PER_ENTRY {
            return Err(LinkRefusal::Full(format!("{MAX_LANES_PER_ENTRY} lanes of one entry")));
        }
        classes.extend(class);
        if classes.len() > MAX_CLASSES_PER_ENTRY {
            return Err(LinkRefusal::Full(format!("{MAX_CLASSES_PER_ENTRY} classes of one entry")));
        }
        Ok(())
    }

    /// Forgets, until the node stops, lanes that no connection came for, and labels that expired. Logs
    /// the numbers of flows and lanes that are not logged one by one.
    pub async fn sweep(self: Arc<Self>) {
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        loop {
            let now = tick.tick().await.into_std();
            // Ends are dropped after the lock is given back: dropping one closes its slot.
            drop(self.take(Hosted::is_overdue));
            self.switch.with_labels(|labels| labels.sweep(now));
            let numbers = self.tally().take(now);
            for (entry, flows) in numbers {
                tracing::info!(%entry, %flows, "flows of an entry that have no lines of their own");
            }
            let numbers = lock(&self.lane_tally).take(now);
            for (entry, lanes) in numbers {
                tracing::info!(%entry, %lanes, "lanes of an entry that have no lines of their own");
            }
        }
    }

    /// Takes the lanes for which `which` holds out of the table.
    fn take(&self, which: impl Fn(&Hosted) -> bool) -> Vec<Hosted> {
        let mut lanes = self.lanes();
        let taken: Vec<_> =
            lanes.iter().filter(|(_, lane)| which(lane)).map(|(id, _)| *id).collect();
        taken.iter().filter_map(|id| lanes.remove(id)).collect()
    }

    /// Ends every lane of `entry`, and with it the lane's flows; returns how many. For an entry that
    /// is no member any more: the labels it holds end with [`Switch::withdraw_holder`].
    pub fn end_lanes_of(&self, entry: &NodeName) -> usize {
        let ended = self.take(|lane| lane.end.peer() == entry);
        for lane in &ended {
            if let Stage::Connected(conn) = &lane.stage {
                conn.close(VarInt::from_u32(code::UNAUTHORISED), b"no member any more");
            }
        }
        let count = ended.len();
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            drop(ended);
        });
        count
    }

    /// The lane that was granted in `slot`, while no connection has come.
    #[must_use]
    pub fn granted(&self, slot: SlotId) -> Option<Granted> {
        let lanes = self.lanes();
        let pending = |lane: &&Hosted| matches!(lane.stage, Stage::Pending(_));
        let lane = lanes.get(&slot).filter(pending)?;
        Some(Granted {
            entry: lane.end.peer().clone(),
            hint: lane.end.hint().clone(),
            mark: lane.end.mark().clone(),
        })
    }

    /// Serves a lane's connection until it closes. `entry` is who its certificate says.
    pub async fn serve(self: Arc<Self>, conn: Connection, slot: SlotId, entry: Peer) {
        let end = {
            let mut lanes = self.lanes();
            match lanes.get_mut(&slot) {
                Some(lane)
                    if *lane.end.peer() == entry.name
                        && matches!(lane.stage, Stage::Pending(_)) =>
                {
                    lane.stage = Stage::Connected(conn.clone());
                    lane.end.clone()
                }
                _ => {
                    conn.close(
                        VarInt::from_u32(code::UNAUTHORISED),
                        b"this lane was not granted to you",
                    );
                    return;
                }
            }
        };
        let told = lock(&self.lane_tally).begin(end.peer(), Instant::now().into_std());
        log_line!(told, lane = end.slot().0, peer = %end.peer(), "lane open");
        let datagrams = Datagrams::new(conn.clone(), self.drops.clone());
        let driver = Driver::new(conn.clone(), end.clone(), datagrams.clone());
        let driver = tokio::spawn(driver.run());
        let windows = self.memory.open(&entry.name, (conn.clone(), end.mark().clone()));
        tokio::spawn(windows.clone().run());
        let room = self.rooms.lane(conn.clone(), &entry.name, self.acceptor.flows_per_entry());
        while let Ok((send, recv)) = conn.accept_bi().await {
            let (port, window) = windows.open(send.id().index());
            let streams = Streams { send, recv, port };
            let of_lane = (room.clone(), datagrams.clone());
            let flow = self.clone().serve_flow(entry.clone(), streams, window, of_lane);
            tokio::spawn(flow.in_current_span());
        }
        self.lanes().remove(&slot);
        driver.abort();
        log_line!(told, lane = end.slot().0, peer = %end.peer(), "lane ended");
        if !told {
            let now = Instant::now().into_std();
            lock(&self.lane_tally).end(end.peer(), Outcome::Ended, now);
        }
    }

    async fn serve_flow(
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
        }
    }

    async fn carry(
        &self,
        entry: &Peer,
        (label, target): (FlowLabel, Target),
        streams: Streams,
        window: u64,
        told: bool,
    ) -> Outcome {
        let mut streams = streams.of_flow();
        let Streams { send, recv, port } = &mut streams;
        let reached = tokio::select! {
            biased;
            reached = self.reach(entry, (label, &target), send, (window, told)) => reached,
            // What the entry sends meanwhile is read: inside QUIC it would pin the packets of others.
            error = recv.breaks(port) => {
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
                log_line!(told, done.sent, done.received, "flow ended");
                Outcome::Ended
            }
            Err(error) => {
                log_line!(told, done.sent, done.received, %error, "flow reset");
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
        let opened = Opened { remote: outward.remote, window };
        if let Err(reason) = answer::accept(send, opened, counts).await {
            log_line!(told, reason, "the entry does not take the answer");
            return Err(Outcome::Reset);
        }
        Ok(outward)
    }

    /// Carries datagrams to what `open` opens. Their flow has no bytes, so the windows stay as they are.
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
        let opened = Opened { remote: outward.local, window: 0 };
        let counts = (&*outward.carried, &*self.limits);
        if let Err(reason) = answer::accept(&mut streams.send, opened, counts).await {
            log_line!(told, reason, "the entry does not take the answer");
            return Outcome::Reset;
        }
        log_line!(told, "flow open");
        tokio::select! {
            biased;
            () = association::carry(&mut streams, &outward, &port, news) => {}
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

    /// What listings show of the lanes that end here.
    #[must_use]
    pub fn facts(&self) -> Vec<LaneFacts> {
        let mut facts: Vec<_> = self.lanes().values().map(Hosted::facts).collect();
        facts.sort_by_key(|facts| facts.lane);
        facts
    }

    /// Bytes that flows may leave unread here, and bytes that entries may leave unconfirmed: what the
    /// windows of the lanes allow.
    #[must_use]
    pub fn windows(&self) -> (u64, u64) {
        self.memory.held()
    }

    /// How many flows leave here.
    #[must_use]
    pub fn flow_count(&self) -> usize {
        self.rooms.flow_count()
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<SlotId, Hosted>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn tell_refusal(send: &mut SendStream, refusal: Refusal, told: bool) -> Outcome {
    log_line!(told, reason = refusal.kind.name(), "flow refused");
    tracing::debug!(target: DESTINATION_TARGET, detail = refusal.detail, "the reason of the refusal");
    answer::refuse(send, refusal).await;
    Outcome::Refused
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until a new stream says what it is for, and makes room for its flow.
async fn begin(
    room: &Arc<LaneRoom>,
    entry: &NodeName,
    recv: &mut RecvStream,
) -> Result<(Open, FlowRoom), Refusal> {
    let broken = |detail: String| Refusal::new(RefusalKind::Protocol, detail);
    let open = room.wait(OPEN_TIMEOUT, read_frame::<Open>(recv)).await;
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
        tracing::warn!(entry = %entry.name, reason = kind.name(), detail, "a stream of an entry gets no flow");
    }
    if room.wait(answer::TIMEOUT, answer::refuse(send, refusal)).await.is_none() {
        // A stream that has ended needs no end.
        let _ = send.reset(VarInt::from_u32(code::FULL));
    }
    if kind == RefusalKind::Protocol { Outcome::Broken } else { Outcome::Refused }
}

impl fmt::Debug for LaneHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneHost").field("flows", &self.flow_count()).finish_non_exhaustive()
    }
}
