//! Tests of bursts, on a socket that takes a given number of calls.

use std::{future::poll_fn, task::Waker};

use noq::Runtime as _;
use proptest::prelude::*;
use tokio::{runtime::Builder, sync::oneshot};

use super::*;
use crate::underlay::InTurns;

/// What the socket takes of each call: where to, the bytes, the size of the packets.
type Call = (u16, Vec<u8>, Option<usize>);

#[derive(Debug, Default, Clone)]
struct Scripted(Arc<Mutex<(usize, Vec<Call>)>>);

impl Scripted {
    /// It takes so many calls more.
    fn takes(&self, calls: usize) {
        self.0.lock().unwrap().0 = calls;
    }

    fn calls(&self) -> Vec<Call> {
        self.0.lock().unwrap().1.clone()
    }
}

impl UdpSender for Scripted {
    fn poll_send(
        self: Pin<&mut Self>,
        transmit: &Transmit<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let (takes, calls) = &mut *self.0.lock().unwrap();
        if *takes == 0 {
            *takes = 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        *takes -= 1;
        let segment = transmit.segment_size;
        calls.push((transmit.destination.port(), transmit.contents.to_vec(), segment));
        Poll::Ready(Ok(()))
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        NonZeroUsize::new(64).unwrap()
    }
}

fn towards(port: u16) -> Towards {
    Towards { destination: ([192, 0, 2, 1], port).into(), ecn: None }
}

/// A packet of this size.
fn packet(fill: u8, size: usize) -> Vec<u8> {
    vec![fill; size]
}

/// Gives `burst` batches of one task, each when the socket has room for it: the port, the bytes, the size of packets.
fn send_in_turns(burst: &SharedBurst, batches: Vec<(u16, Vec<u8>, usize)>) {
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (done, is_done) = oneshot::channel();
        let (burst, switch, mut done) = (burst.clone(), Switch::default(), Some(done));
        let mut batches = batches.into_iter().peekable();
        let mut task = Box::pin(async move {
            poll_fn(|cx| {
                while let Some((port, bytes, segment)) = batches.peek() {
                    let write = |burst: &mut Vec<u8>| burst.extend_from_slice(bytes);
                    let sizes = (bytes.len(), *segment);
                    ready!(burst.poll_send(&switch, towards(*port), sizes, write, cx))?;
                    batches.next();
                }
                Poll::Ready(io::Result::Ok(()))
            })
            .await
            .unwrap();
        });
        // It ends when the turn in which the last packets leave is over: a turn has two runs.
        let mut runs = 0;
        InTurns.spawn(Box::pin(poll_fn(move |cx| {
            if runs > 0 || task.as_mut().poll(cx).is_ready() {
                runs += 1;
            }
            if runs < 4 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            done.take().into_iter().for_each(|done| done.send(()).unwrap());
            Poll::Ready(())
        })));
        is_done.await.unwrap();
    });
}

fn burst() -> (SharedBurst, Scripted) {
    let socket = Scripted::default();
    socket.takes(usize::MAX);
    (SharedBurst::new(Box::pin(socket.clone())), socket)
}

#[test]
fn what_a_task_sends_in_one_turn_leaves_in_one_call() {
    let (burst, socket) = burst();
    let batches = (0..3).map(|n| (1, packet(n, 10 * 1452), 1452)).collect();
    send_in_turns(&burst, batches);
    let calls = socket.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!((calls[0].1.len(), calls[0].2), (30 * 1452, Some(1452)));
}

#[test]
fn no_call_has_more_than_the_kernel_takes() {
    let (burst, socket) = burst();
    send_in_turns(&burst, (0..9).map(|n| (1, packet(n, 10 * 1452), 1452)).collect());
    let packets: Vec<usize> = socket.calls().iter().map(|call| call.1.len() / 1452).collect();
    assert_eq!(packets, [40, 40, 10]);
}

#[test]
fn packets_that_differ_leave_in_calls_of_their_own_and_in_order() {
    let (burst, socket) = burst();
    let batches = vec![
        (1, packet(1, 2_900), 1452), // its last packet is short
        (1, packet(2, 1452), 1452),
        (2, packet(3, 1452), 1452), // another way
        (2, packet(4, 100), 100),   // shorter: the call fails if the other one is too long
        (2, packet(5, 1500), 1500), // larger
    ];
    let sizes: Vec<_> = batches.iter().map(|(port, bytes, _)| (*port, bytes.len())).collect();
    send_in_turns(&burst, batches);
    let calls = socket.calls();
    let sent: Vec<_> = calls.iter().map(|(port, bytes, _)| (*port, bytes.len())).collect();
    assert_eq!(sent, sizes);
}

#[test]
fn without_a_turn_packets_leave_at_once_or_not_at_all() {
    let (burst, socket) = burst();
    let mut cx = Context::from_waker(Waker::noop());
    let switch = Switch::default();
    let mut send = || {
        let write = |out: &mut Vec<u8>| out.extend_from_slice(&packet(1, 5));
        burst.poll_send(&switch, towards(1), (5, 5), write, &mut cx)
    };
    assert!(send().is_ready());
    socket.takes(0);
    assert!(send().is_pending());
    assert!(send().is_ready());
    assert_eq!(socket.calls().len(), 2, "the sender repeats what was not taken");
}

#[test]
fn packets_for_a_new_route_do_not_wait_for_those_of_the_old_one() {
    let (burst, socket) = burst();
    let switch = Switch::default();
    let mut cx = Context::from_waker(Waker::noop());
    burst.lock().push(towards(1), 100, |out| out.extend_from_slice(&packet(1, 300)));
    socket.takes(0);
    let mut send = |port| {
        let write = |out: &mut Vec<u8>| out.extend_from_slice(&packet(2, 50));
        burst.poll_send(&switch, towards(port), (50, 50), write, &mut cx)
    };
    assert!(send(2).is_ready());
    let dropped = switch.drops().iter().find(|(why, _)| *why == DropReason::SocketFull).unwrap().1;
    assert_eq!((dropped, socket.calls()), (3, vec![(2, packet(2, 50), None)]));
}

proptest! {
    #[test]
    fn every_packet_leaves_once_and_in_order_however_full_the_socket(
        batches in prop::collection::vec((1..15_000_usize, 1_000..1_500_usize), 1..30),
        takes in 0..20_usize,
    ) {
        let (burst, socket) = burst();
        socket.takes(takes);
        let batches: Vec<_> = batches
            .into_iter()
            .zip(0..)
            .map(|((len, segment), n)| (1, packet(n, len), segment.min(len)))
            .collect();
        let packets = |(port, bytes, segment): &(u16, Vec<u8>, usize)| {
            let port = *port;
            bytes.chunks(*segment).map(|packet| (port, packet.to_vec())).collect::<Vec<_>>()
        };
        let given: Vec<_> = batches.iter().flat_map(packets).collect();
        send_in_turns(&burst, batches);
        let calls = socket.calls();
        prop_assert!(calls.iter().all(|call| call.1.len() <= MAX_UDP_PAYLOAD));
        let calls = calls.into_iter().map(|(port, bytes, segment)| {
            let segment = segment.unwrap_or(bytes.len());
            (port, bytes, segment)
        });
        let sent: Vec<_> = calls.collect::<Vec<_>>().iter().flat_map(packets).collect();
        prop_assert_eq!(sent, given);
    }
}
