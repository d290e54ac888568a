//! The overlay under attack: an entry, an exit, a relay, and hosts that nobody should hear from.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ronproxy::internals::{
    app::Node,
    emulator::{Topology, triangle},
    lab::{DatagramService, Dates, Lab, LabNode, Service},
    transport::Congestion,
};
use tokio::{
    runtime::Runtime,
    time::{Instant, sleep},
};

use crate::{
    member,
    meters::{Cost, Traffic, cost, virtual_time},
    peer::{Hostile, PORT, Victim},
    support,
};

/// Where the attacker is.
pub(crate) const MALLORY: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66));

/// What a service's connection holds: little, as it counts as the victim's memory.
pub(crate) const PIPE: usize = 16 << 10;

/// An address that belongs to no member: a third party (TEST-NET-2, RFC 5737).
pub(crate) fn third_party(number: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, number])
}

/// Whether an address is a third party's.
pub(crate) fn is_third_party(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [198, 51, 100])
}

/// An address of which the attacker's own certified record says that it is its own (a test network,
/// RFC 2544).
pub(crate) fn named(number: u8) -> IpAddr {
    IpAddr::from([198, 19, 0, number])
}

/// Whether an address is one of these.
pub(crate) fn is_named(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [198, 19, 0])
}

/// An address in whose name the attacker sends packets.
pub(crate) fn forged(number: u64) -> SocketAddr {
    SocketAddr::new(IpAddr::from([198, 19, 1, number.to_le_bytes()[0]]), 53)
}

/// Whether an address is one of these.
pub(crate) fn is_forged(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [198, 19, 1])
}

/// An overlay in virtual time, and the attacker.
pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) mallory: Hostile,
    runtime: Runtime,
}

impl Stage {
    /// The usual overlay of `entry`, `exit` and `relay`, meshed and measured, and `mallory`, a
    /// member without roles.
    pub(crate) fn new(seed: u64) -> Self {
        Self::usual(Dates::default(), seed)
    }

    /// The same with an authority that answers, at the exit, whose clock runs as fast as `rate` says.
    pub(crate) fn with_authority(rate: u32, seed: u64) -> Self {
        Self::usual(Dates { rate, authority: Some("exit".to_owned()), ..Dates::default() }, seed)
    }

    fn usual(dates: Dates, seed: u64) -> Self {
        let nodes = vec![
            LabNode::new("entry", false, false),
            LabNode::new("exit", false, true),
            LabNode::new("relay", true, false),
        ];
        Self::dated(dates, seed, triangle(), nodes, &LabNode::new("mallory", false, false))
    }

    /// An overlay of these nodes, and an attacker with this certificate.
    pub(crate) fn of(
        seed: u64,
        topology: Topology,
        nodes: Vec<LabNode>,
        attacker: &LabNode,
    ) -> Self {
        Self::dated(Dates::default(), seed, topology, nodes, attacker)
    }

    /// The same with other dates of certificates, and perhaps an authority that answers.
    pub(crate) fn dated(
        dates: Dates,
        seed: u64,
        topology: Topology,
        nodes: Vec<LabNode>,
        attacker: &LabNode,
    ) -> Self {
        let runtime = virtual_time();
        let (lab, mallory) = runtime.block_on(async {
            let services = support::services().with("deaf.test", deaf()).with_pipes_of(PIPE);
            let services = services.with_datagrams("echo.test", echo_datagrams());
            let congestion = Congestion::Cubic;
            let lab = Lab::start_in(dates, topology, seed, nodes, services, congestion).await;
            let lab = lab.unwrap();
            support::wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            let mallory = Hostile::with(&lab, attacker, MALLORY);
            (lab, mallory)
        });
        Self { lab, mallory, runtime }
    }

    /// Runs an attack to its end while a member works at the node `relay`, and says what it cost.
    pub(crate) fn attack<T>(&self, attack: impl Future<Output = T>) -> (T, Cost) {
        self.attack_beside("relay", attack)
    }

    /// The same while the member works at another node.
    pub(crate) fn attack_beside<T>(
        &self,
        member: &str,
        attack: impl Future<Output = T>,
    ) -> (T, Cost) {
        let (node, traffic) = (self.node(member), self.traffic());
        let mut io = self.run(support::open_at(node, "echo.test:7", "exit"));
        let ((output, served), mut cost) =
            cost(&self.runtime, member::beside(node, &mut io, attack));
        cost.third_party_bytes = third_party_bytes(&traffic);
        cost.served = Some(served);
        (output, cost)
    }

    /// Runs an attack that looks itself for what others notice, and says what it cost.
    pub(crate) fn attack_alone<T>(&self, attack: impl Future<Output = T>) -> (T, Cost) {
        let traffic = self.traffic();
        let (output, mut cost) = cost(&self.runtime, attack);
        cost.third_party_bytes = third_party_bytes(&traffic);
        (output, cost)
    }

    /// Runs anything else.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs an attack that changes the overlay, and says what it cost.
    pub(crate) fn attack_mut<T>(
        &mut self,
        attack: impl AsyncFnOnce(&mut Lab, &Hostile) -> T,
    ) -> (T, Cost) {
        let traffic = self.traffic();
        let (output, mut cost) = cost(&self.runtime, attack(&mut self.lab, &self.mallory));
        cost.third_party_bytes = third_party_bytes(&traffic);
        (output, cost)
    }

    /// Counts what the overlay's nodes send from now on.
    pub(crate) fn traffic(&self) -> Traffic {
        let hosts: Vec<_> = self.lab.topology().sites().iter().map(|site| site.address).collect();
        Traffic::of(self.lab.internet(), &hosts)
    }

    /// Counts what one of them sends from now on.
    pub(crate) fn traffic_of(&self, name: &str) -> Traffic {
        Traffic::of(self.lab.internet(), &[self.lab.topology().address(name)])
    }

    /// A node of the overlay.
    pub(crate) fn node(&self, name: &str) -> &Node {
        self.lab.node(name).unwrap()
    }

    /// A node to be attacked.
    pub(crate) fn victim(&self, name: &str) -> Victim {
        Victim::of(&self.lab, name)
    }

    /// A node's address.
    pub(crate) fn at(&self, name: &str) -> SocketAddr {
        SocketAddr::new(self.lab.topology().address(name), PORT)
    }
}

fn third_party_bytes(traffic: &Traffic) -> u64 {
    traffic.to(is_third_party).values().map(|(_, bytes)| bytes).sum()
}

/// A service that takes connections and never reads.
fn deaf() -> Service {
    Arc::new(|io| {
        tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(io);
        });
    })
}

/// A service that sends each datagram back.
fn echo_datagrams() -> DatagramService {
    Arc::new(|_, payload, back| {
        back.deliver(&"192.0.2.7:7".parse().unwrap(), payload);
    })
}

/// Links to the exit again and again, and says the same on each, as fast as it is taken.
pub(crate) async fn flood(stage: &Stage, seconds: u64, say: impl Fn(u64) -> Vec<u8>) -> u64 {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut said = 0;
    while Instant::now() < end {
        let Some(link) = stage.mallory.try_link_to(&stage.lab, "exit").await else {
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        while Instant::now() < end && link.notice(&say(said)).await {
            said += 1;
        }
    }
    said
}
