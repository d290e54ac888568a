//! What can go wrong.

use std::{convert::Infallible, io, net::SocketAddr, path::PathBuf, time::Duration};

use super::ClaimError;
use crate::{
    app::{ConduitError, ServeError, StartError, Unsent},
    config::ConfigError,
    flow::{DatagramDrop, ParseMetricError, ParseTargetError, Refusal},
    identity::{IdentityError, ParseNameError, StoreError},
    overlay::posted::{HalfLifeError, PostError},
};

/// Why a node or a stream could not be had. Its text is a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The destination is not `HOST:PORT`.
    #[error(transparent)]
    Target(#[from] ParseTargetError),
    /// The exit's name is not the name of a node.
    #[error(transparent)]
    Name(#[from] ParseNameError),
    /// The patience is out of bounds.
    #[error("a patience of {0:?} is out of bounds; give one from 1 s to 1 h")]
    Patience(Duration),
    /// The class is not the name of a traffic class.
    #[error("{0:?} is no traffic class; use 1 to 32 characters of a-z, 0-9, '-' and '_'")]
    Class(String),
    /// The overlay or the exit opened no flow: [`Refusal::kind`] says why, and
    /// [`RefusalKind::cure`](crate::RefusalKind::cure) what to do.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The metric's name is not one.
    #[error(transparent)]
    Metric(#[from] ParseMetricError),
    /// The half-life of a metric is out of bounds.
    #[error(transparent)]
    HalfLife(#[from] HalfLifeError),
    /// The value of a metric is not taken.
    #[error(transparent)]
    Post(#[from] PostError),
    /// The name cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Packets of a type cannot be had.
    #[error(transparent)]
    Conduit(ConduitError),
    /// A packet was dropped before it left this node.
    #[error("the packet was dropped: {0}")]
    Dropped(DatagramDrop),
    /// The node has stopped.
    #[error("this node has stopped; open it again")]
    Stopped,
    /// The folder has no node that can be used, or a file of it is damaged.
    #[error("{0}")]
    Folder(String),
    /// The folder has the overlay's authority. Its key belongs into a process of its own, which only the
    /// program `ronproxy` starts.
    #[error(
        "{} has the overlay's authority; start it with `ronproxy run`, and join another folder for this program", .0.display()
    )]
    Authority(PathBuf),
    /// Another process runs the node of this folder.
    #[error("{0}")]
    Busy(String),
    /// The configuration has a mistake.
    #[error("{0}")]
    Config(String),
    /// A socket towards other nodes, of UDP or of streams, cannot be had.
    #[error("cannot listen on {address}: {source}; choose another address, or port 0")]
    Listen {
        /// Where the node was to listen.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The node did not start.
    #[error("the node did not start: {0}")]
    Start(String),
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<ConduitError> for Error {
    fn from(error: ConduitError) -> Self {
        match error {
            ConduitError::Stopped => Self::Stopped,
            other => Self::Conduit(other),
        }
    }
}

impl From<Unsent> for Error {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Dropped(reason) => Self::Dropped(reason),
            Unsent::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Folder(error.to_string())
    }
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        Self::Folder(error.to_string())
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<ClaimError> for Error {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::AlreadyRunning(_) => Self::Busy(error.to_string()),
            _ => Self::Folder(error.to_string()),
        }
    }
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        Self::Start(error.to_string())
    }
}
