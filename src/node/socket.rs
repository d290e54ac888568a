//! The socket file, which is also the lock: one node per folder.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

/// Attempts to take over a socket file that nobody serves. One is enough unless several processes
/// start at the same moment.
const ATTEMPTS: usize = 3;

/// The claimed socket file. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    path: PathBuf,
    /// Device and inode of our file: only that is removed.
    file: (u64, u64),
}

/// The folder's socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another process serves it.
    #[error("ronproxy is already running in this folder{}; stop it with `ronproxy stop`, or name another folder with --dir DIR", pid(*.0))]
    AlreadyRunning(Option<u64>),
    /// The path does not fit into a socket's name.
    #[error("the path {} is too long for a socket; name a folder with a shorter path with --dir DIR", .0.display())]
    TooLong(PathBuf),
    /// The operating system refused.
    #[error("cannot make {}: {source}; check the folder's owner and free space", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl ControlSocket {
    /// Takes the socket at `path`, also when a process that was killed left it behind.
    ///
    /// # Errors
    /// [`ClaimError::AlreadyRunning`] when a live process serves it.
    pub(crate) async fn claim(path: &Path) -> Result<(Self, UnixListener), ClaimError> {
        for _ in 0..ATTEMPTS {
            // Making the file is one step for the system, so only one of several processes does.
            match UnixListener::bind(path) {
                Ok(listener) => return Ok((Self::owned(path)?, listener)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    return Err(ClaimError::TooLong(path.to_owned()));
                }
                Err(error) => return Err(failed(path, error)),
            }
            if is_served(path).await {
                return Err(ClaimError::AlreadyRunning(pid_of(path).await));
            }
            set_aside(path).await?;
        }
        Err(ClaimError::AlreadyRunning(None))
    }

    fn owned(path: &Path) -> Result<Self, ClaimError> {
        let private = fs::Permissions::from_mode(0o600);
        let file = fs::set_permissions(path, private).and_then(|()| identity(path));
        let file = file.map_err(|error| failed(path, error))?;
        Ok(Self { path: path.to_owned(), file })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // Left behind it would be replaced by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Moves a socket that nobody serves out of the way. Between the look and the move another process
/// may have put its own there: then it goes back.
async fn set_aside(path: &Path) -> Result<(), ClaimError> {
    let aside = path.with_extension(format!("{}.old", std::process::id()));
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        moved => moved.map_err(|error| failed(path, error))?,
    }
    if is_served(&aside).await {
        fs::rename(&aside, path).map_err(|error| failed(path, error))?;
        return Err(ClaimError::AlreadyRunning(pid_of(path).await));
    }
    fs::remove_file(&aside).map_err(|error| failed(path, error))
}

async fn is_served(path: &Path) -> bool {
    UnixStream::connect(path).await.is_ok()
}

#[cfg(feature = "proxy")]
async fn pid_of(path: &Path) -> Option<u64> {
    use crate::admin::{Client, Version};

    let version: Result<Version, _> = Client::new(path).get("/version").await;
    Some(version.ok()?.pid.into())
}

#[cfg(not(feature = "proxy"))]
async fn pid_of(_path: &Path) -> Option<u64> {
    None
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

fn failed(path: &Path, source: io::Error) -> ClaimError {
    ClaimError::Io { path: path.to_owned(), source }
}

fn pid(pid: Option<u64>) -> String {
    pid.map_or_else(String::new, |pid| format!(", pid {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let (first, listener) = ControlSocket::claim(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(is_served(&path).await);
        // Nobody serves it any more, but the file stays, as after kill -9.
        drop(listener);
        std::mem::forget(first);
        let (second, _listener) = ControlSocket::claim(&path).await.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_is_not_ours_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let (ours, _listener) = ControlSocket::claim(&path).await.unwrap();
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(200));
        assert!(matches!(ControlSocket::claim(&path).await, Err(ClaimError::TooLong(_))));
    }
}
