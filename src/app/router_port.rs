//! A port of the router: behind a NAT that opens ports for its machines, the node asks it for one that leads to the
//! node's UDP socket, by PCP (RFC 6887) or NAT-PMP (RFC 6886), and tells members that address.
//!
//! The router is believed as far as a name server is: it may name any address of the Internet.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crab_nat::{
    InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp,
};
use ring::hmac;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    flow::Target,
    mesh::{is_of_internet, is_public},
    underlay::{address_towards, default_router, present_address},
};

/// How long a port is asked for. A router that starts again has forgotten it, and a node that crashed cannot give it
/// back, so this is less than the two hours that RFC 6886 recommends.
const LIFETIME: Duration = Duration::from_secs(20 * 60);

/// The bounds of pauses between requests: half of the time that the router grants; after a failure the least one, which
/// doubles up to the greatest. A router that grants less than the least one opens no port that is of use.
const PAUSES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10 * 60));

/// A request is sent four times, after 0, 0.25, 0.75 and 1.75 s, and given up after 3.75 s (RFC 6886, §3.1, gives up later).
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 3,
    max_retry_timeout: None,
};

/// How long a node that stops waits for the router to confirm that the port is closed.
const CLOSE_WITHIN: Duration = Duration::from_millis(100);

/// What the router said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum RouterPort {
    /// It is not asked: there is no NAT, or the configuration says so.
    #[default]
    NotAsked,
    /// What comes to this address is passed on to the node.
    Open(SocketAddr),
    /// It opens none, for this reason.
    Refused(String),
}

impl RouterPort {
    /// Where members reach the node by it.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        if let Self::Open(address) = self { Some(*address) } else { None }
    }

    /// Why there is none, if it was asked.
    pub(super) fn problem(&self) -> Option<String> {
        if let Self::Refused(why) = self { Some(why.clone()) } else { None }
    }
}

/// The router by which packets to the Internet leave, and this machine's address there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    router: Ipv4Addr,
    ours: IpAddr,
}

/// The way to the Internet through a NAT; `None` where this machine has an address of the Internet itself, or packets leave
/// by another way than this router, such as a VPN.
fn way() -> Option<Way> {
    let router = default_router()?;
    let ours = address_towards(Ipv4Addr::UNSPECIFIED.into(), router.into())?;
    (present_address() == Some(ours) && !is_public(ours)).then_some(Way { router, ours })
}

/// What the node keeps of its port at the router.
#[derive(Debug, Default)]
pub(super) struct RouterWatch {
    told: watch::Sender<RouterPort>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl RouterWatch {
    /// Keeps a port open for the node's UDP socket at `listen` until `shutdown`. A router knows the node again by a
    /// nonce, which comes from `key`.
    pub(super) fn keep(
        &self,
        listen: SocketAddr,
        key: hmac::Key,
        news: News,
        shutdown: CancellationToken,
    ) {
        let told = self.told.clone();
        let keeper =
            Keeper { listen, key, patience: PATIENCE, way, told, open: None, failed: None };
        *self.keeper() = Some(tokio::spawn(keeper.run(news, shutdown)));
    }

    /// What the router said, from now on.
    pub(super) fn told(&self) -> watch::Receiver<RouterPort> {
        self.told.subscribe()
    }

    /// Waits until the port is closed, for a moment.
    pub(super) async fn closed(&self) {
        let keeper = self.keeper().take();
        if let Some(keeper) = keeper {
            // It waits for the router no longer itself.
            let _ = timeout(2 * CLOSE_WITHIN, keeper).await;
        }
    }

    fn keeper(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tells the keeper to look at once.
pub(super) struct News {
    /// The machine's addresses or routes changed.
    pub(super) moves: watch::Receiver<()>,
    /// What the configuration tells others. A port is asked for only while that is nothing.
    pub(super) advertise: watch::Receiver<Vec<Target>>,
}

struct Keeper {
    listen: SocketAddr,
    /// What nonces come from.
    key: hmac::Key,
    patience: TimeoutConfig,
    way: fn() -> Option<Way>,
    told: watch::Sender<RouterPort>,
    open: Option<(Way, PortMapping)>,
    /// Where a request failed last, and the pause after it.
    failed: Option<(Way, Duration)>,
}

/// Why the router opened no port.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("PCP: {by_pcp}; NAT-PMP: {by_pmp}")]
    Request { by_pcp: pcp::Failure, by_pmp: natpmp::Failure },
    #[error("the node has no port")]
    NoPort,
    #[error("it opens one for {0} s only")]
    Short(u32),
    #[error("it does not say its own address: {0}")]
    Address(#[from] natpmp::Failure),
    #[error(
        "its own address, {0}, is not of the Internet: it has no connection, or there is another NAT behind it"
    )]
    NotOfInternet(IpAddr),
}

impl Keeper {
    async fn run(mut self, mut news: News, shutdown: CancellationToken) {
        let keeping = async {
            loop {
                let unasked = news.advertise.borrow_and_update().is_empty();
                news.moves.mark_unchanged();
                // A sender that is gone is not the end: the node ends this itself.
                let pause = tokio::select! {
                    pause = self.look(unasked) => pause,
                    // What the former router answers is of no use.
                    Ok(()) = news.moves.changed() => continue,
                };
                tokio::select! {
                    Ok(()) = news.moves.changed() => {}
                    Ok(()) = news.advertise.changed() => {}
                    () = sleep(pause) => {}
                }
            }
        };
        shutdown.run_until_cancelled(keeping).await;
        self.close().await;
    }

    /// Looks once; returns when to look again.
    async fn look(&mut self, wanted: bool) -> Duration {
        let bound = self.listen.ip();
        let way = (self.way)().filter(|way| bound.is_unspecified() || bound == way.ours);
        let way = way.filter(|_| wanted);
        if self.open.as_ref().is_some_and(|(at, _)| Some(*at) != way) {
            self.tell(RouterPort::NotAsked);
            self.close().await;
        }
        let Some(way) = way else {
            self.tell(RouterPort::NotAsked);
            return PAUSES.1;
        };
        match self.ask(way).await {
            Ok((address, lifetime)) => {
                self.failed = None;
                self.tell(RouterPort::Open(address));
                (lifetime / 2).clamp(PAUSES.0, PAUSES.1)
            }
            Err(refusal) => {
                let stands = self.told_stands_for();
                if stands.is_none() {
                    self.tell(RouterPort::Refused(format!("{}: {refusal}", way.router)));
                }
                let before = self.failed.filter(|(at, _)| *at == way).map(|(_, pause)| 2 * pause);
                let pause = before.unwrap_or(PAUSES.0).min(PAUSES.1);
                self.failed = Some((way, pause));
                pause.min(stands.unwrap_or(pause))
            }
        }
    }

    /// For how long the router still keeps the port that is told, as far as nothing else is known.
    fn told_stands_for(&self) -> Option<Duration> {
        let (_, open) = self.open.as_ref()?;
        let told = self.told.borrow().address()?;
        let left = open.expiration().saturating_duration_since(Instant::now());
        (told.port() == open.external_port().get() && !left.is_zero()).then_some(left)
    }

    /// Asks for the port, or for the one that is open once more.
    async fn ask(&mut self, way: Way) -> Result<(SocketAddr, Duration), Refusal> {
        let mapping = self.request(way).await?;
        let (lifetime, port) = (mapping.lifetime(), mapping.external_port().get());
        // From here on it is closed when the node stops.
        self.open = Some((way, mapping.clone()));
        let address = SocketAddr::new(self.outside(&mapping).await?, port);
        let lasts = Duration::from_secs(lifetime.into());
        let refusal = if !address.is_ipv4() || !is_of_internet(address) {
            Refusal::NotOfInternet(address.ip())
        } else if lasts < PAUSES.0 {
            Refusal::Short(lifetime)
        } else {
            return Ok((address, lasts));
        };
        self.close().await;
        Err(refusal)
    }

    /// Asks by PCP, and where that fails by NAT-PMP: some routers speak only one, and answer the other in ways of their own.
    async fn request(&self, way: Way) -> Result<PortMapping, Refusal> {
        let inner = NonZeroU16::new(self.listen.port()).ok_or(Refusal::NoPort)?;
        let open = self.open.as_ref().map(|(_, open)| open.external_port());
        let options = PortMappingOptions {
            external_port: Some(open.unwrap_or(inner)),
            lifetime_seconds: u32::try_from(LIFETIME.as_secs()).ok(),
            timeout_config: Some(self.patience),
        };
        let (router, udp) = (way.router.into(), InternetProtocol::Udp);
        let base = pcp::BaseMapRequest::new(router, way.ours, udp, inner);
        match pcp::port_mapping(base, Some(self.nonce(way)), None, options).await {
            Ok(mapping) => Ok(mapping),
            Err(by_pcp) => natpmp::port_mapping(router, udp, inner, options)
                .await
                .map_err(|by_pmp| Refusal::Request { by_pcp, by_pmp }),
        }
    }

    /// By this a router of PCP knows who may change a port (RFC 6887, §11.2): the same after a restart, and another one in each
    /// network.
    fn nonce(&self, way: Way) -> pcp::Nonce {
        let tag = hmac::sign(&self.key, format!("{} {}", way.router, way.ours).as_bytes());
        let (words, _) = tag.as_ref().as_chunks::<4>();
        [words[0], words[1], words[2]].map(u32::from_be_bytes)
    }

    /// The router's own address, at which the port is.
    async fn outside(&self, mapping: &PortMapping) -> Result<IpAddr, natpmp::Failure> {
        match mapping.mapping_type() {
            PortMappingType::Pcp { external_ip, .. } => Ok(external_ip.to_canonical()),
            PortMappingType::NatPmp => {
                let asked = natpmp::external_address(mapping.gateway(), Some(self.patience));
                asked.await.map(IpAddr::V4)
            }
        }
    }

    fn tell(&self, now: RouterPort) {
        match &now {
            said if *said == *self.told.borrow() => return,
            RouterPort::NotAsked => {}
            RouterPort::Open(at) => {
                tracing::info!(%at, "the router passes this port on to the node")
            }
            RouterPort::Refused(why) => {
                tracing::info!("the router opens no port for the node: {why}")
            }
        }
        self.told.send_replace(now);
    }

    /// Gives the port back, as far as the router confirms it at once. It would end by itself.
    async fn close(&mut self) {
        if let Some((_, mapping)) = self.open.take()
            && !matches!(timeout(CLOSE_WITHIN, mapping.try_drop()).await, Ok(Ok(())))
        {
            tracing::debug!("the router did not confirm that it closed the node's port");
        }
    }
}

#[cfg(test)]
#[path = "router_port_tests.rs"]
mod tests;
