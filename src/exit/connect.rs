//! Connecting to a destination.

use std::{future::Future, io, net::SocketAddr};

use socket2::SockRef;
use tokio::{
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout_at},
};

use crate::{
    eyeballs,
    flow::{Refusal, RefusalKind, is_exhaustion, probe_when_silent},
};

/// Opens a TCP connection to one address, without Nagle's delay: the lane has already batched.
pub(super) async fn tcp(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    probe_when_silent(&stream);
    // Urgent data stays in its place among the other bytes.
    SockRef::from(&stream).set_out_of_band_inline(true)?;
    Ok(stream)
}

/// Connects to the first of `addrs` that answers until `deadline`, through `connect`.
pub(super) async fn first<C, F, T>(
    addrs: &[SocketAddr],
    deadline: Instant,
    connect: C,
) -> Result<(T, SocketAddr), Refusal>
where
    C: Fn(SocketAddr) -> F,
    F: Future<Output = io::Result<T>>,
{
    // Another attempt needs a file descriptor too.
    match timeout_at(deadline, eyeballs::first(addrs, connect, is_exhaustion)).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(Refusal::from_connect_error(&error)),
        Err(_) => Err(Refusal::new(
            RefusalKind::TimedOut,
            "the destination did not answer the exit in time",
        )),
    }
}

/// Whether `addr` is one of this machine's own addresses.
///
/// A datagram socket that is connected to it then has it as its source as well; nothing is sent.
/// An address without a route is not ours. Fails only when the process has run out of file
/// descriptors or memory, so that exhaustion does not open what this check closes.
pub(super) async fn is_own(addr: SocketAddr) -> io::Result<bool> {
    let unspecified = match addr {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
    };
    let source = async {
        let socket = UdpSocket::bind(unspecified).await?;
        socket.connect(addr).await?;
        socket.local_addr()
    };
    match source.await {
        Ok(source) => Ok(source.ip() == addr.ip()),
        Err(error) if is_exhaustion(&error) => Err(error),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::pending, time::Duration};

    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    const TWO: [SocketAddr; 2] = [
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(9, 0, 0, 1)), 0),
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(9, 0, 0, 2)), 1),
    ];

    #[tokio::test(start_paused = true)]
    async fn silence_everywhere_ends_at_the_deadline() {
        let began = Instant::now();
        let result = first(&TWO, began + WAIT, |_| pending::<io::Result<()>>()).await;
        assert_eq!(result.unwrap_err().kind, RefusalKind::TimedOut);
        assert_eq!(began.elapsed(), WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_reported_before_a_missing_route() {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable};
        for (kinds, expected) in [
            ([HostUnreachable, ConnectionRefused], RefusalKind::ConnectionRefused),
            ([ConnectionRefused, HostUnreachable], RefusalKind::ConnectionRefused),
            ([HostUnreachable, HostUnreachable], RefusalKind::Unreachable),
        ] {
            let fails = |to: SocketAddr| {
                let kind = kinds[usize::from(to.port())];
                async move { Err::<(), io::Error>(kind.into()) }
            };
            let refusal = first(&TWO, Instant::now() + WAIT, fails).await.unwrap_err();
            assert_eq!(refusal.kind, expected, "{kinds:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_without_file_descriptors_does_not_try_further() {
        let tried = RefCell::new(0);
        let connect = |_| {
            *tried.borrow_mut() += 1;
            async { Err::<(), _>(io::Error::from_raw_os_error(24)) }
        };
        let refusal = first(&TWO, Instant::now() + WAIT, connect).await.unwrap_err();
        assert_eq!((refusal.kind, *tried.borrow()), (RefusalKind::Overloaded, 1));
    }

    #[tokio::test]
    async fn an_address_of_this_machine_is_known_without_sending() {
        assert!(is_own("127.0.0.1:80".parse().unwrap()).await.unwrap());
        assert!(!is_own("192.0.2.1:80".parse().unwrap()).await.unwrap());
    }
}
