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
    Attributes, AttributesError, Fingerprint, NodeDir, NodeFile, NodeName, RevocationError,
    RevocationList, Serial, StoreError, UnixTime,
    attributes::EXTENSION,
    digest::{hex, sha256},
    ledger::{Issued, Ledger, MAX_ISSUED},
    peer::BACKDATED,
    tls::server_name,
};

/// How long a node's certificate is valid unless the authority is configured otherwise: 7 days.
/// That bounds what a stolen key can do where the revocation list does not reach, and leaves a
/// node, which renews when a third has passed, more than four days to reach the authority.
pub const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// A renewal within this part of the lifetime gets the same certificate once more. So a lost
/// reply costs nothing, and a request that somebody sends again and again fills no record.
const SAME_AGAIN: u32 = 6;

/// Certificates that one revocation list names: with 37 bytes each they fit a message on a link.
/// 200 nodes with four certificates each, all revoked, need half of that.
const MAX_LISTED: usize = 1600;

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
/// to one node at a time: it is free again when its certificates are revoked, or were not renewed
/// for 400 days after the last one ended.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    dir: NodeDir,
    ledger: Ledger,
    lifetime: Duration,
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
    #[error("{0} is the name of another node; choose another, or `ronproxy revoke {0}` first")]
    NameTaken(NodeName),
    /// Nothing to revoke.
    #[error("no node is named {0}, or it is revoked already; `ronproxy links` lists the nodes")]
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
        let ledger = Ledger::new(dir.clone());
        Ok(Self { certificate, issuer, dir: dir.clone(), ledger, lifetime: LIFETIME })
    }

    /// The same authority, whose certificates last this long.
    #[must_use]
    pub fn with_lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// How long its certificates last.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.lifetime
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

    /// Whether a node has this name: its certificate is in force, or may still be renewed.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn is_taken(&self, name: &NodeName, now: UnixTime) -> Result<bool, AuthorityError> {
        let all = self.ledger.all()?;
        Ok(all.iter().any(|(_, issued)| issued.name() == name && issued.holds_name(now)))
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

    /// Issues the next certificate for a key that has one on record, with the same attributes.
    ///
    /// `request` is a PKCS#10 signing request in DER: its signature proves that the asker has the
    /// key. The certificate on record may have ended up to 400 days ago.
    ///
    /// # Errors
    /// [`AuthorityError::UnknownKey`] and [`AuthorityError::Revoked`], and as for
    /// [`issue`](Self::issue).
    pub fn renew(
        &self,
        request: &[u8],
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let key = key_hash(&Self::check_request(request)?);
        let newest = self.newest(key, now)?;
        let again = newest.issued + (self.lifetime / SAME_AGAIN).as_secs();
        if let Some(same) = newest.certificate().filter(|_| now.as_secs() < again) {
            return Ok(vec![same, self.certificate.clone()]);
        }
        let chain = self.sign(request, &newest.attributes, self.lifetime, now)?;
        // A `revoke` in another process may have looked through the record just before.
        self.newest(key, now)?;
        Ok(chain)
    }

    /// The newest certificate on record for `key`, if it may be renewed.
    fn newest(&self, key: Fingerprint, now: UnixTime) -> Result<Issued, AuthorityError> {
        let mut of_key = self.ledger.all()?;
        of_key.retain(|(_, issued)| issued.key == key);
        if let Some((_, issued)) = of_key.iter().find(|(_, issued)| issued.revoked.is_some()) {
            return Err(AuthorityError::Revoked(issued.name().clone()));
        }
        let newest = of_key.into_iter().max_by_key(|(_, issued)| issued.not_after);
        let renewable = newest.filter(|(_, issued)| issued.holds_name(now));
        renewable.map(|(_, issued)| issued).ok_or(AuthorityError::UnknownKey)
    }

    /// Revokes every certificate of `name`, and the right to renew it, and returns the new
    /// revocation list, which is kept in the folder too.
    ///
    /// # Errors
    /// [`AuthorityError::NoSuchNode`] when there is none, or when the folder cannot be written.
    pub fn revoke(&self, name: &NodeName, now: UnixTime) -> Result<RevocationList, AuthorityError> {
        let mut found = false;
        // The running node may renew a certificate of the name meanwhile: look again until
        // nothing is left.
        loop {
            let mut held = self.ledger.all()?;
            held.retain(|(_, issued)| issued.name() == name && issued.holds_name(now));
            if held.is_empty() {
                break;
            }
            found = true;
            for (serial, mut issued) in held {
                issued.revoked = Some(now.as_secs());
                self.ledger.put(serial, &issued)?;
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
        let mut issued = Issued::new(attributes.clone(), key_hash(&key), now, lifetime);
        issued.starts = self.starts(&issued, now)?;
        let params = node_params(attributes, serial, &issued)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        issued.set_certificate(certificate.der());
        // On record before it leaves this function: what is given out can always be revoked.
        if !self.ledger.add(serial, &issued, now)? {
            return Err(AuthorityError::Full);
        }
        Ok(vec![certificate.der().clone(), self.certificate.clone()])
    }

    /// From when on the next certificate counts: later than every one of that name before, though the last
    /// was made in this second or the clock was set back a little. So nodes can tell which is
    /// newer. It is never in the future.
    fn starts(&self, next: &Issued, now: UnixTime) -> Result<u64, AuthorityError> {
        let earlier = self.ledger.all()?;
        let earlier = earlier.into_iter().filter(|(_, issued)| issued.name() == next.name());
        let after = earlier.map(|(_, issued)| issued.starts.saturating_add(1)).max();
        Ok(next.starts.max(after.unwrap_or(0)).min(now.as_secs()))
    }

    fn sign_revocations(
        &self,
        now: UnixTime,
        number: u64,
    ) -> Result<RevocationList, AuthorityError> {
        let mut listed = self.ledger.all()?;
        listed.retain(|(_, issued)| issued.is_listed(now));
        if listed.len() > MAX_LISTED {
            return Err(AuthorityError::ListFull);
        }
        let revoked = listed.into_iter().filter_map(|(serial, issued)| {
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
    params.not_before = date(now.as_secs().saturating_sub(BACKDATED.as_secs()))?;
    params.not_after = date(now.as_secs().saturating_add(AUTHORITY_LIFETIME.as_secs()))?;
    Ok(params)
}

fn node_params(
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

/// The hash by which the record tells keys apart.
fn key_hash(key: &rcgen::PublicKey) -> Fingerprint {
    Fingerprint::of(rcgen::PublicKeyData::der_bytes(key))
}

fn date(seconds: u64) -> Result<OffsetDateTime, rcgen::Error> {
    let seconds = i64::try_from(seconds).map_err(|_| rcgen::Error::Time)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| rcgen::Error::Time)
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
