//! The record of an invitation, and the reasons why one is not valid.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::MAX_PENDING;
use crate::identity::{Attributes, AttributesError, StoreError};

/// What an invitation grants, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// What the new node's certificate will say.
    pub attributes: Attributes,
    /// When the invitation ends, in seconds since 1970.
    pub expires: u64,
    /// Whether the dashboard of the authority's node gave it out, and no command.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_dashboard: bool,
}

/// What became of an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InvitationState {
    /// It can be used.
    Open,
    /// A node has used it.
    Used,
    /// It was taken back.
    Cancelled,
    /// It ended unused.
    Expired,
}

/// An invitation on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invited {
    /// The first digits of the SHA-256 of its token. They tell nothing of the token.
    pub id: String,
    /// What became of it.
    pub state: InvitationState,
    /// What it grants.
    pub granted: Granted,
}

/// The invitations on record, and the records that cannot be read.
#[derive(Debug, Default)]
pub struct InvitationRecords {
    /// The readable ones, by name and end.
    pub invited: Vec<Invited>,
    /// What is wrong with the others; each names its file.
    pub damaged: Vec<StoreError>,
}

/// An invitation cannot be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum PendingError {
    /// Too many at once.
    #[error("{MAX_PENDING} invitations are open or used; cancel some, or wait until they expire")]
    Full,
    /// None is open by this name or identifier.
    #[error("no open invitation is for {0:?}; `ronproxy invite --list` shows them")]
    NotFound(String),
    /// The attributes are out of bounds.
    #[error(transparent)]
    Attributes(#[from] AttributesError),
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A token is not valid.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// No invitation has this token, or it ended long ago.
    #[error("the authority knows no such invitation; ask for a new one")]
    Unknown,
    /// Somebody has used it.
    #[error("the invitation has been used; if not by you, tell the inviter, and ask for a new one")]
    Used,
    /// The inviter took it back.
    #[error("the invitation was taken back; ask the inviter for a new one")]
    Cancelled,
    /// Too late.
    #[error("the invitation has expired; ask for a new one")]
    Expired,
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl fmt::Display for InvitationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Used => "used",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        })
    }
}
