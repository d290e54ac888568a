//! What a connection sends in one turn leaves in one system call.
//!
//! noq asks a connection for ten packets, sends them, and asks again. The kernel takes 64 KiB at once, at little more
//! cost. So the packets that a sender gives while a task of QUIC runs are collected, and leave when that turn ends, or
//! when no more fit.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use noq::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};

use super::burst::SharedBurst;

/// After so many packets noq lets other tasks run (`MAX_TRANSMIT_DATAGRAMS`). It may have more to send.
const NOQ_YIELDS_AFTER: usize = 20;

/// A task of QUIC runs so often before other tasks do: then it has filled a call with ordinary packets.
const RUNS: usize = 2;

tokio::task_local! {
    static TURN: Arc<Turn>;
}

/// The runtime of Tokio, where a task of QUIC sends at the end of its turn.
#[derive(Debug)]
pub(crate) struct InTurns;

impl Runtime for InTurns {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, mut task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let turn = Arc::<Turn>::default();
        tokio::spawn(std::future::poll_fn(move |cx| turn.poll(task.as_mut(), cx)));
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Box<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// `packets` joined `burst`. False: no task of QUIC runs, so nothing sends the burst later.
pub(super) fn joined(burst: &SharedBurst, packets: usize) -> bool {
    let joined = TURN.try_with(|turn| {
        turn.packets.fetch_add(packets, Ordering::Relaxed);
        let mut bursts = turn.bursts.lock().unwrap_or_else(PoisonError::into_inner);
        if !bursts.iter().any(|other| other.is(burst)) {
            bursts.push(burst.clone());
        }
    });
    joined.is_ok()
}

/// One turn of a task.
#[derive(Debug, Default)]
struct Turn {
    /// Packets of this run.
    packets: AtomicUsize,
    /// What leaves at the end, or did not the last time.
    bursts: Mutex<Vec<SharedBurst>>,
}

impl Turn {
    fn poll(
        self: &Arc<Self>,
        mut task: Pin<&mut (dyn Future<Output = ()> + Send)>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut polled = Poll::Pending;
        for _ in 0..RUNS {
            self.packets.store(0, Ordering::Relaxed);
            polled = TURN.sync_scope(self.clone(), || task.as_mut().poll(cx));
            if polled.is_ready() || self.packets.load(Ordering::Relaxed) < NOQ_YIELDS_AFTER {
                break;
            }
        }
        // What the socket does not take now wakes this task.
        let mut bursts = self.bursts.lock().unwrap_or_else(PoisonError::into_inner);
        bursts.retain(|burst| match burst.lock().poll_flush(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => {
                // QUIC sees lost packets.
                tracing::debug!(%error, "the socket took no packets");
                false
            }
        });
        polled
    }
}
