//! Joins the roles into a node: the only place that knows them all.
//!
//! ```text
//!  entry ──dial──► Dialer ──► LanePool ─┐
//!                                       ├─► QUIC endpoint ─► LabelSocket ─► UDP
//!  exit ◄──open── LaneHost ◄── accept ──┤                        │
//!                               Mesh ───┘◄──── Switch ◄──────────┘
//! ```

mod accept;
mod admission;
mod asked;
mod association;
mod desk;
mod dialer;
mod exits;
mod flow_log;
mod handshakes;
mod inboxes;
mod join;
mod known;
mod local;
mod local_datagrams;
mod netcheck;
mod network;
mod node;
mod outlets;
mod own_addresses;
mod ping;
mod pipe;
mod places;
mod rate;
mod recent;
mod renewal;
mod router_port;
mod rules;
mod serving;
mod status;
mod steering;
mod why;

pub use asked::{ExitPolicy, PolicyAnswer};
pub use desk::JoinDesk;
pub use inboxes::{ConduitError, Packet};
pub(crate) use inboxes::{Receives, TypeCounts, packet_type};
pub use join::{JoinFailure, Way, join};
pub use netcheck::{Nat, NetReport};
pub use node::{ExitDoor, Node, NodeSettings, StartError};
pub(crate) use outlets::{Outlets, Unsent, Wish};
pub use own_addresses::OwnAddresses;
#[cfg(feature = "cli")]
pub(crate) use own_addresses::few_of;
pub use ping::{PingError, RoutePing};
pub(crate) use pipe::PipeEnd;
pub use renewal::CertificateStatus;
pub use rules::RuleFacts;
pub use serving::ServeError;
pub(crate) use serving::{Accepted, Accepts};
pub use status::{
    Carries, Counts, FlowFacts, LaneStatus, LiveSettings, Measuring, NodeStatus, NodeView,
    RelayedFacts,
};
pub use steering::{Steer, SteerError, Steering};
pub use why::{CandidateFacts, Change, Choice, Question, Why};
