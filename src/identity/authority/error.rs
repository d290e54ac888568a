//! Why the authority refuses.

use super::sign::MAX_LISTED;
use crate::identity::{
    AttributesError, IdentityError, NodeName, RevocationError, StoreError, ledger::MAX_ISSUED,
};

/// The authority cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The signing request is unreadable, of another kind of key, or not signed by its own key.
    #[error(
        "the signing request is not acceptable ({0}); both nodes need the same ronproxy version"
    )]
    Request(String),
    /// The attributes are out of bounds.
    #[error(transparent)]
    Attributes(#[from] AttributesError),
    /// Another node has the name.
    #[error("{0} is the name of another node; choose another, or `ronproxy revoke {0}` first")]
    NameTaken(NodeName),
    /// Nothing to revoke.
    #[error("no node is named {0}, or it is revoked already; `ronproxy members` shows all names")]
    NoSuchNode(NodeName),
    /// The certificate to be renewed is revoked.
    #[error("{0} was revoked; ask for an invitation and join again in a new folder")]
    Revoked(NodeName),
    /// No certificate of the key to be renewed is on record.
    #[error(
        "the authority has no record of this node's key; ask for an invitation and join again in a new folder"
    )]
    UnknownKey,
    /// The revocation list is full.
    #[error("{MAX_LISTED} revoked certificates have not ended yet; revoke again when some have")]
    ListFull,
    /// The record is full.
    #[error("{MAX_ISSUED} certificates are on record; wait until some have expired")]
    Full,
    /// The authority's folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `rcgen` refused.
    #[error("a certificate could not be made: {0}; check this machine's date")]
    Issue(#[from] rcgen::Error),
    /// The authority's own node is damaged.
    #[error(transparent)]
    Identity(#[from] Box<IdentityError>),
    /// The authority's own revocation list is damaged.
    #[error("authority/revoked.crl: {0}; restore it from a backup")]
    Revocations(#[from] RevocationError),
}
