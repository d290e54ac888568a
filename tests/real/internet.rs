//! An Internet on loopback: real packets between processes, through the emulator, in real time.
//!
//! Each node listens at a private address and tells the others its public one, which is a socket
//! of this Internet. A packet from A that comes to the public address of B travels from site A to
//! site B of the emulated Internet, and is then sent to B from the public address of A. So it is a
//! one-to-one translation of addresses, and no node learns another's private one.

use std::{
    collections::HashMap,
    fs,
    future::poll_fn,
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    pin::Pin,
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use noq::{
    AsyncUdpSocket, UdpSender,
    udp::{BATCH_SIZE, RecvMeta, Transmit},
};
use ronproxy::internals::{
    emulator::{Internet, Topology},
    underlay::bind_udp,
};
use tokio::task::JoinSet;

/// The longest datagram, or row of them as the kernel hands them over.
const BUFFER: usize = 64 * 1024;

/// Where one node is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) private: SocketAddr,
    /// Where others reach it.
    pub(crate) public: SocketAddr,
    /// Where it is on the emulated Internet.
    site: SocketAddr,
}

/// Places for the sites of `topology`, on loopback addresses that no other test uses: a port stays
/// free while nobody is bound to it.
pub(crate) fn places(topology: &Topology) -> Vec<Place> {
    static USED: AtomicUsize = AtomicUsize::new(0);
    let [.., a, b] = process::id().to_be_bytes();
    let places = topology.sites().iter().map(|site| {
        let host = u8::try_from(1 + USED.fetch_add(1, Ordering::Relaxed) % 250).unwrap();
        let free = || {
            let ip = Ipv4Addr::new(127, 64 | a >> 2, b, host);
            let socket = UdpSocket::bind((ip, 0)).unwrap();
            socket.local_addr().unwrap()
        };
        let (private, public) = (free(), free());
        Place { name: site.name.clone(), private, public, site: (site.address, 4600).into() }
    });
    places.collect()
}

/// Carries packets between places until it is dropped.
pub(crate) struct Loopback {
    internet: Internet,
    /// The sockets of this Internet and of the nodes, as Linux lists them.
    sockets: Vec<String>,
    strangers: Arc<AtomicUsize>,
    _carriers: JoinSet<()>,
}

impl Loopback {
    pub(crate) fn between(places: &[Place], topology: &Topology, seed: u64) -> Self {
        let internet = topology.build(seed);
        let strangers = Arc::new(AtomicUsize::new(0));
        let open = |address| bind_udp(address).unwrap();
        let outside: Vec<_> = places.iter().map(|place| open(place.public)).collect();
        let inside: Vec<_> = places.iter().map(|place| internet.attach(place.site)).collect();
        let mut carriers = JoinSet::new();
        let doors = |from: fn(&Place) -> SocketAddr, sockets: &[Box<dyn AsyncUdpSocket>]| {
            let doors = places.iter().zip(sockets);
            doors.map(|(place, socket)| (from(place), socket.create_sender())).collect::<Doors>()
        };
        let ways: Vec<_> = places
            .iter()
            .map(|_| (doors(|p| p.private, &inside), doors(|p| p.site, &outside)))
            .collect();
        for (((place, outside), inside), (inward, outward)) in
            places.iter().zip(outside).zip(inside).zip(ways)
        {
            carriers.spawn(carry(outside, inward, place.site, strangers.clone()));
            carriers.spawn(carry(inside, outward, place.private, strangers.clone()));
        }
        let sockets = places.iter().flat_map(|place| [place.private, place.public]);
        let sockets = sockets.map(listed).collect();
        Self { internet, sockets, strangers, _carriers: carriers }
    }

    /// The emulated Internet, on which paths change.
    pub(crate) fn internet(&self) -> &Internet {
        &self.internet
    }

    /// Packets that the kernel dropped as their reader was too slow: this Internet, or a node.
    pub(crate) fn overruns(&self) -> usize {
        let table = fs::read_to_string("/proc/net/udp").unwrap();
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours =
            rows.filter(|row| self.sockets.iter().any(|socket| row.get(1) == Some(&&**socket)));
        ours.map(|row| row.last().unwrap().parse::<usize>().unwrap()).sum()
    }

    /// Packets from elsewhere, which were dropped.
    pub(crate) fn strangers(&self) -> usize {
        self.strangers.load(Ordering::Relaxed)
    }
}

/// How `/proc/net/udp` writes an address.
fn listed(address: SocketAddr) -> String {
    let IpAddr::V4(ip) = address.ip() else { panic!("an IPv4 address") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port())
}

/// By the address a packet comes from: how it leaves.
type Doors = HashMap<SocketAddr, Pin<Box<dyn UdpSender>>>;

/// Sends what comes to one socket on to `to`, through the door that belongs to its sender.
async fn carry(
    mut socket: Box<dyn AsyncUdpSocket>,
    mut doors: Doors,
    to: SocketAddr,
    strangers: Arc<AtomicUsize>,
) {
    let mut buffers = vec![vec![0; BUFFER]; BATCH_SIZE];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    loop {
        let mut slices: Vec<_> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let received = poll_fn(|cx| socket.poll_recv(cx, &mut slices, &mut metas)).await;
        for (buffer, meta) in buffers.iter().zip(&metas).take(received.unwrap()) {
            let Some(door) = doors.get_mut(&meta.addr) else {
                strangers.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let transmit = Transmit {
                destination: to,
                ecn: meta.ecn,
                contents: &buffer[..meta.len],
                segment_size: Some(meta.stride),
                src_ip: None,
            };
            // What a dead node's socket refuses is lost, as on any network.
            let _ = poll_fn(|cx| door.as_mut().poll_send(&transmit, cx)).await;
        }
    }
}
