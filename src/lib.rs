//! `ronproxy` carries TCP connections as labelled flows over a Resilient Overlay Network.
//!
//! A local application speaks SOCKS5 or HTTP to the **entry**; each connection becomes a **flow**,
//! one QUIC stream inside a **lane**; the lane's packets carry a label and travel over UDP to the
//! **exit**, directly or through one **relay** that only swaps the label. The exit opens the real
//! connection.
//!
//! # A program as a node
//!
//! ```no_run
//! use ronproxy::{Hint, Node};
//! use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//!
//! # async fn fetch() -> Result<String, Box<dyn std::error::Error>> {
//! // The folder that `ronproxy join` made.
//! let node = Node::open("/home/me/ron").start().await?;
//! let mut stream = node.connect("example.org:80").hint(Hint::Loss).await?;
//! stream.write_all(b"GET / HTTP/1.0\r\nHost: example.org\r\n\r\n").await?;
//! // The exit has the whole request when this returns.
//! stream.shutdown().await?;
//! let mut page = String::new();
//! stream.read_to_string(&mut page).await?;
//! node.stop().await;
//! # Ok(page)
//! # }
//! ```
//!
//! The door is [`Node`], [`Builder`], [`Connect`], [`Stream`], [`Listener`], [`Conduit`], [`Metric`], [`Events`], [`Error`] and the types that they name.
//! Without the default features a program compiles no command line, no proxy and no demo.
//! `examples/dial.rs` runs it in an overlay in memory, and `docs/library.md` lists what each event does to a
//! stream. The modules below are the inside, and change without notice.
//!
//! # The map, and who may use whom
//!
//! Folders are roles. A module may use the modules below it in this list, never one above.
//!
//! | module | role |
//! |---|---|
//! | [`cli`] | one command per file; parsing only validates |
//! | [`demo`] | four sites in this process, to try and to break |
//! | [`lab`] | a whole overlay in one process, on the emulated Internet |
//! | [`dashboard`] | the page and the API on a TCP port of loopback: who may ask, and the page's files |
//! | [`node`] | the library's door: a program of its user is a node |
//! | [`admin`] | status API; reads snapshots only |
//! | [`app`] | the only place that joins the roles into a node |
//! | [`signer`] | the process that alone holds the overlay authority's key |
//! | [`config`] | the configuration file: each role's own section, and the entry's rules |
//! | [`entry`] | mixed SOCKS/HTTP listener; knows only a [`flow::FlowDialer`] |
//! | [`exit`] | policy (pure), resolution and connection to the real destination |
//! | [`mesh`] | the shell around `overlay`: links to all members, routes for lanes, labels for others |
//! | [`lane`] | QUIC connections between entry and exit, whose streams are flows |
//! | [`failover`] | PURE: which route a lane's end sends on, and when it leaves it |
//! | [`link`] | one QUIC connection per neighbour: control messages and probes |
//! | [`transport`] | how QUIC is used: parameters, framing, close codes |
//! | [`underlay`] | the UDP socket, label switching, virtual addresses |
//! | [`wire`] | PURE: message types and codecs |
//! | [`overlay`] | PURE: estimators, link state, routing, policy |
//! | [`emulator`] | a seeded Internet in memory, for the demo, tests and benchmarks |
//! | [`identity`] | keys, certificates, invitations, the node's folder |
//! | [`events`] | what happened lately: one typed stream, bounded, and its counters |
//! | [`flow`] | what a flow is: label, target, hint, refusal, and the dialer trait |
//! | [`live`] | a value that is replaced while others read it |
//! | [`turns`] | a bounded number of things at once, with a fair share for each asker |
//! | [`chance`] | the node's source of chance, seeded in a lab |
//! | [`text`] | PURE: text of others, made safe to log and to show |
//! | [`quantity`] | PURE: durations, data rates and addresses as people write them |
//!
//! One exception: `flow` takes [`identity::NodeName`] from above, as a flow names its exit.
//! `docs/architecture.md` follows a flow through these modules.
//!
//! "PURE" modules read no clock, socket, file or entropy: time and randomness are arguments.

#[cfg(feature = "proxy")]
pub mod admin;
pub mod app;
pub mod chance;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
#[cfg(feature = "proxy")]
pub mod dashboard;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod entry;
pub mod events;
pub mod exit;
pub mod failover;
pub mod flow;
pub mod identity;
#[cfg(feature = "emulator")]
pub mod lab;
pub mod lane;
pub mod link;
pub mod live;
pub mod mesh;
pub mod node;
pub mod overlay;
pub mod quantity;
pub mod signer;
pub mod text;
pub mod transport;
pub mod turns;
pub mod underlay;
pub mod wire;

pub use node::{
    AppMetric, Builder, Carries, CertificateStatus, Changes, Conduit, ConduitError, Connect,
    Counts, DatagramDrop, DatagramFacts, Error, Event, EventRecord, Events, FlowFacts, FlowLabel,
    FlowState, Hint, Host, Inbound, Ingress, Lagged, LaneFacts, LaneSide, LaneStatus, LeftWhy,
    LinkFacts, Listener, Measuring, Metric, Node, NodeName, NodeStatus, Packet, PacketCounts,
    PacketSender, PostError, Refusal, RefusalKind, RerouteFacts, RerouteKind, Route, ServeError,
    Stream, Target,
};

#[cfg(feature = "cli")]
#[cfg(test)]
mod fuzz;
