//! Names to addresses, at the exit.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};

use crate::flow::{BoxFuture, Refusal, RefusalKind, is_exhaustion};

/// The most addresses kept of one answer. A name may have hundreds; a flow that finds none of 16
/// reachable will not find the rest so, and 16 attempts 250 ms apart fit into the 10 s it waits.
pub const MAX_ADDRESSES: usize = 16;

/// The most look-ups under way at once. Each occupies a thread of tokio's blocking pool (512),
/// which must have room for other work when every name server is silent.
const MAX_LOOKUPS: usize = 64;

/// The longest a look-up may take, waiting for its turn included: one time-out (5 s) of the C
/// library's resolver, so that the second name server is tried, and its answer's round trip.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(7);

/// Resolves host names.
pub trait Resolver: fmt::Debug + Send + Sync + 'static {
    /// The addresses of `name`, best first.
    ///
    /// An implementation bounds its own time and work. The caller keeps at most
    /// [`MAX_ADDRESSES`] of the answer.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>>;
}

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No such name, no address for it, or a name server that failed. The system's resolver does
    /// not let a program tell these apart.
    #[error("the exit cannot resolve {name}: {why}")]
    NotFound {
        /// The name.
        name: String,
        /// What the resolver said.
        why: String,
    },
    /// The name servers did not answer in time.
    #[error("the exit's name servers did not answer for {0} in time")]
    TimedOut(String),
    /// The exit has too few file descriptors or too little memory to ask.
    #[error("the exit is too busy to resolve {0}")]
    Exhausted(String),
}

impl From<ResolveError> for Refusal {
    fn from(error: ResolveError) -> Self {
        let kind = match error {
            ResolveError::NotFound { .. } => RefusalKind::NameNotFound,
            ResolveError::TimedOut(_) => RefusalKind::TimedOut,
            ResolveError::Exhausted(_) => RefusalKind::Overloaded,
        };
        Self::new(kind, error.to_string())
    }
}

/// The operating system's resolver: `/etc/hosts`, the search list, then the name servers.
#[derive(Debug)]
pub struct SystemResolver {
    turns: Arc<Semaphore>,
}

impl SystemResolver {
    /// A resolver that runs up to 64 look-ups at once.
    #[must_use]
    pub fn new() -> Self {
        Self { turns: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }

    async fn lookup(&self, name: String) -> io::Result<Vec<IpAddr>> {
        let turn = self.turns.clone().acquire_owned().await.map_err(io::Error::other)?;
        // getaddrinfo cannot be cancelled: the task keeps the turn until its thread is free, even
        // when nobody waits for the answer any more.
        let lookup = tokio::spawn(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            drop(turn);
            found.map(|addrs| addrs.map(|addr| addr.ip()).take(MAX_ADDRESSES).collect())
        });
        lookup.await.map_err(io::Error::other)?
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::new()
    }
}

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(async move {
            match timeout(LOOKUP_TIMEOUT, self.lookup(name.to_owned())).await {
                Ok(Ok(addrs)) if addrs.is_empty() => Err(not_found(name, "it has no address")),
                Ok(Ok(addrs)) => Ok(addrs),
                Ok(Err(error)) if is_exhaustion(&error) => {
                    Err(ResolveError::Exhausted(name.to_owned()))
                }
                Ok(Err(error)) => Err(not_found(name, error)),
                Err(_) => Err(ResolveError::TimedOut(name.to_owned())),
            }
        })
    }
}

/// A fixed table of names, for the demo and tests.
#[derive(Debug, Clone, Default)]
pub struct StaticResolver {
    names: HashMap<String, Vec<IpAddr>>,
}

impl StaticResolver {
    /// A resolver that knows `names` (lower case, no trailing dot) and nothing else.
    #[must_use]
    pub fn new(names: HashMap<String, Vec<IpAddr>>) -> Self {
        Self { names }
    }
}

impl Resolver for StaticResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        let found = self.names.get(name).filter(|addrs| !addrs.is_empty()).cloned();
        Box::pin(async move { found.ok_or_else(|| not_found(name, "it is not in the table")) })
    }
}

fn not_found(name: &str, why: impl fmt::Display) -> ResolveError {
    ResolveError::NotFound { name: name.to_owned(), why: why.to_string() }
}

/// At most [`MAX_ADDRESSES`] distinct socket addresses, in the order of `ips`.
///
/// An IPv4-mapped address becomes the IPv4 address that the system would connect to.
pub(super) fn endpoints(ips: Vec<IpAddr>, port: u16) -> Vec<SocketAddr> {
    let mut kept = Vec::new();
    for ip in ips.into_iter().take(MAX_ADDRESSES) {
        let addr = SocketAddr::new(ip.to_canonical(), port);
        if !kept.contains(&addr) {
            kept.push(addr);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_resolver_finds_localhost() {
        let found = SystemResolver::new().resolve("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_up_that_never_gets_its_turn_times_out() {
        let resolver = SystemResolver { turns: Arc::new(Semaphore::new(0)) };
        let began = tokio::time::Instant::now();
        let error = resolver.resolve("example.org").await.unwrap_err();
        assert!(matches!(error, ResolveError::TimedOut(_)), "{error}");
        assert_eq!(began.elapsed(), LOOKUP_TIMEOUT);
    }

    #[tokio::test]
    async fn a_name_outside_the_table_is_refused_as_not_found() {
        let refusal = Refusal::from(StaticResolver::default().resolve("a.test").await.unwrap_err());
        assert_eq!(refusal.kind, RefusalKind::NameNotFound);
        assert_eq!(refusal.detail, "the exit cannot resolve a.test: it is not in the table");
    }

    #[test]
    fn an_endless_answer_is_cut_and_repeats_are_dropped() {
        let many = (0..=255).map(|d| IpAddr::from([9, 9, 9, d])).collect();
        assert_eq!(endpoints(many, 80).len(), MAX_ADDRESSES);
        let same = ["9.9.9.9", "::ffff:9.9.9.9"].map(|ip| ip.parse().unwrap());
        assert_eq!(endpoints(same.to_vec(), 80), ["9.9.9.9:80".parse().unwrap()]);
    }
}
