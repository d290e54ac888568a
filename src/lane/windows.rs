//! The windows of a lane's flows, and how its two ends tell each other of them.
//!
//! Each end opens one unidirectional stream and writes grants on it: the index of a flow's stream and
//! how many bytes of the flow the far end may have sent in all, 8 bytes each, big endian. The first
//! window of a flow stands in OPEN and in its answer.

use std::{
    collections::BTreeMap,
    fmt, io,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use noq::{Connection, PathId, SendStream, VarInt};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::{Notify, Semaphore, SemaphorePermit},
};

use super::{
    end::now,
    memory::{Change, Ledger, Of, Sizes},
    read_buffers::{BUFFER, ReadBuffers, Reader},
    sparse::Sparse,
    window::{Exceeded, FlowWindow, Pool},
};
use crate::{
    identity::NodeName,
    transport::{OPENED_LANE_WINDOW, RerouteMark, code},
};

/// Flows of a lane that may hold a piece which QUIC has not taken yet, one after another: enough to keep
/// QUIC busy, and few enough that all of them hold little.
const WRITERS: usize = 32;

/// Such bytes of one flow: all of them together make up to half of what the lane may leave
/// unacknowledged, within these bounds. Large reads from TCP cost fewer system calls.
const PIECE: RangeInclusive<u64> = 2 << 10..=BUFFER as u64;

/// Priorities of streams. A stream has 0 at first, so OPEN and its answer go before bulk flows, too.
const GRANTS: i32 = 1;
const SPARSE: i32 = 0;
const BULK: i32 = -1;

/// One grant on the wire.
const GRANT: usize = 16;

/// Of an entry's budget at an exit, what its lanes' windows may cost: 24 of 32 MiB. The rest is for a first piece of
/// each flow, streams, and packets under way.
const fn windows(memory: u64) -> u64 {
    memory / 4 * 3
}

/// The shares of the lanes that a node opens, for unread bytes. These lanes are its own user's, so
/// they begin large: a new flow then begins with a window of 256 KiB.
const OPENED: Sizes = Sizes { least: OPENED_LANE_WINDOW as u64, first: 128 << 20, most: 256 << 20 };

/// What lanes may pin, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneBudget {
    /// Those of one far end: of an entry, or to an exit.
    pub per_peer: u64,
    /// All of them.
    pub in_all: u64,
}

impl LaneBudget {
    /// Of the lanes that end at an exit.
    pub const HOSTED: Self = Self { per_peer: 32 << 20, in_all: 512 << 20 };

    /// Of the lanes that an entry opens, for what their flows have not read.
    pub const OPENED: Self = Self { per_peer: 256 << 20, in_all: 512 << 20 };
}

/// The memory of all lanes that end at an exit, or of all that an entry opened.
pub(super) struct LaneMemory {
    ledger: Mutex<Ledger>,
    pool: fn(u64) -> u64,
    lanes: Mutex<BTreeMap<u32, Weak<Windows>>>,
    /// A slot has its next lane while flows of the last one still end, so lanes have numbers of their
    /// own here.
    next: AtomicU32,
}

impl LaneMemory {
    /// Of lanes that end at an exit.
    pub(super) fn of_exit(budget: LaneBudget) -> Self {
        let LaneBudget { per_peer, in_all } = budget;
        let kinds = &[Of::Unread, Of::Unacknowledged];
        let ledger = Ledger::new(Sizes::HOSTED, kinds, windows(per_peer), windows(in_all));
        Self::new(ledger, |window| window)
    }

    /// Of lanes that an entry opens. What is not acknowledged there is its own user's. noq tells the far end of more
    /// only when that is an eighth of the window, so as much must be free when no flow is read; the other eighth is for
    /// answers, grants, and the least windows of flows in a full pool.
    pub(super) fn of_entry(budget: LaneBudget) -> Self {
        let ledger = Ledger::new(OPENED, &[Of::Unread], budget.per_peer, budget.in_all);
        Self::new(ledger, |window| window / 4 * 3)
    }

    fn new(ledger: Ledger, pool: fn(u64) -> u64) -> Self {
        let (lanes, next) = (Mutex::default(), AtomicU32::new(0));
        Self { ledger: Mutex::new(ledger), pool, lanes, next }
    }

    fn kinds(&self) -> &'static [Of] {
        lock(&self.ledger).kinds()
    }

    /// The windows of a lane of or to `peer` that has just connected.
    pub(super) fn open(
        self: &Arc<Self>,
        peer: &NodeName,
        (conn, mark): (Connection, Arc<RerouteMark>),
    ) -> Arc<Windows> {
        let lane = self.next.fetch_add(1, Ordering::Relaxed);
        let windows = Windows::new((conn, mark), (self.clone(), lane));
        for &of in self.kinds() {
            let window = lock(&self.ledger).open(lane, of, peer);
            windows.set(of, window);
        }
        lock(&self.lanes).insert(lane, Arc::downgrade(&windows));
        windows
    }

    /// Bytes that the windows of all lanes allow to be unread and to be unacknowledged.
    pub(super) fn held(&self) -> (u64, u64) {
        let ledger = lock(&self.ledger);
        (ledger.held(Of::Unread), ledger.held(Of::Unacknowledged))
    }

    fn close(&self, lane: u32) {
        lock(&self.ledger).close(lane);
        lock(&self.lanes).remove(&lane);
    }

    fn change(&self, changes: impl IntoIterator<Item = Change>) {
        for (lane, of, window) in changes {
            let changed = lock(&self.lanes).get(&lane).and_then(Weak::upgrade);
            if let Some(windows) = changed {
                windows.set(of, window);
            }
        }
    }

    fn grow(&self, lane: u32, of: Of) {
        let changes = lock(&self.ledger).grow(lane, of);
        self.change(changes);
    }

    fn paid(&self, lane: u32, of: Of, bytes: u64) {
        lock(&self.ledger).paid(lane, of, bytes);
    }

    fn rest(&self, lane: u32) {
        for &of in self.kinds() {
            let change = lock(&self.ledger).rest(lane, of);
            self.change(change);
        }
    }
}

/// The windows of one lane's flows, in both directions.
pub(super) struct Windows {
    conn: Connection,
    mark: Arc<RerouteMark>,
    memory: (Arc<LaneMemory>, u32),
    state: Mutex<State>,
    news: Notify,
    writers: Semaphore,
    /// For reads from TCP.
    read_buffers: ReadBuffers,
    piece: AtomicUsize,
}

struct State {
    pool: Pool,
    flows: BTreeMap<u64, FlowWindow>,
    allowances: BTreeMap<u64, Arc<Allowance>>,
    /// To be told to the far end, by flow: the last one counts.
    grants: BTreeMap<u64, u64>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            pool: Pool::new(0),
            flows: BTreeMap::new(),
            allowances: BTreeMap::new(),
            grants: BTreeMap::new(),
        }
    }
}

/// What this end may send on one flow.
#[derive(Debug, Default)]
struct Allowance {
    limit: AtomicU64,
    /// The lane has ended; the next write returns the error.
    over: AtomicBool,
    waker: AtomicWaker,
}

/// One flow's part in the windows of its lane.
pub(super) struct FlowPort {
    windows: Arc<Windows>,
    flow: u64,
    allowance: Arc<Allowance>,
    sent: AtomicU64,
    sparse: Mutex<Sparse>,
    /// Whether its stream has the priority of a bulk flow.
    bulk: AtomicBool,
}

/// What was read from QUIC, for the window of one flow.
pub(super) struct Receipts {
    windows: Arc<Windows>,
    flow: u64,
}

impl Windows {
    fn new(
        (conn, mark): (Connection, Arc<RerouteMark>),
        memory: (Arc<LaneMemory>, u32),
    ) -> Arc<Self> {
        Arc::new(Self {
            conn,
            mark,
            memory,
            state: Mutex::default(),
            news: Notify::new(),
            writers: Semaphore::new(WRITERS),
            read_buffers: ReadBuffers::default(),
            piece: AtomicUsize::new(piece(u64::MAX)),
        })
    }

    /// A new flow on the stream of this index; also what the far end may send on it at first.
    pub(super) fn open(self: &Arc<Self>, flow: u64) -> (FlowPort, u64) {
        let mut state = self.lock();
        let window = FlowWindow::open(&mut state.pool);
        let limit = window.limit();
        let allowance = Arc::<Allowance>::default();
        state.flows.insert(flow, window);
        state.allowances.insert(flow, allowance.clone());
        drop(state);
        let (sent, bulk) = (AtomicU64::new(0), AtomicBool::new(false));
        let sparse = Mutex::new(Sparse::new(now()));
        (FlowPort { windows: self.clone(), flow, allowance, sent, sparse, bulk }, limit)
    }

    /// Tells and hears of windows until the connection ends.
    pub(super) async fn run(self: Arc<Self>) {
        tokio::select! { biased; _ = self.tell() => {} _ = self.hear() => {} }
        // Without grants no flow goes on.
        if self.conn.close_reason().is_none() {
            self.conn.close(VarInt::from_u32(code::PROTOCOL), b"the stream of grants ended");
        }
        for allowance in self.lock().allowances.values() {
            allowance.over.store(true, Ordering::Release);
            allowance.waker.wake();
        }
    }

    async fn tell(&self) -> Result<(), noq::WriteError> {
        let mut stream: Option<SendStream> = None;
        loop {
            self.news.notified().await;
            let grants = std::mem::take(&mut self.lock().grants);
            if grants.is_empty() {
                continue;
            }
            let mut bytes = Vec::with_capacity(grants.len() * GRANT);
            for (flow, limit) in grants {
                bytes.extend_from_slice(&flow.to_be_bytes());
                bytes.extend_from_slice(&limit.to_be_bytes());
            }
            let stream = match &mut stream {
                Some(stream) => stream,
                None => {
                    let new = self.conn.open_uni().await?;
                    // A grant that waits behind a flow's bytes holds up another flow.
                    let _ = new.set_priority(GRANTS);
                    stream.insert(new)
                }
            };
            stream.write_all(&bytes).await?;
        }
    }

    async fn hear(&self) -> io::Result<()> {
        hear_grants(self.conn.accept_uni().await?, &self.state).await
    }

    fn set(&self, of: Of, window: u64) {
        match of {
            Of::Unread => {
                self.conn.set_receive_window(quic(window));
                self.lock().pool.set_capacity((self.memory.0.pool)(window));
            }
            Of::Unacknowledged => {
                self.conn.set_send_window(window);
                self.piece.store(piece(window), Ordering::Relaxed);
            }
        }
    }

    /// Zero when the lane has ended.
    fn rtt(&self) -> Duration {
        self.conn.rtt(PathId::ZERO).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        let (memory, lane) = &self.memory;
        memory.close(*lane);
    }
}

impl Allowance {
    fn raise(&self, limit: u64) {
        self.limit.fetch_max(limit, Ordering::AcqRel);
        self.waker.wake();
    }
}

impl FlowPort {
    /// The far end's first window for this flow.
    pub(super) fn allow(&self, limit: u64) {
        self.allowance.raise(limit);
    }

    /// How much to send at once now, at least a byte.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        match self.room() {
            Some(room) => Poll::Ready(room),
            None => {
                self.allowance.waker.register(cx.waker());
                self.room().map_or(Poll::Pending, Poll::Ready)
            }
        }
    }

    /// The same without waiting.
    pub(super) fn room(&self) -> Option<usize> {
        if self.allowance.over.load(Ordering::Acquire) {
            return Some(self.windows.piece.load(Ordering::Relaxed));
        }
        let limit = self.allowance.limit.load(Ordering::Acquire);
        let room = limit.saturating_sub(self.sent.load(Ordering::Relaxed));
        let piece = self.windows.piece.load(Ordering::Relaxed);
        (room > 0).then(|| usize::try_from(room).unwrap_or(piece).min(piece))
    }

    /// The same, waiting for it.
    pub(super) async fn has_room(&self) -> usize {
        std::future::poll_fn(|cx| self.poll_room(cx)).await
    }

    /// Waits until this flow may hold more than a few bytes that QUIC has not taken; in order of asking.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.windows.writers.acquire().await.ok()
    }

    /// The flow's use of the lane's buffers for large reads.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader::new(&self.windows.read_buffers)
    }

    /// The bytes of such buffers that the lane may keep: as many as its flows may hold back.
    pub(super) fn kept(&self) -> usize {
        WRITERS * self.windows.piece.load(Ordering::Relaxed)
    }

    /// QUIC is given bytes, of which it may take a part.
    pub(super) fn writes(&self, bytes: usize) {
        self.windows.mark.writes(self.sent.load(Ordering::Relaxed), bytes as u64);
    }

    /// Puts the flow before or among the bulk flows of its lane, by its recent bytes and those that it writes now.
    pub(super) fn prioritise(&self, send: &SendStream, bytes: usize) {
        let bulk = !lock(&self.sparse).covers(now(), bytes as u64);
        if self.bulk.swap(bulk, Ordering::Relaxed) != bulk {
            // A stream that was reset needs no priority.
            let _ = send.set_priority(if bulk { BULK } else { SPARSE });
        }
    }

    /// QUIC takes no more at present.
    pub(super) fn blocked(&self) {
        let (memory, lane) = &self.windows.memory;
        memory.grow(*lane, Of::Unacknowledged);
    }

    /// QUIC took bytes, so no more are unacknowledged than the window allows.
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        lock(&self.sparse).wrote(now(), bytes as u64);
        let (memory, lane) = &self.windows.memory;
        memory.paid(*lane, Of::Unacknowledged, u64::MAX);
    }

    /// Counts the bytes of the flow that are read from QUIC.
    pub(super) fn receipts(&self) -> Receipts {
        Receipts { windows: self.windows.clone(), flow: self.flow }
    }

    /// The application took bytes.
    pub(super) fn took(&self, bytes: usize) {
        let mut state = self.windows.lock();
        let State { pool, flows, grants, .. } = &mut *state;
        let Some(flow) = flows.get_mut(&self.flow) else { return };
        let more = flow.took(bytes as u64, pool, (now(), || self.windows.rtt()));
        if let Some(more) = more {
            grants.insert(self.flow, more.limit);
            self.windows.news.notify_one();
        }
        drop(state);
        let (memory, lane) = &self.windows.memory;
        memory.paid(*lane, Of::Unread, bytes as u64);
        if more.is_some_and(|more| more.pool_is_small) {
            memory.grow(*lane, Of::Unread);
        }
    }
}

impl Receipts {
    /// Bytes of the stream were read from QUIC.
    pub(super) fn received(&self, bytes: u64) -> Result<(), Exceeded> {
        self.of_flow(|flow| flow.received(bytes))
    }

    /// The message before the flow's bytes has come, and had so many.
    pub(super) fn begins_after(&self, message: u64) -> Result<(), Exceeded> {
        self.of_flow(|flow| flow.begins_after(message))
    }

    fn of_flow(
        &self,
        count: impl FnOnce(&mut FlowWindow) -> Result<(), Exceeded>,
    ) -> Result<(), Exceeded> {
        self.windows.lock().flows.get_mut(&self.flow).map_or(Ok(()), count)
    }
}

impl FlowPort {
    /// The flow has ended. It keeps its part until the far end has acknowledged its bytes.
    pub(super) fn end(self, send: &SendStream) {
        let acknowledged = send.stopped();
        tokio::spawn(async move {
            // An error is the end of the lane.
            let _ = acknowledged.await;
            drop(self);
        });
    }
}

impl Drop for FlowPort {
    fn drop(&mut self) {
        let mut state = self.windows.lock();
        state.allowances.remove(&self.flow);
        state.grants.remove(&self.flow);
        if let Some(flow) = state.flows.remove(&self.flow) {
            flow.close(&mut state.pool);
        }
        let rests = state.flows.is_empty();
        drop(state);
        if rests {
            let (memory, lane) = &self.windows.memory;
            memory.rest(*lane);
        }
    }
}

impl fmt::Debug for FlowPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FlowPort").field(&self.flow).finish()
    }
}

impl fmt::Debug for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Windows").field("flows", &self.lock().flows.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for LaneMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneMemory").field("held", &self.held()).finish()
    }
}

/// Takes the far end's grants until their stream fails. A grant for a flow that has ended changes nothing.
async fn hear_grants(mut stream: impl AsyncRead + Unpin, state: &Mutex<State>) -> io::Result<()> {
    loop {
        let (flow, limit) = (stream.read_u64().await?, stream.read_u64().await?);
        if let Some(allowance) = lock(state).allowances.get(&flow) {
            allowance.raise(limit);
        }
    }
}

/// What the flows of a lane with this send window may hold back together.
pub(super) fn held_back(send_window: u64) -> u64 {
    (send_window / 2).min(WRITERS as u64 * PIECE.end())
}

/// The same of one of them.
fn piece(send_window: u64) -> usize {
    let share = held_back(send_window) / WRITERS as u64;
    usize::try_from(share.clamp(*PIECE.start(), *PIECE.end())).unwrap_or(usize::MAX)
}

fn quic(window: u64) -> VarInt {
    VarInt::from_u64(window).unwrap_or(VarInt::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::fuzz::Fuzz;

    /// What is granted to `flow` by bytes that come in pieces of a few.
    async fn granted(bytes: &[u8], flow: u64) -> u64 {
        let state = Mutex::<State>::default();
        let allowance = Arc::<Allowance>::default();
        lock(&state).allowances.insert(flow, allowance.clone());
        let (mut far, near) = tokio::io::duplex(5);
        let writing = async {
            far.write_all(bytes).await.unwrap();
            drop(far);
        };
        let (heard, ()) = tokio::join!(hear_grants(near, &state), writing);
        assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(lock(&state).allowances.len(), 1, "a grant opened a flow");
        allowance.limit.load(Ordering::Acquire)
    }

    #[test]
    fn mutated_grants_raise_the_limit_of_their_flow_and_nothing_else() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let grant = |flow: u64, limit: u64| [flow.to_be_bytes(), limit.to_be_bytes()].concat();
        let seeds = [
            [grant(4, 1 << 20), grant(8, 300), grant(4, u64::MAX)].concat(),
            [grant(0, 1 << 10), grant(4, 2 << 10), grant(4, 1 << 10)].concat(),
        ];
        Fuzz::new("grants", seeds).run(|bytes| {
            let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
            let grants = bytes.chunks_exact(GRANT).map(|one| one.split_at(8));
            let of_flow = grants.filter(|(flow, _)| number(flow) == 4);
            let most = of_flow.map(|(_, limit)| number(limit)).max();
            assert_eq!(runtime.block_on(granted(bytes, 4)), most.unwrap_or(0));
        });
    }
}
