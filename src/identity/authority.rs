//! The overlay authority: a small X.509 certificate authority.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject as _};
use time::OffsetDateTime;

use super::{
    Attributes, AttributesError, Fingerprint, NodeDir, NodeFile, NodeName, Peer, RevocationError,
    RevocationList, Serial, StoreError, UnixTime,
    attributes::EXTENSION,
    digest::{hex, sha256},
    ledger::{Issued, Ledger, MAX_ISSUED},
    tls::server_name,
};

/// How long a node's certificate is valid: 90 days, so that a node may be off for two months and
/// still renew, and what a stolen key can do has an end.
pub const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// How far certificates are backdated, for nodes whose clock is behind the authority's.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// The authority's own lifetime: 20 years. There is no way yet to change an overlay's authority.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// When a revocation list asks to be replaced. Nobody enforces it (see [`RevocationList`]); X.509
/// wants a date.
const LIST_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// The largest signing request read: ours are under 300 bytes.
const MAX_REQUEST: usize = 2048;

/// The overlay authority, on the one node that has its key.
///
/// It issues ECDSA P-256 certificates with the DNS name of [`server_name`] and the node's
/// [`Attributes`] in an extension of their own, and keeps on record what it issued. A name belongs
/// to one node at a time: it is free again when its certificates have expired or are revoked.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    dir: NodeDir,
    ledger: Ledger,
}

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
    #[error("{0} is the name of a live node; choose another, or `ronproxy revoke {0}` first")]
    NameTaken(NodeName),
    /// Nothing to revoke.
    #[error("no live node is named {0}; `ronproxy links` lists the nodes")]
    NoSuchNode(NodeName),
    /// The certificate to be renewed is revoked or not on record.
    #[error("the certificate of {0} cannot be renewed; ask for an invitation and join again")]
    NotRenewable(NodeName),
    /// The record is full.
    #[error("{MAX_ISSUED} certificates are on record; wait until some have expired")]
    Full,
    /// The authority's folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `rcgen` refused.
    #[error("a certificate could not be made: {0}; check this machine's date")]
    Issue(#[from] rcgen::Error),
    /// The authority's own revocation list is damaged.
    #[error("revoked.crl: {0}; remove it and revoke again")]
    Revocations(#[from] RevocationError),
}

impl Authority {
    /// Makes a new authority in `dir`, which [`NodeDir::begin`] prepared.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when one is there, or when the folder cannot be written.
    pub fn create(dir: &NodeDir, now: UnixTime) -> Result<Self, AuthorityError> {
        if dir.has_authority() {
            return Err(StoreError::Exists(dir.path(NodeFile::AuthorityKey)).into());
        }
        let key = KeyPair::generate()?;
        let certificate = authority_params(&key, now)?.self_signed(&key)?;
        dir.write(NodeFile::AuthorityCertificate, certificate.pem().as_bytes())?;
        dir.write(NodeFile::AuthorityKey, key.serialize_pem().as_bytes())?;
        let authority = Self::new(certificate.der().clone(), key, dir)?;
        authority.sign_revocations(now, 1)?;
        Ok(authority)
    }

    /// Opens the authority in `dir`.
    ///
    /// # Errors
    /// When it is missing or damaged, or others can read its key.
    pub fn load(dir: &NodeDir) -> Result<Self, AuthorityError> {
        let certificate = CertificateDer::from_pem_slice(
            &dir.read(NodeFile::AuthorityCertificate)?,
        )
        .map_err(|_| dir.damaged(NodeFile::AuthorityCertificate, "not a certificate in PEM"))?;
        // What the parsers say could quote the key: it is not passed on.
        let key = String::from_utf8(dir.read(NodeFile::AuthorityKey)?)
            .ok()
            .and_then(|pem| KeyPair::from_pem(&pem).ok())
            .ok_or_else(|| dir.damaged(NodeFile::AuthorityKey, "not a private key in PEM"))?;
        Self::new(certificate, key, dir)
    }

    fn new(
        certificate: CertificateDer<'static>,
        key: KeyPair,
        dir: &NodeDir,
    ) -> Result<Self, AuthorityError> {
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate, issuer, dir: dir.clone(), ledger: Ledger::new(dir.clone()) })
    }

    /// The authority's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The fingerprint by which invitations pin the authority.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Whether a live node has this name.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn is_taken(&self, name: &NodeName, now: UnixTime) -> Result<bool, AuthorityError> {
        let live = self.ledger.live(now)?;
        Ok(live.iter().any(|(_, issued)| issued.name == *name && issued.revoked.is_none()))
    }

    /// Issues the first certificate of a node: the chain of it and the authority's own.
    ///
    /// `request` is a PKCS#10 signing request in DER; of it only the public key is used, and its
    /// signature proves that the asker has the private key.
    ///
    /// # Errors
    /// When the name is taken, the request or attributes are not acceptable, or the record is full.
    pub fn issue(
        &self,
        request: &[u8],
        attributes: &Attributes,
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        if self.is_taken(&attributes.name, now)? {
            return Err(AuthorityError::NameTaken(attributes.name.clone()));
        }
        self.sign(request, attributes, lifetime, now)
    }

    /// Issues the next certificate of a node, with the same attributes, to the `peer` at the other
    /// end of a connection.
    ///
    /// # Errors
    /// [`AuthorityError::NotRenewable`] when its certificate is revoked, and as for
    /// [`issue`](Self::issue).
    pub fn renew(
        &self,
        peer: &Peer,
        request: &[u8],
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let live = self.ledger.live(now)?;
        if !live.iter().any(|(serial, issued)| *serial == peer.serial && issued.revoked.is_none()) {
            return Err(AuthorityError::NotRenewable(peer.name.clone()));
        }
        self.sign(request, &peer.attributes(), LIFETIME, now)
    }

    /// Revokes every live certificate of `name` and returns the new revocation list, which is
    /// kept in the folder too.
    ///
    /// # Errors
    /// [`AuthorityError::NoSuchNode`] when there is none, or when the folder cannot be written.
    pub fn revoke(&self, name: &NodeName, now: UnixTime) -> Result<RevocationList, AuthorityError> {
        let mut found = false;
        for (serial, mut issued) in self.ledger.live(now)? {
            if issued.name == *name && issued.revoked.is_none() {
                issued.revoked = Some(now.as_secs());
                self.ledger.put(serial, &issued)?;
                found = true;
            }
        }
        if !found {
            return Err(AuthorityError::NoSuchNode(name.clone()));
        }
        let last = self.revocations()?.number();
        self.sign_revocations(now, last + 1)
    }

    /// The current revocation list.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn revocations(&self) -> Result<RevocationList, AuthorityError> {
        Ok(RevocationList::parse(&self.dir.read(NodeFile::Revoked)?, &self.certificate)?)
    }

    /// Checks a signing request without issuing anything.
    pub(super) fn check_request(request: &[u8]) -> Result<rcgen::PublicKey, AuthorityError> {
        if request.len() > MAX_REQUEST {
            return Err(AuthorityError::Request(format!("more than {MAX_REQUEST} bytes")));
        }
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
                .map_err(|error| AuthorityError::Request(error.to_string()))?;
        if request.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(AuthorityError::Request("not an ECDSA P-256 key".into()));
        }
        Ok(request.public_key)
    }

    fn sign(
        &self,
        request: &[u8],
        attributes: &Attributes,
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let key = Self::check_request(request)?;
        // Unique: a request is signed with fresh randomness, and once per second at most.
        let digest = sha256(&[request, &now.as_secs().to_be_bytes()].concat());
        let mut unique = [0; 16];
        unique.copy_from_slice(&digest[..16]);
        let serial = Serial::from_unique(unique);
        let params = node_params(attributes, serial, lifetime, now)?;
        let not_after = now.as_secs().saturating_add(lifetime.as_secs());
        let issued = Issued { name: attributes.name.clone(), not_after, revoked: None };
        // First on record, then made: what is issued can always be revoked.
        if !self.ledger.add(serial, &issued, now)? {
            return Err(AuthorityError::Full);
        }
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(vec![certificate.der().clone(), self.certificate.clone()])
    }

    fn sign_revocations(
        &self,
        now: UnixTime,
        number: u64,
    ) -> Result<RevocationList, AuthorityError> {
        let revoked = self.ledger.live(now)?.into_iter().filter_map(|(serial, issued)| {
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial.as_bytes()),
                revocation_time: date(issued.revoked?).ok()?,
                reason_code: None,
                invalidity_date: None,
            })
        });
        let params = CertificateRevocationListParams {
            this_update: date(now.as_secs())?,
            next_update: date(now.as_secs().saturating_add(LIST_LIFETIME.as_secs()))?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer)?;
        let list = RevocationList::parse(list.der(), &self.certificate)?;
        self.dir.write(NodeFile::Revoked, list.der())?;
        Ok(list)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.fingerprint())
    }
}

fn authority_params(key: &KeyPair, now: UnixTime) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    // Authorities differ in name, so that a foreign certificate is of an unknown issuer.
    let tag = hex(&sha256(key.public_key_raw())[..4]);
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = format!("ronproxy overlay authority {tag}");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date(now.as_secs().saturating_sub(CLOCK_SKEW.as_secs()))?;
    params.not_after = date(now.as_secs().saturating_add(AUTHORITY_LIFETIME.as_secs()))?;
    Ok(params)
}

fn node_params(
    attributes: &Attributes,
    serial: Serial,
    lifetime: Duration,
    now: UnixTime,
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
    params.not_before = date(now.as_secs().saturating_sub(CLOCK_SKEW.as_secs()))?;
    params.not_after = date(now.as_secs().saturating_add(lifetime.as_secs()))?;
    Ok(params)
}

fn date(seconds: u64) -> Result<OffsetDateTime, rcgen::Error> {
    let seconds = i64::try_from(seconds).map_err(|_| rcgen::Error::Time)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| rcgen::Error::Time)
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
