//! Named sites and the paths between them, as data.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{
    internet::Internet,
    link::{ETHERNET_MTU, LinkModel, Loss, Queue},
    units::{Bitrate, LossRate},
};

/// A host with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its name, unique in the topology.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// One direction between two sites.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// The sender's address.
    pub from: IpAddr,
    /// The receiver's address.
    pub to: IpAddr,
    /// How packets travel.
    pub model: LinkModel,
}

/// Sites and paths, from which an [`Internet`] is built.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Topology {
    sites: Vec<Site>,
    paths: Vec<Path>,
}

impl Topology {
    /// Sites in the order of `names`, with addresses from 192.0.2.1 on (TEST-NET-1, RFC 5737), and
    /// no paths: until described, a pair has the [`Internet`]'s default model.
    ///
    /// At most 254 names; any more are left out.
    #[must_use]
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let site = |(host, name): (u8, &str)| Site {
            name: name.to_owned(),
            address: Ipv4Addr::new(192, 0, 2, host).into(),
        };
        Self { sites: (1..255).zip(names).map(site).collect(), paths: Vec::new() }
    }

    /// Describes both directions between two sites, replacing what was said before.
    ///
    /// # Panics
    /// If a name is not that of a site.
    #[must_use]
    pub fn both(self, a: &str, b: &str, model: LinkModel) -> Self {
        self.one_way(a, b, model).one_way(b, a, model)
    }

    /// Describes one direction between two sites, replacing what was said before.
    ///
    /// # Panics
    /// If a name is not that of a site.
    #[must_use]
    pub fn one_way(mut self, from: &str, to: &str, model: LinkModel) -> Self {
        let (from, to) = (self.address(from), self.address(to));
        self.paths.retain(|path| (path.from, path.to) != (from, to));
        self.paths.push(Path { from, to, model });
        self
    }

    /// The sites, in the order in which they were named.
    #[must_use]
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The paths, in the order in which they were described.
    #[must_use]
    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// The address of the site with this name, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<IpAddr> {
        self.sites.iter().find(|site| site.name == name).map(|site| site.address)
    }

    /// The address of the site with this name.
    ///
    /// # Panics
    /// If there is no such site: topologies are written in code, not read from users.
    #[must_use]
    pub fn address(&self, name: &str) -> IpAddr {
        self.find(name).unwrap_or_else(|| panic!("the topology has no site {name:?}"))
    }

    /// An Internet with these paths.
    #[must_use]
    pub fn build(&self, seed: u64) -> Internet {
        let internet = Internet::new(seed);
        for path in &self.paths {
            internet.set(path.from, path.to, path.model);
        }
        internet
    }
}

/// Two sites and a relay: `entry`, `exit`, `relay`. The relay is halfway.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Triangle {
    /// Round trip between entry and exit. Default 60 ms.
    pub direct_rtt: Duration,
    /// Round trip between entry and exit through the relay. Default 80 ms.
    pub relay_rtt: Duration,
    /// Loss on the direct path, each way. Default none.
    pub direct_loss: Loss,
    /// Rate of each direction of each path. Default 100 Mbit/s.
    pub rate: Bitrate,
    /// Drop-tail queue of each direction of each path. Default 50 ms.
    pub queue: Queue,
    /// Largest UDP payload of each direction of each path. Default Ethernet's.
    pub mtu: u16,
}

impl Default for Triangle {
    /// The network that this project's figures are measured on, and its rivals' were.
    fn default() -> Self {
        Self {
            direct_rtt: Duration::from_millis(60),
            relay_rtt: Duration::from_millis(80),
            direct_loss: Loss::None,
            rate: Bitrate::mbit(100),
            queue: Queue::Time(Duration::from_millis(50)),
            mtu: ETHERNET_MTU,
        }
    }
}

impl Triangle {
    /// The triangle as a topology.
    #[must_use]
    pub fn topology(&self) -> Topology {
        let path = |delay| LinkModel {
            mtu: self.mtu,
            ..LinkModel::new(delay).with_rate(self.rate, self.queue)
        };
        let direct = LinkModel { loss: self.direct_loss, ..path(self.direct_rtt / 2) };
        let leg = path(self.relay_rtt / 4);
        Topology::new(["entry", "exit", "relay"])
            .both("entry", "exit", direct)
            .both("entry", "relay", leg)
            .both("relay", "exit", leg)
    }
}

/// The usual triangle: 60 ms direct, 80 ms through the relay, 100 Mbit/s, queues of 50 ms.
#[must_use]
pub fn triangle() -> Topology {
    Triangle::default().topology()
}

/// The four sites of "The Case for Resilient Overlay Networks" (HotOS 2001): `mit`, `utah` (on the
/// research backbone), `arosnet` (a commercial provider in Salt Lake City) and `mediaone` (a cable
/// modem near Boston).
///
/// From the paper: the mean of MIT–ArosNet is 97 ms and the overlay brings it to 68 ms, by way of
/// Utah. The other figures are ours, chosen to be plausible for 2001 and to agree with these two:
///
/// | path | round trip | loss each way | rate | why |
/// |---|---|---|---|---|
/// | MIT–Utah | 58 ms | none | 100 Mbit/s | research backbone across the country: short of the speed of light by little, never full |
/// | Utah–ArosNet | 10 ms | 0.1 % | 10 Mbit/s | the same city; 58 + 10 = 68 ms, the overlay's mean |
/// | MIT–ArosNet | 97 ms | 2.1 %, in bursts of 20 % | 10 Mbit/s | the paper's mean; commercial transit, a longer way, full exchanges |
/// | MIT–MediaOne | 22 ms | 0.3 % | 1,500 / 300 kbit/s | the same city; a cable modem of its time, down and up |
/// | Utah–MediaOne | 82 ms | 0.5 % | 1,500 / 300 kbit/s | across the country on commercial transit |
/// | ArosNet–MediaOne | 94 ms | 1 % | 1,500 / 300 kbit/s | two commercial edges |
///
/// Round trips are means on an empty queue, jitter included. For weather, see
/// [`Weather::paper`](super::Weather::paper).
#[must_use]
pub fn paper_sites() -> Topology {
    let backbone = wired(28.5, 0.5, 0.0, Bitrate::mbit(100));
    let local = wired(4.5, 0.5, 0.1, Bitrate::mbit(10));
    let transit = LinkModel { loss: bursty(), ..wired(43.5, 5.0, 0.0, Bitrate::mbit(10)) };
    let topology = Topology::new(["mit", "utah", "arosnet", "mediaone"])
        .both("mit", "utah", backbone)
        .both("utah", "arosnet", local)
        .both("mit", "arosnet", transit);
    [("mit", 9.0, 0.3), ("utah", 39.0, 0.5), ("arosnet", 45.0, 1.0)].into_iter().fold(
        topology,
        |topology, (site, delay, loss)| {
            let down = wired(delay, 2.0, loss, Bitrate::kbit(1_500));
            let up = LinkModel { rate: Some(Bitrate::kbit(300)), ..down };
            topology.one_way(site, "mediaone", down).one_way("mediaone", site, up)
        },
    )
}

/// A path with a router's buffer of 100 ms, the rule of thumb of that time (one round trip).
fn wired(delay_ms: f64, jitter_ms: f64, loss_percent: f64, rate: Bitrate) -> LinkModel {
    LinkModel::new(Duration::from_secs_f64(delay_ms / 1_000.0))
        .with_jitter(Duration::from_secs_f64(jitter_ms / 1_000.0))
        .with_loss(LossRate::from_percent(loss_percent))
        .with_rate(rate, Queue::Time(Duration::from_millis(100)))
}

/// Five bad seconds a minute, at 20 %; 0.5 % otherwise: 2.1 % in the long run.
fn bursty() -> Loss {
    Loss::GilbertElliott {
        good: LossRate::from_percent(0.5),
        bad: LossRate::from_percent(20.0),
        good_for: Duration::from_secs(55),
        bad_for: Duration::from_secs(5),
    }
}
