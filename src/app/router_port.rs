//! A port of the router: behind a NAT that opens ports for its machines, the node asks it for one that leads to the
//! node's UDP socket, by PCP (RFC 6887) or NAT-PMP (RFC 6886), and tells members that address.
//!
//! The router is believed as far as a name server is: it may name any address of the Internet.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    time::Duration,
};

use crab_nat::{
    InternetProtocol, MappingFailure, PortMapping, PortMappingOptions, PortMappingType,
    TimeoutConfig, natpmp, pcp,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    flow::Target,
    mesh::is_public,
    underlay::{address_towards, default_router, present_address},
};

/// How long a port is asked for. A router that starts again has forgotten it, and a node that crashed cannot give it
/// back, so this is less than the two hours that RFC 6886 recommends.
const LIFETIME: Duration = Duration::from_secs(20 * 60);

/// The least and the greatest pause before it is asked for again: half of the time that the router grants is between them.
/// After the least one a router is asked again that opened a port before, after the greatest one any other.
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

/// What tells the keeper to look at once.
pub(super) struct News {
    /// The machine's addresses or routes changed.
    pub(super) moves: watch::Receiver<()>,
    /// What the configuration tells others. A port is asked for only while that is nothing.
    pub(super) advertise: watch::Receiver<Vec<Target>>,
}

/// Keeps a port of the router open for the node's UDP socket at `listen` until `shutdown`, and tells where it is.
pub(super) async fn keep(
    listen: SocketAddr,
    told: watch::Sender<RouterPort>,
    news: News,
    shutdown: CancellationToken,
) {
    Keeper { listen, way, told, open: None }.run(news, shutdown).await;
}

struct Keeper {
    listen: SocketAddr,
    way: fn() -> Option<Way>,
    told: watch::Sender<RouterPort>,
    open: Option<(Way, PortMapping)>,
}

/// Why the router opened no port.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Renewal(#[from] MappingFailure),
    #[error("PCP: {0}; NAT-PMP: {1}")]
    Request(pcp::Failure, natpmp::Failure),
    #[error("the node has no port")]
    NoPort,
    #[error("it does not say its own address: {0}")]
    Address(#[from] natpmp::Failure),
    #[error("its own address, {0}, is not of the Internet, so there is another NAT behind it")]
    NotPublic(IpAddr),
}

impl Keeper {
    async fn run(mut self, mut news: News, shutdown: CancellationToken) {
        let keeping = async {
            loop {
                let unasked = news.advertise.borrow_and_update().is_empty();
                news.moves.mark_unchanged();
                let pause = self.look(unasked).await;
                // A sender that is gone is not the end: the node ends this itself.
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
            self.close().await;
        }
        let Some(way) = way else {
            self.tell(RouterPort::NotAsked);
            return PAUSES.1;
        };
        match self.ask(way).await {
            Ok((address, lifetime)) => {
                self.tell(RouterPort::Open(address));
                (lifetime / 2).clamp(PAUSES.0, PAUSES.1)
            }
            Err(refusal) => {
                self.tell(RouterPort::Refused(format!("{}: {refusal}", way.router)));
                // Where it opened one before, it may only have started again.
                let opens = matches!(refusal, Refusal::Renewal(_) | Refusal::Address(_));
                if opens { PAUSES.0 } else { PAUSES.1 }
            }
        }
    }

    /// Asks for the port, or for the one that is open once more.
    async fn ask(&mut self, way: Way) -> Result<(SocketAddr, Duration), Refusal> {
        let mapping = match self.open.clone() {
            Some((_, mut mapping)) => {
                mapping.renew().await.inspect_err(|_| self.open = None)?;
                mapping
            }
            None => request(way, self.listen.port()).await?,
        };
        let lifetime = Duration::from_secs(mapping.lifetime().into());
        let port = mapping.external_port().get();
        // From here on it is closed when the node stops.
        let mapping = &self.open.insert((way, mapping)).1;
        let ip = outside(mapping).await?;
        if !is_public(ip) {
            self.close().await;
            return Err(Refusal::NotPublic(ip));
        }
        Ok((SocketAddr::new(ip, port), lifetime))
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

/// Asks by PCP, and where that fails by NAT-PMP: some routers speak only one, and answer the other in ways of their own.
async fn request(way: Way, port: u16) -> Result<PortMapping, Refusal> {
    let port = NonZeroU16::new(port).ok_or(Refusal::NoPort)?;
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: u32::try_from(LIFETIME.as_secs()).ok(),
        timeout_config: Some(PATIENCE),
    };
    let (router, udp) = (way.router.into(), InternetProtocol::Udp);
    let base = pcp::BaseMapRequest::new(router, way.ours, udp, port);
    match pcp::port_mapping(base, None, None, options).await {
        Ok(mapping) => Ok(mapping),
        Err(by_pcp) => natpmp::port_mapping(router, udp, port, options)
            .await
            .map_err(|by_pmp| Refusal::Request(by_pcp, by_pmp)),
    }
}

/// The router's own address, at which the port is.
async fn outside(mapping: &PortMapping) -> Result<IpAddr, natpmp::Failure> {
    match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => Ok(external_ip.to_canonical()),
        PortMappingType::NatPmp => {
            let asked = natpmp::external_address(mapping.gateway(), Some(PATIENCE)).await;
            asked.map(IpAddr::V4)
        }
    }
}

#[cfg(test)]
#[path = "router_port_tests.rs"]
mod tests;
