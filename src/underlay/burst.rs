//! The packets that leave in one system call.

use std::{
    fmt, io,
    net::SocketAddr,
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use noq::{
    UdpSender,
    udp::{EcnCodepoint, Transmit},
};

use super::{DropReason, Switch, turn};

/// Largest UDP payload over IPv4: 65,535 − 20 (IP) − 8 (UDP).
pub(super) const MAX_UDP_PAYLOAD: usize = 65_507;

/// Packets that leave together, and the way out.
pub(super) struct Burst {
    physical: Pin<Box<dyn UdpSender>>,
    towards: Towards,
    contents: Vec<u8>,
    /// The size of each packet but the last one, which may be shorter.
    segment: usize,
}

/// Where packets go, and their mark of congestion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Towards {
    pub(super) destination: SocketAddr,
    pub(super) ecn: Option<EcnCodepoint>,
}

impl Burst {
    pub(super) fn new(physical: Pin<Box<dyn UdpSender>>) -> Self {
        let towards = Towards { destination: ([0, 0, 0, 0], 0).into(), ecn: None };
        Self { physical, towards, contents: Vec::new(), segment: 1 }
    }

    /// Whether packets of `segment` bytes, `len` in all, may leave with those that are here. A shorter packet may not
    /// follow: if theirs are too long for the path, the kernel refuses all of them.
    pub(super) fn fits(&self, towards: Towards, len: usize, segment: usize) -> bool {
        let all = self.contents.len() + len;
        self.contents.is_empty()
            || self.towards == towards
                && segment == self.segment
                && self.contents.len().is_multiple_of(self.segment)
                && all <= MAX_UDP_PAYLOAD
                && all.div_ceil(self.segment) <= self.max_segments().get()
    }

    /// Takes packets that [fit](Self::fits), which `write` appends.
    pub(super) fn push(
        &mut self,
        towards: Towards,
        segment: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if self.contents.is_empty() {
            (self.towards, self.segment) = (towards, segment.max(1));
        }
        write(&mut self.contents);
    }

    /// Sends what is here. Pending: it is still here.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.contents.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let segment_size = (self.contents.len() > self.segment).then_some(self.segment);
        let Towards { destination, ecn } = self.towards;
        let contents = &self.contents;
        let transmit = Transmit { destination, ecn, contents, segment_size, src_ip: None };
        let sent = ready!(self.physical.as_mut().poll_send(&transmit, cx));
        self.contents.clear();
        Poll::Ready(sent)
    }

    /// Sends packets past those that are here.
    pub(super) fn poll_send(
        &mut self,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.physical.as_mut().poll_send(transmit, cx)
    }

    /// The packets that are here, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.contents.len().div_ceil(self.segment), self.contents.len())
    }

    pub(super) fn clear(&mut self) {
        self.contents.clear();
    }

    pub(super) fn max_segments(&self) -> NonZeroUsize {
        self.physical.max_transmit_segments()
    }
}

/// What one sender of QUIC has to send at the end of its [turn](super::turn).
#[derive(Debug, Clone)]
pub(super) struct SharedBurst(Arc<Mutex<Burst>>);

impl SharedBurst {
    pub(super) fn new(physical: Pin<Box<dyn UdpSender>>) -> Self {
        Self(Arc::new(Mutex::new(Burst::new(physical))))
    }

    /// Sends `len` bytes that `write` appends: packets of `segment` bytes, and a last one that may be shorter. Pending:
    /// nothing was taken. In a turn they are taken before the socket has room for them. What still waits to go elsewhere
    /// is dropped if it cannot: the route has changed, and QUIC sees lost packets.
    pub(super) fn poll_send(
        &self,
        switch: &Switch,
        towards: Towards,
        (len, segment): (usize, usize),
        write: impl FnOnce(&mut Vec<u8>),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut burst = self.lock();
        if !burst.fits(towards, len, segment) {
            let sent = burst.poll_flush(cx);
            if sent.is_pending() && burst.towards.destination != towards.destination {
                switch.count_drop(DropReason::SocketFull, burst.waiting().0);
                burst.clear();
            } else {
                ready!(sent)?;
            }
        }
        let before = burst.contents.len();
        burst.push(towards, segment, write);
        if turn::joined(self, len.div_ceil(segment.max(1))) {
            return Poll::Ready(Ok(()));
        }
        let sent = burst.poll_flush(cx);
        burst.contents.truncate(before);
        sent
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Burst> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Burst").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "burst_tests.rs"]
mod tests;
