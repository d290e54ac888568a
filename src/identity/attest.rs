//! Statements that travel through other nodes: a signature proves who made them.
//!
//! The key is the node's TLS key. A statement begins with a context string. TLS 1.3 signatures
//! begin with 64 spaces instead (RFC 8446, section 4.4.3), so neither can be used in place of the
//! other.

use std::sync::LazyLock;

use rustls::{
    SignatureScheme,
    pki_types::{CertificateDer, SignatureVerificationAlgorithm},
    sign::{CertifiedKey, Signer},
};
use serde::{Deserialize, Serialize};
use x509_parser::parse_x509_certificate;

use super::{TlsError, tls::provider};

/// The signature scheme of every node's key: Ed25519.
const SCHEME: SignatureScheme = SignatureScheme::ED25519;

/// The prefix of every signed statement.
pub(super) const CONTEXT: &[u8] = b"ronproxy statement 1\0";

/// A statement is not proved to be its author's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// The author's certificate is not known and did not come with the statement.
    #[error("the certificate of its author is missing")]
    NoCertificate,
    /// The certificate is not valid for this member: foreign, expired, revoked, or another node's.
    #[error("the certificate is not its author's, or is not valid now")]
    Certificate,
    /// The signature is not by the certificate's key over these bytes.
    #[error("not signed by its author")]
    Signature,
    /// The author claims what its certificate does not allow.
    #[error("its author claims more than its certificate says")]
    Overclaimed,
}

impl AttestError {
    /// The stable name, as in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::Certificate => "bad-certificate",
            Self::Signature => "bad-signature",
            Self::Overclaimed => "overclaimed",
        }
    }
}

/// Signs statements with a node's key.
///
/// # Errors
/// When the key is of another kind, which `ronproxy` never makes.
pub(super) fn signer(certified: &CertifiedKey) -> Result<Box<dyn Signer>, TlsError> {
    let unusable = || {
        rustls::Error::General("the node's key is not an Ed25519 key: join the overlay anew".into())
    };
    Ok(certified.key.choose_scheme(&[SCHEME]).ok_or_else(unusable)?)
}

/// The key of a certificate, read once. A node checks advertisements several times a second, and
/// reading the certificate again for each would cost about as much as the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementKey([u8; 32]);

impl StatementKey {
    /// Reads the key of `certificate`. The caller decides whether it trusts the certificate.
    ///
    /// # Errors
    /// [`AttestError::Certificate`] if it is unreadable.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, AttestError> {
        let parsed = parse_x509_certificate(certificate);
        let (_, parsed) = parsed.map_err(|_| AttestError::Certificate)?;
        let key = parsed.public_key().subject_public_key.data.as_ref();
        key.try_into().map(Self).map_err(|_| AttestError::Certificate)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Checks that this key signed `statement`.
    ///
    /// # Errors
    /// [`AttestError::Signature`].
    pub fn check(&self, statement: &[u8], signature: &[u8]) -> Result<(), AttestError> {
        let message = [CONTEXT, statement].concat();
        algorithms()
            .iter()
            .any(|algorithm| algorithm.verify_signature(&self.0, &message, signature).is_ok())
            .then_some(())
            .ok_or(AttestError::Signature)
    }
}

/// The algorithms that check [`SCHEME`]. A provider is a large table, so it is not built for each
/// signature.
fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    static ALGORITHMS: LazyLock<Vec<&'static dyn SignatureVerificationAlgorithm>> =
        LazyLock::new(|| {
            let provider = provider();
            let known = provider.signature_verification_algorithms.mapping.iter();
            let ours = known.filter(|(scheme, _)| *scheme == SCHEME);
            ours.flat_map(|(_, algorithms)| *algorithms).copied().collect()
        });
    &ALGORITHMS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{
        LIFETIME,
        test_support::{NOW, Overlay, after, live},
    };

    #[test]
    fn a_statement_is_its_authors_and_of_nobody_else() {
        let overlay = Overlay::new();
        let (utah, mit) = (overlay.node("utah", NOW), overlay.node("mit", NOW));
        let signature = live(&utah).sign(b"I am up").unwrap();
        assert!(signature.len() <= 72);
        let [own, other] = [&utah, &mit].map(|node| StatementKey::of(&node.chain()[0]).unwrap());
        assert_eq!(own.check(b"I am up", &signature), Ok(()));
        let refused = Err(AttestError::Signature);
        assert_eq!(own.check(b"I am Up", &signature), refused);
        assert_eq!(other.check(b"I am up", &signature), refused);
        assert_eq!(own.check(b"I am up", &[]), refused);
        assert_eq!(own.check(b"I am up", &[0x30; 500]), refused);
        let nonsense = CertificateDer::from(vec![0x30; 600]);
        assert_eq!(StatementKey::of(&nonsense), Err(AttestError::Certificate));
    }

    #[test]
    fn only_a_members_valid_certificate_counts() {
        let (overlay, foreign) = (Overlay::new(), Overlay::new());
        let judge = overlay.node("mit", NOW);
        let (utah, stranger) = (overlay.node("utah", NOW), foreign.node("utah", NOW));
        let trust = live(&judge);
        let own = &utah.chain()[0];
        assert_eq!(trust.member(own, NOW).as_ref(), Ok(utah.peer()));
        let refused = Err(AttestError::Certificate);
        assert_eq!(trust.member(own, after(LIFETIME.as_secs() + 1)), refused);
        assert_eq!(trust.member(&stranger.chain()[0], NOW), refused);
        assert_eq!(trust.member(&CertificateDer::from(vec![0x30; 600]), NOW), refused);
        let list = overlay.revoke(utah.name(), NOW).unwrap();
        trust.learn_revocations(list.der()).unwrap();
        assert_eq!(trust.member(own, NOW), refused);
    }
}
