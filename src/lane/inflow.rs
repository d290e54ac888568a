//! The bytes of a lane's stream as they arrive, in order: messages, or a message and then the bytes of a flow.
//!
//! From its beginning a stream is read when the task of QUIC that brought bytes ends its turn, and not when the flow's own
//! task runs. noq ends a connection when more than 2,048 pieces of one stream are unread, and on a busy machine the flow's
//! task runs late. A turn brings 128 packets at most, as Tokio lets no task receive more messages at once, and an honest
//! far end puts a piece or two of a stream into a packet. So a flow's window may hold many megabytes. Also, no bytes wait
//! inside QUIC, where those behind a gap take up to 5/2 of their size, and pieces pin the packets of others.

use std::{
    future::poll_fn,
    io, mem,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use noq::{ClosedStream, ReadError, RecvStream, UnorderedRecvStream, VarInt};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, ReadBuf};

use super::{
    backlog::Backlog,
    reassembly::{Reassembly, TooManyGaps},
    window::Exceeded,
    windows::Receipts,
};
use crate::{
    transport::{FrameError, read_frame},
    underlay::{AfterTurn, Gap, Gaps, after_turn},
};

/// The largest piece that is taken at once: that of the largest packet.
const PIECE: usize = 64 << 10;

/// Bytes of a stream of messages that may wait: some dozens of the longest.
const MESSAGES: usize = 64 << 10;

/// The bytes of one direction of a stream that have arrived and that its reader has not taken.
pub(super) struct Inflow {
    /// Where bytes come from.
    pub(super) arriving: Arriving,
    /// Those that wait for the reader.
    pub(super) backlog: Backlog,
}

/// A stream that is read as bytes arrive, so that no bytes wait inside QUIC.
pub(super) struct Arriving {
    shared: Arc<Shared>,
    ended: bool,
}

/// What the tasks of the flow and of QUIC share.
struct Shared {
    state: Mutex<State>,
    reader: AtomicWaker,
    /// Whether QUIC may have bytes, or news, that no turn has read.
    unread: AtomicBool,
}

struct State {
    /// `None`: the flow is over at this end.
    recv: Option<UnorderedRecvStream>,
    /// The flow's part in the windows of its lane. `None`: only messages follow.
    receipts: Option<Receipts>,
    order: Reassembly,
    /// `order` has a gap, as far as a turn of QUIC has found.
    gap: Option<Gap>,
    /// The far end was told to stop.
    stopped: bool,
    /// Pieces in order, of one turn.
    pieces: Vec<Bytes>,
    /// What the flow's task has not taken.
    arrived: Backlog,
    /// How the stream ended, after these bytes.
    end: Option<Result<(), Broken>>,
}

/// Why the far end's bytes ended before their end.
#[derive(Debug, Clone, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Stream(#[from] ReadError),
    #[error(transparent)]
    Order(#[from] TooManyGaps),
    #[error(transparent)]
    Window(#[from] Exceeded),
    #[error("the far end sends more messages than are read")]
    Messages,
}

impl Inflow {
    /// The bytes of a stream of which nothing was read.
    pub(super) fn new(recv: RecvStream, receipts: Receipts) -> Self {
        let state = State {
            recv: Some(recv.into_unordered()),
            receipts: Some(receipts),
            order: Reassembly::default(),
            gap: None,
            stopped: false,
            pieces: Vec::new(),
            arrived: Backlog::default(),
            end: None,
        };
        let (state, reader) = (Mutex::new(state), AtomicWaker::new());
        let shared = Arc::new(Shared { state, reader, unread: AtomicBool::new(false) });
        // From now on, whether or not somebody reads.
        shared.take(None);
        Self { arriving: Arriving { shared, ended: false }, backlog: Backlog::default() }
    }

    /// Reads the message before the flow's bytes.
    ///
    /// # Errors
    /// As for [`read_frame`], and if more than the flow's window has come with it.
    pub(super) async fn first_message<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        let message = read_frame(self).await;
        // What came with it must not pin the packets of others.
        self.backlog.copy();
        let message = message?;
        let state = self.arriving.shared.lock();
        let bytes = state.order.in_order() - (state.arrived.len() + self.backlog.len()) as u64;
        if let Some(receipts) = &state.receipts {
            receipts.begins_after(bytes).map_err(io::Error::other)?;
        }
        Ok(message)
    }

    /// Only messages follow, whatever the flow's window is.
    pub(super) fn expect_messages(&self) {
        self.arriving.shared.lock().receipts = None;
    }

    /// Waits for the end of a stream on which nothing is expected.
    pub(super) async fn end(&mut self) {
        while !self.arriving.ended && self.arriving.read().await.is_ok() {}
    }

    /// Reads for a reader that is not there yet, until the stream or the far end breaks.
    pub(super) async fn breaks(&mut self) -> io::Error {
        while !self.arriving.ended {
            match self.arriving.read().await {
                Ok(arrived) => self.backlog.append(arrived),
                Err(error) => return error,
            }
            self.backlog.copy();
        }
        std::future::pending().await
    }
}

impl Arriving {
    /// Whether the far end's bytes have ended, and all have been read.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Gives what has arrived, or waits for more. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the stream broke, or the far end breaks the rules.
    pub(super) async fn read(&mut self) -> io::Result<Backlog> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// The same as a poll. It gives nothing only at the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Backlog>> {
        self.shared.reader.register(cx.waker());
        if self.shared.unread.swap(false, Ordering::AcqRel) {
            self.shared.take(None);
        }
        let mut state = self.shared.lock();
        if !state.arrived.is_empty() {
            return Poll::Ready(Ok(mem::take(&mut state.arrived)));
        }
        match &state.end {
            None => Poll::Pending,
            Some(Ok(())) => {
                self.ended = true;
                Poll::Ready(Ok(Backlog::default()))
            }
            Some(Err(broken)) => Poll::Ready(Err(broken.clone().into())),
        }
    }

    /// Takes no more; the far end gets this code.
    ///
    /// # Errors
    /// When the stream has ended.
    pub(super) fn stop(&mut self, code: VarInt) -> Result<(), ClosedStream> {
        let mut state = self.shared.lock();
        (state.stopped, state.gap) = (true, None);
        state.recv.as_mut().map_or(Ok(()), |recv| recv.stop(code))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // QUIC keeps a reference to `shared` while it has the stream.
        let mut state = self.shared.lock();
        state.gap = None;
        let recv = state.recv.take();
        drop(state);
        drop(recv);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that QUIC has, in a turn of the connection with these gaps, if in one.
    fn take(self: &Arc<Self>, gaps: Option<&Gaps>) {
        let waker = Waker::from(self.clone());
        let mut state = self.lock();
        state.take(&mut Context::from_waker(&waker));
        state.gap = gaps.filter(|_| state.has_gap()).map(Gaps::add);
    }
}

impl State {
    fn has_gap(&self) -> bool {
        self.recv.is_some() && !self.stopped && self.end.is_none() && self.order.waiting() > 0
    }

    fn take(&mut self, cx: &mut Context<'_>) {
        let Some(recv) = self.recv.as_mut().filter(|_| self.end.is_none()) else { return };
        let mut bytes = 0;
        let end = loop {
            match pin!(recv.read_chunk(PIECE)).poll(cx) {
                Poll::Ready(Ok(Some(piece))) => {
                    bytes += piece.bytes.len() as u64;
                    if let Err(error) = self.order.take(piece.offset, piece.bytes, &mut self.pieces)
                    {
                        break Some(Err(error.into()));
                    }
                }
                Poll::Ready(Ok(None)) => break Some(Ok(())),
                Poll::Ready(Err(error)) => break Some(Err(error.into())),
                Poll::Pending => break None,
            }
        };
        if let Err(broken) = self.count(bytes) {
            self.pieces.clear();
            self.end = Some(Err(broken));
            return;
        }
        self.arrived.push(self.pieces.drain(..));
        self.end = end;
    }

    fn count(&self, bytes: u64) -> Result<(), Broken> {
        match &self.receipts {
            Some(receipts) => Ok(receipts.received(bytes)?),
            None if self.order.waiting() + self.arrived.len() <= MESSAGES => Ok(()),
            None => Err(Broken::Messages),
        }
    }
}

impl AsyncRead for Inflow {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { arriving, backlog } = self.get_mut();
        if backlog.is_empty() && !arriving.ended {
            backlog.append(ready!(arriving.poll_read(cx))?);
        }
        backlog.read(buf);
        Poll::Ready(Ok(()))
    }
}

impl Wake for Shared {
    /// QUIC has news of the stream.
    fn wake(self: Arc<Self>) {
        if let Err(shared) = after_turn(self) {
            // Something else than packets, as the end of the connection.
            shared.unread.store(true, Ordering::Release);
            shared.reader.wake();
        }
    }
}

impl AfterTurn for Shared {
    fn run(self: Arc<Self>, gaps: &Gaps) {
        self.take(Some(gaps));
        match self.reader.take() {
            Some(reader) => reader.wake(),
            // Nobody has fetched what an earlier turn brought, or nobody reads: it must not pin the packets of others.
            None => self.lock().arrived.copy(),
        }
    }
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Stream(error) => error.into(),
            other => Self::other(other),
        }
    }
}
