//! An overlay in a temporary folder, for the tests of this module.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::{
    Actor, Attributes, Authority, AuthorityError, Clock, Credentials, Deed, NodeDir, NodeIdentity,
    NodeKey, NodeName, RevocationList, UnixTime,
};

/// 1 January 2030: the time of the tests that read no clock.
pub(crate) const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_893_456_000));

/// [`NOW`] and some seconds.
pub(crate) fn after(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW.as_secs() + seconds))
}

/// An authority in a folder that goes when the value does.
pub(crate) struct Overlay {
    pub(crate) authority: Authority,
    pub(crate) dir: NodeDir,
    _folder: tempfile::TempDir,
}

impl Overlay {
    /// An authority made long ago: in 2020.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(folder.path());
        dir.begin().unwrap();
        let long_ago = UnixTime::since_unix_epoch(Duration::from_secs(1_577_836_800));
        let authority = Authority::create(&dir, long_ago).unwrap();
        Self { authority, dir, _folder: folder }
    }

    /// A node with a certificate of `now` and no role.
    pub(crate) fn node(&self, name: &str, now: UnixTime) -> NodeIdentity {
        self.node_with(&Attributes::entry(name.parse().unwrap()), now)
    }

    /// Revokes a name by the authority's own node.
    pub(crate) fn revoke(
        &self,
        name: &NodeName,
        now: UnixTime,
    ) -> Result<RevocationList, AuthorityError> {
        self.authority.revoke(name, Actor::Node, now)
    }

    /// The next certificate for this signing request.
    pub(crate) fn renew(
        &self,
        request: &[u8],
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        self.authority.renew(request, Actor::Node, now)
    }

    pub(crate) fn node_with(&self, attributes: &Attributes, now: UnixTime) -> NodeIdentity {
        let key = NodeKey::generate().unwrap();
        let request = key.signing_request().unwrap();
        let chain =
            self.authority.issue(&request, attributes, (Deed::Join, Actor::Node), now).unwrap();
        NodeIdentity::new(&key, chain, self.authority.revocations().unwrap().der()).unwrap()
    }
}

/// The credentials of a node that starts as `identity`, by the system's clock.
pub(crate) fn live(identity: &NodeIdentity) -> Credentials {
    Credentials::new(identity.clone(), Clock::system()).unwrap()
}

/// The real time, for handshakes: `rustls` reads the clock itself.
pub(crate) fn real_now() -> UnixTime {
    UnixTime::now()
}
