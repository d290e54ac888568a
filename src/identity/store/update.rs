//! Bringing a folder of an older version up to date.

use std::{fs, io, path::Path};

use super::{NodeDir, NodeFile, StoreError, file::STATE, io_error};
use crate::identity::files;

/// Where the authority's key was before it had a folder of its own: beside the node's key.
pub(super) const OLD_KEY: &str = "ca.key";

impl NodeDir {
    /// Moves files to where this version has them: what the running node writes into the state
    /// folder, and an authority that stands beside the node's own files into `authority/`. Returns
    /// whether there was anything to move.
    ///
    /// The authority's key goes last, so a move that was interrupted is taken up again.
    ///
    /// # Errors
    /// When a file cannot be moved.
    pub fn bring_up_to_date(&self) -> Result<bool, StoreError> {
        let mut moved = false;
        for file in STATE {
            let old = self.config.join(file.name());
            if old.exists() && old != self.path(file) {
                files::create_dir(&self.state).map_err(io_error("create", &self.state))?;
                moved |= move_to(&old, &self.path(file))?;
            }
        }
        if !self.config.join(OLD_KEY).exists() {
            return Ok(moved);
        }
        let folder = self.folder(NodeFile::AuthorityFolder)?;
        let list = self.path(NodeFile::AuthorityRevoked);
        if !list.exists() {
            let bytes = self.read(NodeFile::Revoked)?;
            self.write(NodeFile::AuthorityRevoked, &bytes)?;
        }
        for name in ["ca.crt", "issued", "invitations", OLD_KEY] {
            move_to(&self.config.join(name), &folder.join(name))?;
        }
        Ok(true)
    }
}

/// Moves a file or folder; `false` when another process, or an earlier attempt, has done so.
fn move_to(from: &Path, to: &Path) -> Result<bool, StoreError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        done => done.map_err(io_error("write", to))?,
    }
    files::sync_parent(to).map_err(io_error("write", to))?;
    Ok(true)
}
