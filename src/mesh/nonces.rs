//! Nonces to neighbours' new addresses.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Waker},
};

use noq::{UdpSender, udp::Transmit};

use crate::wire::nonce::AddressNonce;

/// Sends nonces past QUIC.
pub(super) struct Nonces(Mutex<Pin<Box<dyn UdpSender>>>);

impl Nonces {
    pub(super) fn new(sender: Pin<Box<dyn UdpSender>>) -> Self {
        Self(Mutex::new(sender))
    }

    /// Sends a nonce. If the socket has no room now, the nonce is lost and is sent again later.
    pub(super) fn send(&self, destination: SocketAddr, nonce: AddressNonce) {
        let contents = &nonce.encode();
        let transmit =
            Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
        let mut sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = sender.as_mut().poll_send(&transmit, &mut Context::from_waker(Waker::noop()));
        if !matches!(sent, std::task::Poll::Ready(Ok(()))) {
            tracing::debug!(%destination, "nonce not sent");
        }
    }
}
