//! A node's own key and certificate.

use std::{fmt, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{CertificateParams, KeyPair};
use ring::hmac;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use super::{
    NodeDir, NodeFile, NodeName, Peer, PeerError, RevocationError, RevocationList, StatementKey,
    StoreError, TlsError, UnixTime, agreement::shared_secret, tls::provider,
};

/// The kind of all keys of an overlay. Its signatures have one length, so packets have the same size in each
/// run of a lab.
pub(super) const KEY_KIND: &rcgen::SignatureAlgorithm = &rcgen::PKCS_ED25519;

/// A node's private key: Ed25519. Its `Debug` shows nothing of it.
pub struct NodeKey(KeyPair);

/// A node's identity: its key, its certificate chain, and the overlay's revocation list, against
/// which it checks others.
#[derive(Clone)]
pub struct NodeIdentity {
    chain: Vec<CertificateDer<'static>>,
    pkcs8: Arc<PrivatePkcs8KeyDer<'static>>,
    peer: Peer,
    revoked: RevocationList,
}

/// Key, certificate and revocation list do not make an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not the node's certificate followed by the authority's.
    #[error("node.crt needs the node's certificate and the authority's; join the overlay again")]
    Chain,
    /// The certificate is for another key.
    #[error("node.key is not the key of node.crt; restore both from one backup or join again")]
    Key,
    /// The operating system gave no randomness, or the key is unusable.
    #[error("a key could not be made or used: {0}; try again")]
    Crypto(String),
    /// A new certificate that the overlay's authority did not issue.
    #[error("the new certificate is not from this overlay's authority; the old one stays")]
    NotIssued,
    /// The node's certificate.
    #[error(transparent)]
    Certificate(#[from] PeerError),
    /// `rustls` refuses the identity.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The revocation list.
    #[error(transparent)]
    Revocations(#[from] RevocationError),
    /// The node's folder.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether a node asks for its next certificate: a third of the present one's lifetime has passed.
///
/// Two thirds are then left to reach the authority: more than four days of seven.
#[must_use]
pub fn needs_renewal(certificate: &Peer, now: UnixTime) -> bool {
    let left = certificate.expires.as_secs().saturating_sub(now.as_secs());
    left <= certificate.lifetime().as_secs() * 2 / 3
}

impl NodeKey {
    /// Draws a new key from the operating system.
    ///
    /// # Errors
    /// When it gives no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        KeyPair::generate_for(KEY_KIND).map(Self).map_err(crypto)
    }

    /// A PKCS#10 signing request in DER. Its signature proves the possession of the key; the
    /// authority takes nothing else from it.
    ///
    /// # Errors
    /// When signing fails.
    pub fn signing_request(&self) -> Result<Vec<u8>, IdentityError> {
        let request = CertificateParams::default().serialize_request(&self.0).map_err(crypto)?;
        Ok(request.der().to_vec())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

impl NodeIdentity {
    /// Puts together what [`Authority::issue`](super::Authority::issue) returned and the key.
    ///
    /// # Errors
    /// When the parts do not belong together.
    pub fn new(
        key: &NodeKey,
        chain: Vec<CertificateDer<'static>>,
        revocations: &[u8],
    ) -> Result<Self, IdentityError> {
        Self::assemble(key.0.serialized_der().to_vec().into(), chain, revocations)
    }

    /// Reads the identity that is kept in `dir`.
    ///
    /// # Errors
    /// When a file is missing or damaged, the parts do not belong together, or others can read
    /// the key.
    pub fn load(dir: &NodeDir) -> Result<Self, IdentityError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(&dir.read(NodeFile::Key)?)
            .map_err(|_| dir.damaged(NodeFile::Key, "not a PKCS#8 private key in PEM"))?;
        let chain = CertificateDer::pem_slice_iter(&dir.read(NodeFile::Chain)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| dir.damaged(NodeFile::Chain, "not certificates in PEM"))?;
        Self::assemble(key, chain, &dir.read(NodeFile::Revoked)?)
    }

    /// Writes the identity to `dir`, the key last. A folder with a key is a complete node.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, dir: &NodeDir) -> Result<(), IdentityError> {
        dir.write(NodeFile::Revoked, self.revoked.der())?;
        self.save_chain(dir)?;
        dir.write(NodeFile::Key, to_pem("PRIVATE KEY", self.pkcs8.secret_pkcs8_der()).as_bytes())?;
        Ok(())
    }

    /// Keeps the certificates alone, after a renewal.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn save_chain(&self, dir: &NodeDir) -> Result<(), IdentityError> {
        let chain: String = self.chain.iter().map(|der| to_pem("CERTIFICATE", der)).collect();
        Ok(dir.write(NodeFile::Chain, chain.as_bytes())?)
    }

    /// Keeps the revocation list alone, unless a newer one is there: the authority's commands
    /// write theirs in the same place.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub(super) fn save_revocations(&self, dir: &NodeDir) -> Result<(), IdentityError> {
        let kept = dir.read(NodeFile::Revoked)?;
        if RevocationList::number_of(&kept).is_none_or(|kept| kept < self.revoked.number()) {
            dir.write(NodeFile::Revoked, self.revoked.der())?;
        }
        Ok(())
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.peer.name
    }

    /// The node as others see it.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The node's certificate and the authority's.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The overlay authority's certificate.
    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.chain[1]
    }

    /// The revocation list in force.
    #[must_use]
    pub fn revoked(&self) -> &RevocationList {
        &self.revoked
    }

    /// A request for the next certificate of the same key.
    ///
    /// # Errors
    /// When signing fails.
    pub fn signing_request(&self) -> Result<Vec<u8>, IdentityError> {
        NodeKey(KeyPair::try_from(&*self.pkcs8).map_err(crypto)?).signing_request()
    }

    /// The identity with the next certificate.
    ///
    /// # Errors
    /// When the certificate is not for this node's key, name and authority.
    pub fn renewed(&self, chain: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        let next = Self::assemble(self.pkcs8.clone_key(), chain, self.revoked.der())?;
        if next.authority() != self.authority() || next.name() != self.name() {
            return Err(IdentityError::Chain);
        }
        Ok(next)
    }

    /// Takes over a revocation list, if it is newer and signed by this overlay's authority. If it
    /// returns true, the caller closes connections to revoked peers and passes the list on.
    ///
    /// # Errors
    /// When the list is forged or unreadable.
    pub fn learn_revocations(&mut self, der: &[u8]) -> Result<bool, RevocationError> {
        // A list that is not newer needs no verification.
        if RevocationList::number_of(der).is_some_and(|number| number <= self.revoked.number()) {
            return Ok(false);
        }
        self.revoked = RevocationList::parse(der, self.authority())?;
        Ok(true)
    }

    /// The secret that this node shares with the member of this key alone. `None`: no such key exists.
    pub(super) fn shared_with(&self, member: &StatementKey) -> Option<[u8; 32]> {
        shared_secret(&self.pkcs8, member)
    }

    /// The key of a purpose of this node's own, from its private key: the same after a restart, and secret.
    pub(crate) fn key_for(&self, purpose: &[u8]) -> hmac::Key {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.pkcs8.secret_pkcs8_der());
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, purpose).as_ref())
    }

    /// The certificate chain and the key for `rustls`.
    pub(super) fn certified(&self) -> Result<CertifiedKey, rustls::Error> {
        let key = PrivateKeyDer::Pkcs8(self.pkcs8.clone_key());
        CertifiedKey::from_der(self.chain.clone(), key, &provider())
    }

    fn assemble(
        key: PrivatePkcs8KeyDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        revocations: &[u8],
    ) -> Result<Self, IdentityError> {
        let [own, authority] = chain.as_slice() else {
            return Err(IdentityError::Chain);
        };
        let peer = Peer::from_certificate(own)?;
        let revoked = RevocationList::parse(revocations, authority)?;
        // It checks that the key is the certificate's.
        CertifiedKey::from_der(chain.clone(), PrivateKeyDer::Pkcs8(key.clone_key()), &provider())
            .map_err(|_| IdentityError::Key)?;
        Ok(Self { chain, pkcs8: Arc::new(key), peer, revoked })
    }
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeIdentity({}, {:?})", self.peer.name, self.revoked)
    }
}

/// `der` in PEM (RFC 7468).
pub(super) fn to_pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let lines: Vec<_> = lines.collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn crypto(error: rcgen::Error) -> IdentityError {
    IdentityError::Crypto(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::identity::{
        Actor, Attributes, Authority, Deed, LIFETIME,
        test_support::{NOW, Overlay, after},
    };

    #[test]
    fn a_saved_identity_loads_again() {
        let overlay = Overlay::new();
        let node = overlay.node("utah", NOW);
        let folder = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(folder.path());
        node.save(&dir).unwrap();
        let loaded = NodeIdentity::load(&dir).unwrap();
        assert_eq!(loaded.chain(), node.chain());
        assert_eq!(loaded.pkcs8.secret_pkcs8_der(), node.pkcs8.secret_pkcs8_der());
    }

    #[test]
    fn the_key_of_another_node_is_refused() {
        let overlay = Overlay::new();
        let (a, b) = (overlay.node("a", NOW), overlay.node("b", NOW));
        let mixed = NodeIdentity::assemble(b.pkcs8.clone_key(), a.chain.clone(), a.revoked.der());
        assert!(matches!(mixed, Err(IdentityError::Key)), "{mixed:?}");
    }

    #[test]
    fn no_key_shows_in_debug_output() {
        let node = Overlay::new().node("utah", NOW);
        assert_eq!(
            format!("{node:?}"),
            "NodeIdentity(utah, RevocationList(#1577836800, 0 revoked))"
        );
        assert_eq!(format!("{:?}", NodeKey::generate().unwrap()), "NodeKey(..)");
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_has_passed() {
        let overlay = Overlay::new();
        let key = NodeKey::generate().unwrap();
        for lifetime in [LIFETIME, Duration::from_secs(30), Duration::from_secs(3600 * 3)] {
            let attributes = Attributes::entry(format!("n{}", lifetime.as_secs()).parse().unwrap());
            let request = key.signing_request().unwrap();
            let authority = Authority::load(&overlay.dir).unwrap().with_lifetime(lifetime);
            let by = (Deed::Join, Actor::Node);
            let chain = authority.issue(&request, &attributes, by, NOW).unwrap();
            let peer = Peer::from_certificate(&chain[0]).unwrap();
            assert_eq!(peer.lifetime(), lifetime);
            let third = lifetime.as_secs() / 3;
            for (seconds, needed) in
                [(0, false), (third - 1, false), (third, true), (9_000_000_000, true)]
            {
                assert_eq!(needs_renewal(&peer, after(seconds)), needed, "after {seconds} s");
            }
        }
    }

    #[test]
    fn only_a_newer_revocation_list_is_taken_over() {
        let overlay = Overlay::new();
        let mut node = overlay.node("utah", NOW);
        overlay.node("mit", NOW);
        let old = node.revoked().der().to_vec();
        let new = overlay.revoke(&"mit".parse().unwrap(), NOW).unwrap();
        assert_eq!(node.learn_revocations(new.der()), Ok(true));
        assert_eq!(node.learn_revocations(new.der()), Ok(false));
        assert_eq!(node.learn_revocations(&old), Ok(false));
        assert_eq!(node.revoked(), &new);
    }
}
