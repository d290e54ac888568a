//! Who a node is: names, keys, certificates, invitations, and the folder that keeps them.
//!
//! An overlay has one [`Authority`], a small X.509 certificate authority kept in the folder of the
//! node that ran `init`. A node joins with an [`Invitation`]: one line with the authority's
//! addresses, the SHA-256 of its certificate, and a one-time [`Token`]. The joiner makes its own
//! key, pins the authority by the hash ([`join_crypto`]), sends the token with a signing request
//! ([`JoinRequest`]) and gets a certificate that says its name, roles, groups and what it serves
//! ([`Attributes`]). From then on both ends of every connection show a certificate
//! ([`server_crypto`], [`client_crypto`]) and [`Peer`] is what the rest of the program reads.
//!
//! Three rules hold everywhere:
//! - `rcgen` issues, `rustls` and `webpki` verify; there is no cryptography of our own here, and
//!   the *ring* provider is always passed, never taken from the process.
//! - No secret is in `Debug` output; files are private to the user and replaced in one step.
//! - Time is an argument, or comes from a [`Clock`]. Only [`NodeDir`] and what is built on it
//!   touch the disk.
//!
//! A running node holds its identity as [`Credentials`], which other modules read at each use. A
//! renewed certificate and a newer revocation list count from the next handshake.

mod agreement;
mod any_server;
#[cfg(feature = "cli")]
mod archive;
mod attest;
mod attributes;
mod audit;
mod authority;
mod clock;
mod contact;
mod credentials;
mod digest;
mod files;
mod invitation;
mod join;
mod ledger;
mod live;
mod name;
mod node;
mod peer;
mod pending;
mod pin;
mod remembered;
mod revocation;
mod roster;
#[cfg(feature = "cli")]
mod seal;
mod store;
mod tls;

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
pub(crate) mod test_support;

pub use any_server::AnyServer;
#[cfg(feature = "cli")]
pub use archive::{Archive, ArchiveError, Manifest, pack, unpack};
pub use attest::{AttestError, StatementKey};
pub use attributes::{Attributes, AttributesError, Roles};
pub use audit::{Actor, AuditEntry, AuditLines, AuditLog, Deed};
pub use authority::{Authority, AuthorityError, LIFETIME, SigningRequest, authority_certificate};
pub use clock::{Clock, TOLERATED_SKEW, skew, skew_in_words};
pub use contact::AuthorityContact;
pub use credentials::{Changes, Credentials, ListIgnored};
pub use digest::{Fingerprint, ParseFingerprintError};
#[cfg(feature = "cli")]
pub(crate) use files::write;
pub use files::{sync_parent, write_new};
pub use invitation::{Invitation, InvitationError, MAX_ADDRESSES, Token};
pub use join::{
    DeskRequest, JoinError, JoinRefusal, JoinReply, JoinRequest, MAX_JOIN_REPLY, MAX_JOIN_REQUEST,
    MAX_MEMBERS, MemberInfo, Renewed, Welcome, redeem, renew,
};
pub use ledger::{Issued, Records};
pub use name::{NodeName, ParseNameError};
pub use node::{IdentityError, NodeIdentity, NodeKey, needs_renewal};
pub use peer::{Peer, PeerError, Serial, certificate_of, peer_of};
pub use pending::{
    Granted, InvitationRecords, InvitationState, Invited, PendingError, PendingInvitations,
    RedeemError,
};
pub use pin::{clock_crypto, join_crypto, renew_crypto};
pub use revocation::{RevocationError, RevocationList};
pub use roster::Certified;
pub use rustls::pki_types::UnixTime;
#[cfg(feature = "cli")]
pub use seal::{MIN_PASSPHRASE, Passphrase, SealError, open, seal};
pub use store::{NodeDir, NodeFile, StoreError};
pub use tls::{
    ALPN_JOIN, ALPN_LANE, ALPN_LINK, ALPN_RENEW, AcceptError, Accepted, TlsError, accepted,
    client_crypto, server_crypto, server_name,
};
