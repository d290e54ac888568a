//! The record of issued certificates: one file per certificate.
//!
//! Commands and the signer share the folder. With one file per certificate, two processes never
//! rewrite the same file, and a damaged record affects no other.
//!
//! The record of a key's newest certificate is kept for [`RENEWABLE`] after the certificate's end,
//! so that a node that was off for weeks can renew.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::{
    Attributes, Fingerprint, NodeDir, NodeFile, NodeName, Serial, StoreError, UnixTime, files,
    peer::BACKDATED, remembered::Remembered, store,
};

/// Most certificates on record. 200 nodes with about four certificates each need 800. The cap
/// bounds the cost of reading the folder.
pub(super) const MAX_ISSUED: usize = 4096;

/// How long after its end a certificate can still be renewed, and its name stays reserved: a year
/// and a month, so that a machine that runs once a year comes back without an invitation.
pub(super) const RENEWABLE: Duration = Duration::from_secs(400 * 24 * 3600);

/// How long after its end a certificate stays on the revocation list, for nodes whose clock is
/// behind.
pub(super) const LISTED_AFTER_END: Duration = Duration::from_secs(24 * 3600);

/// One certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// What the certificate says.
    pub attributes: Attributes,
    /// The SHA-256 of its public key.
    pub(super) key: Fingerprint,
    /// When it was issued, in seconds since 1970.
    pub issued: u64,
    /// When it begins, in seconds since 1970.
    #[serde(default)]
    pub(super) starts: u64,
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
    /// The certificate, DER in base64; absent until it is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    /// When it was revoked, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

/// The certificates on record, and the records that cannot be read.
#[derive(Debug, Default)]
pub struct Records {
    /// Every readable record, in no order.
    pub issued: Vec<(Serial, Issued)>,
    /// What is wrong with the others; each names its file.
    pub damaged: Vec<StoreError>,
}

impl Records {
    /// The record by which a node holds `name`.
    pub(super) fn holder_of(&self, name: &NodeName, now: UnixTime) -> Option<&Issued> {
        let mut all = self.issued.iter().map(|(_, issued)| issued);
        all.find(|issued| issued.name() == name && issued.holds_name(now))
    }

    /// The records that are no longer needed when `key` has its next certificate; `None` when the
    /// record is full even without them.
    pub(super) fn outdated(&self, key: Fingerprint, now: UnixTime) -> Option<Vec<Serial>> {
        let is_outdated = |record: &Issued| {
            let newer = |other: &(Serial, Issued)| {
                other.1.key == record.key && other.1.not_after > record.not_after
            };
            let superseded = key == record.key || self.issued.iter().any(newer);
            record.has_long_ended(now) && (superseded || !record.holds_name(now))
        };
        let outdated = self.issued.iter().filter(|(_, record)| is_outdated(record));
        let outdated: Vec<_> = outdated.map(|(serial, _)| *serial).collect();
        let kept = self.damaged.len() + self.issued.len() - outdated.len();
        (kept < MAX_ISSUED).then_some(outdated)
    }
}

/// A record of a version without renewal by the key. It reserves its name and can be revoked, but
/// it names no key, so it cannot be renewed.
#[derive(Deserialize)]
struct OldRecord {
    name: NodeName,
    not_after: u64,
    #[serde(default)]
    revoked: Option<u64>,
}

impl From<OldRecord> for Issued {
    fn from(old: OldRecord) -> Self {
        Self {
            attributes: Attributes::entry(old.name),
            key: Fingerprint::of(b""),
            issued: 0,
            starts: 0,
            not_after: old.not_after,
            certificate: None,
            revoked: old.revoked,
        }
    }
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
        // A short certificate is backdated by its lifetime at most, so that its lifetime can be
        // computed.
        let starts = issued.saturating_sub(BACKDATED.min(lifetime).as_secs());
        Self { attributes, key, issued, starts, not_after, certificate: None, revoked: None }
    }

    pub(super) fn name(&self) -> &NodeName {
        &self.attributes.name
    }

    /// Whether the certificate, or the right to renew it, is in force.
    pub(super) fn holds_name(&self, now: UnixTime) -> bool {
        self.revoked.is_none() && now.as_secs() < self.not_after + RENEWABLE.as_secs()
    }

    /// Whether it has ended even for nodes whose clock is behind. Revocation lists leave it out
    /// then.
    pub(super) fn has_long_ended(&self, now: UnixTime) -> bool {
        now.as_secs() >= self.not_after + LISTED_AFTER_END.as_secs()
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
    remembered: Remembered<Records>,
}

impl Ledger {
    pub(super) fn new(dir: NodeDir) -> Self {
        Self { dir, remembered: Remembered::default() }
    }

    /// Removes records.
    pub(super) fn forget(&self, serials: Vec<Serial>) {
        for serial in serials {
            let removed = self.path(serial).map(std::fs::remove_file);
            if !matches!(removed, Ok(Ok(()))) {
                tracing::debug!(%serial, "an old record of a certificate could not be removed yet");
            }
        }
    }

    /// Writes the record of one certificate.
    pub(super) fn put(&self, serial: Serial, issued: &Issued) -> Result<(), StoreError> {
        let path = self.path(serial)?;
        let text = serde_json::to_vec(issued).map_err(|e| self.dir.damaged(NodeFile::Issued, e))?;
        files::write(&path, &text).map_err(store::io_error("write", &path))
    }

    /// Every readable record. A damaged one is named in the log, and does not stop the authority.
    ///
    /// The folder is read when it has changed: reading 800 records takes 15 ms, and members ask.
    pub(super) fn all(&self) -> Result<Arc<Records>, StoreError> {
        self.remembered.get(&self.dir.path(NodeFile::Issued), || {
            let records = self.read()?;
            for error in &records.damaged {
                tracing::warn!(%error, "a record of a certificate is left out");
            }
            Ok(records)
        })
    }

    /// Every record, and what is wrong with those that cannot be read.
    pub(super) fn read(&self) -> Result<Records, StoreError> {
        let folder = self.dir.path(NodeFile::Issued);
        let mut records = Records::default();
        for (stem, path) in store::list(&folder, ".json", MAX_ISSUED)? {
            match read(&stem, &path) {
                Ok(record) => records.issued.push(record),
                // Another process deleted it after the folder was listed.
                Err(StoreError::Missing(_)) => {}
                Err(error) => records.damaged.push(error),
            }
        }
        Ok(records)
    }

    fn path(&self, serial: Serial) -> Result<PathBuf, StoreError> {
        Ok(self.dir.folder(NodeFile::Issued)?.join(format!("{serial}.json")))
    }
}

fn read(stem: &str, path: &Path) -> Result<(Serial, Issued), StoreError> {
    let damaged = |why: String| StoreError::Damaged { path: path.to_owned(), why };
    let serial = Serial::from_hex(stem).ok_or_else(|| damaged("not a serial number".into()))?;
    let bytes = store::read(path)?;
    let issued = serde_json::from_slice(&bytes).or_else(|error| {
        serde_json::from_slice::<OldRecord>(&bytes).map(Issued::from).map_err(|_| error)
    });
    Ok((serial, issued.map_err(|error| damaged(error.to_string()))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_support::{NOW, Overlay};

    #[test]
    fn a_damaged_record_is_named_and_stops_nothing() {
        let overlay = Overlay::new();
        let node = overlay.node("utah", NOW);
        let folder = overlay.dir.folder(NodeFile::Issued).unwrap();
        for (name, text) in [("40".repeat(16), "{\"name\""), ("nonsense".into(), "{}")] {
            std::fs::write(folder.join(format!("{name}.json")), text).unwrap();
        }
        let records = Ledger::new(overlay.dir.clone()).read().unwrap();
        assert_eq!((records.issued.len(), records.damaged.len()), (1, 2));
        let said: String = records.damaged.iter().map(ToString::to_string).collect();
        assert!(said.contains("nonsense.json") && said.contains(&"40".repeat(16)), "{said}");
        assert!(overlay.revoke(node.name(), NOW).unwrap().contains(node.peer()));
    }

    #[test]
    fn a_record_of_an_older_version_reserves_its_name_and_can_be_revoked() {
        let overlay = Overlay::new();
        let folder = overlay.dir.folder(NodeFile::Issued).unwrap();
        let text = format!(r#"{{"name":"old","not_after":{}}}"#, NOW.as_secs() + 9);
        std::fs::write(folder.join(format!("{}.json", "40".repeat(16))), text).unwrap();
        let name = "old".parse().unwrap();
        assert!(overlay.authority.is_taken(&name, NOW).unwrap());
        assert_eq!(overlay.revoke(&name, NOW).unwrap().len(), 1);
    }
}
