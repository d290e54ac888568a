//! Real processes on loopback: what an attack costs the victim in memory and CPU time, as the kernel
//! counts them, and other members in goodput and waiting.
//!
//! Longer: `RON_HOSTILE_SECONDS=60`.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use noq::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime};
use ronproxy::{
    identity::{Clock, Credentials, NodeDir, server_name},
    transport,
    underlay::bind_udp,
};

use crate::{
    overlay::{Site, json, wait_for},
    peer::HostileLink,
    web, words,
};

/// What the server sends each client, in bytes per second: 20 Mbit/s, so that the processor of a busy
/// machine is no limit.
const PACE: usize = 2_500_000;

/// How long the attack lasts.
fn seconds() -> Duration {
    let seconds = std::env::var("RON_HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// Resident memory and CPU time of a process so far.
pub(crate) fn usage(pid: u32) -> (u64, Duration) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = resident.trim().trim_end_matches(" kB").trim().parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // USER_HZ is 100 on every Linux that we run on.
    (kib * 1024, Duration::from_millis(10 * ticks))
}

/// A server that sends at its pace to everyone.
fn serve_paced() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let (mut stream, piece) = (stream?, vec![7; PACE / 100]);
                let began = Instant::now();
                for tick in 1.. {
                    stream.write_all(&piece)?;
                    thread::sleep((began + tick * Duration::from_millis(10)) - Instant::now());
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    address
}

/// Bytes per second of a download, and the longest that a new flow took, one each second.
fn customers(proxy: SocketAddr, source: SocketAddr, for_so_long: Duration) -> (f64, Duration) {
    let end = Instant::now() + for_so_long;
    let download = thread::spawn(move || {
        let mut stream = web::tunnel(proxy, source).unwrap();
        let (began, mut bytes, mut buffer) = (Instant::now(), 0u32, vec![0; 65_536]);
        while Instant::now() < end {
            bytes += u32::try_from(stream.read(&mut buffer).unwrap()).unwrap();
        }
        f64::from(bytes) / began.elapsed().as_secs_f64()
    });
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let began = Instant::now();
        drop(web::tunnel(proxy, source).unwrap());
        slowest = slowest.max(began.elapsed());
        thread::sleep((began + Duration::from_secs(1)).saturating_duration_since(Instant::now()));
    }
    (download.join().unwrap(), slowest)
}

/// A member that speaks the protocol by hand over a real socket.
pub(crate) struct RealMember {
    endpoint: Endpoint,
    client: ClientConfig,
    victim: SocketAddr,
}

impl RealMember {
    /// A member that makes links to the node `hub` at `victim`. Needs a runtime.
    pub(crate) fn new(victim: SocketAddr, credentials: &Credentials) -> Self {
        let socket = bind_udp("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut config = EndpointConfig::default();
        config.grease_quic_bit(false);
        let tokio = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, tokio).unwrap();
        Self { endpoint, client: transport::link_client_config(credentials).unwrap(), victim }
    }

    /// A link, after the introductions; `None` if the victim does not take it up.
    pub(crate) async fn link(&self) -> Option<HostileLink> {
        let name = server_name(&"hub".parse().unwrap());
        let connecting = self.endpoint.connect_with(self.client.clone(), self.victim, &name);
        let link = HostileLink { conn: connecting.unwrap().await.ok()? };
        link.request(&words::hello(rand::random(), None)).await.map(|_| link)
    }
}

/// A member's link, with messages of every kind as fast as they are taken.
fn member_attacks(victim: SocketAddr, credentials: &Credentials, end: Instant) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let member = RealMember::new(victim, credentials);
        let third = [SocketAddr::from(([127, 9, 9, 9], 53))];
        let forged = words::record("leaf", credentials, (1 << 60, 1), &third);
        while Instant::now() < end {
            let Some(link) = member.link().await else { continue };
            while Instant::now() < end && link.ended().is_none() {
                for number in 0..10 {
                    link.probe(&words::probe(number));
                    link.notice(&forged).await;
                }
                link.notice(&words::empty_digest()).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
}

/// Packets of every kind at 10 Mbit/s from a hundred addresses.
fn strangers_attack(victim: SocketAddr, end: Instant) {
    let bind = |host| UdpSocket::bind((Ipv4Addr::new(127, 0, 1, host), 0)).unwrap();
    let sockets: Vec<_> = (1..=100).map(bind).collect();
    let began = Instant::now();
    for number in 0u32.. {
        let kind = [0x3f, 1, 2, 0x40, 0xc0, 0][number as usize % 6];
        let mut packet = [&[kind, 0, 0, 0, 1, 8][..], &number.to_be_bytes(), &[1; 4]].concat();
        packet.resize(1_250, 0x5a);
        // The system may refuse one while its buffers are full.
        let _ = sockets[number as usize % sockets.len()].send_to(&packet, victim);
        let due = began + number * Duration::from_millis(1);
        if due > end {
            return;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

#[test]
fn a_real_process_under_attack_stays_small_and_serves_its_members() {
    let site = Site::new();
    let (hub, leaf) = site.pair(&[]);
    let mallory = Credentials::load(&NodeDir::at(site.join("mallory")), Clock::system()).unwrap();
    let (source, proxy, victim) = (serve_paced(), leaf.proxy(), hub.listen());
    let (calm, _) = customers(proxy, source, Duration::from_secs(3));
    let before = usage(hub.pid());
    let end = Instant::now() + seconds();
    let attacks = [
        thread::spawn(move || member_attacks(victim, &mallory, end)),
        thread::spawn(move || strangers_attack(victim, end)),
    ];
    let (goodput, slowest) = customers(proxy, source, seconds());
    attacks.into_iter().for_each(|attack| attack.join().unwrap());
    let after = usage(hub.pid());
    let (grown, cpu) = (after.0.saturating_sub(before.0), after.1 - before.1);
    let lines = std::fs::read_to_string(site.dir("hub").join("log")).unwrap().lines().count();
    println!(
        "{:?} of attack on a process: +{} KiB resident, {cpu:?} of CPU, {lines} log lines, goodput {:.0} %, new flows {slowest:?}",
        seconds(),
        grown / 1024,
        100.0 * goodput / calm
    );
    assert!(grown < 32 << 20, "{grown}");
    // Less than one core, the traffic of its members included.
    assert!(cpu < seconds() && lines < 100, "{cpu:?}, {lines} lines");
    assert!(goodput > 0.9 * calm, "{goodput} of {calm}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    wait_for("the link", || json(&site.dir("leaf"), &["links"])[0]["up"] == true);
}
