//! Why the node's folder cannot be used.

use std::{io, path::PathBuf};

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
