//! The packets on their way to one socket, and those that wait to be read. PURE.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, VecDeque},
    net::{IpAddr, SocketAddr},
    task::Waker,
    time::Instant,
};

use bytes::Bytes;
use noq::udp::EcnCodepoint;

use super::counters::DropReason;

/// Packets that wait to be read, as much as 6 MB of socket buffer holds of full-size ones.
const BUFFER_CAP: usize = 4_096;

/// Packets on their way to one socket: 0.7 s of 1 Gbit/s. It bounds the memory that a sender on an
/// infinitely fast link can take.
const IN_FLIGHT_CAP: usize = 65_536;

/// Which link a packet travels on; an index into the world's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkId(pub(super) usize);

/// Which socket owns an inbox. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SocketId(pub(super) u64);

/// A packet on its way.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) at: Instant,
    /// The order of sending, which decides between packets that arrive at the same instant.
    pub(super) seq: u64,
    pub(super) link: LinkId,
    /// The source as the receiver sees it.
    pub(super) source: SocketAddr,
    /// The receiver's own address.
    pub(super) target: IpAddr,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) payload: Bytes,
}

/// The packets on their way to one address, and those that its socket has not read yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// `None` between a detach and the next attach.
    pub(super) owner: Option<SocketId>,
    in_flight: BinaryHeap<Packet>,
    arrived: VecDeque<Packet>,
    reader: Option<Reader>,
}

/// A task that waits for a packet.
#[derive(Debug)]
struct Reader {
    waker: Waker,
    /// Its timer's deadline; `None` if nothing was on its way when it went to sleep.
    wakes_at: Option<Instant>,
}

impl Inbox {
    /// Puts a packet on its way; gives the reader to wake if this one arrives before its timer.
    pub(super) fn push(&mut self, packet: Packet) -> Result<Option<Waker>, DropReason> {
        if self.in_flight.len() >= IN_FLIGHT_CAP {
            return Err(DropReason::ReceiverFull);
        }
        let at = packet.at;
        self.in_flight.push(packet);
        let too_late = self.reader.as_ref().is_some_and(|r| r.wakes_at.is_none_or(|t| t > at));
        Ok(if too_late { self.reader.take().map(|reader| reader.waker) } else { None })
    }

    /// Moves what has arrived by `now` into the buffer, and reports each packet's fate.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        mut report: impl FnMut(&Packet, Result<(), DropReason>),
    ) {
        while self.in_flight.peek().is_some_and(|packet| packet.at <= now) {
            let Some(packet) = self.in_flight.pop() else { return };
            if self.owner.is_none() {
                report(&packet, Err(DropReason::NoReceiver));
            } else if self.arrived.len() >= BUFFER_CAP {
                report(&packet, Err(DropReason::ReceiverFull));
            } else {
                report(&packet, Ok(()));
                self.arrived.push_back(packet);
            }
        }
    }

    /// The next packet of the buffer.
    pub(super) fn read(&mut self) -> Option<Packet> {
        self.arrived.pop_front()
    }

    /// Registers who waits for the next packet; says when it arrives, if one is on its way.
    pub(super) fn wait(&mut self, waker: &Waker) -> Option<Instant> {
        let wakes_at = self.in_flight.peek().map(|packet| packet.at);
        self.reader = Some(Reader { waker: waker.clone(), wakes_at });
        wakes_at
    }

    /// Removes the packets on their way over a link that was cut; says how many they were.
    pub(super) fn lose(&mut self, link: LinkId) -> usize {
        let before = self.in_flight.len();
        self.in_flight.retain(|packet| packet.link != link);
        before - self.in_flight.len()
    }

    /// Another socket takes over. It gets the packets on their way, and not those that its
    /// predecessor left unread.
    pub(super) fn attach(&mut self, owner: SocketId) {
        self.detach();
        self.owner = Some(owner);
    }

    /// The socket is closed. Its unread packets are dropped.
    pub(super) fn detach(&mut self) {
        self.owner = None;
        self.arrived.clear();
        self.reader = None;
    }

    /// Takes out everything on its way, in no order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Packet> {
        std::mem::take(&mut self.in_flight).into_iter()
    }

    /// The reader, to be woken because the inbox moved.
    pub(super) fn take_reader(&mut self) -> Option<Waker> {
        self.reader.take().map(|reader| reader.waker)
    }

    pub(super) fn is_unused(&self) -> bool {
        self.owner.is_none() && self.in_flight.is_empty()
    }
}

/// The earliest packet is the greatest, because [`BinaryHeap`] gives the greatest first.
impl Ord for Packet {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Packet {}
