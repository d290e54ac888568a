//! Two hosts in network namespaces, and the cable between them: TUN devices, whose packets cross the emulated Internet.
//! So UDP and the kernel's TCP meet the same delay, rate, queue and loss.
//!
//! All packets are those of the kernel. They cross the emulator in user space, as not every kernel has netem.

use std::{
    env,
    future::poll_fn,
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    process::{Command, exit},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use noq::{
    AsyncUdpSocket, UdpSender,
    udp::{RecvMeta, Transmit},
};
use ronproxy::internals::emulator::{Bitrate, Internet, LinkModel};
use tokio::runtime::Runtime;
use tun_rs::{AsyncDevice, DeviceBuilder, SyncDevice};

/// The longest IP packet on Ethernet.
const MTU: u16 = 1_500;

/// UDP's number in the IP header, which stands at this byte.
const UDP: (usize, u8) = (9, 17);

/// Datagrams that are taken from the emulator at once.
const BATCH: usize = 32;

/// Marks the process inside of the namespaces.
const INSIDE: &str = "RON_BENCH_INSIDE";

type Job = Box<dyn FnOnce() + Send>;

/// Whether this process is in namespaces of its own. If not, it runs this program again in such namespaces, and fails as
/// that does.
pub(crate) fn in_own_namespaces() -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let namespaces = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net"]);
        unshare
    };
    let made = namespaces().args(["ip", "tuntap", "add", "mode", "tun", "name", "cable"]).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("nothing was measured: it needs user namespaces, unshare, ip and /dev/net/tun");
        return false;
    }
    let mut again = namespaces();
    again.arg(env::current_exe().unwrap()).arg("--bench").env(INSIDE, "1");
    let status = again.status().unwrap();
    if !status.success() {
        exit(status.code().unwrap_or(1));
    }
    false
}

/// A host: a thread in a network of its own. Its sockets and its processes are in that network.
pub(crate) struct Host {
    pub(crate) ip: Ipv4Addr,
    jobs: mpsc::Sender<Job>,
}

impl Host {
    /// A host with this address, and its end of the cable. Its TCP remembers nothing of earlier connections.
    fn start(ip: Ipv4Addr) -> (Self, SyncDevice) {
        let (jobs, todo) = mpsc::channel::<Job>();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        let host = Self { ip, jobs };
        let device = host.run(move || {
            let device = DeviceBuilder::new().name("cable").enable(false).build_sync().unwrap();
            let script = format!(
                "set -e; ip link set lo up; ip link set cable mtu {MTU} up; ip address add {ip}/24 dev cable
                 echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save"
            );
            assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
            device
        });
        (host, device)
    }

    /// Does something in the host's network.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::sync_channel(1);
        self.jobs.send(Box::new(move || done.send(job()).unwrap())).unwrap();
        result.recv().unwrap()
    }
}

/// The cable. It carries until it is dropped.
pub(crate) struct Cable {
    pub(crate) entry: Host,
    pub(crate) exit: Host,
    internet: Internet,
    udp_is_blocked: Arc<AtomicBool>,
    runtime: Runtime,
}

impl Cable {
    /// Lays a cable of this model in each direction.
    pub(crate) fn lay(model: LinkModel) -> Self {
        let (entry, near) = Host::start(Ipv4Addr::new(198, 51, 100, 2));
        let (exit, far) = Host::start(Ipv4Addr::new(198, 51, 100, 1));
        let internet = Internet::new(1);
        let [a, b] = [entry.ip, exit.ip].map(IpAddr::from);
        internet.set_both(a, b, LinkModel { mtu: MTU, ..model });
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let udp_is_blocked = Arc::<AtomicBool>::default();
        let guard = runtime.enter();
        let ends = [(a, near), (b, far)].map(|(ip, device)| {
            let socket = internet.attach((ip, 1).into());
            (SocketAddr::from((ip, 1)), Arc::new(AsyncDevice::new(device).unwrap()), socket)
        });
        drop(guard);
        let [(a, near, at_a), (b, far, at_b)] = ends;
        let (from_a, from_b) = (at_a.create_sender(), at_b.create_sender());
        runtime.spawn(send(near.clone(), from_a, b, udp_is_blocked.clone()));
        runtime.spawn(send(far.clone(), from_b, a, udp_is_blocked.clone()));
        runtime.spawn(receive(at_a, near));
        runtime.spawn(receive(at_b, far));
        Self { entry, exit, internet, udp_is_blocked, runtime }
    }

    /// Changes the model of both directions.
    pub(crate) fn change(&self, change: impl Fn(&mut LinkModel)) {
        let [a, b] = [self.entry.ip, self.exit.ip].map(IpAddr::from);
        self.internet.update_both(a, b, change);
    }

    /// From now on each rate, in Mbit/s, lasts so long in both directions, in turn.
    pub(crate) fn vary(&self, rates: &'static [u32], each: Duration) {
        let [a, b] = [self.entry.ip, self.exit.ip].map(IpAddr::from);
        let internet = self.internet.clone();
        self.runtime.spawn(async move {
            let mut tick = tokio::time::interval(each);
            for rate in rates.iter().cycle() {
                tick.tick().await;
                internet.update_both(a, b, |model| model.rate = Some(Bitrate::mbit(*rate)));
            }
        });
    }

    /// Whether UDP is dropped from now on.
    pub(crate) fn block_udp(&self, blocked: bool) {
        self.udp_is_blocked.store(blocked, Ordering::Relaxed);
    }
}

/// Carries what a host sends into the emulator.
async fn send(
    device: Arc<AsyncDevice>,
    mut sender: Pin<Box<dyn UdpSender>>,
    destination: SocketAddr,
    udp_is_blocked: Arc<AtomicBool>,
) {
    let mut packet = vec![0; usize::from(MTU)];
    while let Ok(length) = device.recv(&mut packet).await {
        let (at, udp) = UDP;
        let is_ipv4 = packet[0] >> 4 == 4;
        if !is_ipv4 || packet[at] == udp && udp_is_blocked.load(Ordering::Relaxed) {
            continue;
        }
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: &packet[..length],
            segment_size: None,
            src_ip: None,
        };
        poll_fn(|cx| sender.as_mut().poll_send(&transmit, cx)).await.unwrap();
    }
}

/// Carries what comes out of the emulator to a host.
async fn receive(mut socket: Box<dyn AsyncUdpSocket>, device: Arc<AsyncDevice>) {
    let mut buffers = vec![vec![0; usize::from(u16::MAX)]; BATCH];
    let mut metas = [RecvMeta::default(); BATCH];
    loop {
        let mut slices: Vec<_> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let received = poll_fn(|cx| socket.poll_recv(cx, &mut slices, &mut metas)).await.unwrap();
        for (buffer, meta) in buffers.iter().zip(&metas).take(received) {
            for packet in buffer[..meta.len].chunks(meta.stride) {
                // A full queue of the host drops it, as everywhere.
                let _ = device.send(packet).await;
            }
        }
    }
}
