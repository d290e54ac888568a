//! Signing: the authority's own certificate, nodes' certificates, revocation lists.

use std::{collections::BTreeMap, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateSigningRequestDer;
use time::OffsetDateTime;

use super::AuthorityError;
use crate::identity::{
    Attributes, Fingerprint, Serial, UnixTime,
    attributes::EXTENSION,
    digest::{hex, sha256},
    ledger::Issued,
    node::KEY_KIND,
    peer::BACKDATED,
    tls::server_name,
};

/// Certificates that one revocation list names: with 37 bytes each they fit a message on a link.
/// 200 nodes with four certificates each, all revoked, need half of that.
pub(super) const MAX_LISTED: usize = 1600;

/// The authority's own lifetime: 20 years. There is no way yet to change an overlay's authority.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// The `nextUpdate` of a revocation list. X.509 requires a date; nodes do not enforce it (see
/// [`RevocationList`](crate::identity::RevocationList)).
const LIST_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// The largest signing request read: ours are under 300 bytes.
const MAX_REQUEST: usize = 2048;

/// A signing request (PKCS#10) of an acceptable key, which signed it: the one who made it has the
/// private key. Others may have copied it.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    der: Vec<u8>,
    key: Fingerprint,
}

impl SigningRequest {
    /// Reads a request in DER, and checks its signature.
    ///
    /// # Errors
    /// [`AuthorityError::Request`].
    pub fn parse(der: Vec<u8>) -> Result<Self, AuthorityError> {
        let key = key_hash(&requested_key(&der)?);
        Ok(Self { der, key })
    }

    /// The SHA-256 of its public key, as [`Peer::key`](crate::identity::Peer::key).
    #[must_use]
    pub fn key(&self) -> Fingerprint {
        self.key
    }

    /// The request in DER.
    #[must_use]
    pub fn into_der(self) -> Vec<u8> {
        self.der
    }
}

/// Reads a signing request and checks its signature: the public key is one whose private key the
/// asker has.
pub(super) fn requested_key(request: &[u8]) -> Result<rcgen::PublicKey, AuthorityError> {
    if request.len() > MAX_REQUEST {
        return Err(AuthorityError::Request(format!("more than {MAX_REQUEST} bytes")));
    }
    let request =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
            .map_err(|error| AuthorityError::Request(error.to_string()))?;
    if request.public_key.algorithm() != KEY_KIND {
        return Err(AuthorityError::Request("not an Ed25519 key".into()));
    }
    Ok(request.public_key)
}

/// The serial number of the certificate for this request. It is unique: each node has a key of its own, and
/// two certificates of one second for one key are the same.
pub(super) fn serial(request: &[u8], now: UnixTime) -> Serial {
    let digest = sha256(&[request, &now.as_secs().to_be_bytes()].concat());
    let mut unique = [0; 16];
    unique.copy_from_slice(&digest[..16]);
    Serial::from_unique(unique)
}

/// The content of the authority's own certificate.
pub(super) fn authority_params(
    key: &KeyPair,
    now: UnixTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    // Authorities differ in name, so that a foreign certificate is of an unknown issuer.
    let tag = hex(&sha256(key.public_key_raw())[..4]);
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = format!("ronproxy overlay authority {tag}");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date(now.as_secs().saturating_sub(BACKDATED.as_secs()))?;
    params.not_after = date(now.as_secs().saturating_add(AUTHORITY_LIFETIME.as_secs()))?;
    Ok(params)
}

/// The content of a node's certificate.
pub(super) fn node_params(
    attributes: &Attributes,
    serial: Serial,
    issued: &Issued,
) -> Result<CertificateParams, AuthorityError> {
    let name = server_name(&attributes.name);
    let mut params = CertificateParams::new(vec![name])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, attributes.name.as_str());
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.custom_extensions =
        vec![CustomExtension::from_oid_content(EXTENSION, attributes.encode()?)];
    params.not_before = date(issued.starts)?;
    params.not_after = date(issued.not_after)?;
    Ok(params)
}

/// Signs revocation list `number`, in DER: serial numbers, and when each was revoked.
pub(super) fn revocation_list(
    issuer: &Issuer<'static, KeyPair>,
    number: u64,
    revoked: BTreeMap<Serial, u64>,
    now: UnixTime,
) -> Result<Vec<u8>, AuthorityError> {
    if revoked.len() > MAX_LISTED {
        return Err(AuthorityError::ListFull);
    }
    let revoked = revoked.into_iter().map(|(serial, at)| {
        Ok(RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial.as_bytes()),
            revocation_time: date(at)?,
            reason_code: None,
            invalidity_date: None,
        })
    });
    let params = CertificateRevocationListParams {
        this_update: date(now.as_secs())?,
        next_update: date(now.as_secs().saturating_add(LIST_LIFETIME.as_secs()))?,
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect::<Result<_, rcgen::Error>>()?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(issuer)?.der().to_vec())
}

/// The hash that identifies a key in the record.
pub(super) fn key_hash(key: &rcgen::PublicKey) -> Fingerprint {
    Fingerprint::of(rcgen::PublicKeyData::der_bytes(key))
}

fn date(seconds: u64) -> Result<OffsetDateTime, rcgen::Error> {
    let seconds = i64::try_from(seconds).map_err(|_| rcgen::Error::Time)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| rcgen::Error::Time)
}
