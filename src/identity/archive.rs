//! The content of a backup: the overlay's authority and its node, as one tar archive.

use std::{collections::BTreeMap, io::Read as _};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    Authority, AuthorityError, Fingerprint, IdentityError, NodeDir, NodeFile, NodeIdentity,
    NodeName, StoreError, UnixTime, authority::turn, files, store,
};

/// The name of the entry that describes the others; it comes first.
const MANIFEST: &str = "manifest.json";

/// The archive's format; another number is another format.
const FORMAT: u32 = 1;

/// The files that are kept. The token and the socket of the running node are not.
const FILES: [NodeFile; 10] = [
    NodeFile::Config,
    NodeFile::Key,
    NodeFile::Chain,
    NodeFile::Revoked,
    NodeFile::Members,
    NodeFile::Authority,
    NodeFile::AuthorityCertificate,
    NodeFile::AuthorityKey,
    NodeFile::AuthorityRevoked,
    NodeFile::Audit,
];

/// Files that may be missing.
const OPTIONAL: [NodeFile; 3] = [NodeFile::Members, NodeFile::Authority, NodeFile::Audit];

/// The folders that are kept, and the most files in each: the caps of the record.
const FOLDERS: [(NodeFile, usize); 2] = [(NodeFile::Issued, 4096), (NodeFile::Invitations, 3072)];

/// The largest audit log kept. Other files are under 1 MiB.
const MAX_AUDIT: u64 = 128 << 20;

/// The manifest of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The archive's format.
    format: u32,
    /// The version of the program that made it.
    pub version: String,
    /// When it was made, in seconds since 1970.
    pub time: u64,
    /// The authority's own node.
    pub name: NodeName,
    /// The authority.
    pub authority: Fingerprint,
}

/// A complete archive.
pub struct Archive {
    /// Its manifest.
    pub manifest: Manifest,
    entries: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

/// An archive cannot be made, read or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Not what this program packs.
    #[error(
        "the backup holds something unexpected ({0}); it was not made by this version of ronproxy"
    )]
    Unexpected(String),
    /// A file is missing in it.
    #[error("the backup lacks {0}; take another")]
    Missing(&'static str),
    /// The parts do not belong together.
    #[error("the backup's parts do not belong together; take another")]
    Mixed,
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The node.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Packs the authority and its node in `dir`, between two changes of the record.
///
/// # Errors
/// When the parts are damaged, or a file cannot be read.
pub fn pack(dir: &NodeDir, now: UnixTime) -> Result<(Manifest, Zeroizing<Vec<u8>>), ArchiveError> {
    let _turn = turn(dir)?;
    let manifest = check(dir, now)?;
    let mut builder = tar::Builder::new(Vec::new());
    let described = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| ArchiveError::Unexpected(error.to_string()))?;
    append(&mut builder, MANIFEST, &described, now)?;
    for file in FILES {
        let path = dir.path(file);
        let bytes = match files::read(&path, MAX_AUDIT) {
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && OPTIONAL.contains(&file) =>
            {
                continue;
            }
            bytes => Zeroizing::new(bytes.map_err(store::io_error("read", &path))?),
        };
        append(&mut builder, file.name(), &bytes, now)?;
    }
    for (folder, most) in FOLDERS {
        for (name, path) in store::list(&dir.path(folder), "", most)? {
            let entry = format!("{}/{name}", folder.name());
            if is_record(&entry) {
                append(&mut builder, &entry, &store::read(&path)?, now)?;
            }
        }
    }
    let bytes = builder.into_inner().map_err(|e| ArchiveError::Unexpected(e.to_string()))?;
    Ok((manifest, Zeroizing::new(bytes)))
}

/// Reads an archive. Nothing is written.
///
/// # Errors When it contains something that [`pack`] does not pack, or lacks a part.
pub fn unpack(bytes: &[u8]) -> Result<Archive, ArchiveError> {
    let unexpected = |why: &dyn std::fmt::Display| ArchiveError::Unexpected(why.to_string());
    let mut entries = BTreeMap::new();
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().map_err(|error| unexpected(&error))? {
        let mut entry = entry.map_err(|error| unexpected(&error))?;
        let path = entry.path().map_err(|error| unexpected(&error))?;
        let name = path.to_str().unwrap_or_default().to_owned();
        let known = name == MANIFEST || FILES.iter().any(|file| file.name() == name);
        if !entry.header().entry_type().is_file() || !(known || is_record(&name)) {
            return Err(unexpected(&name.escape_default()));
        }
        let mut content = Zeroizing::new(Vec::new());
        entry.read_to_end(&mut content).map_err(|error| unexpected(&error))?;
        if entries.insert(name.clone(), content).is_some() {
            return Err(unexpected(&name));
        }
    }
    let manifest = entries.remove(MANIFEST).ok_or(ArchiveError::Missing(MANIFEST))?;
    let manifest: Manifest =
        serde_json::from_slice(&manifest).map_err(|error| unexpected(&error))?;
    if manifest.format != FORMAT {
        return Err(unexpected(&format_args!("format {}", manifest.format)));
    }
    let needed = FILES.into_iter().filter(|file| !OPTIONAL.contains(file));
    match needed.map(NodeFile::name).find(|name| !entries.contains_key(*name)) {
        Some(name) => Err(ArchiveError::Missing(name)),
        None => Ok(Archive { manifest, entries }),
    }
}

impl Archive {
    /// Writes all files to their places in `dir`, and checks that they are the authority and the
    /// node that the manifest names.
    ///
    /// # Errors
    /// When a file cannot be written, or the parts do not belong together.
    pub fn write(&self, dir: &NodeDir) -> Result<(), ArchiveError> {
        for folder in [dir.config_folder(), dir.state_folder()] {
            files::create_dir(folder).map_err(store::io_error("create", folder))?;
        }
        for folder in [NodeFile::AuthorityFolder, NodeFile::Issued, NodeFile::Invitations] {
            dir.folder(folder)?;
        }
        for (name, content) in &self.entries {
            let path = match FILES.into_iter().find(|file| file.name() == name) {
                Some(file) => dir.path(file),
                None => dir.config_folder().join(name),
            };
            files::create(&path, content).map_err(store::io_error("write", &path))?;
        }
        for folder in [NodeFile::Issued, NodeFile::Invitations, NodeFile::AuthorityFolder] {
            let path = dir.path(folder);
            files::sync_folder(&path).map_err(store::io_error("write", &path))?;
        }
        let found = check(dir, UnixTime::since_unix_epoch(std::time::Duration::ZERO))?;
        let same = found.name == self.manifest.name && found.authority == self.manifest.authority;
        if same { Ok(()) } else { Err(ArchiveError::Mixed) }
    }
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Archive({:?}, {} files)", self.manifest, self.entries.len())
    }
}

/// Loads the parts in `dir`, checks that they belong together, and describes them.
fn check(dir: &NodeDir, now: UnixTime) -> Result<Manifest, ArchiveError> {
    let authority = Authority::load(dir)?;
    authority.revocations()?;
    let node = NodeIdentity::load(dir)?;
    if node.authority() != authority.certificate() {
        return Err(ArchiveError::Mixed);
    }
    Ok(Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time: now.as_secs(),
        name: node.name().clone(),
        authority: authority.fingerprint(),
    })
}

/// Whether this is the name of a certificate's or an invitation's record.
fn is_record(name: &str) -> bool {
    FOLDERS.iter().any(|(folder, _)| {
        let file = name.strip_prefix(folder.name()).and_then(|rest| rest.strip_prefix('/'));
        file.is_some_and(|file| {
            let (stem, end) = file.split_once('.').unwrap_or_default();
            let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            (32..=64).contains(&stem.len())
                && stem.bytes().all(hex)
                && ["json", "used", "cancelled"].contains(&end)
        })
    })
}

fn append(
    builder: &mut tar::Builder<Vec<u8>>,
    name: &str,
    bytes: &[u8],
    now: UnixTime,
) -> Result<(), ArchiveError> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(now.as_secs());
    builder
        .append_data(&mut header, name, bytes)
        .map_err(|error| ArchiveError::Unexpected(error.to_string()))
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
