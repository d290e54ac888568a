//! Look-ups in the system's name servers and `/etc/hosts`, without a thread for each name.

use std::{
    collections::HashMap,
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{ProtoError, rr::Name},
};
use tokio::time::{Instant, timeout};

use super::{
    cache::NameCache,
    resolve::{MAX_ADDRESSES, ResolveError, Resolver, not_found},
};
use crate::flow::BoxFuture;

/// How long a name server may take for one answer. A recursive server makes its first two attempts
/// at a distant server in this time.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(2500);

/// How often a question is sent again: a packet may be lost.
const ATTEMPTS: usize = 1;

/// The longest a look-up may take: both attempts, and a second name server.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(7);

/// Questions under way over one TCP connection to a name server: what all entries together may ask.
const MAX_ACTIVE: usize = 1024;

/// How often the two files are looked at: a laptop's name servers change with its network.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The operating system's name servers and its hosts file.
///
/// Names are absolute: the system's search list is never applied, because a part of a name could
/// then evade a rule for its domain. So a name without a dot is found only in `/etc/hosts`, or if
/// it is a top-level domain. Both files are read again when they change.
pub(crate) struct SystemResolver {
    files: Files,
    loaded: Mutex<Option<Loaded>>,
    cache: Mutex<NameCache>,
}

#[derive(Debug)]
struct Files {
    servers: PathBuf,
    hosts: PathBuf,
    /// Another port than 53, in tests.
    port: Option<u16>,
}

struct Loaded {
    looked: Instant,
    changed: [Option<SystemTime>; 2],
    sources: Sources,
}

#[derive(Clone)]
struct Sources {
    hosts: Arc<HashMap<String, Vec<IpAddr>>>,
    resolver: TokioResolver,
}

impl SystemResolver {
    /// The resolver of this machine.
    #[must_use]
    pub(crate) fn new() -> Self {
        let file = |path: &str| PathBuf::from(path);
        Self::of(Files { servers: file("/etc/resolv.conf"), hosts: file("/etc/hosts"), port: None })
    }

    fn of(files: Files) -> Self {
        Self { files, loaded: Mutex::default(), cache: Mutex::default() }
    }

    async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let now = Instant::now();
        let Sources { hosts, resolver } =
            self.sources(now).map_err(|error| not_found(name, error))?;
        if let Some(addresses) = hosts.get(name) {
            return found(name, addresses.clone());
        }
        if let Some(known) = self.cache().get(now.into_std(), name) {
            return found(name, known);
        }
        let absolute = absolute(name).map_err(|error| not_found(name, error))?;
        match timeout(LOOKUP_TIMEOUT, resolver.lookup_ip(absolute)).await {
            Ok(Ok(answer)) => {
                let addresses: Vec<_> = answer.iter().take(MAX_ADDRESSES).collect();
                let lifetime = answer.valid_until().saturating_duration_since(now.into_std());
                self.cache().put(now.into_std(), name, &addresses, lifetime);
                found(name, addresses)
            }
            Ok(Err(error)) if error.is_no_records_found() => {
                self.cache().put(now.into_std(), name, &[], Duration::ZERO);
                found(name, Vec::new())
            }
            Ok(Err(error)) => Err(failed(name, &error)),
            Err(_) => Err(ResolveError::TimedOut(name.to_owned())),
        }
    }

    /// What the files say now.
    fn sources(&self, now: Instant) -> Result<Sources, NetError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match &*loaded {
            Some(loaded) if now.duration_since(loaded.looked) < LOOK_EVERY => loaded.changed,
            _ => self.files.changed(),
        };
        match &mut *loaded {
            Some(loaded) if loaded.changed == changed => {
                if now.duration_since(loaded.looked) >= LOOK_EVERY {
                    loaded.looked = now;
                }
                Ok(loaded.sources.clone())
            }
            _ => {
                let sources = self.files.load()?;
                *loaded = Some(Loaded { looked: now, changed, sources: sources.clone() });
                Ok(sources)
            }
        }
    }

    fn cache(&self) -> MutexGuard<'_, NameCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn changed(&self) -> [Option<SystemTime>; 2] {
        let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        [changed(&self.servers), changed(&self.hosts)]
    }

    fn load(&self) -> Result<Sources, NetError> {
        let config = ResolverConfig::from_parts(None, Vec::new(), self.servers());
        let provider = TokioRuntimeProvider::default();
        let mut builder = TokioResolver::builder_with_config(config, provider);
        *builder.options_mut() = options();
        let hosts = fs::read_to_string(&self.hosts).unwrap_or_else(|error| {
            tracing::debug!(%error, "the hosts file cannot be read");
            String::new()
        });
        Ok(Sources { hosts: Arc::new(host_names(&hosts)), resolver: builder.build()? })
    }

    /// The configured name servers; without any, this machine, as resolv.conf(5) has it.
    fn servers(&self) -> Vec<NameServerConfig> {
        let text = fs::read_to_string(&self.servers).unwrap_or_else(|error| {
            tracing::warn!(%error, "the list of name servers cannot be read; asking this machine");
            String::new()
        });
        let mut servers: Vec<_> = name_servers(&text).map(NameServerConfig::udp_and_tcp).collect();
        if servers.is_empty() {
            servers.push(NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into()));
        }
        for connection in servers.iter_mut().flat_map(|server| &mut server.connections) {
            connection.port = self.port.unwrap_or(connection.port);
        }
        servers
    }
}

/// The names of a hosts(5) file. Name servers are not asked for these names.
fn host_names(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<_, Vec<_>> = HashMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else { continue };
        for name in words {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            let addresses = hosts.entry(name).or_default();
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    hosts
}

/// The name servers of a resolv.conf(5), of which the first three count.
fn name_servers(text: &str) -> impl Iterator<Item = IpAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next()?.parse().ok()
    });
    servers.take(3)
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = ANSWER_TIMEOUT;
    options.attempts = ATTEMPTS;
    options.max_active_requests = MAX_ACTIVE;
    options.use_hosts_file = ResolveHosts::Never;
    // Our own cache is bounded in bytes. A name server's answer may have 64 KiB.
    options.cache_size = 0;
    options.ip_strategy = match has_ipv6() {
        true => LookupIpStrategy::Ipv6AndIpv4,
        false => LookupIpStrategy::Ipv4AndIpv6,
    };
    options
}

/// Whether a packet to the Internet would have an IPv6 source. Connecting a UDP socket asks the
/// routing table and sends nothing; the destination is of those set aside for documentation (RFC 3849).
fn has_ipv6() -> bool {
    let source = || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9))?;
        socket.local_addr()
    };
    source().is_ok()
}

fn absolute(name: &str) -> Result<Name, ProtoError> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    Ok(name)
}

fn found(name: &str, addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, ResolveError> {
    match addresses.is_empty() {
        true => Err(not_found(name, "no such name, or it has no address")),
        false => Ok(addresses),
    }
}

fn failed(name: &str, error: &NetError) -> ResolveError {
    match error {
        NetError::Timeout => ResolveError::TimedOut(name.to_owned()),
        NetError::Busy => ResolveError::Exhausted(name.to_owned()),
        NetError::Io(error) if crate::flow::is_exhaustion(error) => {
            ResolveError::Exhausted(name.to_owned())
        }
        // The text may hold what a name server wrote.
        _ => {
            tracing::debug!(name, ?error, "look-up failed");
            not_found(name, "the name servers failed")
        }
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::new()
    }
}

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(self.lookup(name))
    }
}

impl fmt::Debug for SystemResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemResolver").field("files", &self.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "system_tests.rs"]
mod tests;
