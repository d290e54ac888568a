//! What happens at the end of a turn of a connection.
//!
//! noq asks a connection for ten packets, sends them, and asks again. The kernel takes 64 KiB at once, at little more
//! cost. So the packets that a sender gives while a task of QUIC runs are collected, and leave when that turn ends, or
//! when no more fit. What the turn woke may run then, too, before the task brings more.
//!
//! A turn is short while a stream that is read out of order has a gap ([`Gaps`]).

use std::{
    io, mem,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use noq::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::task::coop::cooperative;

use super::burst::SharedBurst;

/// After so many packets noq lets other tasks run (`MAX_TRANSMIT_DATAGRAMS`). It may have more to send.
const NOQ_YIELDS_AFTER: usize = 20;

/// A task of QUIC runs so often before other tasks do: then it has filled a call with ordinary packets.
const RUNS: usize = 2;

/// Messages, here packets, that Tokio lets a task receive before others run.
const TOKIO_BUDGET: usize = 128;

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
        let bursts = &mut turn.lock().bursts;
        if !bursts.iter().any(|other| other.is(burst)) {
            bursts.push(burst.clone());
        }
    });
    joined.is_ok()
}

/// What a task of QUIC wakes, and what runs on that task at the end of its turn.
pub(crate) trait AfterTurn: Send + Sync {
    /// Runs once. `gaps` are those of the turn's connection.
    fn run(self: Arc<Self>, gaps: &Gaps);
}

/// The streams of a connection that are read out of order and have a gap.
///
/// When the unread pieces of such a stream waste memory, as some 23 small ones in whole packets do, noq 1.4.0 joins them, and takes the number
/// of bytes read for an offset: it drops what has come to fill a gap below. QUIC has acknowledged these bytes, so they never come again, and the
/// stream stands still. So while there is a gap, a turn receives one packet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gaps(Arc<AtomicUsize>);

/// One gap, until this is dropped.
#[derive(Debug)]
pub(crate) struct Gap(Gaps);

impl Gaps {
    /// A stream has a gap.
    pub(crate) fn add(&self) -> Gap {
        self.0.fetch_add(1, Ordering::Relaxed);
        Gap(self.clone())
    }

    fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Gap {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `woken` runs when this turn ends.
///
/// # Errors
/// No task of QUIC runs: `woken` comes back.
pub(crate) fn after_turn<W: AfterTurn + 'static>(woken: Arc<W>) -> Result<(), Arc<W>> {
    TURN.try_with(|turn| turn.lock().woken.push(woken.clone())).map_err(|_| woken)
}

/// One turn of a task.
#[derive(Default)]
struct Turn {
    /// Packets of this run.
    packets: AtomicUsize,
    at_end: Mutex<AtEnd>,
    gaps: Gaps,
}

#[derive(Default)]
struct AtEnd {
    /// What leaves, or did not the last time.
    bursts: Vec<SharedBurst>,
    /// What runs then.
    woken: Vec<Arc<dyn AfterTurn>>,
}

impl Turn {
    fn lock(&self) -> MutexGuard<'_, AtEnd> {
        self.at_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(
        self: &Arc<Self>,
        mut task: Pin<&mut (dyn Future<Output = ()> + Send)>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !self.gaps.is_empty() {
            spend(TOKIO_BUDGET - 1, cx);
        }
        let mut polled = Poll::Pending;
        for _ in 0..RUNS {
            self.packets.store(0, Ordering::Relaxed);
            polled = TURN.sync_scope(self.clone(), || task.as_mut().poll(cx));
            if polled.is_ready() || self.packets.load(Ordering::Relaxed) < NOQ_YIELDS_AFTER {
                break;
            }
        }
        // What the socket does not take now wakes this task.
        let mut at_end = self.lock();
        at_end.bursts.retain(|burst| match burst.lock().poll_flush(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => {
                // QUIC sees lost packets.
                tracing::debug!(%error, "the socket took no packets");
                false
            }
        });
        let woken = mem::take(&mut at_end.woken);
        drop(at_end);
        woken.into_iter().for_each(|woken| woken.run(&self.gaps));
        polled
    }
}

/// Lets this task receive so many messages fewer.
fn spend(messages: usize, cx: &mut Context<'_>) {
    for _ in 0..messages {
        let _ = pin!(cooperative(std::future::ready(()))).poll(cx);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[derive(Debug, Default)]
    struct Runs(AtomicUsize);

    impl AfterTurn for Runs {
        fn run(self: Arc<Self>, _: &Gaps) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps a gap open until it is told otherwise.
    #[derive(Default)]
    struct Gapped(Mutex<Option<Gap>>);

    impl AfterTurn for Gapped {
        fn run(self: Arc<Self>, gaps: &Gaps) {
            *self.0.lock().unwrap() = Some(gaps.add());
        }
    }

    #[tokio::test]
    async fn while_a_stream_has_a_gap_a_turn_receives_one_packet() {
        let stream = Arc::<Gapped>::default();
        let (packets, mut received) = tokio::sync::mpsc::unbounded_channel();
        (0..200).for_each(|n| packets.send(n).unwrap());
        let (tell, told) = oneshot::channel();
        let (mut turns, mut tell, gapped) = (Vec::new(), Some(tell), stream.clone());
        InTurns.spawn(Box::pin(std::future::poll_fn(move |cx| {
            let mut count = 0;
            while let Poll::Ready(Some(_)) = received.poll_recv(cx) {
                count += 1;
            }
            turns.push(count);
            match turns.len() {
                1 => after_turn(gapped.clone()).ok().unwrap(),
                4 => *gapped.0.lock().unwrap() = None,
                5 => {
                    tell.take().into_iter().for_each(|tell| tell.send(turns.clone()).unwrap());
                    return Poll::Ready(());
                }
                _ => {}
            }
            Poll::Pending
        })));
        assert_eq!(told.await.unwrap(), [128, 1, 1, 1, 69]);
        drop(packets);
    }

    #[tokio::test]
    async fn what_a_task_of_quic_wakes_runs_at_the_end_of_its_turn() {
        let runs = Arc::<Runs>::default();
        let (woken, (done, is_done)) = (runs.clone(), oneshot::channel());
        let (mut turns, mut done) = (0, Some(done));
        InTurns.spawn(Box::pin(std::future::poll_fn(move |cx| {
            assert_eq!(woken.0.load(Ordering::Relaxed), turns, "not in a turn, and not twice");
            if turns == 3 {
                done.take().into_iter().for_each(|done| done.send(()).unwrap());
                return Poll::Ready(());
            }
            turns += 1;
            after_turn(woken.clone()).unwrap();
            cx.waker().wake_by_ref();
            Poll::Pending
        })));
        is_done.await.unwrap();
        assert!(after_turn(runs.clone()).is_err(), "no task of QUIC runs here");
        assert_eq!(runs.0.load(Ordering::Relaxed), 3);
    }
}
