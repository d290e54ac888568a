//! An overlay in memory, as programs that embed a node use it in their tests and examples.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Lab, LabError, LabNode, Services};
use crate::{
    Node,
    emulator::{Bitrate, LinkModel, LossRate, Queue, Topology},
    flow::FlowIo,
    transport::Congestion,
};

/// Nodes advertise their links at most once a second. After this long each has heard of all links.
const ADVERTISED: Duration = Duration::from_secs(3);

/// How often it is looked whether all links are up.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The buffer in front of a path's bottleneck, as time: a round trip of a short path, as usual for routers.
const BUFFER: Duration = Duration::from_millis(50);

/// The plan of an overlay in this process, for tests and examples of programs that are nodes (feature `emulator`).
///
/// Its nodes are whole: certificates, links, probes, lanes. Only the packets between them and the hosts behind
/// their exits stay inside the process. Under tokio's paused clock it runs in virtual time.
///
/// ```
/// use ronproxy::{EmulatedStream, Emulation};
/// use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
///
/// async fn hello(mut stream: EmulatedStream) {
///     let _ = stream.write_all(b"hello").await;
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let overlay = Emulation::triangle().host("hello.test", hello).start().await?;
/// let mut stream = overlay.node("entry")?.connect("hello.test:80").await?;
/// let mut heard = String::new();
/// stream.read_to_string(&mut heard).await?;
/// assert_eq!(heard, "hello");
/// overlay.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Emulation {
    nodes: Vec<LabNode>,
    paths: Vec<(String, String, EmulatedPath)>,
    sites: Vec<Vec<String>>,
    services: Services,
    seed: u64,
}

/// Both directions of the path between two nodes of an [`Emulation`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmulatedPath(LinkModel);

/// A running overlay in this process; [`Emulation::start`] makes it.
#[derive(Debug)]
pub struct EmulatedOverlay(Lab);

/// A connection from an exit to a host of an [`Emulation`], seen from the host.
pub struct EmulatedStream(Box<dyn FlowIo>);

/// Why an [`Emulation`] cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulationError {
    /// No node has this name, or it is not the name of a node.
    #[error("{0:?} is no node of this overlay")]
    NoNode(String),
    /// More than 254 nodes.
    #[error("an overlay in memory has 254 nodes at most")]
    TooMany,
    /// A node does not start.
    #[error("the overlay does not start: {0}")]
    Start(String),
}

impl Default for Emulation {
    fn default() -> Self {
        Self::new()
    }
}

impl Emulation {
    /// An overlay without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            nodes: Vec::new(),
            paths: Vec::new(),
            sites: Vec::new(),
            services: Services::default(),
            seed: 1,
        }
    }

    /// The nodes `entry`, `relay` and `exit`: 60 ms direct there and back, 80 ms by the relay, 100 Mbit/s.
    #[must_use]
    pub fn triangle() -> Self {
        let path = |one_way| EmulatedPath::new(Duration::from_millis(one_way)).rate(100_000_000);
        Self::new()
            .entry("entry")
            .exit("exit")
            .relay("relay")
            .path("entry", "exit", path(30))
            .path("entry", "relay", path(20))
            .path("relay", "exit", path(20))
    }

    /// With a node that serves no other.
    #[must_use]
    pub fn entry(self, name: &str) -> Self {
        self.with(LabNode::new(name, false, false))
    }

    /// With a node that is an exit: it reaches all [hosts](Self::host).
    #[must_use]
    pub fn exit(self, name: &str) -> Self {
        self.with(LabNode::new(name, false, true))
    }

    /// With a node that forwards packets of others.
    #[must_use]
    pub fn relay(self, name: &str) -> Self {
        self.with(LabNode::new(name, true, false))
    }

    /// With this path between two nodes. Without one, packets between them arrive at once.
    #[must_use]
    pub fn path(mut self, a: &str, b: &str, path: EmulatedPath) -> Self {
        self.paths.push((a.to_owned(), b.to_owned(), path));
        self
    }

    /// With these nodes as one site: they share what they measure of the others, as with `[probe] share_with` in the
    /// configuration of each.
    #[must_use]
    pub fn site(mut self, names: &[&str]) -> Self {
        self.sites.push(names.iter().map(|name| (*name).to_owned()).collect());
        self
    }

    /// With a host of this name behind all exits. On every port `serve` gets the connections to it.
    #[must_use]
    pub fn host<F>(
        self,
        name: &str,
        serve: impl Fn(EmulatedStream) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let service = move |io| drop(tokio::spawn(serve(EmulatedStream(io))));
        Self { services: self.services.with(name, Arc::new(service)), ..self }
    }

    /// With another seed than 1 for losses and for the nodes' own chance: equal seeds make equal runs in virtual
    /// time.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Starts the nodes in this runtime.
    ///
    /// # Errors
    /// [`EmulationError`].
    pub async fn start(self) -> Result<EmulatedOverlay, EmulationError> {
        let Self { mut nodes, paths, sites, services, seed } = self;
        sites.iter().try_for_each(|site| share(&mut nodes, site))?;
        let names = nodes.iter().map(|node| node.name.as_str());
        let mut topology = Topology::new(names);
        if topology.sites().len() < nodes.len() {
            return Err(EmulationError::TooMany);
        }
        for (a, b, path) in paths {
            for name in [&a, &b] {
                topology.find(name).ok_or_else(|| EmulationError::NoNode(name.clone()))?;
            }
            topology = topology.both(&a, &b, path.0);
        }
        let lab = Lab::start(topology, seed, nodes, services, Congestion::default()).await;
        lab.map(EmulatedOverlay).map_err(|error| match error {
            LabError::NoSite(name) => EmulationError::NoNode(name),
            other => EmulationError::Start(other.to_string()),
        })
    }

    fn with(mut self, node: LabNode) -> Self {
        self.nodes.push(node);
        self
    }
}

/// Makes these nodes name each other.
fn share(nodes: &mut [LabNode], site: &[String]) -> Result<(), EmulationError> {
    for name in site {
        let no_node = || EmulationError::NoNode(name.clone());
        let node = nodes.iter_mut().find(|node| node.name == *name).ok_or_else(no_node)?;
        for other in site.iter().filter(|other| *other != name) {
            let other = other.parse().map_err(|_| EmulationError::NoNode(other.clone()))?;
            node.share_with.push(other);
        }
    }
    Ok(())
}

impl EmulatedPath {
    /// A path of this propagation delay each way. It loses nothing, and carries as much as is sent.
    #[must_use]
    pub fn new(one_way: Duration) -> Self {
        Self(LinkModel::new(one_way))
    }

    /// The same with a bottleneck of so many bits per second each way (0 counts as 1), and a buffer of 50 ms.
    #[must_use]
    pub fn rate(self, bits_per_second: u64) -> Self {
        Self(self.0.with_rate(Bitrate::bits_per_second(bits_per_second), Queue::Time(BUFFER)))
    }

    /// The same with loss by chance: a share of the packets from 0 to 1. What lies outside is moved to the nearer
    /// bound.
    #[must_use]
    pub fn loss(self, share: f64) -> Self {
        Self(self.0.with_loss(LossRate::from_fraction(share)))
    }
}

impl EmulatedOverlay {
    /// The node of this name, as if it had been [opened](Node::open). It goes on when the handle is dropped.
    ///
    /// # Errors
    /// [`EmulationError::NoNode`].
    pub fn node(&self, name: &str) -> Result<Node, EmulationError> {
        self.0.open(name).ok_or_else(|| EmulationError::NoNode(name.to_owned()))
    }

    /// Waits until each node has a link to each other, and has heard of all links: from then on routes by relays
    /// are known. Waits for ever while a path is cut.
    pub async fn settled(&self) {
        while !self.0.is_meshed() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tokio::time::sleep(ADVERTISED).await;
    }

    /// Cuts the path between two nodes, both ways: packets vanish, and nobody is told.
    ///
    /// # Errors
    /// [`EmulationError::NoNode`].
    pub fn cut(&self, a: &str, b: &str) -> Result<(), EmulationError> {
        let (a, b) = self.ends(a, b)?;
        self.0.internet().cut(a, b);
        Ok(())
    }

    /// Mends the path between two nodes.
    ///
    /// # Errors
    /// [`EmulationError::NoNode`].
    pub fn heal(&self, a: &str, b: &str) -> Result<(), EmulationError> {
        let (a, b) = self.ends(a, b)?;
        self.0.internet().heal(a, b);
        Ok(())
    }

    /// Gives two nodes another path. It is not cut.
    ///
    /// # Errors
    /// [`EmulationError::NoNode`].
    pub fn set_path(&self, a: &str, b: &str, path: EmulatedPath) -> Result<(), EmulationError> {
        let (a, b) = self.ends(a, b)?;
        self.0.internet().set_both(a, b, path.0);
        Ok(())
    }

    /// Stops all nodes. A node may take a second to let its flows finish.
    pub async fn stop(self) {
        self.0.stop().await;
    }

    fn ends(
        &self,
        a: &str,
        b: &str,
    ) -> Result<(std::net::IpAddr, std::net::IpAddr), EmulationError> {
        let find = |name: &str| {
            let found = self.0.topology().find(name);
            found.ok_or_else(|| EmulationError::NoNode(name.to_owned()))
        };
        Ok((find(a)?, find(b)?))
    }
}

impl AsyncRead for EmulatedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for EmulatedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl fmt::Debug for EmulatedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmulatedStream").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    /// Longer than any exchange on these paths takes.
    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn names_that_are_no_node_are_refused() {
        let path = || EmulatedPath::new(Duration::ZERO);
        let no_node = |result: Result<(), EmulationError>| match result {
            Err(EmulationError::NoNode(name)) => name,
            other => panic!("{other:?}"),
        };
        let unknown = Emulation::triangle().path("entry", "nowhere", path());
        assert_eq!(no_node(unknown.start().await.map(drop)), "nowhere");
        assert_eq!(no_node(Emulation::new().entry("No Name").start().await.map(drop)), "No Name");
        let unknown = Emulation::triangle().site(&["entry", "nowhere"]);
        assert_eq!(no_node(unknown.start().await.map(drop)), "nowhere");
        let many = (0..255).fold(Emulation::new(), |plan, n| plan.entry(&format!("n{n}")));
        assert!(matches!(many.start().await, Err(EmulationError::TooMany)));
        let overlay = Emulation::triangle().start().await.unwrap();
        assert_eq!(no_node(overlay.node("nowhere").map(drop)), "nowhere");
        assert_eq!(no_node(overlay.cut("entry", "nowhere")), "nowhere");
        assert_eq!(no_node(overlay.heal("nowhere", "exit")), "nowhere");
        assert_eq!(no_node(overlay.set_path("nowhere", "exit", path())), "nowhere");
        overlay.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_takes_its_time_and_settling_waits_for_it() {
        let overlay = Emulation::new()
            .entry("entry")
            .exit("exit")
            .path("entry", "exit", EmulatedPath::new(Duration::from_millis(200)))
            .host("echo.test", |stream: EmulatedStream| async {
                let (mut read, mut write) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut read, &mut write).await;
            })
            .start()
            .await
            .unwrap();
        overlay.cut("entry", "exit").unwrap();
        assert!(timeout(SOON, overlay.settled()).await.is_err(), "the path is cut");
        overlay.heal("entry", "exit").unwrap();
        overlay.settled().await;
        let mut stream = overlay.node("entry").unwrap().connect("echo.test:7").await.unwrap();
        let mut echo = async || {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let start = Instant::now();
            stream.write_all(b"x").await.unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            start.elapsed().as_millis()
        };
        assert!((400..450).contains(&echo().await));
        overlay.set_path("entry", "exit", EmulatedPath::new(Duration::from_millis(20))).unwrap();
        // Packets do not overtake those that are under way.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!((40..90).contains(&echo().await));
        overlay.stop().await;
    }
}
