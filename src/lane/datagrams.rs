//! The datagrams of a lane's flows, at either end.
//!
//! They travel as DATAGRAM frames of the lane's connection, so a reroute moves them like all else, and
//! QUIC sends none of them again. They use a lane of their own ([`LaneKey::datagrams`]): QUIC sends
//! DATAGRAM frames before streams, so a flood of them would hold up the connections of a lane.
//!
//! This module has no queue. A frame goes to QUIC at once or is dropped, and a frame that arrives goes to its
//! sink at once.
//!
//! [`LaneKey::datagrams`]: super::LaneKey::datagrams

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use noq::{Connection, PathId};
use tokio::sync::mpsc;

use super::arrivals::{Arrivals, Arrived};
use crate::{
    flow::{
        Carried, DatagramCounts, DatagramDrop, DatagramDrops, DatagramSink, MAX_DATAGRAM, Refusal,
        Target,
    },
    transport::{LANE_DATAGRAMS_UNSENT, RerouteMark},
    wire::{
        datagram::{Header, Piece, frame, frames, parse},
        lane::AssociationNews,
    },
};

/// As many bytes may wait for the lane as its congestion window has, about one round trip at the route's rate.
/// A reroute needs no more, and in a longer queue every datagram would be late.
/// This is the least: a frame of video, which programs send at once.
const LEAST_WAITING: usize = 64 << 10;

/// The most, whatever the window: 84 ms at 50 Mbit/s, about the time in which an end finds a silent route
/// and learns the next one. It is a quarter of QUIC's buffer, see there.
const MOST_WAITING: usize = LANE_DATAGRAMS_UNSENT / 4;

/// Messages about an association that wait for its stream. Further ones are dropped; the counters have them.
const NEWS: usize = 16;

/// The datagrams of one lane.
pub(super) struct Datagrams {
    conn: Connection,
    mark: Arc<RerouteMark>,
    drops: Arc<DatagramDrops>,
    flows: Mutex<BTreeMap<u64, Arc<Inward>>>,
}

/// Datagrams of one flow that come in.
struct Inward {
    sink: Arc<dyn DatagramSink>,
    port: Arc<DatagramPort>,
    arrivals: Mutex<Arrivals>,
}

/// Sends datagrams of one flow to the far end.
pub(super) struct DatagramPort {
    lane: Arc<Datagrams>,
    flow: u64,
    next: AtomicU16,
    /// Bytes of the datagrams that were given to QUIC, or dropped for want of room.
    offered: AtomicU64,
    /// What the entry counts of the flow.
    carried: Option<Arc<Carried>>,
    counts: Arc<DatagramCounts>,
    news: mpsc::Sender<AssociationNews>,
}

/// Lets a flow's datagrams come in; dropping it ends that.
pub(super) struct Receiving {
    lane: Arc<Datagrams>,
    flow: u64,
}

impl Datagrams {
    pub(super) fn new(
        conn: Connection,
        mark: Arc<RerouteMark>,
        drops: Arc<DatagramDrops>,
    ) -> Arc<Self> {
        Arc::new(Self { conn, mark, drops, flows: Mutex::default() })
    }

    /// Counts what this node drops.
    pub(super) fn drops(&self) -> &Arc<DatagramDrops> {
        &self.drops
    }

    /// The port of the flow on the stream of this index, and the news that it is to tell the far end.
    pub(super) fn port(
        self: &Arc<Self>,
        flow: u64,
        carried: Option<Arc<Carried>>,
        counts: Arc<DatagramCounts>,
    ) -> (Arc<DatagramPort>, mpsc::Receiver<AssociationNews>) {
        let (news, to_tell) = mpsc::channel(NEWS);
        let (lane, next, offered) = (self.clone(), AtomicU16::new(0), AtomicU64::new(0));
        (Arc::new(DatagramPort { lane, flow, next, offered, carried, counts, news }), to_tell)
    }

    /// Takes a frame that came in.
    pub(super) fn arrived(&self, frame: &Bytes) {
        let (header, payload) = match parse(frame) {
            Ok((header, payload)) => (header, frame.slice_ref(payload)),
            Err(error) => {
                tracing::trace!(%error, "ignoring a datagram");
                return self.drops.count(DatagramDrop::Malformed);
            }
        };
        if payload.len() > MAX_DATAGRAM {
            return self.drops.count(DatagramDrop::TooLarge);
        }
        let Some(flow) = self.lock().get(&header.flow).cloned() else {
            return self.drops.count(DatagramDrop::UnknownFlow);
        };
        let (arrived, lost) = {
            let mut arrivals = flow.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            (arrivals.take(header.number, header.piece, payload), arrivals.lost())
        };
        let port = &flow.port;
        port.counts.lost_received.store(lost, Ordering::Relaxed);
        match arrived {
            Arrived::Whole(_, payload) if payload.len() > MAX_DATAGRAM => {
                self.drops.count(DatagramDrop::TooLarge);
            }
            Arrived::Whole(peer, payload) => {
                port.counts.received.fetch_add(1, Ordering::Relaxed);
                if let Some(carried) = &port.carried {
                    carried.add_received(payload.len());
                }
                flow.sink.deliver(&peer, &payload);
            }
            Arrived::Waits => {}
            Arrived::Displaces => self.drops.count(DatagramDrop::Incomplete),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Inward>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DatagramPort {
    /// From now on `sink` takes the flow's datagrams that come in.
    pub(super) fn receive(self: &Arc<Self>, sink: Arc<dyn DatagramSink>) -> Receiving {
        let inward = Inward { sink, port: self.clone(), arrivals: Mutex::default() };
        self.lane.lock().insert(self.flow, Arc::new(inward));
        Receiving { lane: self.lane.clone(), flow: self.flow }
    }

    /// What is counted of the flow at this end.
    pub(super) fn counts(&self) -> &DatagramCounts {
        &self.counts
    }

    /// The longest datagram to `peer` that fits one frame at present.
    pub(super) fn room(&self, peer: &Target) -> usize {
        let header =
            Header { flow: self.flow, number: u16::MAX, piece: Piece::Whole(peer.clone()) };
        let room = self.lane.conn.max_datagram_size().unwrap_or_default();
        room.saturating_sub(frame(&header, &[]).len()).min(MAX_DATAGRAM)
    }

    /// Sends a datagram and counts it; if that cannot be, the reason is to be counted.
    pub(super) fn send(&self, peer: &Target, payload: &[u8]) -> Result<(), DatagramDrop> {
        self.give(peer, payload)?;
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        if let Some(carried) = &self.carried {
            carried.add_sent(payload.len());
        }
        Ok(())
    }

    fn give(&self, peer: &Target, payload: &[u8]) -> Result<(), DatagramDrop> {
        if payload.len() > MAX_DATAGRAM {
            return Err(DatagramDrop::TooLarge);
        }
        let conn = &self.lane.conn;
        let room = conn.max_datagram_size().ok_or(DatagramDrop::FlowEnded)?;
        let bytes = payload.len() as u64;
        self.lane.mark.sends_datagram(self.offered.fetch_add(bytes, Ordering::Relaxed), bytes);
        let waiting = LANE_DATAGRAMS_UNSENT - conn.datagram_send_buffer_space();
        if waiting + payload.len() > LEAST_WAITING && waiting + payload.len() > self.may_wait() {
            return Err(DatagramDrop::LaneFull);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let frames =
            frames(self.flow, number, peer, payload, room).ok_or(DatagramDrop::TooLarge)?;
        for frame in frames {
            conn.send_datagram(frame).map_err(|_| DatagramDrop::FlowEnded)?;
        }
        Ok(())
    }

    /// How many bytes may wait for the lane now.
    fn may_wait(&self) -> usize {
        let window = self.lane.conn.path_stats(PathId::ZERO).map_or(0, |stats| stats.cwnd);
        usize::try_from(window).unwrap_or(MOST_WAITING).clamp(LEAST_WAITING, MOST_WAITING)
    }
}

impl DatagramSink for DatagramPort {
    fn deliver(&self, peer: &Target, payload: &[u8]) {
        if let Err(reason) = self.send(peer, payload) {
            self.lane.drops.count(reason);
        }
    }

    fn refused(&self, peer: &Target, refusal: Refusal) {
        // When too many wait, the counters have it.
        let _ = self.news.try_send(AssociationNews::Refused(peer.clone(), refusal));
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("flows", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.lane.lock().remove(&self.flow);
    }
}
