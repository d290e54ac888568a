//! Happy Eyeballs (RFC 8305): connecting to the first of several addresses that answers.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until};

/// The time between the first attempt and the next one: the recommended value of RFC 8305, section
/// 5. A SYN to the other side of the world is answered within it.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the first of `addresses` that answers, through `connect`; the first success ends, and so cancels, the others.
///
/// They are tried in their order, families alternating: one every [`ATTEMPT_DELAY`], and at once when one has failed.
///
/// # Errors
/// When all have failed: that one was refused, else the first failure. One that `ends_all` ends the others.
pub(crate) async fn first<C, F, T>(
    addresses: &[SocketAddr],
    connect: C,
    ends_all: impl Fn(&io::Error) -> bool,
) -> io::Result<(T, SocketAddr)>
where
    C: Fn(SocketAddr) -> F,
    F: Future<Output = io::Result<T>>,
{
    let attempt = |address| {
        let attempt = connect(address);
        async move { (attempt.await, address) }
    };
    let mut waiting = interleave(addresses).into_iter();
    let mut running = FuturesUnordered::new();
    let mut failure: Option<io::Error> = None;
    loop {
        if let Some(address) = waiting.next() {
            running.push(attempt(address));
        }
        let next_attempt = Instant::now() + ATTEMPT_DELAY;
        let ended = tokio::select! {
            biased;
            ended = running.next() => ended,
            () = sleep_until(next_attempt), if waiting.len() > 0 => continue,
        };
        match ended {
            Some((Ok(connected), address)) => return Ok((connected, address)),
            Some((Err(error), _)) if ends_all(&error) => return Err(error),
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
pub(crate) fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    by_turns(addresses.iter().copied(), |address| address.is_ipv4() == first.is_ipv4())
}

/// Those that go `first` and the others by turns, otherwise in their order.
pub(crate) fn by_turns<T>(all: impl Iterator<Item = T>, first: impl Fn(&T) -> bool) -> Vec<T> {
    let (firsts, others): (Vec<_>, Vec<_>) = all.partition(first);
    let mut ranked: Vec<_> = firsts.into_iter().enumerate().collect();
    ranked.extend(others.into_iter().enumerate());
    // It keeps the order of equal ranks.
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::pending};

    use tokio::time::sleep;

    use super::*;

    fn list_of(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// What an emulated address does.
    #[derive(Clone, Copy)]
    enum Does {
        Answer(u64),
        Fail(u64, io::ErrorKind),
        Nothing,
    }

    /// Runs [`first`] over addresses 9.0.0.0, 9.0.0.1, … that do as told. Returns which answered,
    /// the virtual milliseconds it took, and when each attempt began.
    async fn run(does: &[Does]) -> (usize, u128, Vec<u128>) {
        let began = Instant::now();
        let starts = RefCell::new(Vec::new());
        let list: Vec<_> =
            (0..does.len()).map(|d| format!("9.0.0.{d}:80").parse().unwrap()).collect();
        let connect = |address: SocketAddr| {
            let at = list.iter().position(|&known| known == address).unwrap();
            starts.borrow_mut().push(began.elapsed().as_millis());
            async move {
                match does[at] {
                    Does::Answer(ms) => {
                        sleep(Duration::from_millis(ms)).await;
                        Ok(at)
                    }
                    Does::Fail(ms, kind) => {
                        sleep(Duration::from_millis(ms)).await;
                        Err(kind.into())
                    }
                    Does::Nothing => pending().await,
                }
            }
        };
        let (at, _) = first(&list, connect, |_| false).await.unwrap();
        (at, began.elapsed().as_millis(), starts.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_first_address_costs_one_attempt_delay() {
        let silent = [Does::Nothing, Does::Answer(40)];
        assert_eq!(run(&silent).await, (1, 290, vec![0, 250]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_address_still_wins_when_it_answers_first() {
        let slow = [Does::Answer(300), Does::Answer(100)];
        assert_eq!(run(&slow).await, (0, 300, vec![0, 250]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_attempt_at_once() {
        let refused = io::ErrorKind::ConnectionRefused;
        let refuses = [Does::Fail(10, refused), Does::Answer(40)];
        assert_eq!(run(&refuses).await, (1, 50, vec![0, 10]));
    }

    #[tokio::test(start_paused = true)]
    async fn no_address_is_an_error_and_no_wait() {
        let nobody = first(&[], |_| pending::<io::Result<()>>(), |_| false).await;
        assert_eq!(nobody.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn families_alternate_and_the_resolvers_first_choice_leads() {
        let list = list_of(&["[2600::1]:1", "[2600::2]:1", "[2600::3]:1", "9.0.0.1:1"]);
        let expected = list_of(&["[2600::1]:1", "9.0.0.1:1", "[2600::2]:1", "[2600::3]:1"]);
        assert_eq!(interleave(&list), expected);
        assert!(interleave(&[]).is_empty());
    }
}
