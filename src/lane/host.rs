//! The exit's side: lanes that entries open to us.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use noq::{Connection, VarInt};
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use super::{
    FlowAcceptor, LaneEnd, LaneFacts, RouteControl,
    datagrams::Datagrams,
    driver::Driver,
    end::Parts,
    facts::bytes,
    open_lane::Streams,
    room::Rooms,
    serve::FlowServer,
    tally::{Outcome, Tally},
    windows::{LaneBudget, LaneMemory},
};
use crate::{
    flow::{DatagramDrops, FlowLimits, Hint, Judgement, Refusal, Target},
    identity::{NodeName, Peer},
    overlay::select::Selector,
    transport::{RerouteMark, code},
    turns::{Limits, Turns},
    underlay::{MAX_SLOTS, SlotId, Switch},
    wire::{
        label::Label,
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

/// How often pending lanes and the labels granted as a relay are swept. Ended ones cost memory for at most this
/// time longer.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// An ended lane keeps its slot so long, for the packet that tells the entry: it leaves at the
/// connection's next turn.
const LINGER: Duration = Duration::from_secs(1);

/// A lane that waits for its connection.
#[derive(Debug, Clone)]
pub struct Granted {
    /// Who may connect.
    pub entry: NodeName,
    /// What its flows want of the route.
    pub hint: Hint,
    /// Tells its congestion controller of reroutes.
    pub mark: Arc<RerouteMark>,
    /// The longest packet that its route takes, as far as is known.
    pub longest: u16,
}

/// The lanes that end here.
pub struct LaneHost {
    switch: Arc<Switch>,
    control: Weak<dyn RouteControl>,
    flows: Arc<FlowServer>,
    drops: Arc<DatagramDrops>,
    memory: Arc<LaneMemory>,
    rooms: Rooms,
    lanes: Mutex<BTreeMap<SlotId, Hosted>>,
    /// The lanes that are not logged one by one.
    tally: Mutex<Tally>,
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
        let flows = Arc::new(FlowServer::new(acceptor, limits));
        let (tally, rooms, turns) = (Mutex::default(), Rooms::default(), Turns::new(GRANTS));
        Self { switch, control, flows, drops, memory, rooms, lanes, tally, turns }
    }

    /// Grants the entry of `request` the lane it asks for; answers with our label for it. The request
    /// has been checked: it is its entry's.
    ///
    /// # Errors
    /// When a cap is reached or the route for our direction cannot be had.
    pub async fn grant(&self, request: SignedLaneRequest) -> Result<Label, LinkRefusal> {
        let (entry, open) = (request.request.entry.clone(), request.request.open.clone());
        // Ends are dropped after the lock is given back: dropping one closes its slot.
        drop(self.take(|lane| *lane.end.peer() == entry && lane.is_overdue()));
        judge_room(&self.lanes(), &entry, open.wish.class.as_deref())?;
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
        {
            // Others of this entry may have come while it waited. It counts from here on: an entry must
            // not have more requests under way than lanes.
            let mut lanes = self.lanes();
            judge_room(&lanes, &entry, end.wish.class.as_deref())?;
            let stage = Stage::Pending(Instant::now());
            lanes.insert(id, Hosted { end: end.clone(), stage });
        }
        let begun = timeout(GRANT_TIMEOUT, end.begin()).await;
        if let Err(refusal) =
            begun.unwrap_or_else(|_| Err(LinkRefusal::Full("the relay does not answer".into())))
        {
            self.lanes().remove(&id);
            return Err(refusal);
        }
        Ok(label)
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
            let numbers = self.flows.tally().take(now);
            for (entry, flows) in numbers {
                tracing::info!(%entry, %flows, "flows of an entry that were not logged one by one");
            }
            let numbers = self.tally().take(now);
            for (entry, lanes) in numbers {
                tracing::info!(%entry, %lanes, "lanes of an entry that were not logged one by one");
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
            longest: self.switch.longest_packet(slot),
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
        let told = self.tally().begin(end.peer(), Instant::now().into_std());
        log_line!(told, lane = end.slot().0, peer = %end.peer(), "lane open");
        let datagrams = Datagrams::new(conn.clone(), end.mark().clone(), self.drops.clone());
        let driver = Driver::new(conn.clone(), end.clone(), datagrams.clone());
        let driver = tokio::spawn(driver.run());
        let windows = self.memory.open(&entry.name, (conn.clone(), end.mark().clone()));
        tokio::spawn(windows.clone().run());
        let room = self.rooms.lane(conn.clone(), &entry.name, self.flows.flows_per_entry());
        let reason = loop {
            let both = match conn.accept_bi().await {
                Ok(both) => both,
                Err(reason) => break reason,
            };
            let (streams, window) = Streams::new(&windows, both);
            let of_lane = (room.clone(), datagrams.clone());
            let flow = self.flows.clone().serve(entry.clone(), streams, window, of_lane);
            tokio::spawn(flow.in_current_span());
        };
        self.lanes().remove(&slot);
        driver.abort();
        log_line!(told, lane = end.slot().0, peer = %end.peer(), %reason, "lane ended");
        if !told {
            let now = Instant::now().into_std();
            self.tally().end(end.peer(), Outcome::Ended, now);
        }
    }

    /// Whether a flow of `entry`, by its certificate, to `target` would be carried, at a bounded pace.
    ///
    /// # Errors
    /// The refusal of such a flow; [`RefusalKind::Overloaded`](crate::flow::RefusalKind::Overloaded) to one that asks too often.
    pub async fn judge(&self, entry: &Peer, target: &Target) -> Result<Judgement, Refusal> {
        self.flows.judge(entry, target).await
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
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<SlotId, Hosted>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a lane that would be one too many.
fn judge_room(
    lanes: &BTreeMap<SlotId, Hosted>,
    entry: &NodeName,
    class: Option<&str>,
) -> Result<(), LinkRefusal> {
    if lanes.len() >= MAX_LANES {
        return Err(LinkRefusal::Full(format!("{MAX_LANES} lanes")));
    }
    let (mut held, mut classes) = (0, BTreeSet::new());
    for lane in lanes.values().filter(|lane| lane.end.peer() == entry) {
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

impl fmt::Debug for LaneHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneHost").field("flows", &self.flow_count()).finish_non_exhaustive()
    }
}
