//! The overlay authority: a small X.509 certificate authority.

mod error;
mod revoke;
mod sign;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fs::File, time::Duration};

use rcgen::{Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::parse_x509_certificate;
use zeroize::Zeroizing;

use super::{
    Actor, Attributes, AuditLog, Certified, Deed, Fingerprint, IdentityError, NodeDir, NodeFile,
    NodeIdentity, NodeName, Records, StoreError, UnixTime, files,
    ledger::{Issued, Ledger},
    node::KEY_KIND,
    remembered::Remembered,
    revocation::RevocationList,
    store::io_error,
};
pub use error::AuthorityError;
pub use sign::SigningRequest;
use sign::key_hash;

/// How long a node's certificate is valid unless the authority is configured otherwise: 7 days.
/// This bounds the use of a stolen key where the revocation list does not arrive. A node renews
/// when a third has passed, so it has more than four days to reach the authority.
pub const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// A renewal within this part of the lifetime gets the same certificate again. So a lost reply
/// costs nothing, and a repeated request does not fill the record.
const SAME_AGAIN: u32 = 6;

/// The overlay authority, on the one node that has its key.
///
/// It issues Ed25519 certificates with the DNS name of [`server_name`](super::server_name) and
/// the node's [`Attributes`] in an extension, and keeps a record of them. A name belongs to one
/// node at a time. It is free again when its certificates are revoked, or when the last one ended
/// 400 days ago.
///
/// It writes the audit log before it issues or revokes. Nobody gets a certificate whose line cannot
/// be written.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    dir: NodeDir,
    ledger: Ledger,
    /// The last list that was signed here, and the one that the node has.
    signed: Remembered<RevocationList>,
    held_by_node: Remembered<RevocationList>,
    audit: AuditLog,
    lifetime: Duration,
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
        dir.folder(NodeFile::AuthorityFolder)?;
        let key = KeyPair::generate_for(KEY_KIND)?;
        let certificate = sign::authority_params(&key, now)?.self_signed(&key)?;
        dir.write(NodeFile::AuthorityCertificate, certificate.pem().as_bytes())?;
        dir.write(NodeFile::AuthorityKey, Zeroizing::new(key.serialize_pem()).as_bytes())?;
        let authority = Self::new(certificate.der().clone(), key, dir)?;
        let number = authority.next_list_number(now);
        authority.publish(&authority.list(number, BTreeMap::new(), now)?)?;
        Ok(authority)
    }

    /// Opens the authority in `dir`.
    ///
    /// # Errors
    /// When it is missing or damaged, or others can read its key.
    pub fn load(dir: &NodeDir) -> Result<Self, AuthorityError> {
        let certificate = authority_certificate(dir)?;
        // The parsers' error could quote the key, so it is not passed on.
        let pem = Zeroizing::new(dir.read(NodeFile::AuthorityKey)?);
        let key = std::str::from_utf8(&pem)
            .ok()
            .and_then(|pem| KeyPair::from_pem(pem).ok())
            .ok_or_else(|| dir.damaged(NodeFile::AuthorityKey, "not a private key in PEM"))?;
        let (_, parsed) = parse_x509_certificate(&certificate)
            .map_err(|_| dir.damaged(NodeFile::AuthorityCertificate, "not a certificate"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(dir.damaged(NodeFile::AuthorityKey, "not the key of ca.crt").into());
        }
        Self::new(certificate, key, dir)
    }

    fn new(
        certificate: CertificateDer<'static>,
        key: KeyPair,
        dir: &NodeDir,
    ) -> Result<Self, AuthorityError> {
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            certificate,
            issuer,
            dir: dir.clone(),
            ledger: Ledger::new(dir.clone()),
            signed: Remembered::default(),
            held_by_node: Remembered::default(),
            audit: AuditLog::new(dir),
            lifetime: LIFETIME,
        })
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
        Ok(self.ledger.all()?.holder_of(name, now).is_some())
    }

    /// Issues the first certificate of a node: the chain of it and the authority's own.
    ///
    /// `request` is a PKCS#10 signing request in DER; of it only the public key is used, and its
    /// signature proves that the asker has the private key. The audit log says `deed` and `by` whom.
    ///
    /// # Errors
    /// When the name is taken, the request or attributes are not acceptable, the record is full, or
    /// the folder cannot be written.
    pub fn issue(
        &self,
        request: &[u8],
        attributes: &Attributes,
        (deed, by): (Deed, Actor),
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let _turn = turn(&self.dir)?;
        let records = self.ledger.all()?;
        if records.holder_of(&attributes.name, now).is_some() {
            return Err(AuthorityError::NameTaken(attributes.name.clone()));
        }
        self.certify(request, attributes, (deed, by), &records, now)
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
        by: Actor,
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let key = key_hash(&sign::requested_key(request)?);
        let _turn = turn(&self.dir)?;
        let records = self.ledger.all()?;
        let newest = self.newest(&records, key, now)?;
        let again = newest.issued + (self.lifetime / SAME_AGAIN).as_secs();
        if let Some(same) = newest.certificate().filter(|_| now.as_secs() < again) {
            return Ok(vec![same, self.certificate.clone()]);
        }
        self.certify(request, &newest.attributes, (Deed::Renew, by), &records, now)
    }

    /// The newest certificate on record for `key`, if it may be renewed.
    fn newest<'a>(
        &self,
        records: &'a Records,
        key: Fingerprint,
        now: UnixTime,
    ) -> Result<&'a Issued, AuthorityError> {
        let of_key = records.issued.iter().filter(|(_, issued)| issued.key == key);
        // A record that was restored from a backup may be older than a list.
        let lists = self.lists();
        let listed = |serial| lists.iter().any(|list| list.lists(serial));
        if let Some((_, issued)) =
            of_key.clone().find(|(serial, issued)| issued.revoked.is_some() || listed(*serial))
        {
            return Err(AuthorityError::Revoked(issued.name().clone()));
        }
        let newest = of_key.max_by_key(|(_, issued)| issued.not_after);
        let renewable = newest.filter(|(_, issued)| issued.holds_name(now));
        renewable.map(|(_, issued)| issued).ok_or(AuthorityError::UnknownKey)
    }

    /// The certificates on record in `dir`, also some that have ended.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn records(dir: &NodeDir) -> Result<Records, StoreError> {
        Ledger::new(dir.clone()).read()
    }

    /// The members by their newest certificates on record.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn members(&self) -> Result<Vec<Certified>, AuthorityError> {
        let lists = self.lists();
        let is_listed = |serial| lists.iter().any(|list| list.lists(serial));
        Ok(self.ledger.all()?.newest(is_listed))
    }

    /// Takes the certificate of the authority's own node on record with its key, by which it renews,
    /// if a version that recorded no keys issued it.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn adopt_own_node(&self) -> Result<(), AuthorityError> {
        let Some(node) = own_node(&self.dir).map_err(Box::new)? else { return Ok(()) };
        let (certificate, peer) = (&node.chain()[0], node.peer());
        let _turn = turn(&self.dir)?;
        let records = self.ledger.all()?;
        let known = records.issued.iter().find(|(serial, _)| *serial == peer.serial);
        let revoked = known.and_then(|(_, issued)| issued.revoked);
        if known.is_some_and(|(_, issued)| issued.key == peer.key)
            || node.authority() != &self.certificate
        {
            return Ok(());
        }
        let mut issued = Issued::new(peer.attributes(), peer.key, peer.starts, peer.lifetime());
        issued.not_after = peer.expires.as_secs();
        issued.revoked = revoked;
        issued.set_certificate(certificate);
        Ok(self.ledger.put(peer.serial, &issued)?)
    }

    /// The name of the authority's own node; `None` before it has a certificate.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn node_name(dir: &NodeDir) -> Result<Option<NodeName>, IdentityError> {
        Ok(own_node(dir)?.map(|node| node.name().clone()))
    }

    /// Signs a certificate, and writes it to the audit log and then to the record (`records` has
    /// all others). It returns the certificate only then, so each one is logged and can be revoked.
    fn certify(
        &self,
        request: &[u8],
        attributes: &Attributes,
        (deed, by): (Deed, Actor),
        records: &Records,
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let key = sign::requested_key(request)?;
        let serial = sign::serial(request, now);
        let mut issued = Issued::new(attributes.clone(), key_hash(&key), now, self.lifetime);
        issued.starts = starts(records, &issued, now);
        let params = sign::node_params(attributes, serial, &issued)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        issued.set_certificate(certificate.der());
        let outdated = records.outdated(issued.key, now).ok_or(AuthorityError::Full)?;
        self.audit.record(deed, &attributes.name, Some(serial.to_string()), by, now)?;
        self.ledger.put(serial, &issued)?;
        self.ledger.forget(outdated);
        Ok(vec![certificate.der().clone(), self.certificate.clone()])
    }
}

/// The start of the next certificate. It is later than the start of every earlier certificate of
/// the name, also if the last one was made in this second or the clock was set back a little. So
/// nodes can compare them. It is never in the future.
fn starts(records: &Records, next: &Issued, now: UnixTime) -> u64 {
    let earlier = records.issued.iter().filter(|(_, issued)| issued.name() == next.name());
    let after = earlier.map(|(_, issued)| issued.starts.saturating_add(1)).max();
    next.starts.max(after.unwrap_or(0)).min(now.as_secs())
}

/// The certificate of the authority in `dir`, without its key.
///
/// # Errors
/// When it is missing or damaged.
pub fn authority_certificate(dir: &NodeDir) -> Result<CertificateDer<'static>, StoreError> {
    CertificateDer::from_pem_slice(&dir.read(NodeFile::AuthorityCertificate)?)
        .map_err(|_| dir.damaged(NodeFile::AuthorityCertificate, "not a certificate in PEM"))
}

/// The authority's own node, if there is one. Its certificate is for `node.key`, which the running
/// node cannot replace.
fn own_node(dir: &NodeDir) -> Result<Option<NodeIdentity>, IdentityError> {
    match NodeIdentity::load(dir) {
        Err(IdentityError::Store(StoreError::Missing(_))) => Ok(None),
        node => node.map(Some),
    }
}

/// Waits until no other process works on the authority's folder. The lock ends with the value.
pub(super) fn turn(dir: &NodeDir) -> Result<File, StoreError> {
    let path = dir.path(NodeFile::AuthorityLock);
    files::lock(&path).map_err(io_error("write", &path))
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.fingerprint())
    }
}
