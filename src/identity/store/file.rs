//! The files of a node, and where each is.

/// The folder into which the running node writes. A confined node may write here, and may only read
/// its configuration and key beside it.
pub(super) const STATE: [NodeFile; 7] = [
    NodeFile::Chain,
    NodeFile::Revoked,
    NodeFile::Members,
    NodeFile::Steering,
    NodeFile::Events,
    NodeFile::Authority,
    NodeFile::ControlToken,
];

/// A file or folder of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeFile {
    /// The configuration, written by people: `config.toml`.
    Config,
    /// The node's private key, PKCS#8 in PEM: `node.key`.
    Key,
    /// The node's certificate and the authority's, in PEM: `node.crt`.
    Chain,
    /// The folder of the overlay authority, only at its node: `authority/`. The process that faces
    /// the network opens nothing in it.
    AuthorityFolder,
    /// The overlay authority's certificate in PEM: `authority/ca.crt`.
    AuthorityCertificate,
    /// The overlay authority's private key: `authority/ca.key`.
    AuthorityKey,
    /// The revocation list as the authority last signed it, DER: `authority/revoked.crl`.
    AuthorityRevoked,
    /// The audit log of the authority, JSON lines: `authority/audit.jsonl`.
    Audit,
    /// The lock file of the authority's processes: `authority/lock`.
    AuthorityLock,
    /// The newest revocation list, DER: `revoked.crl`.
    Revoked,
    /// The members' signed records, JSON: `members.json`.
    Members,
    /// Where the authority's node is, JSON, not at the authority itself: `authority.json`.
    Authority,
    /// What new flows are steered to after a restart, JSON: `steering.json`.
    Steering,
    /// What happened in the last day, if that is kept on disk, JSON lines: `events.jsonl`.
    Events,
    /// The token of the admin API: `control.token`.
    ControlToken,
    /// One file per invitation: `authority/invitations/`.
    Invitations,
    /// One file per certificate issued: `authority/issued/`.
    Issued,
}

impl NodeFile {
    /// Its path below the folder that it is in.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config.toml",
            Self::Key => "node.key",
            Self::Chain => "node.crt",
            Self::AuthorityFolder => "authority",
            Self::AuthorityCertificate => "authority/ca.crt",
            Self::AuthorityKey => "authority/ca.key",
            Self::AuthorityRevoked => "authority/revoked.crl",
            Self::Audit => "authority/audit.jsonl",
            Self::AuthorityLock => "authority/lock",
            Self::Revoked => "revoked.crl",
            Self::Members => "members.json",
            Self::Authority => "authority.json",
            Self::Steering => "steering.json",
            Self::Events => "events.jsonl",
            Self::ControlToken => "control.token",
            Self::Invitations => "authority/invitations",
            Self::Issued => "authority/issued",
        }
    }

    pub(super) fn is_secret(self) -> bool {
        matches!(self, Self::Key | Self::AuthorityKey | Self::ControlToken)
    }

    pub(super) fn is_state(self) -> bool {
        STATE.contains(&self)
    }
}
