//! What the authority has issued: one file per certificate.
//!
//! Commands and the running node share the folder, so nothing is one file that two processes would
//! have to rewrite.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{NodeDir, NodeFile, NodeName, Serial, StoreError, UnixTime, files, store};

/// Certificates on record. A few dozen nodes with 90-day certificates need some hundred; the cap
/// keeps the revocation list under its own.
pub(super) const MAX_ISSUED: usize = 4096;

/// One certificate that was issued.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Issued {
    pub(super) name: NodeName,
    /// Seconds since 1970.
    pub(super) not_after: u64,
    /// When it was revoked, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoked: Option<u64>,
}

/// The record of certificates issued.
pub(super) struct Ledger {
    dir: NodeDir,
}

impl Ledger {
    pub(super) fn new(dir: NodeDir) -> Self {
        Self { dir }
    }

    /// Every certificate on record that has not expired.
    pub(super) fn live(&self, now: UnixTime) -> Result<Vec<(Serial, Issued)>, StoreError> {
        let mut live = self.all()?;
        live.retain(|(_, issued)| issued.not_after > now.as_secs());
        Ok(live)
    }

    /// Records a certificate and forgets those that have expired; `false` when the record is full.
    pub(super) fn add(
        &self,
        serial: Serial,
        issued: &Issued,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        let mut kept = 0;
        for (old, issued) in self.all()? {
            if issued.not_after > now.as_secs() {
                kept += 1;
            } else {
                // It is forgotten next time if this fails.
                let _ = std::fs::remove_file(self.path(old)?);
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

    fn all(&self) -> Result<Vec<(Serial, Issued)>, StoreError> {
        let folder = self.dir.path(NodeFile::Issued);
        let mut all = Vec::new();
        for (stem, path) in store::list(&folder, ".json", MAX_ISSUED)? {
            let damaged = |why: String| StoreError::Damaged { path: path.clone(), why };
            let serial =
                Serial::from_hex(&stem).ok_or_else(|| damaged("not a serial number".into()))?;
            let issued =
                serde_json::from_slice(&store::read(&path)?).map_err(|e| damaged(e.to_string()))?;
            all.push((serial, issued));
        }
        Ok(all)
    }

    fn path(&self, serial: Serial) -> Result<PathBuf, StoreError> {
        Ok(self.dir.folder(NodeFile::Issued)?.join(format!("{serial}.json")))
    }
}
