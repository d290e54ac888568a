//! TCP between processes: connections that are carried with a delay, at a rate, and can be stopped.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::RngExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, tcp},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// How a connection is carried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire {
    pub(crate) one_way: Duration,
    /// Bits in a second.
    pub(crate) rate: f64,
    /// The share of what is carried that is lost, and repeated by TCP.
    pub(crate) loss: f64,
}

/// When TCP repeats what is lost, beyond a round trip (Linux).
const REPEATED_AFTER: Duration = Duration::from_millis(200);

/// Bytes that are carried at once: little beside a path's rate.
const CHUNK: u32 = 4 << 10;

/// The queue at the bottleneck, as time: a bit more than the round trip of the tests.
const QUEUE: Duration = Duration::from_millis(80);

/// Received bytes that the kernel keeps for the carrier: it acknowledges them, so no sender sees them wait.
const KERNEL: usize = 64 << 10;

/// When each direction of a path is free for the next bytes: all connections over it share its rate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bottleneck([Arc<Mutex<Option<Instant>>>; 2]);

/// Carries TCP connections from one address to another until it is dropped.
pub(crate) struct Wires {
    open: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Wires {
    pub(crate) fn between(
        at: SocketAddr,
        to: SocketAddr,
        (wire, bottleneck): (Wire, Bottleneck),
    ) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(KERNEL.try_into().unwrap()).unwrap();
        socket.bind(at).unwrap();
        let listener = socket.listen(64).unwrap();
        let open = Arc::new(AtomicBool::new(true));
        let mut tasks = JoinSet::new();
        let stopped = open.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let way = (wire, bottleneck.clone());
                connections.spawn(carry(near, to, way, stopped.clone()));
            }
        });
        Self { open, _tasks: tasks }
    }

    /// From now on nothing arrives any more, as if the cable was cut.
    pub(crate) fn cut(&self) {
        self.open.store(false, Ordering::Relaxed);
    }
}

async fn carry(
    near: TcpStream,
    to: SocketAddr,
    (wire, Bottleneck([there, back])): (Wire, Bottleneck),
    open: Arc<AtomicBool>,
) {
    // The kernel has answered at once; the first packets of TCP take a round trip.
    sleep(wire.one_way * 2).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(KERNEL.try_into().unwrap()).unwrap();
    let Ok(far) = socket.connect(to).await else { return };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::join!(
        one_way(near_in, far_out, (wire, there), open.clone()),
        one_way(far_in, near_out, (wire, back), open)
    );
}

async fn one_way(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    (wire, busy): (Wire, Arc<Mutex<Option<Instant>>>),
    open: Arc<AtomicBool>,
) {
    let chunk_takes = Duration::from_secs_f64(f64::from(CHUNK) * 8.0 / wire.rate);
    let in_flight = (wire.one_way + QUEUE).as_nanos().div_ceil(chunk_takes.as_nanos());
    let chunks = Arc::new(Semaphore::new(usize::try_from(in_flight).unwrap()));
    let (send, mut recv) = mpsc::unbounded_channel::<(Instant, Vec<u8>, _)>();
    let read = async move {
        loop {
            let mut bytes = vec![0; CHUNK as usize];
            let permit = chunks.clone().acquire_owned().await.unwrap();
            let Ok(len @ 1..) = from.read(&mut bytes).await else { return };
            bytes.truncate(len);
            let takes = Duration::from_secs_f64(len as f64 * 8.0 / wire.rate);
            let free_at = {
                let (mut busy, now) = (busy.lock().unwrap(), Instant::now());
                let until = busy.map_or(now, |until| until.max(now)) + takes;
                *busy.insert(until)
            };
            // What comes behind it waits for it.
            let is_lost = rand::rng().random_bool(wire.loss);
            let repeated = if is_lost { REPEATED_AFTER + wire.one_way * 2 } else { Duration::ZERO };
            let _ = send.send((free_at + wire.one_way + repeated, bytes, permit));
        }
    };
    let write = async move {
        while let Some((at, bytes, permit)) = recv.recv().await {
            sleep_until(at).await;
            while !open.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(10)).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
            drop(permit);
        }
    };
    tokio::join!(read, write);
}
