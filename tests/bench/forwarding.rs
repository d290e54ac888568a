//! What one relay forwards on one core: packets and bits per second, by the size of the packets and
//! by how they come in, in batches of segments (GSO, as a bulk transfer sends them) or one by one.
//!
//! `cargo bench --bench forwarding`. A sender, the relay and a receiver run in a thread each and talk
//! over loopback. Two cores carry three threads and the kernel's work between them, so the figure that
//! counts is per second of the relay thread's own CPU time, system calls included.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops at any surprise")]

use std::{
    env, fs,
    future::poll_fn,
    io::IoSliceMut,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use noq::{AsyncUdpSocket, udp};
use ronproxy::internals::{
    underlay::{LabelSocket, Neighbour, NextHop, Switch, bind_udp, labels::Forwarding},
    wire::label::{KIND_LABELLED, Label},
};

/// How long each case runs.
const RUN: Duration = Duration::from_secs(3);

/// Labels in use at once, by turns: as if so many lanes crossed the relay.
const LANES: u64 = 32;

/// Segments that noq puts into one batch.
const BATCH: usize = 10;

/// One relay's work.
struct Work {
    forwarded: u64,
    wall: Duration,
    cpu: Duration,
}

fn main() {
    // `cargo test --benches` and listings run every bench with other arguments: nothing to do then.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!(
        "packet  segments  forwarded/s  Gbit/s  per second of the relay's CPU: packets  Gbit/s  arrived"
    );
    for size in [1400, 100] {
        for batch in [BATCH, 1] {
            run(size, batch);
        }
    }
}

fn run(size: usize, batch: usize) {
    let stop = Arc::new(AtomicBool::new(false));
    let (received, into) = (Arc::<AtomicU64>::default(), stop.clone());
    let (receiver, at) = spawn_receiver(received.clone(), into);
    let switch = Arc::<Switch>::default();
    let (relay, relay_at) = spawn_relay(switch.clone(), at, stop.clone());
    let sender = spawn_sender(relay_at, size, batch, stop.clone());
    thread::sleep(RUN);
    stop.store(true, Ordering::Relaxed);
    let work = relay.join().unwrap();
    sender.join().unwrap();
    receiver.join().unwrap();
    let arrived = received.load(Ordering::Relaxed) as f64 / work.forwarded as f64 * 100.0;
    let rate = |over: Duration| work.forwarded as f64 / over.as_secs_f64();
    let gbits = |packets: f64| packets * size as f64 * 8.0 / 1e9;
    let (wall, cpu) = (rate(work.wall), rate(work.cpu));
    println!(
        "{size:>6}  {batch:>8}  {wall:>11.0}  {:>6.2}  {cpu:>38.0}  {:>6.2}  {arrived:>6.1} %",
        gbits(wall),
        gbits(cpu)
    );
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn loopback() -> Box<dyn AsyncUdpSocket> {
    bind_udp(([127, 0, 0, 1], 0).into()).unwrap()
}

type Started<T> = (thread::JoinHandle<T>, SocketAddr);

/// Runs `work` on a thread of its own; the socket's address comes back at once.
fn spawn<T: Send + 'static>(
    work: impl FnOnce(tokio::runtime::Runtime, Box<dyn AsyncUdpSocket>) -> T + Send + 'static,
) -> Started<T> {
    let (tell, told) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        let runtime = runtime();
        let socket = {
            let _inside = runtime.enter();
            loopback()
        };
        tell.send(socket.local_addr().unwrap()).unwrap();
        work(runtime, socket)
    });
    (thread, told.recv().unwrap())
}

fn spawn_relay(switch: Arc<Switch>, to: SocketAddr, stop: Arc<AtomicBool>) -> Started<Work> {
    let now = Instant::now();
    let receiver = Arc::new(Neighbour::new("receiver".parse().unwrap(), Some(to)));
    for lane in 0..LANES {
        let next = NextHop { neighbour: receiver.clone(), label: Label(1000 + lane) };
        let holder = "sender".parse().unwrap();
        let hour = Duration::from_secs(3600);
        switch
            .with_labels(|labels| {
                labels.grant_forward(now, label(lane), Forwarding::new(holder, next, hour))
            })
            .unwrap();
    }
    spawn(move |runtime, socket| {
        let mut socket = LabelSocket::new(socket, switch.clone());
        let (start, cpu) = (Instant::now(), thread_cpu());
        runtime.block_on(receive_until(&stop, &mut socket, |_| {}));
        Work {
            forwarded: switch.forwarded(),
            wall: start.elapsed(),
            cpu: thread_cpu().saturating_sub(cpu),
        }
    })
}

fn spawn_receiver(received: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Started<()> {
    spawn(move |runtime, mut socket| {
        let count = |meta: &udp::RecvMeta| {
            let packets = meta.len.div_ceil(meta.stride.max(1)) as u64;
            received.fetch_add(packets, Ordering::Relaxed);
        };
        runtime.block_on(receive_until(&stop, socket.as_mut(), count));
    })
}

/// Receives until told to stop; looks for that at least ten times a second.
async fn receive_until(
    stop: &AtomicBool,
    socket: &mut dyn AsyncUdpSocket,
    mut count: impl FnMut(&udp::RecvMeta),
) {
    let mut storage = vec![vec![0u8; 1 << 16]; 8];
    while !stop.load(Ordering::Relaxed) {
        let mut buffers: Vec<_> = storage.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let mut meta = [udp::RecvMeta::default(); 8];
        let some = poll_fn(|cx| socket.poll_recv(cx, &mut buffers, &mut meta));
        let Ok(some) = tokio::time::timeout(Duration::from_millis(100), some).await else {
            continue;
        };
        meta[..some.unwrap()].iter().for_each(&mut count);
    }
}

fn spawn_sender(
    to: SocketAddr,
    size: usize,
    batch: usize,
    stop: Arc<AtomicBool>,
) -> thread::JoinHandle<()> {
    let (thread, _) = spawn(move |runtime, socket| {
        let batches: Vec<Vec<u8>> = (0..LANES).map(|lane| packets(lane, size, batch)).collect();
        runtime.block_on(async {
            let mut sender = socket.create_sender();
            for contents in batches.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let transmit = udp::Transmit {
                    destination: to,
                    ecn: None,
                    contents,
                    segment_size: (batch > 1).then_some(size),
                    src_ip: None,
                };
                poll_fn(|cx| sender.as_mut().poll_send(&transmit, cx)).await.unwrap();
            }
        });
    });
    thread
}

/// `batch` packets of `size` bytes in a row under the label of `lane`.
fn packets(lane: u64, size: usize, batch: usize) -> Vec<u8> {
    let mut packet = vec![0x40; size];
    packet[0] = KIND_LABELLED;
    packet[1..9].copy_from_slice(&label(lane).0.to_be_bytes());
    packet.repeat(batch)
}

/// Spread over the table as random labels are.
fn label(lane: u64) -> Label {
    Label((lane + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The CPU time of this thread so far, system calls included.
fn thread_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // utime and stime, in hundredths of a second (proc(5), counted after the command's name).
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}
