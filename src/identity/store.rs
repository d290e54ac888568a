//! The node's folder: which file is where, and how it is read and written.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::files;

/// The largest file read from the folder: a revocation list is the largest and stays under it.
const MAX_FILE: u64 = 1 << 20;

/// Where a node keeps its configuration, keys and state.
///
/// Without `--dir` the configuration and keys are in the user's configuration folder
/// (`~/.config/ronproxy` on Linux) and what the node learns is in the state folder
/// (`~/.local/state/ronproxy`); with `--dir` all of it is in that one folder. Folders are 0700 and
/// files 0600.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDir {
    config: PathBuf,
    state: PathBuf,
}

/// A file or folder of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeFile {
    /// The configuration, written by people: `config.toml`.
    Config,
    /// The node's private key, PKCS#8 in PEM: `node.key`.
    Key,
    /// The node's certificate and the authority's, in PEM: `node.crt`.
    Chain,
    /// The overlay authority's certificate in PEM, only at the authority: `ca.crt`.
    AuthorityCertificate,
    /// The overlay authority's private key, only at the authority: `ca.key`.
    AuthorityKey,
    /// The newest revocation list, DER: `revoked.crl`.
    Revoked,
    /// The members' signed records, JSON: `members.json`.
    Members,
    /// Where the authority's node is, JSON, not at the authority itself: `authority.json`.
    Authority,
    /// The token of the admin API: `control.token`.
    ControlToken,
    /// One file per open invitation, only at the authority: `invitations/`.
    Invitations,
    /// One file per certificate issued, only at the authority: `issued/`.
    Issued,
}

/// The node's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system names no home for the user.
    #[error("no folder for the node is known on this system; name one with --dir DIR")]
    NoHome,
    /// `init` or `join` where a node already is.
    #[error("{} already exists; name another folder with --dir DIR, or move this one away", .0.display())]
    Exists(PathBuf),
    /// A file of the node is missing.
    #[error("{} is missing; make the node with `ronproxy init` or `ronproxy join LINE`", .0.display())]
    Missing(PathBuf),
    /// A secret that others can read.
    #[error("other users can read {path}; run: chmod 600 {path}", path = .0.display())]
    Exposed(PathBuf),
    /// The operating system refused.
    #[error("cannot {verb} {}: {source}; check the path, its owner and free space", path.display())]
    Io {
        /// `read`, `write` or `create`.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file's content is not what this program writes.
    #[error("{} is damaged ({why}); restore it from a backup or make the node again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl NodeFile {
    fn name(self) -> &'static str {
        match self {
            Self::Config => "config.toml",
            Self::Key => "node.key",
            Self::Chain => "node.crt",
            Self::AuthorityCertificate => "ca.crt",
            Self::AuthorityKey => "ca.key",
            Self::Revoked => "revoked.crl",
            Self::Members => "members.json",
            Self::Authority => "authority.json",
            Self::ControlToken => "control.token",
            Self::Invitations => "invitations",
            Self::Issued => "issued",
        }
    }

    fn is_secret(self) -> bool {
        matches!(self, Self::Key | Self::AuthorityKey | Self::ControlToken)
    }

    fn is_state(self) -> bool {
        matches!(self, Self::Revoked | Self::Members | Self::Authority | Self::ControlToken)
    }
}

impl NodeDir {
    /// Everything in the one folder `dir`, as with `--dir`.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        let config = dir.into();
        Self { state: config.clone(), config }
    }

    /// The user's own folders.
    ///
    /// # Errors
    /// When the operating system names none.
    pub fn of_user() -> Result<Self, StoreError> {
        let config = dirs::config_dir().ok_or(StoreError::NoHome)?.join("ronproxy");
        // Only Linux has a state folder; elsewhere local data serves.
        let state = dirs::state_dir().or_else(dirs::data_local_dir).ok_or(StoreError::NoHome)?;
        Ok(Self { config, state: state.join("ronproxy") })
    }

    /// The path of a file.
    #[must_use]
    pub fn path(&self, file: NodeFile) -> PathBuf {
        let dir = if file.is_state() { &self.state } else { &self.config };
        dir.join(file.name())
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

    /// Replaces a file in one step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: NodeFile, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(file);
        files::write(&path, bytes).map_err(io_error("write", &path))
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
        [NodeFile::Key, NodeFile::AuthorityKey]
            .map(|file| self.path(file))
            .into_iter()
            .find(|p| p.exists())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_group_readable_key_is_refused_with_the_command_that_mends_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(folder.path());
        dir.write(NodeFile::Key, b"secret").unwrap();
        assert_eq!(dir.read(NodeFile::Key).unwrap(), b"secret");
        for mode in [0o640, 0o604, 0o620] {
            let path = dir.path(NodeFile::Key);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let message = dir.read(NodeFile::Key).unwrap_err().to_string();
            assert!(message.contains(&format!("chmod 600 {}", path.display())), "{message}");
        }
    }

    #[test]
    fn a_node_is_never_begun_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(folder.path().join("n"));
        dir.begin().unwrap();
        dir.begin().unwrap();
        dir.write(NodeFile::Key, b"k").unwrap();
        assert!(
            matches!(dir.begin(), Err(StoreError::Exists(path)) if path == dir.path(NodeFile::Key))
        );
    }

    #[test]
    fn a_configuration_that_people_wrote_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(folder.path());
        dir.write_default_config("a").unwrap();
        dir.write_default_config("b").unwrap();
        assert_eq!(dir.read(NodeFile::Config).unwrap(), b"a");
    }

    #[test]
    fn a_missing_file_says_how_a_node_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let message = NodeDir::at(folder.path()).read(NodeFile::Chain).unwrap_err().to_string();
        assert!(message.contains("ronproxy init"), "{message}");
    }
}
