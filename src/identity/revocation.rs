//! Revocation lists.

use std::{collections::BTreeMap, fmt};

use rustls::{
    pki_types::{CertificateDer, CertificateRevocationListDer},
    server::WebPkiClientVerifier,
};
use x509_parser::{parse_x509_certificate, parse_x509_crl};

use super::{
    Peer, Serial,
    tls::{provider, roots},
};

/// The largest revocation list accepted. It fits a message on a link, and has room for 1,600
/// revoked certificates. A list leaves out certificates that ended long ago.
const MAX_LEN: usize = 63 * 1024;

/// A certificate revocation list (X.509 CRL) whose signature was checked.
///
/// A list has a number that only rises. A node keeps the list with the highest number, passes it
/// on, and closes connections to peers that the list [`contains`](Self::contains). Nodes do not
/// enforce `nextUpdate`, so that an overlay works while its authority is away.
#[derive(Clone, PartialEq, Eq)]
pub struct RevocationList {
    der: Vec<u8>,
    number: u64,
    /// When each was revoked, in seconds since 1970.
    serials: BTreeMap<Serial, u64>,
}

/// The bytes are no revocation list of this overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// Larger than any list this program makes.
    #[error("the revocation list is larger than 63 KiB; ask the overlay's authority for a new one")]
    TooLarge,
    /// Not a CRL.
    #[error("the revocation list is unreadable; ask the overlay's authority for a new one")]
    Unreadable,
    /// Signed by somebody else.
    #[error("the revocation list is not signed by this overlay's authority; ignore its sender")]
    Forged,
}

impl RevocationList {
    /// Reads a list and checks that `authority` signed it.
    ///
    /// # Errors
    /// When it is too large, unreadable, or signed by somebody else.
    pub fn parse(der: &[u8], authority: &CertificateDer<'_>) -> Result<Self, RevocationError> {
        if der.len() > MAX_LEN {
            return Err(RevocationError::TooLarge);
        }
        let (rest, crl) = parse_x509_crl(der).map_err(|_| RevocationError::Unreadable)?;
        let (_, ca) = parse_x509_certificate(authority).map_err(|_| RevocationError::Unreadable)?;
        if !rest.is_empty() {
            return Err(RevocationError::Unreadable);
        }
        crl.verify_signature(ca.public_key()).map_err(|_| RevocationError::Forged)?;
        check_with_webpki(der, authority)?;
        let number = crl.crl_number().and_then(|number| u64::try_from(number).ok());
        let serials = crl.iter_revoked_certificates().map(|revoked| {
            let at = u64::try_from(revoked.revocation_date.timestamp()).ok()?;
            Some((Serial::from_raw(revoked.raw_serial())?, at))
        });
        Ok(Self {
            der: der.to_vec(),
            number: number.ok_or(RevocationError::Unreadable)?,
            serials: serials.collect::<Option<_>>().ok_or(RevocationError::Unreadable)?,
        })
    }

    /// The number of a list whose signature is not checked.
    pub(super) fn number_of(der: &[u8]) -> Option<u64> {
        if der.len() > MAX_LEN {
            return None;
        }
        let (_, crl) = parse_x509_crl(der).ok()?;
        u64::try_from(crl.crl_number()?).ok()
    }

    /// Whether the peer's certificate is revoked.
    #[must_use]
    pub fn contains(&self, peer: &Peer) -> bool {
        self.serials.contains_key(&peer.serial)
    }

    /// Whether the certificate with this serial number is revoked.
    #[must_use]
    pub fn lists(&self, serial: Serial) -> bool {
        self.serials.contains_key(&serial)
    }

    /// The list's number: of two lists of one overlay the higher counts.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The revoked certificates, and when each was revoked, in seconds since 1970.
    pub fn entries(&self) -> impl Iterator<Item = (Serial, u64)> + '_ {
        self.serials.iter().map(|(serial, at)| (*serial, *at))
    }

    /// How many certificates are revoked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.serials.len()
    }

    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }

    /// The list as it is passed on.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub(super) fn to_crl(&self) -> CertificateRevocationListDer<'static> {
        self.der.clone().into()
    }
}

/// Refuses a list that `webpki`, the stricter reader, refuses. Otherwise a list that was altered in
/// an unsigned part would be kept, and no TLS configuration could use it.
fn check_with_webpki(der: &[u8], authority: &CertificateDer<'_>) -> Result<(), RevocationError> {
    let roots = roots(authority).map_err(|_| RevocationError::Unreadable)?;
    WebPkiClientVerifier::builder_with_provider(roots, provider())
        .with_crls([CertificateRevocationListDer::from(der.to_vec())])
        .build()
        .map(|_| ())
        .map_err(|_| RevocationError::Unreadable)
}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RevocationList(#{}, {} revoked)", self.number, self.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::test_support::{NOW, Overlay};

    #[test]
    fn only_the_overlays_own_authority_revokes() {
        let (ours, other) = (Overlay::new(), Overlay::new());
        let node = ours.node("utah", NOW);
        let list = ours.revoke(node.name(), NOW).unwrap();
        assert!(list.contains(node.peer()));
        let read =
            |overlay: &Overlay| RevocationList::parse(list.der(), overlay.authority.certificate());
        assert_eq!(read(&ours), Ok(list.clone()));
        assert_eq!(read(&other), Err(RevocationError::Forged));
    }

    #[test]
    fn an_altered_list_is_refused() {
        let overlay = Overlay::new();
        let der = overlay.authority.revocations().unwrap().der().to_vec();
        for at in 0..der.len() {
            let mut altered = der.clone();
            altered[at] ^= 1;
            assert!(
                RevocationList::parse(&altered, overlay.authority.certificate()).is_err(),
                "byte {at}"
            );
        }
    }

    #[test]
    fn a_list_beyond_the_cap_is_refused() {
        let overlay = Overlay::new();
        let read = RevocationList::parse(&vec![0; MAX_LEN + 1], overlay.authority.certificate());
        assert_eq!(read, Err(RevocationError::TooLarge));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = RevocationList::parse(&bytes, &CertificateDer::from(bytes.clone()));
        }
    }
}
