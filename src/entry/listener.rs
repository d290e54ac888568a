//! Accepting clients, and stopping in order.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, field, info, warn};

use super::{
    auth::Authenticator,
    backoff::{Backoff, WarnLimit},
    config::{Config, ConfigError, Port, User},
    detect::Protocol,
    http,
    local_users::{LocalGate, LocalUsersError},
    options::Options,
    places::{ClientActivity, Places},
    refused::RefusedClients,
    session::{Session, Shared, close},
    socks4, socks5,
    turned_away::turn_away,
};
use crate::{
    flow::{FlowDialer, is_exhaustion, probe_when_silent},
    live::Live,
};

/// Most associations (UDP) at once. Each has a UDP socket beside the client's connection; a machine runs
/// a few dozen programs that use one.
const MAX_ASSOCIATIONS: usize = 256;

/// The answer to a client of an unknown protocol, as text.
const NOT_UNDERSTOOD: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 57\r\n\r\n\
    This port speaks SOCKS5, SOCKS4a and HTTP, nothing else.\n";

/// How often the listener looks for an idle client while another one waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Connections that the kernel keeps until they are accepted. A page may open hundreds at once; the
/// usual 128 would make the next client, of whatever program, wait a second for its second SYN.
const BACKLOG: i32 = 1_024;

/// The entry, bound to its port.
///
/// Beyond `max_connections`, the client that has been idle for longest makes room. While all are
/// active, further ones wait in the system's backlog. So a browser that opens too many connections
/// becomes slower, and sees no error.
pub struct Entry {
    /// The main port first.
    ports: Vec<OpenPort>,
    permits: Arc<Semaphore>,
    max_connections: usize,
    shared: Arc<Shared>,
}

/// A port, and what it stands for.
struct OpenPort {
    listener: TcpListener,
    local: SocketAddr,
    options: Options,
}

/// Why an entry could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The local users cannot be found.
    #[error(transparent)]
    LocalUsers(#[from] LocalUsersError),
    /// Another program listens there.
    #[error(
        "port {} on {} is in use, perhaps by another ronproxy; stop that program or set another port with entry.listen",
        .0.port(), .0.ip()
    )]
    PortInUse(SocketAddr),
    /// Ports below 1024 need a privilege that this program does not have.
    #[error("this user may not listen on {0}; set a port above 1023 with entry.listen")]
    NotPermitted(SocketAddr),
    /// The system refused for another reason.
    #[error("cannot listen on {addr}: {source}; check entry.listen")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl Entry {
    /// Binds the port that `config` names. Clients connect from now on and are served by
    /// [`run`](Self::run).
    ///
    /// # Errors
    /// When the configuration is not usable or the port cannot be bound.
    pub async fn bind(config: Config, dialer: Arc<dyn FlowDialer>) -> Result<Self, EntryError> {
        config.check()?;
        let mut ports = vec![OpenPort::bind(config.listen, Options::default()).await?];
        for Port { listen, exit, hint } in config.ports {
            ports.push(OpenPort::bind(listen, Options { exit, hint, user: None }).await?);
        }
        let of_exit = |port: &OpenPort| port.options.exit.clone().map(|exit| (exit, port.local));
        let shared = Shared {
            dialer,
            gate: LocalGate::new(&config.local_users)?,
            auth: Authenticator::new(config.users),
            ports: ports.iter().filter_map(of_exit).collect(),
            dashboard: config.dashboard,
            associations: Semaphore::new(MAX_ASSOCIATIONS),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Ok(Self {
            ports,
            permits: Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS))),
            max_connections: config.max_connections,
            shared: Arc::new(shared),
        })
    }

    /// The main address that is listened on, with the real port when 0 was configured.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.ports[0].local
    }

    /// How many clients were not served because of their user.
    #[must_use]
    pub fn refused(&self) -> Arc<RefusedClients> {
        self.shared.gate.refused()
    }

    /// The users of the proxy, to be replaced while it runs.
    #[must_use]
    pub fn users(&self) -> Arc<Live<Vec<User>>> {
        self.shared.auth.users()
    }

    /// Serves clients until `shutdown` is cancelled. Then the ports are closed at once, clients that
    /// have no flow are dropped, and running flows may go on for `drain` at most; what is left
    /// after that is reset. Returns when every task has ended.
    pub async fn run(self, shutdown: CancellationToken, drain: Duration) {
        for OpenPort { local, options, .. } in &self.ports {
            let exit = options.exit.as_ref().map(field::display);
            let hint = options.hint.as_ref().map(field::display);
            info!(listen = %local, exit, hint, "entry open");
        }
        let Self { ports, permits, max_connections, shared } = self;
        let places = Arc::<Places>::default();
        let accepting = ports
            .iter()
            .map(|port| accept_loop(port, (&permits, max_connections), &places, &shared));
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = join_all(accepting) => {}
        }
        drop(ports);
        shared.stop.cancel();
        shared.tasks.close();
        if timeout(drain, shared.tasks.wait()).await.is_err() {
            info!(tasks = shared.tasks.len(), "entry stops with flows still open");
            shared.kill.cancel();
            shared.tasks.wait().await;
        }
        info!("entry closed");
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("listen", &self.local_addr()).finish_non_exhaustive()
    }
}

impl OpenPort {
    async fn bind(addr: SocketAddr, options: Options) -> Result<Self, EntryError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => EntryError::PortInUse(addr),
            io::ErrorKind::PermissionDenied => EntryError::NotPermitted(addr),
            _ => EntryError::Bind { addr, source },
        };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        SockRef::from(&listener).listen(BACKLOG).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, local, options })
    }
}

/// Never ends by itself.
async fn accept_loop(
    port: &OpenPort,
    (permits, max_connections): (&Arc<Semaphore>, usize),
    places: &Arc<Places>,
    shared: &Arc<Shared>,
) {
    let mut backoff = Backoff::default();
    let mut full = WarnLimit::default();
    loop {
        match port.listener.accept().await {
            Ok((tcp, client)) => {
                backoff.succeeded();
                let made_room = permits.available_permits() > 0 || places.evict();
                if !made_room && full.allows(Instant::now()) {
                    warn!(max_connections, "the connection limit is reached; further clients wait");
                }
                let permit = permit(permits, places).await;
                let place = places.take();
                let activity = place.activity();
                let options = port.options.clone();
                let session = serve(tcp, (client, options), activity.clone(), Arc::clone(shared));
                shared.spawn(async move {
                    tokio::select! {
                        () = session => {}
                        () = activity.evicted() => {
                            debug!(%client, "the longest idle client makes room for another");
                        }
                    }
                    drop((place, permit));
                });
            }
            Err(error) => {
                let exhausted = is_exhaustion(&error);
                // A client may reset its connection before it is accepted.
                let (wait, due) = backoff.failed(Instant::now());
                if exhausted && due {
                    warn!(%error, "cannot accept clients; raise the limit of open files (ulimit -n)");
                } else {
                    debug!(%error, "accept failed");
                }
                sleep(wait).await;
            }
        }
    }
}

/// Waits for room, and ends a client that becomes idle meanwhile.
async fn permit(permits: &Arc<Semaphore>, places: &Places) -> Option<OwnedSemaphorePermit> {
    loop {
        match timeout(LOOK_EVERY, Arc::clone(permits).acquire_owned()).await {
            // The semaphore is never closed.
            Ok(permit) => return permit.ok(),
            Err(_) => drop(places.evict()),
        }
    }
}

async fn serve(
    tcp: TcpStream,
    (client, port): (SocketAddr, Options),
    activity: Arc<ClientActivity>,
    shared: Arc<Shared>,
) {
    probe_when_silent(&tcp);
    // These calls fail only on a connection that is already dead. The next read shows it.
    let _ = tcp.set_nodelay(true);
    // Urgent data stays in its place among the other bytes. The mark is not carried.
    let _ = SockRef::from(&tcp).set_out_of_band_inline(true);
    let Ok(local) = tcp.local_addr() else { return };
    if let Some(refusal) = shared.gate.judge(client, local).await {
        return turn_away(tcp, refusal).await;
    }
    let session = Session { client, local, activity, port, shared };
    let mut first = [0];
    match session.handshake(tcp.peek(&mut first)).await {
        Ok(Ok(1..)) => {}
        Ok(Ok(0)) => return debug!(%client, "the client closed before it sent a byte"),
        Ok(Err(error)) => return debug!(%client, %error, "the client left"),
        Err(abandoned) => return debug!(%client, %abandoned, "connection closed"),
    }
    match Protocol::of(first[0]) {
        Protocol::Socks5 => socks5::serve(tcp, &session).await,
        Protocol::Socks4 => socks4::serve(tcp, &session).await,
        Protocol::Http => http::serve(tcp, session).await,
        Protocol::Tls => info!(
            %client,
            "this is TLS, which the proxy itself does not speak; set the client's proxy to http://, not https://"
        ),
        Protocol::Unknown => {
            debug!(%client, first = first[0], "neither SOCKS nor HTTP");
            // As long as a fresh socket's buffer; it cannot block.
            let _ = tcp.try_write(NOT_UNDERSTOOD);
            close(tcp).await;
        }
    }
}
