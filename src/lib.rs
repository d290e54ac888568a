//! A program as a node of a Resilient Overlay Network (D. Andersen, H. Balakrishnan, F. Kaashoek and R. Morris,
//! "Resilient Overlay Networks", SOSP 2001).
//!
//! The nodes of an overlay measure the paths between them and forward for each other. A connection is a **flow**
//! inside a **lane** (a QUIC connection) from the node of the program, the *entry*, to a node that opens the real
//! connection, the *exit*. When the path between them fails, the lane's packets go through a third node, a *relay*,
//! within a fraction of a second, and the connection goes on.
//!
//! The examples run as they are, in an overlay of three nodes in memory ([`Emulation`]). In a real overlay a program
//! has the folder that `ronproxy join` made: `Node::open("/home/me/ron").start().await?`.
//!
//! # A connection that outlives a path
//!
//! ```
//! use ronproxy::{EmulatedStream, Emulation, Hint};
//! use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//!
//! async fn echo(stream: EmulatedStream) {
//!     let (mut read, mut write) = tokio::io::split(stream);
//!     let _ = tokio::io::copy(&mut read, &mut write).await;
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let overlay = Emulation::triangle().host("echo.test", echo).start().await?;
//! overlay.settled().await;
//! let node = overlay.node("entry")?;
//! // On the route that answers fastest. The name is resolved at the exit.
//! let mut stream = node.connect("echo.test:7").hint(Hint::Latency).await?;
//! stream.write_all(b"hello").await?;
//! stream.read_exact(&mut [0; 5]).await?;
//! assert_eq!(stream.route().unwrap().to_string(), "direct");
//!
//! overlay.cut("entry", "exit")?;
//! stream.write_all(b"hello").await?;
//! stream.read_exact(&mut [0; 5]).await?;
//! assert_eq!(stream.route().unwrap().to_string(), "via relay");
//! // The exit has everything when this returns.
//! stream.shutdown().await?;
//! overlay.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # A name that a program serves
//!
//! ```
//! use ronproxy::{Emulation, Error, Listener};
//! use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//!
//! async fn greet(mut wiki: Listener) -> Result<(), Error> {
//!     loop {
//!         // The caller's name is that of its certificate.
//!         let mut stream = wiki.accept().await?;
//!         let greeting = format!("hello {}", stream.peer());
//!         let _ = stream.write_all(greeting.as_bytes()).await;
//!         let _ = stream.shutdown().await;
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let overlay = Emulation::triangle().start().await?;
//! tokio::spawn(greet(overlay.node("exit")?.serve("wiki.lab:80")?));
//! let mut stream = overlay.node("entry")?.connect("wiki.lab:80").exit("exit").await?;
//! let mut heard = String::new();
//! stream.read_to_string(&mut heard).await?;
//! assert_eq!(heard, "hello entry");
//! overlay.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Packets between programs
//!
//! ```
//! use ronproxy::{Emulation, FlowLabel, Hint};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let overlay = Emulation::triangle().start().await?;
//! let (here, there) = (overlay.node("entry")?, overlay.node("exit")?);
//! here.ready().await?;
//! let mut heard = there.conduit("voice")?;
//! // Packets of one label take the same route, also those of other types. A packet may be lost.
//! let voice = here.conduit("voice")?.label(FlowLabel(7)).hint(Hint::Loss);
//! voice.send("exit", b"a frame")?;
//! let packet = heard.recv().await?;
//! assert_eq!((packet.peer().as_str(), packet.bytes()), ("entry", &b"a frame"[..]));
//! overlay.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go on
//!
//! | for | see |
//! |---|---|
//! | opening a node, stopping it, what it can be asked | [`Node`], [`Builder`] |
//! | streams: hint, exit, class, patience | [`Connect`], [`Stream`] |
//! | serving names | [`Listener`], [`Inbound`] |
//! | datagrams | [`Conduit`], [`PacketSender`], [`Packet`] |
//! | metrics that a program defines | [`Metric`] |
//! | reroutes, links, members, flows as they change | [`Events`], [`Event`] |
//! | what can go wrong | [`Error`], [`Refusal`], [`RefusalKind`] |
//! | tests without a network | [`Emulation`], [`EmulatedOverlay`] |
//!
//! `docs/library.md` lists what each event does to a stream, a listener and a conduit. `examples/` has whole programs.
//!
//! # Features
//!
//! The default is the program `ronproxy` itself. A program that embeds a node takes `default-features = false`.
//!
//! | feature | adds |
//! |---|---|
//! | `cli` (default) | the command line, with everything below |
//! | `demo` | four sites in one process, on a screen |
//! | `proxy` | the local SOCKS5 and HTTP proxy, and the control API |
//! | `emulator` | [`Emulation`]: overlays in memory |

// `docs/architecture.md` has the map of the modules, and who may use whom. All are private: the interface is what
// stands at the root, which `docs/public-api.txt` lists.
mod accept;
#[cfg(feature = "proxy")]
mod admin;
mod app;
mod carrier;
mod chance;
#[cfg(feature = "cli")]
mod cli;
mod config;
#[cfg(feature = "demo")]
mod dashboard;
#[cfg(feature = "demo")]
mod demo;
#[cfg(feature = "emulator")]
mod emulator;
mod entry;
mod events;
#[cfg(all(feature = "cli", target_os = "linux"))]
mod exec;
mod exit;
mod eyeballs;
mod failover;
mod flow;
mod identity;
#[cfg(feature = "emulator")]
mod lab;
mod lane;
mod link;
#[cfg_attr(not(feature = "proxy"), expect(unreachable_pub, reason = "the proxy's side names it"))]
mod live;
mod mesh;
mod node;
mod overlay;
mod quantity;
#[cfg_attr(
    not(any(test, feature = "cli")),
    expect(
        dead_code,
        unreachable_pub,
        reason = "only the command line runs the authority's processes"
    )
)]
mod signer;
#[cfg_attr(
    not(any(test, feature = "cli")),
    expect(dead_code, reason = "only the command line prints and logs")
)]
mod text;
mod transport;
mod turns;
mod underlay;
mod wire;

#[doc(hidden)]
pub mod internals;

#[cfg(feature = "emulator")]
pub use lab::{EmulatedOverlay, EmulatedPath, EmulatedStream, Emulation, EmulationError};
pub use node::{
    AppMetric, Builder, CarrierFacts, Carries, CertificateStatus, Changes, Conduit, ConduitError,
    Connect, Counts, DatagramDrop, DatagramFacts, Error, Event, EventRecord, Events, FlowFacts,
    FlowLabel, FlowState, HalfLifeError, Hint, Host, Inbound, Ingress, Lagged, LaneFacts, LaneSide,
    LaneStatus, LeftWhy, LinkFacts, Listener, Measuring, Metric, Node, NodeName, NodeStatus,
    Packet, PacketCounts, PacketSender, ParseHintError, ParseLabelError, ParseMetricError,
    ParseNameError, ParseRouteError, ParseTargetError, PostError, Refusal, RefusalKind,
    RerouteFacts, RerouteKind, Route, ServeError, SharedFacts, Stream, Target, WaitsFor,
};

#[cfg(feature = "cli")]
#[cfg(test)]
mod fuzz;
