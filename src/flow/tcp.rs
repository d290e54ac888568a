//! The TCP connections at a flow's ends: keep-alive, and the reset of a broken flow.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// A silent connection is probed after this time. Some NATs and firewalls drop its state after five
/// minutes.
const PROBE_AFTER: Duration = Duration::from_secs(120);

/// Between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// A connection whose peer confirms nothing for this long is dead. Linux retransmits for as long by
/// default (`tcp_retries2`), so a flow survives the same outages as a plain connection.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15 * 60);

/// Lets the system probe a silent connection, and end it when its peer is gone.
///
/// An option that the system does not have is left out. The flow's own limits still end it.
pub fn probe_when_silent(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let keep_alive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY);
    if let Err(error) = socket.set_tcp_keepalive(&keep_alive) {
        tracing::debug!(%error, "cannot set TCP keep-alive");
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket.set_tcp_user_timeout(Some(GIVE_UP_AFTER)) {
        tracing::debug!(%error, "cannot set the TCP user time-out");
    }
}

/// Lets the close of the connection be a reset, so that its peer does not take an incomplete answer
/// as complete.
pub fn reset_on_close(tcp: &TcpStream) {
    if let Err(error) = SockRef::from(tcp).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot reset the TCP connection; closing it");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_connection_is_probed_and_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        probe_when_silent(&tcp);
        let socket = SockRef::from(&tcp);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), PROBE_AFTER);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), PROBE_EVERY);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(GIVE_UP_AFTER));
    }
}
