//! Whether a neighbour can be reached from a port to which it has sent nothing. A firewall or a NAT lets in packets from
//! addresses to which its machine has sent before. So such packets do not show whether other nodes reach it.
//!
//! The packet is a nonce as for a new address. Only the neighbour of this link can return it, on this link.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};

use crate::wire::nonce::AddressNonce;

/// The pauses before the nonce is sent: three times, because packets get lost.
const SEND_AFTER: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(300), Duration::from_millis(400)];

/// How long the answer may take: the last nonce is sent after 0.7 s, and a round trip on the worst usable
/// path takes half a second.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The try under way: the nonce that is to come back, and who waits for it.
#[derive(Default)]
pub(super) struct ReachTry(Mutex<Option<(u64, oneshot::Sender<()>)>>);

impl ReachTry {
    /// The neighbour returned a nonce.
    pub(super) fn returned(&self, nonce: u64) {
        if let Some((_, came)) = self.waiting().take_if(|(waiting, _)| *waiting == nonce) {
            // The task that waited may have given up.
            let _ = came.send(());
        }
    }

    /// Sends `nonce` from a new port of `ours` to the addresses in `to`. Whether it was returned; `None`: it cannot be
    /// sent from there, or another try is under way.
    pub(super) async fn run(
        &self,
        ours: IpAddr,
        to: &[SocketAddr],
        nonce: AddressNonce,
    ) -> Option<bool> {
        let socket = UdpSocket::bind((ours, 0)).await.ok()?;
        let returned = self.begin(nonce.nonce)?;
        let deadline = Instant::now() + PATIENCE;
        let sending = async {
            for pause in SEND_AFTER {
                sleep(pause).await;
                for to in to {
                    // A nonce that cannot be sent is not returned.
                    let _ = socket.send_to(&nonce.encode(), to).await;
                }
            }
            std::future::pending::<()>().await;
        };
        let both = async {
            tokio::select! { came = returned => came.is_ok(), () = sending => false }
        };
        Some(timeout_at(deadline, both).await.unwrap_or(false))
    }

    fn begin(&self, nonce: u64) -> Option<oneshot::Receiver<()>> {
        let mut waiting = self.waiting();
        if waiting.as_ref().is_some_and(|(_, came)| !came.is_closed()) {
            return None;
        }
        let (came, returned) = oneshot::channel();
        *waiting = Some((nonce, came));
        Some(returned)
    }

    fn waiting(&self) -> MutexGuard<'_, Option<(u64, oneshot::Sender<()>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: AddressNonce = AddressNonce { asker: 1, nonce: 7 };

    async fn neighbour() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        (socket, at)
    }

    #[tokio::test]
    async fn a_nonce_comes_from_a_new_port_and_counts_once_it_is_returned() {
        let ((socket, at), reach) = (neighbour().await, ReachTry::default());
        let answer = async {
            let mut datagram = [0; 64];
            let (len, from) = socket.recv_from(&mut datagram).await.unwrap();
            assert_eq!(AddressNonce::decode(&datagram[..len]), Some(NONCE));
            reach.returned(8);
            assert_eq!(reach.run(at.ip(), &[at], NONCE).await, None, "one try at a time");
            reach.returned(7);
            from
        };
        let to = [at];
        let (reached, from) = tokio::join!(reach.run(at.ip(), &to, NONCE), answer);
        assert_eq!(reached, Some(true));
        assert_ne!(from.port(), at.port());
    }

    #[tokio::test(start_paused = true)]
    async fn a_neighbour_that_returns_nothing_is_not_reached() {
        let ((_socket, at), reach) = (neighbour().await, ReachTry::default());
        let began = Instant::now();
        assert_eq!(reach.run(at.ip(), &[at], NONCE).await, Some(false));
        assert_eq!(began.elapsed(), PATIENCE);
        let nowhere = "192.0.2.1".parse().unwrap();
        assert_eq!(reach.run(nowhere, &[at], NONCE).await, None, "not an address of this machine");
    }
}
