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

use super::turn;

/// Largest UDP payload over IPv4: 65,535 − 20 (IP) − 8 (UDP).
pub(super) const MAX_UDP_PAYLOAD: usize = 65_507;

/// What one sender has to send at the end of its [turn](super::turn), and the way out.
#[derive(Clone)]
pub(super) struct Burst(Arc<Mutex<State>>);

struct State {
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
        let state = State { physical, towards, contents: Vec::new(), segment: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Sends `len` bytes that `write` appends: packets of `segment` bytes, and a last one that may be shorter. Pending:
    /// nothing was taken. In a turn they are taken before the socket has room for them.
    pub(super) fn poll_send(
        &self,
        towards: Towards,
        (len, segment): (usize, usize),
        write: impl FnOnce(&mut Vec<u8>),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.state();
        if !state.fits(towards, len, segment) {
            ready!(state.poll_flush(cx))?;
        }
        let first = state.contents.is_empty();
        if first {
            (state.towards, state.segment) = (towards, segment);
        }
        write(&mut state.contents);
        if turn::joined(self, len.div_ceil(segment.max(1)), first) {
            return Poll::Ready(Ok(()));
        }
        let sent = state.poll_flush(cx);
        state.contents.clear();
        sent
    }

    /// Sends what was collected. Pending: it is still here.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state().poll_flush(cx)
    }

    /// Sends past what was collected.
    pub(super) fn poll_send_alone(
        &self,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.state().physical.as_mut().poll_send(transmit, cx)
    }

    pub(super) fn max_segments(&self) -> NonZeroUsize {
        self.state().physical.max_transmit_segments()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether packets may join those that are here.
    fn fits(&self, towards: Towards, len: usize, segment: usize) -> bool {
        let all = self.contents.len() + len;
        let alike = segment == self.segment || segment < self.segment && len == segment;
        self.contents.is_empty()
            || self.towards == towards
                && alike
                && self.contents.len().is_multiple_of(self.segment)
                && all <= MAX_UDP_PAYLOAD
                && all.div_ceil(self.segment) <= self.physical.max_transmit_segments().get()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
}

impl fmt::Debug for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Burst").field("waiting", &state.contents.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "burst_tests.rs"]
mod tests;
