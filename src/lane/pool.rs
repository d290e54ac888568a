//! The entry's side: lanes to exits, kept and shared, and the flows opened on them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use noq::{Endpoint, VarInt};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Lane, LaneEnd, RouteControl,
    association::LaneDatagrams,
    datagrams::Datagrams,
    driver::Driver,
    end::Parts,
    flow::LaneFlow,
    open_lane::Streams,
    windows::{LaneBudget, LaneMemory},
};
use crate::{
    flow::{
        DatagramDrops, DatagramFlow, DatagramSink, Flow, FlowEntry, FlowGuard, FlowLimits,
        FlowRequest, FlowState, FlowTable, Host, Ingress, Refusal, RefusalKind, Route, RouteWish,
        Target,
    },
    identity::{NodeName, peer_of, server_name},
    overlay::{
        candidates::{Candidate, Exclusion},
        connects::{ConnectTotals, Connects},
        select::{ChangeReason, Selector},
    },
    transport::{LaneClient, code},
    underlay::{SlotId, Switch},
    wire::{
        label::Label,
        lane::{JudgeReply, Purpose},
        link::{LaneAsker, LaneEndRole, OpenLane},
    },
};

/// How long an entry tries to open a lane, over all routes: flows wait for it meanwhile.
const LANE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an entry waits for the exit's answer to OPEN. The exit gives up on the destination
/// after 10 s; the rest is for the overlay, reroutes included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a lane may take to open if the flow has another exit: some round trips over a detour.
const OTHERWISE: Duration = Duration::from_millis(2500);

/// A lane that is not open by then and 4 round trips is tried on the next best route as well: it takes
/// three, for the request, perhaps a relay's grant, and the handshake.
const OVERDUE: Duration = Duration::from_millis(200);

/// The same on a route that is not measured.
const UNMEASURED_OVERDUE: Duration = Duration::from_secs(1);

/// Different lanes an entry keeps: exits × hints × classes. A client may name any exit and hint
/// in its SOCKS user name.
const MAX_LANES: usize = 256;

/// A lane without flows is kept warm this long.
const WARM: Duration = Duration::from_secs(600);

/// How often lanes without flows are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What flows must have in common to share a lane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneKey {
    /// The exit.
    pub exit: NodeName,
    /// Their wishes about the route.
    pub wish: RouteWish,
    /// How long the lane outlives complete silence; `None`: as configured for all lanes.
    pub patience: Option<Duration>,
    /// Which of several lanes it is over which a rule spreads flows, numbered from 0.
    pub way: Option<u8>,
    /// Whether it carries datagrams. QUIC sends them before streams, so they would hold up connections.
    pub datagrams: bool,
}

impl LaneKey {
    /// The lane to `exit` for flows without any wish.
    #[must_use]
    pub fn plain(exit: NodeName) -> Self {
        Self { exit, wish: RouteWish::default(), patience: None, way: None, datagrams: false }
    }
}

/// The lanes of an entry, opened on demand and shared by the flows with the same key.
pub struct LanePool {
    endpoint: Endpoint,
    client: LaneClient,
    switch: Arc<Switch>,
    control: Weak<dyn RouteControl>,
    flows: FlowTable,
    limits: Arc<FlowLimits>,
    drops: Arc<DatagramDrops>,
    memory: Arc<LaneMemory>,
    connects: Mutex<Connects>,
    cells: Mutex<BTreeMap<LaneKey, Arc<Cell>>>,
    /// All lanes with flows, also those that take no new ones.
    ends: Mutex<BTreeMap<u32, Weak<LaneEnd>>>,
}

/// The place of one lane: at most one task opens it, the others wait.
#[derive(Default)]
struct Cell {
    lane: Mutex<Option<Arc<Lane>>>,
    opening: tokio::sync::Mutex<Option<(Instant, Refusal)>>,
}

impl Cell {
    fn usable(&self) -> Option<Arc<Lane>> {
        let lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        lane.as_ref().filter(|lane| lane.conn.close_reason().is_none()).cloned()
    }

    fn set(&self, lane: Option<Arc<Lane>>) {
        *self.lane.lock().unwrap_or_else(PoisonError::into_inner) = lane;
    }
}

impl LanePool {
    /// A pool without lanes.
    #[must_use]
    pub fn new(
        endpoint: Endpoint,
        client: LaneClient,
        switch: Arc<Switch>,
        control: Weak<dyn RouteControl>,
        (flows, limits, drops): (FlowTable, Arc<FlowLimits>, Arc<DatagramDrops>),
        budget: LaneBudget,
    ) -> Self {
        Self {
            endpoint,
            client,
            switch,
            control,
            flows,
            limits,
            drops,
            memory: Arc::new(LaneMemory::of_entry(budget)),
            connects: Mutex::default(),
            cells: Mutex::default(),
            ends: Mutex::default(),
        }
    }

    /// Lists a flow for `request` that is being opened by `key`, until the guard is dropped.
    #[must_use]
    pub fn list_flow(&self, request: &FlowRequest, key: &LaneKey) -> FlowGuard {
        let mut wished = request.label;
        let mut draw = || wished.take().map_or_else(|| self.switch.chance().draw(), |wish| wish.0);
        self.flows.insert(&mut draw, |label| {
            let since = Instant::now().into_std();
            FlowEntry::opening(label, request, key.exit.clone(), key.wish.hint.clone(), since)
        })
    }

    /// Opens a flow for `request` on the lane of `key`. If there are `others` to turn to, an exit
    /// that is not heard of is given up within some seconds.
    ///
    /// # Errors
    /// Why the flow cannot be opened, from here or from the exit.
    pub async fn open_flow(
        &self,
        request: &FlowRequest,
        key: &LaneKey,
        others: bool,
    ) -> Result<Box<dyn Flow>, Refusal> {
        let purpose = Purpose::Connect(request.target.clone());
        let (guard, streams, _) = self.begin(request, key, others, purpose).await?;
        Ok(Box::new(LaneFlow { guard, limits: self.limits.clone(), streams }))
    }

    /// The same for an association or a conduit: `client` takes the datagrams that come back.
    ///
    /// # Errors
    /// Why the flow cannot be opened, from here or from the exit.
    pub async fn open_datagrams(
        &self,
        request: &FlowRequest,
        key: &LaneKey,
        others: bool,
        client: Arc<dyn DatagramSink>,
    ) -> Result<Arc<dyn DatagramFlow>, Refusal> {
        let purpose = match request.ingress {
            Ingress::Conduit => Purpose::Packets,
            _ => Purpose::Datagrams,
        };
        let (guard, streams, lane) = self.begin(request, key, others, purpose).await?;
        let entry = guard.entry();
        let (carried, counts) =
            (entry.carried.clone(), entry.datagrams.clone().unwrap_or_default());
        let (port, _) = lane.datagrams.port(streams.send.id().index(), Some(carried), counts);
        let end = Arc::downgrade(&lane.end);
        Ok(Arc::new(LaneDatagrams::begin(guard, streams, (end, port), client)))
    }

    async fn begin(
        &self,
        request: &FlowRequest,
        key: &LaneKey,
        others: bool,
        purpose: Purpose,
    ) -> Result<(FlowGuard, Streams, Arc<Lane>), Refusal> {
        let guard = self.list_flow(request, key);
        let open = (guard.entry().label, &purpose, &key.wish.hint);
        // A lane may turn out to be dead (its exit restarted) just as it is used: one more try.
        let mut retried = false;
        let (streams, lane) = loop {
            let patience = if others { OTHERWISE } else { LANE_TIMEOUT * 2 };
            let lane = timeout(patience, self.lane(key)).await.map_err(|_| silent(key))??;
            guard.entry().set_lane(lane.end.carries());
            let heard = lane.end.activity().packets().1;
            let asked = Instant::now();
            let opened = tokio::select! {
                biased;
                opened = timeout(OPEN_TIMEOUT, lane.open(open)) => opened,
                () = lane.hears_nothing(), if others => {
                    self.retire(key, &lane);
                    return Err(silent(key));
                }
            };
            match opened {
                Ok(Ok(reply)) => {
                    if matches!(purpose, Purpose::Connect(_)) {
                        let took = (asked.elapsed(), lane.rtt().unwrap_or_default());
                        let found = reply.as_ref().map(|_| took).map_err(|refusal| refusal.kind);
                        self.observe(&request.target, &key.exit, found);
                    }
                    break (reply?, lane);
                }
                Ok(Err(error)) if !retried => {
                    tracing::info!(%error, "the lane failed under the flow; trying a new one");
                    retried = true;
                }
                Ok(Err(error)) => return Err(Refusal::new(RefusalKind::ExitUnreachable, error)),
                Err(_) => {
                    if lane.end.activity().packets().1 == heard {
                        // Its flows may yet see it recover; new ones get a new lane.
                        self.retire(key, &lane);
                    } else if matches!(purpose, Purpose::Connect(_)) {
                        // The lane works: it is the exit's way to the destination that does not.
                        self.observe(&request.target, &key.exit, Err(RefusalKind::TimedOut));
                    }
                    let detail = format!("exit {} did not answer in {OPEN_TIMEOUT:?}", key.exit);
                    return Err(Refusal::new(RefusalKind::TimedOut, detail));
                }
            }
        };
        guard.entry().set_state(FlowState::Open);
        Ok((guard, streams, lane))
    }

    /// Takes note of an exit's answer: how long after the OPEN it came and the round trip of that, or why the
    /// exit does not connect.
    pub fn observe(
        &self,
        target: &Target,
        exit: &NodeName,
        found: Result<(Duration, Duration), RefusalKind>,
    ) {
        let (now, place) = (Instant::now().into_std(), (&target.host, exit));
        let mut connects = self.connects.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok((answered, rtt)) => connects.connected(now, place, answered, rtt),
            Err(kind) => connects.refused(now, place, kind),
        }
    }

    /// How long `exit` took lately to connect to `host`, at most 10 s, without the round trip of the lane; 10 s
    /// where it could not reach `host`. `None`: nothing is known of the last minutes.
    #[must_use]
    pub fn connect_time(&self, host: &Host, exit: &NodeName) -> Option<Duration> {
        let connects = self.connects.lock().unwrap_or_else(PoisonError::into_inner);
        connects.time(Instant::now().into_std(), (host, exit))
    }

    /// What the connects of each exit cost since the node started.
    #[must_use]
    pub fn connect_totals(&self) -> Vec<(String, ConnectTotals)> {
        self.connects.lock().unwrap_or_else(PoisonError::into_inner).totals()
    }

    /// Asks `exit` whether it would carry a flow to `target`, on a lane that is open. `None`: none is; the outer
    /// error is the lane's.
    pub async fn ask(
        &self,
        exit: &NodeName,
        target: &Target,
    ) -> Option<Result<JudgeReply, String>> {
        let (_, lane) = self.lanes().into_iter().find(|(key, _)| key.exit == *exit)?;
        Some(lane.ask(target).await)
    }

    /// Opens no more flows on `lane`; those that it carries go on.
    fn retire(&self, key: &LaneKey, lane: &Arc<Lane>) {
        if let Some(cell) = self.cells().get(key)
            && cell.usable().is_some_and(|current| Arc::ptr_eq(&current, lane))
        {
            cell.set(None);
        }
    }

    /// The lane of `key`, opened if need be.
    ///
    /// # Errors
    /// When the exit cannot be reached or refuses.
    pub async fn lane(&self, key: &LaneKey) -> Result<Arc<Lane>, Refusal> {
        let asked = Instant::now();
        let cell = self.cell(key)?;
        if let Some(lane) = cell.usable() {
            return Ok(lane);
        }
        let mut last_failure = cell.opening.lock().await;
        if let Some(lane) = cell.usable() {
            return Ok(lane);
        }
        // A task that waited while an attempt failed shares its outcome, and makes no attempt of its own.
        if let Some((when, refusal)) = &*last_failure
            && *when >= asked
        {
            return Err(refusal.clone());
        }
        match timeout(LANE_TIMEOUT, self.open_lane(key)).await.unwrap_or_else(|_| {
            let detail = format!("no lane to exit {} within {LANE_TIMEOUT:?}", key.exit);
            Err(Refusal::new(RefusalKind::ExitUnreachable, detail))
        }) {
            Ok(lane) => {
                cell.set(Some(lane.clone()));
                *last_failure = None;
                Ok(lane)
            }
            Err(refusal) => {
                *last_failure = Some((Instant::now(), refusal.clone()));
                Err(refusal)
            }
        }
    }

    fn cell(&self, key: &LaneKey) -> Result<Arc<Cell>, Refusal> {
        let mut cells = self.cells();
        if let Some(cell) = cells.get(key) {
            return Ok(cell.clone());
        }
        if cells.len() >= MAX_LANES {
            cells.retain(|_, cell| cell.usable().is_some() || Arc::strong_count(cell) > 1);
        }
        if cells.len() >= MAX_LANES {
            let detail = format!("{MAX_LANES} lanes are open, the maximum");
            return Err(Refusal::new(RefusalKind::Overloaded, detail));
        }
        Ok(cells.entry(key.clone()).or_default().clone())
    }

    async fn open_lane(&self, key: &LaneKey) -> Result<Arc<Lane>, Refusal> {
        let stopping = || Refusal::new(RefusalKind::Overloaded, "this node is stopping");
        let control = self.control.upgrade().ok_or_else(stopping)?;
        let mut candidates = control.candidates(&key.exit, LaneEndRole::Entry, &key.wish);
        if candidates.iter().all(|candidate| candidate.excluded.is_some()) {
            // A link that has just come back is better than none.
            let recovering =
                |c: &&mut Candidate| matches!(c.excluded, Some(Exclusion::Recovering { .. }));
            candidates.iter_mut().filter(recovering).for_each(|c| c.excluded = None);
        }
        let mut selector = Selector::sharing(key.wish.hint.clone(), key.way);
        let decision = selector.decide(Instant::now().into_std(), candidates);
        let mut routes = decision.route.into_iter().chain(decision.alternatives);
        let mut last = Refusal::new(
            RefusalKind::ExitUnreachable,
            format!("no route to exit {} is up and admissible", key.exit),
        );
        let mut attempts = FuturesUnordered::new();
        loop {
            let mut overdue = None;
            if let Some(route) = routes.next() {
                let taken = decision.candidates.iter().find(|c| c.candidate.route == route);
                let rtt = taken.and_then(|taken| taken.candidate.metrics).map(|path| path.rtt);
                overdue = Some(rtt.map_or(UNMEASURED_OVERDUE, |rtt| rtt * 4 + OVERDUE));
                let mut selector = selector.clone();
                selector.adopt(Instant::now().into_std(), &route, ChangeReason::First);
                attempts.push(self.attempt(key, route, selector));
            }
            let next_turn = async {
                match overdue {
                    Some(overdue) => sleep(overdue).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = next_turn => {}
                opened = attempts.next() => match opened {
                    Some(Ok(lane)) => return Ok(lane),
                    Some(Err(refusal)) => last = refusal,
                    None => return Err(last),
                }
            }
        }
    }

    async fn attempt(
        &self,
        key: &LaneKey,
        route: Route,
        selector: Selector,
    ) -> Result<Arc<Lane>, Refusal> {
        let opened = self.open_lane_on(key, &route, selector).await;
        opened.inspect_err(|refusal| {
            tracing::info!(exit = %key.exit, %route, %refusal, "lane not opened");
        })
    }

    async fn open_lane_on(
        &self,
        key: &LaneKey,
        route: &Route,
        selector: Selector,
    ) -> Result<Arc<Lane>, Refusal> {
        let unreachable = |detail: String| Refusal::new(RefusalKind::ExitUnreachable, detail);
        let control = self.control.upgrade().ok_or_else(|| unreachable("stopping".into()))?;
        let (id, activity) = self
            .switch
            .open_slot()
            .ok_or_else(|| Refusal::new(RefusalKind::Overloaded, "no lane slot is free"))?;
        let mut unclaimed = Unclaimed { switch: &self.switch, slot: id, claimed: false };
        let end_of = |far_label| {
            LaneEnd::new(Parts {
                switch: self.switch.clone(),
                slot: (id, activity),
                control: control.clone(),
                peer: key.exit.clone(),
                far_label,
                asker: LaneAsker::Entry { class: key.wish.class.clone() },
                wish: key.wish.clone(),
                route: route.clone(),
                selector,
            })
        };
        let reply_label = Label(self.switch.chance().draw());
        let granted =
            self.switch.with_labels(|labels| labels.grant_slot(reply_label, &key.exit, id));
        let open = OpenLane { reply_label, route: route.clone(), wish: key.wish.clone() };
        let far_label = match granted {
            Ok(()) => control.open_lane(&key.exit, open).await.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let far_label =
            far_label.map_err(|error| unreachable(format!("exit {}: {error}", key.exit)))?;
        // From here on dropping the end closes the slot.
        unclaimed.claimed = true;
        let end = Arc::new(end_of(far_label));
        end.begin().await.map_err(|e| unreachable(format!("{route}: {e}")))?;
        let conn = self
            .endpoint
            .connect_with(
                self.client.config(
                    &key.exit,
                    end.mark(),
                    &key.wish.hint,
                    key.patience,
                    self.switch.longest_packet(id),
                ),
                id.virtual_address(),
                &server_name(&key.exit),
            )
            .map_err(|error| unreachable(error.to_string()))?
            .await
            .map_err(|error| unreachable(format!("exit {}: {error}", key.exit)))?;
        if !peer_of(&conn).is_ok_and(|peer| peer.roles.exit) {
            conn.close(VarInt::from_u32(code::UNAUTHORISED), b"not certified as an exit");
            return Err(unreachable(format!("{} is not certified as an exit", key.exit)));
        }
        tracing::info!(lane = end.slot().0, peer = %end.peer(), hint = %key.wish.hint, "lane open");
        let windows = self.memory.open(end.peer(), (conn.clone(), end.mark().clone()));
        tokio::spawn(windows.clone().run());
        let idle_since = Mutex::new(Instant::now());
        let datagrams = Datagrams::new(conn.clone(), end.mark().clone(), self.drops.clone());
        let lane = Arc::new(Lane { conn, end, windows, datagrams, idle_since });
        self.list(&lane.end);
        let driver = (lane.conn.clone(), lane.end.clone(), lane.datagrams.clone());
        tokio::spawn(Driver::new(driver.0, driver.1, driver.2).run());
        Ok(lane)
    }

    /// Looks after the lanes until the node stops.
    pub async fn keep(self: Arc<Self>) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            self.close_idle();
        }
    }

    /// Closes lanes that have been without flows for longer than they are kept warm.
    fn close_idle(&self) {
        let busy = |key: &LaneKey| {
            self.flows.snapshot().iter().any(|f| f.exit == key.exit && f.hint == key.wish.hint)
        };
        self.cells().retain(|key, cell| {
            let Some(lane) = cell.usable() else { return Arc::strong_count(cell) > 1 };
            let mut idle_since = lane.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
            if busy(key) {
                *idle_since = Instant::now();
            }
            if idle_since.elapsed() < WARM {
                return true;
            }
            lane.conn.close(VarInt::from_u32(code::DONE), b"idle");
            false
        });
    }

    /// The open lanes with their keys.
    #[must_use]
    pub fn lanes(&self) -> Vec<(LaneKey, Arc<Lane>)> {
        let cells = self.cells();
        let mut lanes: Vec<_> =
            cells.iter().filter_map(|(key, cell)| Some((key.clone(), cell.usable()?))).collect();
        lanes.sort_by_key(|(_, lane)| lane.end.slot());
        lanes
    }

    fn list(&self, end: &Arc<LaneEnd>) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.retain(|_, end| end.strong_count() > 0);
        ends.insert(end.slot().0, Arc::downgrade(end));
    }

    /// This end of the lane with a number, also of one that takes no new flows.
    #[must_use]
    pub fn end_of(&self, lane: u32) -> Option<Arc<LaneEnd>> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.get(&lane).and_then(Weak::upgrade)
    }

    /// The limits of its flows.
    #[must_use]
    pub fn limits(&self) -> Arc<FlowLimits> {
        self.limits.clone()
    }

    /// The live flows.
    #[must_use]
    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    fn cells(&self) -> MutexGuard<'_, BTreeMap<LaneKey, Arc<Cell>>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn silent(key: &LaneKey) -> Refusal {
    let detail = format!("nothing is heard from exit {}", key.exit);
    Refusal::new(RefusalKind::ExitUnreachable, detail)
}

/// Closes a slot that no lane's end has taken over when the attempt fails or is given up.
struct Unclaimed<'a> {
    switch: &'a Switch,
    slot: SlotId,
    claimed: bool,
}

impl Drop for Unclaimed<'_> {
    fn drop(&mut self) {
        if !self.claimed {
            self.switch.close_slot(self.slot);
        }
    }
}

impl fmt::Debug for LanePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LanePool").field("flows", &self.flows.len()).finish_non_exhaustive()
    }
}
