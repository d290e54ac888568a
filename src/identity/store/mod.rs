//! The node's folder: which file is where, and how it is read and written.

mod error;
mod file;
#[cfg(test)]
mod tests;
mod update;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::files;
pub use error::StoreError;
pub use file::NodeFile;
use update::OLD_KEY;

/// The largest file read from the folder: a revocation list is the largest and stays under it.
const MAX_FILE: u64 = 1 << 20;

/// Where a node keeps its configuration, keys and state.
///
/// Without `--dir` the configuration and keys are in the user's configuration folder
/// (`~/.config/ronproxy` on Linux) and what the node learns is in the state folder
/// (`~/.local/state/ronproxy`); with `--dir DIR` they are `DIR` and `DIR/state`. Folders are 0700
/// and files 0600.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDir {
    config: PathBuf,
    state: PathBuf,
}

impl NodeDir {
    /// Everything in the one folder `dir`, as with `--dir`.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        let config = dir.into();
        Self { state: config.join("state"), config }
    }

    /// The user's own folders.
    ///
    /// # Errors
    /// When the operating system names none.
    pub fn of_user() -> Result<Self, StoreError> {
        let config = dirs::config_dir().ok_or(StoreError::NoHome)?.join("ronproxy");
        // Only Linux has a state folder. Other systems use the folder for local data.
        let state = dirs::state_dir().or_else(dirs::data_local_dir).ok_or(StoreError::NoHome)?;
        Ok(Self { config, state: state.join("ronproxy") })
    }

    /// The path of a file.
    #[must_use]
    pub fn path(&self, file: NodeFile) -> PathBuf {
        let dir = if file.is_state() { &self.state } else { &self.config };
        dir.join(file.name())
    }

    /// Where the running node listens for commands: next to what it learns.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.state.join("control.sock")
    }

    /// Whether a node's or an authority's key is here.
    #[must_use]
    pub fn has_node(&self) -> bool {
        self.occupied().is_some()
    }

    /// Whether this folder has the overlay authority.
    #[must_use]
    pub fn has_authority(&self) -> bool {
        self.path(NodeFile::AuthorityKey).exists()
    }

    /// The configuration and the state in two given folders, for a copy under construction.
    #[must_use]
    pub fn split(config: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self { config: config.into(), state: state.into() }
    }

    /// The folder of the configuration and keys.
    #[must_use]
    pub fn config_folder(&self) -> &Path {
        &self.config
    }

    /// The folder of what the node learns: the same, unless the node is in the user's own folders.
    #[must_use]
    pub fn state_folder(&self) -> &Path {
        &self.state
    }

    /// Makes the folders for a new node. `init` and `join` begin with it.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when a node is there already: its key is never overwritten.
    pub fn begin(&self) -> Result<(), StoreError> {
        if let Some(path) = self.occupied() {
            return Err(StoreError::Exists(path));
        }
        for dir in [&self.config, &self.state] {
            files::create_dir(dir).map_err(io_error("create", dir))?;
        }
        Ok(())
    }

    /// Writes the commented configuration file, unless there is one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_default_config(&self, text: &str) -> Result<(), StoreError> {
        let path = self.path(NodeFile::Config);
        match files::create(&path, text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map_err(io_error("write", &path)),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it is missing, unreadable, larger than 1 MiB, or a secret that others can read.
    pub fn read(&self, file: NodeFile) -> Result<Vec<u8>, StoreError> {
        let path = self.path(file);
        let bytes = read(&path)?;
        if file.is_secret() && files::is_exposed(&path).map_err(io_error("read", &path))? {
            return Err(StoreError::Exposed(path));
        }
        Ok(bytes)
    }

    /// Replaces a file in one step; its folder is made when it is missing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: NodeFile, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(file);
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            files::create_dir(folder).map_err(io_error("create", folder))?;
        }
        files::write(&path, bytes).map_err(io_error("write", &path))
    }

    /// Replaces a file by this value in JSON, in one step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_json(&self, file: NodeFile, value: &impl Serialize) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(value);
        let text = text.map_err(|error| io_error("write", &self.path(file))(error.into()))?;
        self.write(file, &text)
    }

    /// The folder `file`, made when it is missing.
    pub(super) fn folder(&self, file: NodeFile) -> Result<PathBuf, StoreError> {
        let path = self.path(file);
        files::create_dir(&path).map_err(io_error("create", &path))?;
        Ok(path)
    }

    /// An error for a file whose content makes no sense.
    pub(super) fn damaged(&self, file: NodeFile, why: impl ToString) -> StoreError {
        StoreError::Damaged { path: self.path(file), why: why.to_string() }
    }

    fn occupied(&self) -> Option<PathBuf> {
        let old = self.config.join(OLD_KEY);
        let keys = [self.path(NodeFile::Key), self.path(NodeFile::AuthorityKey), old];
        keys.into_iter().find(|path| path.exists())
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    files::read(path, MAX_FILE).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StoreError::Missing(path.to_owned()),
        _ => StoreError::Io { verb: "read", path: path.to_owned(), source },
    })
}

/// Wraps what the operating system said about `path`.
pub(super) fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { verb, path, source }
}

/// The files of `dir` that end in `suffix`, as (name without the suffix, path); at most `cap`.
pub(super) fn list(
    dir: &Path,
    suffix: &str,
    cap: usize,
) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("read", dir))?,
    };
    let named = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let stem = entry.file_name().to_str()?.strip_suffix(suffix)?.to_owned();
        (!stem.starts_with('.')).then(|| (stem, entry.path()))
    });
    Ok(named.take(cap).collect())
}
