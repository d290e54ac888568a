//! Datagrams of programs: each socket of theirs has an association of the proxy (RFC 1928 §7).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use fast_socks5::{SocksError, new_udp_header, parse_udp_request, util::target_addr::TargetAddr};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpStream, UdpSocket},
    sync::mpsc,
};
use tun_rs::AsyncDevice;

use super::{packet, proxy::Proxy};

/// Associations at once: a quarter of those that an entry serves.
const MOST: usize = 64;

/// A socket that sends nothing for so long loses its association: the least that RFC 4787 (REQ-5) allows.
const IDLE: Duration = Duration::from_secs(120);

/// Datagrams that wait for their association. It opens within a round trip on this machine.
const QUEUE: usize = 64;

/// Longer than every datagram.
const BUFFER: usize = 65_536;

/// What has an association of its own: a socket of a program. Where it asks for a name, the association is for that
/// name alone, since answers come from the address that the exit found, which the program does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) from: SocketAddr,
    /// The address that stands for the name.
    pub(super) stands: Option<IpAddr>,
}

struct Open {
    queue: mpsc::Sender<Vec<u8>>,
    last: Instant,
}

/// The associations of one namespace.
pub(super) struct Datagrams {
    proxy: Arc<Proxy>,
    tun: Arc<AsyncDevice>,
    open: HashMap<Key, Open>,
}

impl Datagrams {
    pub(super) fn new(proxy: Arc<Proxy>, tun: Arc<AsyncDevice>) -> Self {
        Self { proxy, tun, open: HashMap::new() }
    }

    /// Sends a datagram. It is dropped when too many wait.
    pub(super) fn send(&mut self, now: Instant, key: Key, target: TargetAddr, payload: &[u8]) {
        let Ok(mut bytes) = new_udp_header(target) else { return };
        bytes.extend_from_slice(payload);
        let is_open = self.open.get(&key).is_some_and(|open| !open.queue.is_closed());
        if !is_open {
            self.begin(now, key);
        }
        let Some(open) = self.open.get_mut(&key) else { return };
        open.last = now;
        if open.queue.try_send(bytes).is_err() {
            tracing::debug!(from = %key.from, "a datagram is dropped, as too many wait");
        }
    }

    fn begin(&mut self, now: Instant, key: Key) {
        self.sweep(now);
        if self.open.len() >= MOST
            && let Some(idle) = self.open.iter().min_by_key(|(_, open)| open.last)
        {
            let idle = *idle.0;
            self.open.remove(&idle);
        }
        let (queue, datagrams) = mpsc::channel(QUEUE);
        self.open.insert(key, Open { queue, last: now });
        let (proxy, tun) = (self.proxy.clone(), self.tun.clone());
        tokio::spawn(async move {
            if let Err(error) = carry(&proxy, &tun, key, datagrams).await {
                tracing::debug!(%error, from = %key.from, "an association ended");
            }
        });
    }

    /// Ends what is idle or has ended.
    pub(super) fn sweep(&mut self, now: Instant) {
        let is_used = |open: &Open| now.saturating_duration_since(open.last) < IDLE;
        self.open.retain(|_, open| is_used(open) && !open.queue.is_closed());
    }
}

/// Carries the datagrams of one association until nobody sends any more, or the proxy ends it.
async fn carry(
    proxy: &Proxy,
    tun: &AsyncDevice,
    key: Key,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
) -> Result<(), SocksError> {
    let (mut tcp, at) = proxy.associate().await?;
    let socket = UdpSocket::bind((tcp.local_addr()?.ip(), 0)).await?;
    socket.connect(at).await?;
    let mut buffer = vec![0; BUFFER];
    loop {
        tokio::select! {
            datagram = datagrams.recv() => {
                let Some(datagram) = datagram else { return Ok(()) };
                // One that is longer than the system sends is lost, like any other.
                if let Err(error) = socket.send(&datagram).await {
                    tracing::debug!(%error, from = %key.from, "a datagram is lost");
                }
            }
            received = socket.recv(&mut buffer) => {
                let Ok(length) = received else { continue };
                if let Some(packet) = answer(key, &buffer[..length]).await {
                    // The program takes no more: lost, as on any network.
                    let _ = tun.send(&packet).await;
                }
            }
            () = ended(&mut tcp) => return Ok(()),
        }
    }
}

/// Waits until the proxy ends the association.
async fn ended(tcp: &mut TcpStream) {
    while let Ok(1..) = tcp.read(&mut [0; 16]).await {}
}

/// The packet for the program.
async fn answer(key: Key, bytes: &[u8]) -> Option<Vec<u8>> {
    let Ok((0, TargetAddr::Ip(from), payload)) = parse_udp_request(bytes).await else {
        return None;
    };
    let from = SocketAddr::new(key.stands.unwrap_or(from.ip()), from.port());
    packet::datagram(from, key.from, payload)
}
