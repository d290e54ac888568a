//! Streams: neighbours that are reached over TLS on TCP, where UDP does not pass.
//!
//! A stream has a virtual address, `fd72:6f6e::1:0:0/96` and its number. Links, labels and lanes see this
//! address, and nothing else tells a stream from a UDP path: packets to it go into the stream's
//! [queue](queue), and packets that come on it enter the receive path with it as their source. A task of
//! [`carrier`](crate::carrier) moves the bytes.

mod inbox;
mod queue;

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use noq::udp::Transmit;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(super) use self::inbox::Inbox;
use self::queue::Queue;
use super::virtual_address::{self, Kind};

/// Most streams of a node: one to each of 256 members, as many that take over from them, and the
/// strangers that have knocked.
const MAX_STREAMS: usize = 1024;

/// Runs of frames from all streams that wait for the node's receiver, each of at most 64 KiB. A stream
/// that finds no room waits, in turn with the others, and so does TCP.
const WAITING_RUNS: usize = 32;

/// One stream in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(u32);

impl StreamId {
    /// The address by which links and QUIC know the far end of this stream.
    #[must_use]
    pub fn virtual_address(self) -> SocketAddr {
        virtual_address::of(Kind::Stream, self.0)
    }

    /// The stream of a virtual address; `None` for any other address.
    #[must_use]
    pub fn from_address(address: SocketAddr) -> Option<Self> {
        virtual_address::number(Kind::Stream, address).map(Self)
    }
}

/// By what a neighbour is reached.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// UDP datagrams.
    Udp,
    /// A stream: TLS on TCP.
    Tls,
}

impl Carrier {
    /// That of a neighbour's address, which may be a stream's virtual one.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        if StreamId::from_address(address).is_some() { Self::Tls } else { Self::Udp }
    }

    /// The stable name, as in listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tls => "tls",
        }
    }
}

/// The streams of a node.
pub struct Streams {
    next: AtomicU32,
    live: RwLock<HashMap<StreamId, Arc<StreamEnd>>>,
    arrivals: mpsc::Sender<Arrival>,
    /// Until the node's socket takes it.
    inbox: Mutex<Option<Inbox>>,
}

/// Whole frames that came on a stream.
#[derive(Debug)]
struct Arrival {
    from: SocketAddr,
    frames: Bytes,
}

impl Default for Streams {
    fn default() -> Self {
        let (arrivals, inbox) = mpsc::channel(WAITING_RUNS);
        let inbox = Mutex::new(Some(Inbox::new(inbox)));
        Self { next: AtomicU32::new(0), live: RwLock::default(), arrivals, inbox }
    }
}

impl Streams {
    /// Makes the stream of a TCP connection with `peer`. `None`: there are too many.
    #[must_use]
    pub fn open(&self, peer: SocketAddr) -> Option<Arc<StreamEnd>> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if live.len() >= MAX_STREAMS {
            return None;
        }
        let id = StreamId(self.next.fetch_add(1, Ordering::Relaxed));
        let end = Arc::new(StreamEnd {
            id,
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            queue: Mutex::default(),
            filled: Notify::new(),
            used: watch::Sender::new(Used::default()),
            ended: CancellationToken::new(),
        });
        live.insert(id, end.clone());
        Some(end)
    }

    /// Ends a stream: its TCP connection is gone, or is to go.
    pub fn close(&self, end: &StreamEnd) {
        self.live.write().unwrap_or_else(PoisonError::into_inner).remove(&end.id);
        end.ended.cancel();
        end.queue().take_waiting(now()).into_iter().for_each(std::task::Waker::wake);
    }

    /// Hands on whole frames that came on a stream, when the receiver has room.
    pub async fn arrived(&self, end: &StreamEnd, frames: Bytes) {
        let from = end.id.virtual_address();
        // It fails when the node's socket is gone, and the node with it.
        let _ = self.arrivals.send(Arrival { from, frames }).await;
    }

    /// Keeps the stream of a virtual address open while the handle lives.
    #[must_use]
    pub fn hold(&self, address: SocketAddr) -> Option<StreamHold> {
        Some(self.get(StreamId::from_address(address)?)?.hold())
    }

    /// Where a neighbour is in truth: of a stream the address of its TCP peer. `None`: the stream has
    /// ended.
    #[must_use]
    pub fn real_address(&self, address: SocketAddr) -> Option<SocketAddr> {
        match StreamId::from_address(address) {
            Some(id) => Some(self.get(id)?.peer),
            None => Some(address),
        }
    }

    /// How many streams there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.live.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn take_inbox(&self) -> Option<Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn get(&self, id: StreamId) -> Option<Arc<StreamEnd>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Puts packets into the queue of a stream; pending while it has no room. Returns how many were too
    /// long for a stream; `None`: there is no such stream.
    pub(super) fn poll_send(
        &self,
        id: StreamId,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<usize>> {
        let Some(end) = self.get(id) else { return Poll::Ready(None) };
        let now = now();
        let mut queue = end.queue();
        if queue.is_busy(now) {
            queue.wake_with_room(cx.waker());
            return Poll::Pending;
        }
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        let oversized = queue.push(now, transmit.contents, segment);
        drop(queue);
        end.filled.notify_one();
        Poll::Ready(Some(oversized))
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("count", &self.count()).finish_non_exhaustive()
    }
}

/// One stream, for the task that moves its bytes.
#[derive(Debug)]
pub struct StreamEnd {
    id: StreamId,
    peer: SocketAddr,
    queue: Mutex<Queue>,
    filled: Notify,
    used: watch::Sender<Used>,
    ended: CancellationToken,
}

/// Who needs a stream.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    holders: usize,
    ever: bool,
}

impl StreamEnd {
    /// The address by which links and QUIC know the far end.
    #[must_use]
    pub fn virtual_address(&self) -> SocketAddr {
        self.id.virtual_address()
    }

    /// The address of the TCP peer.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Keeps the stream open while the handle lives.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> StreamHold {
        self.used.send_modify(|used| *used = Used { holders: used.holders + 1, ever: true });
        StreamHold(self.clone())
    }

    /// Waits until a link or a dial holds the stream.
    pub async fn is_used(&self) {
        // The sender lives as long as this.
        let _ = self.used.subscribe().wait_for(|used| used.ever).await;
    }

    /// Waits until the last handle is dropped.
    pub async fn is_left(&self) {
        let _ = self.used.subscribe().wait_for(|used| used.ever && used.holders == 0).await;
    }

    /// Cancelled when the stream is closed.
    #[must_use]
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// The next frames to write, when there are some.
    pub async fn next(&self) -> Vec<u8> {
        loop {
            if let Some(frames) = self.queue().pop() {
                return frames;
            }
            self.filled.notified().await;
        }
    }

    /// Drops packets that have waited for too long, and lets senders go on that waited for room. Returns
    /// how many packets were dropped, and when to look again.
    pub fn tidy(&self) -> (usize, Option<Instant>) {
        let now = now();
        let mut queue = self.queue();
        let dropped = queue.expire(now);
        let (waiting, deadline) = (queue.take_waiting(now), queue.deadline());
        drop(queue);
        waiting.into_iter().for_each(std::task::Waker::wake);
        (dropped, deadline)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a stream open. A link has one.
#[derive(Debug)]
pub struct StreamHold(Arc<StreamEnd>);

impl StreamHold {
    /// The address by which links and QUIC know the far end.
    #[must_use]
    pub fn virtual_address(&self) -> SocketAddr {
        self.0.virtual_address()
    }

    /// The address of the TCP peer.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// Waits until the stream has ended.
    pub async fn ended(&self) {
        self.0.ended.cancelled().await;
    }
}

impl Drop for StreamHold {
    fn drop(&mut self) {
        self.0.used.send_modify(|used| used.holders -= 1);
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::underlay::SlotId;

    #[test]
    fn a_virtual_address_leads_back_to_its_stream_and_to_no_slot() {
        for id in [0, 1, 0xffff, 0x1_0000, u32::MAX] {
            let address = StreamId(id).virtual_address();
            assert_eq!(StreamId::from_address(address), Some(StreamId(id)));
            assert_eq!(SlotId::from_address(address), None);
            assert_eq!(StreamId::from_address(SlotId(id).virtual_address()), None);
        }
        assert_eq!(StreamId::from_address("127.0.0.1:1".parse().unwrap()), None);
    }

    #[test]
    fn a_node_has_1024_streams_at_most() {
        let (streams, peer) = (Streams::default(), "192.0.2.1:443".parse().unwrap());
        let ends: Vec<_> = (0..1100).filter_map(|_| streams.open(peer)).collect();
        assert_eq!((ends.len(), streams.count()), (MAX_STREAMS, MAX_STREAMS));
        assert_eq!(streams.real_address(ends[0].virtual_address()), Some(peer));
        streams.close(&ends[0]);
        assert_eq!(streams.real_address(ends[0].virtual_address()), None);
        assert!(streams.hold(ends[0].virtual_address()).is_none());
        assert!(streams.open(peer).is_some());
    }

    #[tokio::test]
    async fn a_stream_is_left_when_the_last_holder_has_gone() {
        let streams = Streams::default();
        let end = streams.open("192.0.2.1:443".parse().unwrap()).unwrap();
        let (one, two) = (end.hold(), streams.hold(end.virtual_address()).unwrap());
        end.is_used().await;
        drop(one);
        assert!(futures_util::FutureExt::now_or_never(end.is_left()).is_none());
        drop(two);
        end.is_left().await;
    }
}
