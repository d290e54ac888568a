//! A peer's identity, from its certificate.

use std::{fmt, time::Duration};

use rustls::pki_types::CertificateDer;
use x509_parser::{oid_registry::Oid, parse_x509_certificate};

use super::{
    Attributes, AttributesError, Fingerprint, NodeName, Roles, UnixTime,
    attributes::EXTENSION,
    digest::{hex, unhex},
};

/// A node as its certificate describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node's name.
    pub name: NodeName,
    /// What it may do for others.
    pub roles: Roles,
    /// Its groups, for policy.
    pub groups: Vec<String>,
    /// The domain suffixes and CIDRs it may serve as an exit; empty means no limit.
    pub serves: Vec<String>,
    /// The serial number of its certificate, by which it is revoked.
    pub serial: Serial,
    /// The start of its certificate, up to an hour before the certificate was issued. It rises with
    /// each certificate of a name, so the newer of two is known by it.
    pub starts: UnixTime,
    /// When its certificate ends.
    pub expires: UnixTime,
    /// The SHA-256 of its public key. A node keeps its key when its certificate is renewed, so this
    /// distinguishes a renewed node from the next holder of its name.
    pub key: Fingerprint,
}

/// How far certificates are backdated at most, for nodes whose clock is behind the authority's.
pub(super) const BACKDATED: Duration = Duration::from_secs(3600);

/// A certificate's serial number: 16 bytes, of which the first is 0x40 to 0x7f.
///
/// So it is positive, has one length, and DER writes it without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial([u8; 16]);

/// The peer's certificate cannot be read as a node's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The peer showed no certificate.
    #[error("the peer showed no certificate; it has to join the overlay first")]
    Anonymous,
    /// Not X.509, or not one that an overlay authority issues.
    #[error("the certificate is no node's certificate; make the node again with `ronproxy join`")]
    Foreign,
    /// The attributes are out of bounds or of another version.
    #[error(transparent)]
    Attributes(#[from] AttributesError),
}

impl Peer {
    /// Reads a node's certificate, and does not verify it. The certificate must come from a
    /// completed handshake, or from the node's own folder.
    ///
    /// # Errors
    /// When it is no node's certificate.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| PeerError::Foreign)?;
        let oid = Oid::from(EXTENSION).map_err(|_| PeerError::Foreign)?;
        let extension =
            parsed.get_extension_unique(&oid).ok().flatten().ok_or(PeerError::Foreign)?;
        let attributes = Attributes::decode(extension.value)?;
        let seconds = |at: x509_parser::time::ASN1Time| {
            u64::try_from(at.timestamp()).map(unix).map_err(|_| PeerError::Foreign)
        };
        Ok(Self {
            name: attributes.name,
            roles: attributes.roles,
            groups: attributes.groups,
            serves: attributes.serves,
            serial: Serial::from_raw(parsed.raw_serial()).ok_or(PeerError::Foreign)?,
            starts: seconds(parsed.validity().not_before)?,
            expires: seconds(parsed.validity().not_after)?,
            key: Fingerprint::of(&parsed.public_key().subject_public_key.data),
        })
    }

    /// How long the certificate is valid from its issue on. Certificates are backdated by an hour,
    /// or by their own lifetime if that is shorter.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        let whole = self.expires.as_secs().saturating_sub(self.starts.as_secs());
        Duration::from_secs(whole.saturating_sub(BACKDATED.as_secs()).max(whole / 2))
    }

    /// Whether `now` is within the certificate's dates.
    #[must_use]
    pub fn is_in_time(&self, now: UnixTime) -> bool {
        self.starts <= now && now < self.expires
    }

    /// The attributes with which the certificate was issued.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        Attributes {
            name: self.name.clone(),
            roles: self.roles,
            groups: self.groups.clone(),
            serves: self.serves.clone(),
        }
    }
}

/// The peer of an established connection, as its verified certificate describes it.
///
/// For an accepted connection use [`accepted`](super::accepted), which checks the protocol too.
///
/// # Errors
/// When the peer showed no certificate, or one that is no node's.
pub fn peer_of(connection: &noq::Connection) -> Result<Peer, PeerError> {
    let chain = certificates_of(connection).ok_or(PeerError::Anonymous)?;
    Peer::from_certificate(chain.first().ok_or(PeerError::Anonymous)?)
}

/// The peer's own certificate, of an established connection.
#[must_use]
pub fn certificate_of(connection: &noq::Connection) -> Option<CertificateDer<'static>> {
    certificates_of(connection)?.into_iter().next()
}

/// The certificates that the peer showed, the node's own first.
pub(super) fn certificates_of(
    connection: &noq::Connection,
) -> Option<Vec<CertificateDer<'static>>> {
    let identity = connection.peer_identity()?;
    identity.downcast::<Vec<CertificateDer<'static>>>().ok().map(|chain| *chain)
}

/// `seconds` since 1970 as a time.
pub(super) fn unix(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

impl Serial {
    /// A serial number from 16 unique bytes, such as those of a hash.
    pub(super) fn from_unique(mut bytes: [u8; 16]) -> Self {
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Self(bytes)
    }

    pub(super) fn from_raw(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 16] = bytes.try_into().ok()?;
        (bytes[0] & 0xc0 == 0x40).then_some(Self(bytes))
    }

    pub(super) fn from_hex(text: &str) -> Option<Self> {
        Self::from_raw(&unhex::<16>(text)?)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_support::{NOW, Overlay};

    #[test]
    fn a_peer_is_what_its_certificate_says() {
        let overlay = Overlay::new();
        let mut attributes = Attributes::entry("utah".parse().unwrap());
        attributes.roles.exit = true;
        attributes.groups = vec!["research".into()];
        attributes.serves = vec!["utah.edu".into()];
        let node = overlay.node_with(&attributes, NOW);
        let peer = Peer::from_certificate(&node.chain()[0]).unwrap();
        assert_eq!(peer.attributes(), attributes);
        assert_eq!(peer.expires, unix(NOW.as_secs() + crate::identity::LIFETIME.as_secs()));
    }

    #[test]
    fn a_certificate_of_no_node_is_foreign() {
        let overlay = Overlay::new();
        let authority = overlay.authority.certificate().clone();
        for certificate in [authority, CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])] {
            assert_eq!(Peer::from_certificate(&certificate), Err(PeerError::Foreign));
        }
    }

    #[test]
    fn a_serial_number_reads_back_what_it_prints() {
        for bytes in [[0; 16], [0xff; 16]] {
            let serial = Serial::from_unique(bytes);
            assert_eq!(Serial::from_hex(&serial.to_string()), Some(serial));
        }
        assert_eq!(Serial::from_raw(&[0x40; 15]), None);
        assert_eq!(Serial::from_raw(&[0x80; 16]), None);
    }
}
