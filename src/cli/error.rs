//! Errors of commands: always one sentence with a next step.

use std::{io, path::PathBuf};

use crate::{
    admin::ClientError,
    app::{JoinFailure, StartError},
    config::ConfigError,
    identity::{AuthorityError, IdentityError, InvitationError, PendingError, StoreError},
    node::ClaimError,
};

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The node's folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Key or certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The overlay authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The invitations given out.
    #[error(transparent)]
    Pending(#[from] PendingError),
    /// An invitation's line.
    #[error(transparent)]
    Invitation(#[from] InvitationError),
    /// Joining.
    #[error(transparent)]
    Join(#[from] JoinFailure),
    /// Starting the node.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The folder's socket.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Asking the running node.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The UDP port is taken.
    #[error("UDP address {0} is in use by another program; stop that, or set another `listen` under [node] in {path}", path = .1.display())]
    PortTaken(std::net::SocketAddr, PathBuf),
    /// The UDP socket.
    #[error(
        "cannot listen on UDP {0}: {1}; set `listen` under [node] to an address of this machine"
    )]
    Udp(std::net::SocketAddr, #[source] io::Error),
    /// The TCP socket of streams.
    #[error(
        "cannot accept streams at TCP {0}: {1}; ports below 1024 need the capability CAP_NET_BIND_SERVICE, \
         or set another `stream_listen` under [node] in {path}", path = .2.display()
    )]
    Streams(std::net::SocketAddr, #[source] io::Error, PathBuf),
    /// Output or input failed.
    #[error("cannot write the output: {0}; check where it goes to")]
    Output(#[source] io::Error),
    /// Threads or the event queue.
    #[error("cannot start: {0}; check this user's limits with `ulimit -a`")]
    Runtime(#[source] io::Error),
    /// The demo.
    #[error(transparent)]
    Demo(#[from] crate::demo::DemoError),
    /// A backup's content.
    #[error(transparent)]
    Archive(#[from] crate::identity::ArchiveError),
    /// A backup's encryption.
    #[error(transparent)]
    Seal(#[from] crate::identity::SealError),
    /// The signer process.
    #[error(transparent)]
    Signer(#[from] crate::signer::ServeError),
    /// The signer has no spare.
    #[error(transparent)]
    NoSpare(#[from] crate::signer::NoSpare),
    /// Anything else, in a sentence.
    #[error("{0}")]
    Say(String),
}

impl CliError {
    /// An error in the command's own words.
    pub(super) fn say(text: impl Into<String>) -> Self {
        Self::Say(text.into())
    }
}
