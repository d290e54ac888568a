//! Connecting to the first address that answers: Happy Eyeballs (RFC 8305).

use std::{future::Future, io, net::SocketAddr, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use socket2::SockRef;
use tokio::{
    net::{TcpStream, UdpSocket},
    time::{Instant, sleep_until, timeout_at},
};

use crate::flow::{Refusal, RefusalKind, is_exhaustion, probe_when_silent};

/// The time between the first attempt and the next one: the recommended value of RFC 8305, section
/// 5. A SYN to the other side of the world is answered within it.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

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
///
/// The addresses are tried in their order, families alternating.
pub(super) async fn first<C, F, T>(
    addrs: &[SocketAddr],
    deadline: Instant,
    connect: C,
) -> Result<(T, SocketAddr), Refusal>
where
    C: Fn(SocketAddr) -> F,
    F: Future<Output = io::Result<T>>,
{
    match timeout_at(deadline, race(interleave(addrs), connect)).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(Refusal::from_connect_error(&error)),
        Err(_) => Err(Refusal::new(
            RefusalKind::TimedOut,
            "the destination did not answer the exit in time",
        )),
    }
}

/// Starts an attempt every [`ATTEMPT_DELAY`], and at once when one has failed; the first success
/// ends, and so cancels, the others.
async fn race<C, F, T>(addrs: Vec<SocketAddr>, connect: C) -> io::Result<(T, SocketAddr)>
where
    C: Fn(SocketAddr) -> F,
    F: Future<Output = io::Result<T>>,
{
    let attempt = |addr| {
        let attempt = connect(addr);
        async move { (attempt.await, addr) }
    };
    let mut waiting = addrs.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failure: Option<io::Error> = None;
    loop {
        if let Some(addr) = waiting.next() {
            running.push(attempt(addr));
        }
        let next_attempt = Instant::now() + ATTEMPT_DELAY;
        let ended = tokio::select! {
            biased;
            ended = running.next() => ended,
            () = sleep_until(next_attempt), if waiting.len() > 0 => continue,
        };
        match ended {
            Some((Ok(stream), addr)) => return Ok((stream, addr)),
            // Another attempt needs a file descriptor too.
            Some((Err(error), _)) if is_exhaustion(&error) => return Err(error),
            Some((Err(error), _)) => failure = Some(more_telling(failure, error)),
            None => return Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())),
        }
    }
}

/// Of two failures, the one to report: a refusal proves that a host answered; else the first.
fn more_telling(old: Option<io::Error>, new: io::Error) -> io::Error {
    match old {
        Some(old) if new.kind() != io::ErrorKind::ConnectionRefused => old,
        _ => new,
    }
}

/// Alternates the families, the first address's family first (RFC 8305 §4); otherwise keeps the
/// order, which the system's resolver chose by RFC 6724.
fn interleave(addrs: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addrs.first() else { return Vec::new() };
    let same_family = |addr: &SocketAddr| addr.is_ipv4() == first.is_ipv4();
    let (preferred, other): (Vec<_>, Vec<_>) = addrs.iter().copied().partition(same_family);
    let mut order = Vec::with_capacity(addrs.len());
    for at in 0..addrs.len() {
        order.extend(preferred.get(at));
        order.extend(other.get(at));
    }
    order
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
    use std::{cell::RefCell, future::pending};

    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// What an emulated address does.
    #[derive(Clone, Copy)]
    enum Does {
        Answer(u64),
        Fail(u64, io::ErrorKind),
        Nothing,
    }

    /// Runs [`first`] over addresses 9.0.0.0, 9.0.0.1, … that do as told. Returns the outcome,
    /// the virtual milliseconds it took, and when each attempt began.
    async fn run(does: &[Does]) -> (Result<usize, Refusal>, u128, Vec<u128>) {
        let began = Instant::now();
        let starts = RefCell::new(Vec::new());
        let list: Vec<_> =
            (0..does.len()).map(|d| format!("9.0.0.{d}:80").parse().unwrap()).collect();
        let connect = |addr: SocketAddr| {
            let at = list.iter().position(|&known| known == addr).unwrap();
            starts.borrow_mut().push(began.elapsed().as_millis());
            async move {
                match does[at] {
                    Does::Answer(ms) => {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        Ok(at)
                    }
                    Does::Fail(ms, kind) => {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        Err(kind.into())
                    }
                    Does::Nothing => pending().await,
                }
            }
        };
        let result = first(&list, began + WAIT, connect).await.map(|(at, _)| at);
        (result, began.elapsed().as_millis(), starts.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_first_address_costs_one_attempt_delay() {
        let (result, took, starts) = run(&[Does::Nothing, Does::Answer(40)]).await;
        assert_eq!((result.unwrap(), took), (1, 290));
        assert_eq!(starts, [0, 250]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_address_still_wins_when_it_answers_first() {
        let (result, took, _) = run(&[Does::Answer(300), Does::Answer(100)]).await;
        assert_eq!((result.unwrap(), took), (0, 300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_attempt_at_once() {
        let refused = io::ErrorKind::ConnectionRefused;
        let (result, took, starts) = run(&[Does::Fail(10, refused), Does::Answer(40)]).await;
        assert_eq!((result.unwrap(), took), (1, 50));
        assert_eq!(starts, [0, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_everywhere_ends_at_the_deadline() {
        let (result, took, starts) = run(&[Does::Nothing; 3]).await;
        assert_eq!((result.unwrap_err().kind, took), (RefusalKind::TimedOut, 10_000));
        assert_eq!(starts, [0, 250, 500]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_reported_before_a_missing_route() {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable};
        for (kinds, expected) in [
            ([HostUnreachable, ConnectionRefused], RefusalKind::ConnectionRefused),
            ([ConnectionRefused, HostUnreachable], RefusalKind::ConnectionRefused),
            ([HostUnreachable, HostUnreachable], RefusalKind::Unreachable),
        ] {
            let (result, ..) = run(&kinds.map(|kind| Does::Fail(1, kind))).await;
            assert_eq!(result.unwrap_err().kind, expected, "{kinds:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_without_file_descriptors_does_not_try_further() {
        let tried = RefCell::new(0);
        let connect = |_| {
            *tried.borrow_mut() += 1;
            async { Err::<(), _>(io::Error::from_raw_os_error(24)) }
        };
        let list = addrs(&["9.0.0.1:80", "9.0.0.2:80"]);
        let refusal = first(&list, Instant::now() + WAIT, connect).await.unwrap_err();
        assert_eq!((refusal.kind, *tried.borrow()), (RefusalKind::Overloaded, 1));
    }

    #[test]
    fn families_alternate_and_the_resolvers_first_choice_leads() {
        let list = addrs(&["[2600::1]:1", "[2600::2]:1", "[2600::3]:1", "9.0.0.1:1"]);
        let expected = addrs(&["[2600::1]:1", "9.0.0.1:1", "[2600::2]:1", "[2600::3]:1"]);
        assert_eq!(interleave(&list), expected);
        assert!(interleave(&[]).is_empty());
    }

    #[tokio::test]
    async fn an_address_of_this_machine_is_known_without_sending() {
        assert!(is_own("127.0.0.1:80".parse().unwrap()).await.unwrap());
        assert!(!is_own("192.0.2.1:80".parse().unwrap()).await.unwrap());
    }
}
