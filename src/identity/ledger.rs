//! What the authority has issued: one file per certificate.
//!
//! Commands and the running node share the folder, so nothing is one file that two processes would
//! have to rewrite.
//!
//! The record of a key's newest certificate is kept long after the certificate has ended: a node
//! that was off for weeks renews by it ([`RENEWABLE`]).

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::{
    Attributes, Fingerprint, NodeDir, NodeFile, NodeName, Serial, StoreError, UnixTime, files,
    peer::BACKDATED, store,
};

/// Certificates on record. 200 nodes with some four certificates each need 800; the cap bounds
/// what every look through the folder costs.
pub(super) const MAX_ISSUED: usize = 4096;

/// How long after its end a certificate can still be renewed, and its name stays reserved: a year
/// and a month, so that a machine that runs once a year comes back without an invitation.
pub(super) const RENEWABLE: Duration = Duration::from_secs(400 * 24 * 3600);

/// How long after its end a certificate stays on the revocation list, for nodes whose clock is
/// behind.
pub(super) const LISTED_AFTER_END: Duration = Duration::from_secs(24 * 3600);

/// One certificate that was issued.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Issued {
    /// What the certificate says.
    pub(super) attributes: Attributes,
    /// The SHA-256 of its public key.
    pub(super) key: Fingerprint,
    /// When it was issued, in seconds since 1970.
    pub(super) issued: u64,
    /// From when on it counts, in seconds since 1970.
    #[serde(default)]
    pub(super) starts: u64,
    /// When it ends, in seconds since 1970.
    pub(super) not_after: u64,
    /// The certificate, DER in base64; absent until it is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    /// When it was revoked, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoked: Option<u64>,
}

impl Issued {
    pub(super) fn new(
        attributes: Attributes,
        key: Fingerprint,
        now: UnixTime,
        lifetime: Duration,
    ) -> Self {
        let issued = now.as_secs();
        let not_after = issued.saturating_add(lifetime.as_secs());
        // A short certificate is backdated by no more than it lasts, so that its lifetime can be told.
        let starts = issued.saturating_sub(BACKDATED.min(lifetime).as_secs());
        Self { attributes, key, issued, starts, not_after, certificate: None, revoked: None }
    }

    pub(super) fn name(&self) -> &NodeName {
        &self.attributes.name
    }

    /// Whether the certificate, or the right to renew it, still counts.
    pub(super) fn holds_name(&self, now: UnixTime) -> bool {
        self.revoked.is_none() && now.as_secs() < self.not_after + RENEWABLE.as_secs()
    }

    /// Whether a revocation list has to name it.
    pub(super) fn is_listed(&self, now: UnixTime) -> bool {
        self.revoked.is_some() && now.as_secs() < self.not_after + LISTED_AFTER_END.as_secs()
    }

    pub(super) fn set_certificate(&mut self, der: &CertificateDer<'_>) {
        self.certificate = Some(BASE64_STANDARD.encode(der));
    }

    pub(super) fn certificate(&self) -> Option<CertificateDer<'static>> {
        let der = BASE64_STANDARD.decode(self.certificate.as_ref()?).ok()?;
        Some(CertificateDer::from(der))
    }
}

/// The record of certificates issued.
pub(super) struct Ledger {
    dir: NodeDir,
}

impl Ledger {
    pub(super) fn new(dir: NodeDir) -> Self {
        Self { dir }
    }

    /// Records a certificate and forgets those that nobody needs any more; `false` when the
    /// record is full.
    pub(super) fn add(
        &self,
        serial: Serial,
        issued: &Issued,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        let all = self.all()?;
        let mut kept = 0;
        for (old, record) in &all {
            let newest = |other: &(Serial, Issued)| {
                other.1.key == record.key && other.1.not_after > record.not_after
            };
            let superseded = issued.key == record.key || all.iter().any(newest);
            let ended = now.as_secs() >= record.not_after + LISTED_AFTER_END.as_secs();
            if !ended || record.holds_name(now) && !superseded {
                kept += 1;
            } else {
                // It is forgotten next time if this fails.
                let _ = std::fs::remove_file(self.path(*old)?);
            }
        }
        if kept >= MAX_ISSUED {
            return Ok(false);
        }
        self.put(serial, issued)?;
        Ok(true)
    }

    /// Writes the record of one certificate.
    pub(super) fn put(&self, serial: Serial, issued: &Issued) -> Result<(), StoreError> {
        let path = self.path(serial)?;
        let text = serde_json::to_vec(issued).map_err(|e| self.dir.damaged(NodeFile::Issued, e))?;
        files::write(&path, &text).map_err(store::io_error("write", &path))
    }

    /// Every certificate on record.
    pub(super) fn all(&self) -> Result<Vec<(Serial, Issued)>, StoreError> {
        let folder = self.dir.path(NodeFile::Issued);
        let mut all = Vec::new();
        for (stem, path) in store::list(&folder, ".json", MAX_ISSUED)? {
            let damaged = |why: String| StoreError::Damaged { path: path.clone(), why };
            let serial =
                Serial::from_hex(&stem).ok_or_else(|| damaged("not a serial number".into()))?;
            let bytes = match store::read(&path) {
                // Another process forgot it since the folder was listed.
                Err(StoreError::Missing(_)) => continue,
                bytes => bytes?,
            };
            let issued = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
            all.push((serial, issued));
        }
        Ok(all)
    }

    fn path(&self, serial: Serial) -> Result<PathBuf, StoreError> {
        Ok(self.dir.folder(NodeFile::Issued)?.join(format!("{serial}.json")))
    }
}
