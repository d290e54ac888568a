//! The invitations that the authority has given out and that nobody has used yet.
//!
//! One file per invitation, named after the SHA-256 of its token: the token itself is nowhere on
//! disk, finding it is one lookup whose time tells nothing, and using it is one rename, which only
//! one of several processes or connections can do.

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    Attributes, AttributesError, NodeDir, NodeFile, StoreError, Token, UnixTime, digest::hex,
    files, store,
};

/// Invitations open or used and not yet expired, at one time.
const MAX_PENDING: usize = 1024;
const OPEN: &str = ".json";
const USED: &str = ".used";

/// The open invitations in the authority's folder.
#[derive(Debug, Clone)]
pub struct PendingInvitations {
    dir: NodeDir,
}

/// What an invitation grants, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// What the new node's certificate will say.
    pub attributes: Attributes,
    /// When the invitation ends, in seconds since 1970.
    pub expires: u64,
}

/// An invitation cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum PendingError {
    /// Too many at once.
    #[error("{MAX_PENDING} invitations are open; wait until some are used or expired")]
    Full,
    /// The attributes are out of bounds.
    #[error(transparent)]
    Attributes(#[from] AttributesError),
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A token buys nothing.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// No invitation has this token, or it is long over.
    #[error("the authority knows no such invitation; ask for a new one")]
    Unknown,
    /// Somebody has used it.
    #[error("the invitation has been used; if not by you, tell the inviter, and ask for a new one")]
    Used,
    /// Too late.
    #[error("the invitation has expired; ask for a new one")]
    Expired,
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PendingInvitations {
    /// The invitations of the authority in `dir`.
    #[must_use]
    pub fn new(dir: &NodeDir) -> Self {
        Self { dir: dir.clone() }
    }

    /// Keeps an invitation; expired ones are forgotten on this occasion.
    ///
    /// # Errors
    /// When 1,024 are open, or the folder cannot be written.
    pub fn add(&self, token: &Token, granted: &Granted, now: UnixTime) -> Result<(), PendingError> {
        granted.attributes.check()?;
        let folder = self.dir.folder(NodeFile::Invitations)?;
        let mut kept = 0;
        for suffix in [OPEN, USED] {
            for (_, path) in store::list(&folder, suffix, MAX_PENDING)? {
                let over = read(&path).is_ok_and(|granted| granted.expires <= now.as_secs());
                if !over || fs::remove_file(&path).is_err() {
                    kept += 1;
                }
            }
        }
        if kept >= MAX_PENDING {
            return Err(PendingError::Full);
        }
        let path = self.path(token, OPEN);
        let text =
            serde_json::to_vec(granted).map_err(|e| self.dir.damaged(NodeFile::Invitations, e))?;
        Ok(files::write(&path, &text).map_err(store::io_error("write", &path))?)
    }

    /// What `token` grants, without using it.
    ///
    /// # Errors
    /// When it grants nothing.
    pub fn peek(&self, token: &Token, now: UnixTime) -> Result<Attributes, RedeemError> {
        if self.path(token, USED).exists() {
            return Err(RedeemError::Used);
        }
        let granted = read(&self.path(token, OPEN)).map_err(|error| match error {
            StoreError::Missing(_) => RedeemError::Unknown,
            error => RedeemError::Store(error),
        })?;
        if granted.expires <= now.as_secs() {
            return Err(RedeemError::Expired);
        }
        Ok(granted.attributes)
    }

    /// Uses `token`: returns what it grants, once, and never again, also after a crash.
    ///
    /// # Errors
    /// When it grants nothing, or its use cannot be put on disk.
    pub fn redeem(&mut self, token: &Token, now: UnixTime) -> Result<Attributes, RedeemError> {
        let attributes = self.peek(token, now)?;
        let used = self.path(token, USED);
        match fs::rename(self.path(token, OPEN), &used) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(RedeemError::Used);
            }
            done => done.map_err(store::io_error("write", &used))?,
        }
        files::sync_parent(&used).map_err(store::io_error("write", &used))?;
        Ok(attributes)
    }

    /// Every open invitation that has not expired.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(&self, now: UnixTime) -> Result<Vec<Granted>, StoreError> {
        let folder = self.dir.path(NodeFile::Invitations);
        let all = store::list(&folder, OPEN, MAX_PENDING)?;
        let all = all.into_iter().filter_map(|(_, path)| read(&path).ok());
        Ok(all.filter(|granted| granted.expires > now.as_secs()).collect())
    }

    /// Whether an invitation is open that has not expired.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn any_open(&self, now: UnixTime) -> Result<bool, StoreError> {
        let folder = self.dir.path(NodeFile::Invitations);
        let mut all = store::list(&folder, OPEN, MAX_PENDING)?.into_iter();
        Ok(all.any(|(_, path)| read(&path).is_ok_and(|granted| granted.expires > now.as_secs())))
    }

    fn path(&self, token: &Token, suffix: &str) -> PathBuf {
        self.dir.path(NodeFile::Invitations).join(format!("{}{suffix}", hex(&token.hash())))
    }
}

fn read(path: &std::path::Path) -> Result<Granted, StoreError> {
    serde_json::from_slice(&store::read(path)?)
        .map_err(|error| StoreError::Damaged { path: path.to_owned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_support::{NOW, after};

    fn granted(name: &str, seconds: u64) -> Granted {
        Granted {
            attributes: Attributes::entry(name.parse().unwrap()),
            expires: NOW.as_secs() + seconds,
        }
    }

    fn pending() -> (tempfile::TempDir, PendingInvitations) {
        let folder = tempfile::tempdir().unwrap();
        let pending = PendingInvitations::new(&NodeDir::at(folder.path()));
        (folder, pending)
    }

    fn token(number: u16) -> Token {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        Token::from_random(bytes)
    }

    #[test]
    fn a_token_is_good_once_also_after_a_restart() {
        let (_folder, mut pending) = pending();
        pending.add(&token(1), &granted("utah", 60), NOW).unwrap();
        let mut restarted = PendingInvitations::new(&pending.dir);
        assert_eq!(restarted.redeem(&token(1), NOW).unwrap().name.as_str(), "utah");
        assert!(matches!(pending.redeem(&token(1), NOW), Err(RedeemError::Used)));
        assert!(pending.open(NOW).unwrap().is_empty());
        assert!(!pending.any_open(NOW).unwrap());
    }

    #[test]
    fn unknown_and_expired_tokens_grant_nothing() {
        let (_folder, mut pending) = pending();
        pending.add(&token(1), &granted("utah", 60), NOW).unwrap();
        assert!(pending.any_open(NOW).unwrap() && !pending.any_open(after(60)).unwrap());
        assert!(matches!(pending.redeem(&token(2), NOW), Err(RedeemError::Unknown)));
        assert!(matches!(pending.redeem(&token(1), after(60)), Err(RedeemError::Expired)));
    }

    #[test]
    fn eight_who_come_at_once_get_one_certificate() {
        let (_folder, pending) = pending();
        pending.add(&token(1), &granted("utah", 60), NOW).unwrap();
        let redeem = || pending.clone().redeem(&token(1), NOW).is_ok();
        let won = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(redeem)).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(won, 1);
    }

    #[test]
    fn no_token_is_on_disk() {
        let (folder, pending) = pending();
        pending.add(&token(1), &granted("utah", 60), NOW).unwrap();
        let hash = hex(&token(1).hash());
        assert!(folder.path().join("invitations").join(format!("{hash}.json")).exists());
    }

    #[test]
    fn the_cap_counts_until_invitations_expire() {
        let (_folder, pending) = pending();
        let folder = pending.dir.folder(NodeFile::Invitations).unwrap();
        let text = serde_json::to_vec(&granted("utah", 60)).unwrap();
        for number in 0..MAX_PENDING {
            fs::write(folder.join(format!("{number}.json")), &text).unwrap();
        }
        let add = |now| pending.add(&token(1), &granted("mit", 900), now);
        assert!(matches!(add(NOW), Err(PendingError::Full)));
        add(after(60)).unwrap();
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
    }
}
