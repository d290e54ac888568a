//! The library's door: through it a program is a node of the overlay, without a proxy beside it.
//!
//! | file | what it holds |
//! |---|---|
//! | `builder` | from a folder to a running node |
//! | `handle` | [`Node`]: what a program can ask of it |
//! | `connect` | what a program wants of a stream |
//! | `stream` | a flow as a byte stream |
//! | `listener` | a name that a program serves, and the streams of its callers |
//! | `conduit` | packets between programs of two nodes |
//! | `metric` | metrics that a program defines |
//! | `events` | what happens to the node, as a program reads it |
//! | `error` | what can go wrong |
//! | `settings`, `written`, `steering`, `keep`, `events_file`, `reload`, `socket` | the folder, as `ronproxy run` uses it, too |
//! | `control`, `mute` | the commands of `ronproxy` that look at a program's node, and what they are told without the feature `proxy` |
//!
//! Streams are opened by the node's one dialer, which the local proxy uses as well, so rules, policies, the
//! choice of the exit and of the route are the same.

mod builder;
mod conduit;
mod connect;
#[cfg(feature = "proxy")]
mod control;
mod error;
mod events;
#[cfg(feature = "cli")]
mod events_file;
mod handle;
mod keep;
mod listener;
#[cfg(feature = "proxy")]
pub(crate) mod members;
mod metric;
#[cfg(any(test, not(feature = "proxy")))]
mod mute;
mod reload;
pub(crate) mod settings;
mod socket;
pub(crate) mod steering;
mod stream;
mod written;

pub use builder::Builder;
pub use conduit::{Conduit, PacketCounts, PacketSender};
pub use connect::Connect;
pub use error::Error;
pub use events::{Events, Lagged};
pub use handle::Node;
pub use listener::{Inbound, Listener};
pub use metric::Metric;
pub use stream::Stream;

pub use crate::{
    app::{
        Carries, CertificateStatus, ConduitError, Counts, FlowFacts, LaneStatus, Measuring,
        NodeStatus, Packet, ServeError,
    },
    config::Changes,
    events::{Event, LaneSide, LeftWhy, Record as EventRecord, RerouteKind},
    flow::{
        AppMetric, DatagramDrop, DatagramFacts, FlowLabel, FlowState, Hint, Host, Ingress,
        ParseHintError, ParseLabelError, ParseMetricError, ParseRouteError, ParseTargetError,
        Refusal, RefusalKind, Route, Target, WaitsFor,
    },
    identity::{NodeName, ParseNameError},
    lane::{LaneFacts, RerouteFacts},
    mesh::{CarrierFacts, LinkFacts, SharedFacts},
    overlay::posted::{HalfLifeError, PostError},
};

#[cfg(feature = "cli")]
pub(crate) use events_file::EventsFile;
pub(crate) use keep::{ListWatch, MemberKeeper};
pub(crate) use reload::Reloader;
pub(crate) use socket::ClaimError;
pub(crate) use socket::ControlSocket;
#[cfg(feature = "cli")]
pub(crate) use written::Written;
