//! What a flow is, in terms that every role shares: its label, its target, its routing hint, why
//! it may be refused, and the [`FlowDialer`] through which an entry opens one.
//!
//! This module does not know how a flow is carried.

mod activity;
mod datagram;
mod hint;
mod judgement;
mod label;
mod limits;
mod refusal;
mod route;
mod table;
mod target;
mod tcp;

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tracing::Span;

pub use activity::Activity;
pub use datagram::{
    Association, AssociationRequest, DatagramCounts, DatagramDrop, DatagramDrops, DatagramFacts,
    DatagramFlow, DatagramSink, MAX_DATAGRAM, OutwardDatagrams, PACKET_FITS,
};
pub use hint::{AppMetric, Hint, ParseHintError, ParseMetricError};
pub use judgement::Judgement;
pub use label::{FlowLabel, ParseLabelError};
pub use limits::{FlowEnd, FlowLimits, FlowTimes, HalfClosed};
pub use refusal::{Refusal, RefusalKind, is_exhaustion};
pub(crate) use route::bounded_class;
pub use route::{ParseRouteError, Route, RouteWish, is_class};
pub use table::{
    Carried, FlowEntry, FlowGuard, FlowState, FlowTable, FlowWatcher, Ingress, OnLane, WaitsFor,
};
pub use target::{Host, ParseTargetError, Target};
pub use tcp::{probe_when_silent, reset_on_close};

use crate::identity::NodeName;

/// The log target of all that names a flow's destination. It is logged at `debug` only.
pub const DESTINATION_TARGET: &str = "ronproxy::destination";

/// The span in which a flow is logged: `flow` itself, or where destinations are logged, one inside
/// it that names `destination`.
#[must_use]
pub fn with_destination(flow: &Span, destination: &dyn fmt::Display) -> Span {
    let named = tracing::debug_span!(
        target: DESTINATION_TARGET, parent: flow, "to", target = %destination
    );
    if named.is_disabled() { flow.clone() } else { named }
}

/// The client's address of all flows of a program in this process, for rules and listings: this machine, no
/// port.
pub(crate) const IN_PROCESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A boxed future, as the object-safe traits of this module return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What an entry asks for when an application opens a connection.
#[derive(Debug, Clone)]
pub struct FlowRequest {
    /// Where the application wants to go. Names are resolved at the exit.
    pub target: Target,
    /// The routing hint the application or a rule chose; `None` means the node's default.
    pub hint: Option<Hint>,
    /// The exit the application or a rule named; `None` lets the node choose by rules.
    pub exit: Option<NodeName>,
    /// The traffic class, for relays' policies; `None`: as the rules say.
    pub class: Option<String>,
    /// How long the flow outlives complete silence; `None`: as the rules say.
    pub patience: Option<Duration>,
    /// The user name the application authenticated with, without options, for rules.
    pub user: Option<String>,
    /// The application's address, for the log and listings.
    pub client: SocketAddr,
    /// The protocol the application spoke to the entry.
    pub ingress: Ingress,
    /// The label the application wishes; `None`, or when another flow has it: a drawn one.
    pub label: Option<FlowLabel>,
}

impl FlowRequest {
    /// A request for `target` without any wish.
    #[must_use]
    pub fn new(target: Target, client: SocketAddr, ingress: Ingress) -> Self {
        let (hint, exit, class, patience, user, label) = Default::default();
        Self { target, hint, exit, class, patience, user, client, ingress, label }
    }
}

/// Opens flows. Implemented by the node over its lanes, and by fakes in tests.
pub trait FlowDialer: Send + Sync + 'static {
    /// Opens a flow to `request.target`.
    ///
    /// Resolves when the exit has connected (or refused). Never hangs: the implementation bounds
    /// its own waiting and answers [`RefusalKind::TimedOut`].
    fn dial(&self, request: FlowRequest) -> BoxFuture<'_, Result<Box<dyn Flow>, Refusal>>;

    /// Begins an association. `client` takes what destinations send back. Flows are opened when a
    /// datagram needs them.
    fn associate(
        self: Arc<Self>,
        request: AssociationRequest,
        client: Arc<dyn DatagramSink>,
    ) -> Arc<dyn Association>;

    /// What exits serve by their certificates: domains and networks, sorted, each once. Those of `exit` only, if it
    /// is named. Exits that serve everything add nothing.
    fn served(&self, exit: Option<&NodeName>) -> Vec<String>;

    /// Counts the datagrams that this node drops.
    fn datagram_drops(&self) -> Arc<DatagramDrops>;
}

/// One open flow, seen from the entry.
pub trait Flow: Send {
    /// The flow's label, unique among the live flows of this entry.
    fn label(&self) -> FlowLabel;

    /// What the flow carries, and when it last did.
    fn carried(&self) -> Arc<Carried>;

    /// Carries `client`'s bytes until both directions have ended: half-close and reset are passed
    /// on in both directions, and back-pressure is end to end.
    ///
    /// `preread` is what was already read from the client and belongs to the flow.
    fn splice(self: Box<Self>, client: TcpStream, preread: Bytes) -> BoxFuture<'static, Spliced>;

    /// The flow as a byte stream, for an HTTP client on top of it.
    fn into_io(self: Box<Self>) -> Box<dyn FlowIo>;
}

/// A flow as a duplex byte stream. Shutting it down half-closes it, and a flush after that waits until the
/// exit has received everything; dropping it unfinished resets.
pub trait FlowIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> FlowIo for T {}

/// How a spliced flow ended.
#[derive(Debug)]
pub struct Spliced {
    /// Bytes carried from the client to the destination.
    pub sent: u64,
    /// Bytes carried from the destination to the client.
    pub received: u64,
    /// `Ok` when both directions ended with an orderly close.
    pub result: io::Result<()>,
}
