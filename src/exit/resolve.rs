//! Names to addresses, at the exit.

#[cfg(test)]
use std::collections::HashMap;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::flow::{BoxFuture, Refusal, RefusalKind};

/// The most addresses kept of one answer. A name may have hundreds. If none of 16 is reachable, the
/// others hardly are, and 16 attempts 250 ms apart fit into the 10 s that a flow waits.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// Resolves host names.
pub trait Resolver: fmt::Debug + Send + Sync + 'static {
    /// The addresses of `name`, best first.
    ///
    /// An implementation bounds its own time. The exit bounds the look-ups of an entry, drops the
    /// future of a flow that ends, and keeps at most [`MAX_ADDRESSES`] of the answer. The name is a
    /// valid host name.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>>;
}

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No such name, no address for it, or a name server that failed.
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

impl ResolveError {
    /// What to say where this node itself asked, for itself.
    #[must_use]
    pub(crate) fn at_this_node(&self) -> String {
        match self {
            Self::NotFound { name, why } => format!("cannot resolve {name}: {why}"),
            Self::TimedOut(name) => {
                format!("cannot resolve {name}: the name servers did not answer in time")
            }
            Self::Exhausted(name) => {
                format!("cannot resolve {name}: too few file descriptors or too little memory")
            }
        }
    }
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

/// A fixed table of names, for tests.
#[cfg(test)]
#[derive(Debug, Clone, Default)]
pub(crate) struct StaticResolver {
    names: HashMap<String, Vec<IpAddr>>,
}

#[cfg(test)]
impl StaticResolver {
    /// A resolver that knows `names` (lower case, no trailing dot) and nothing else.
    #[must_use]
    pub(crate) fn new(names: HashMap<String, Vec<IpAddr>>) -> Self {
        Self { names }
    }
}

#[cfg(test)]
impl Resolver for StaticResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        let found = self.names.get(name).filter(|addrs| !addrs.is_empty()).cloned();
        Box::pin(async move { found.ok_or_else(|| not_found(name, "it is not in the table")) })
    }
}

pub(super) fn not_found(name: &str, why: impl fmt::Display) -> ResolveError {
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
