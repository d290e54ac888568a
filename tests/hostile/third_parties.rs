//! UDP sockets of third parties on loopback, which count what comes there.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// A dial that has begun goes on for so long.
const AFTERWARDS: Duration = Duration::from_secs(6);

/// The sockets.
#[derive(Clone)]
pub(crate) struct ThirdParties(Arc<Vec<UdpSocket>>);

impl ThirdParties {
    /// A socket at each of these addresses of this machine.
    pub(crate) fn at(hosts: impl Iterator<Item = [u8; 4]>) -> Self {
        let bind = |host| {
            let socket = UdpSocket::bind(SocketAddr::from((host, 0))).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        Self(Arc::new(hosts.map(bind).collect()))
    }

    /// Where they are.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|socket| socket.local_addr().unwrap()).collect()
    }

    /// Sends a packet from one of them, as somebody does who forges its address.
    pub(crate) fn send(&self, number: u64, packet: &[u8], to: SocketAddr) {
        let number = usize::try_from(number).unwrap() % self.0.len();
        // The system may refuse one while its buffers are full.
        let _ = self.0[number].send_to(packet, to);
    }

    /// Counts the bytes that come until some seconds after `end`.
    pub(crate) fn count(&self, end: Instant) -> JoinHandle<u64> {
        let sockets = self.0.clone();
        thread::spawn(move || {
            let (mut bytes, mut buffer) = (0, vec![0; 65_536]);
            while Instant::now() < end + AFTERWARDS {
                for socket in sockets.iter() {
                    while let Ok(length) = socket.recv(&mut buffer) {
                        bytes += length as u64;
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
            bytes
        })
    }
}
