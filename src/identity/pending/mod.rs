//! The invitations that the authority has given out.
//!
//! One file per invitation, named after the SHA-256 of its token. The token itself is not on disk.
//! Finding it is one lookup, whose time says nothing about the token. Using it is one rename, which
//! only one of several processes or connections can do. The end of the file's name is the
//! invitation's state.

mod record;
#[cfg(test)]
mod tests;

use std::{fs, path::PathBuf};

use super::{
    Attributes, NodeDir, NodeFile, NodeName, StoreError, Token, UnixTime,
    authority::turn,
    digest::{hex, unhex},
    files,
    store::{self, io_error},
};
pub use record::{Granted, InvitationRecords, InvitationState, Invited, PendingError, RedeemError};

/// Most invitations on record, in any state.
const MAX_PENDING: usize = 1024;

/// How long an invitation stays on record after its end, so that `invite --list` shows its state.
/// When the record is full, ended invitations go at once.
const REMEMBERED: u64 = 24 * 3600;

/// Digits of an invitation's identifier that are shown. With 1,024 invitations on record, two share
/// them with a probability of one in ten million.
const ID_LEN: usize = 12;

/// The fewest digits by which one can be named.
const MIN_ID_LEN: usize = 6;

const OPEN: &str = ".json";
const USED: &str = ".used";
const CANCELLED: &str = ".cancelled";

/// The invitations in the authority's folder.
#[derive(Debug, Clone)]
pub struct PendingInvitations {
    dir: NodeDir,
}

impl PendingInvitations {
    /// The invitations of the authority in `dir`.
    #[must_use]
    pub fn new(dir: &NodeDir) -> Self {
        Self { dir: dir.clone() }
    }

    /// Stores an invitation and returns its identifier. It also deletes invitations that ended long
    /// ago.
    ///
    /// # Errors
    /// When 1,024 are on record, or the folder cannot be written.
    pub fn add(
        &self,
        token: &Token,
        granted: &Granted,
        now: UnixTime,
    ) -> Result<String, PendingError> {
        granted.attributes.check()?;
        self.dir.folder(NodeFile::Invitations)?;
        let _turn = turn(&self.dir)?;
        let mut kept = self.sweep(now, REMEMBERED)?;
        if kept >= MAX_PENDING {
            kept = self.sweep(now, 0)?;
        }
        if kept >= MAX_PENDING {
            return Err(PendingError::Full);
        }
        let path = self.path(token, OPEN);
        let text =
            serde_json::to_vec(granted).map_err(|e| self.dir.damaged(NodeFile::Invitations, e))?;
        files::write(&path, &text).map_err(io_error("write", &path))?;
        Ok(id(&hex(&token.hash())))
    }

    /// Deletes an invitation that was not given out.
    ///
    /// # Errors
    /// When the folder cannot be written; it then stays open.
    pub fn withdraw(&self, token: &Token) -> Result<(), StoreError> {
        let open = self.path(token, OPEN);
        fs::remove_file(&open)
            .and_then(|()| files::sync_parent(&open))
            .map_err(io_error("write", &open))
    }

    /// What `token` grants, without using it.
    ///
    /// # Errors When it is not valid.
    pub fn peek(&self, token: &Token, now: UnixTime) -> Result<Attributes, RedeemError> {
        if self.path(token, USED).exists() {
            return Err(RedeemError::Used);
        }
        if self.path(token, CANCELLED).exists() {
            return Err(RedeemError::Cancelled);
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
            done => done.map_err(io_error("write", &used))?,
        }
        files::sync_parent(&used).map_err(io_error("write", &used))?;
        Ok(attributes)
    }

    /// Opens an invitation again that [`redeem`](Self::redeem) used, when no certificate was issued
    /// for it.
    ///
    /// # Errors
    /// When the folder cannot be written; it then stays used.
    pub fn reopen(&mut self, token: &Token) -> Result<(), StoreError> {
        let open = self.path(token, OPEN);
        fs::rename(self.path(token, USED), &open)
            .and_then(|()| files::sync_parent(&open))
            .map_err(io_error("write", &open))
    }

    /// Takes back every open invitation of a name, or else the one with this identifier.
    ///
    /// # Errors
    /// [`PendingError::NotFound`] when there is none, or when the folder cannot be written.
    pub fn cancel(&self, which: &str, now: UnixTime) -> Result<Vec<Invited>, PendingError> {
        let _turn = turn(&self.dir)?;
        let mut open = self.open(now)?;
        let by_name = open.iter().any(|entry| entry.names(which));
        let by_id = which.len() >= MIN_ID_LEN;
        open.retain(|entry| {
            if by_name { entry.names(which) } else { by_id && entry.stem.starts_with(which) }
        });
        if open.is_empty() || (!by_name && open.len() > 1) {
            return Err(PendingError::NotFound(which.chars().take(64).collect()));
        }
        Ok(take_back(open)?)
    }

    /// Takes back every open invitation of `name`, if there are any.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn cancel_all_of(
        &self,
        name: &NodeName,
        now: UnixTime,
    ) -> Result<Vec<Invited>, StoreError> {
        let _turn = turn(&self.dir)?;
        let mut open = self.open(now)?;
        open.retain(|entry| entry.names(name.as_str()));
        take_back(open)
    }

    fn open(&self, now: UnixTime) -> Result<Vec<Open>, StoreError> {
        let files = store::list(&self.dir.path(NodeFile::Invitations), OPEN, MAX_PENDING)?;
        let open = files.into_iter().filter_map(|(stem, path)| {
            let granted = read(&path).ok().filter(|granted| granted.expires > now.as_secs())?;
            let invited = Invited { id: id(&stem), state: InvitationState::Cancelled, granted };
            Some(Open { stem, path, invited })
        });
        Ok(open.collect())
    }

    /// Every invitation on record. It also deletes invitations that ended long ago.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self, now: UnixTime) -> Result<InvitationRecords, StoreError> {
        self.sweep(now, REMEMBERED)?;
        let mut records = InvitationRecords::default();
        for (suffix, state) in [
            (OPEN, InvitationState::Open),
            (USED, InvitationState::Used),
            (CANCELLED, InvitationState::Cancelled),
        ] {
            for (stem, path) in self.files(suffix)? {
                let granted = match read(&path) {
                    Ok(granted) => granted,
                    Err(StoreError::Missing(_)) => continue,
                    Err(error) => {
                        records.damaged.push(error);
                        continue;
                    }
                };
                let late = granted.expires <= now.as_secs() && state == InvitationState::Open;
                let state = if late { InvitationState::Expired } else { state };
                records.invited.push(Invited { id: id(&stem), state, granted });
            }
        }
        let key = |i: &Invited| (i.granted.attributes.name.clone(), i.granted.expires);
        records.invited.sort_by_key(key);
        Ok(records)
    }

    /// The SHA-256 of the token of every open invitation.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open_tokens(&self, now: UnixTime) -> Result<Vec<[u8; 32]>, StoreError> {
        Ok(self.open(now)?.iter().filter_map(|open| unhex(&open.stem)).collect())
    }

    /// How many invitations of the last day the dashboard gave out, in any state.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn of_dashboard(&self, now: UnixTime) -> Result<usize, StoreError> {
        let records = self.list(now)?;
        Ok(records.invited.iter().filter(|invited| invited.granted.by_dashboard).count())
    }

    /// Deletes invitations that ended so many seconds ago; returns how many are left. Those of the dashboard stay
    /// for a day in any case, as they are counted. It never deletes a damaged record.
    fn sweep(&self, now: UnixTime, kept_for: u64) -> Result<usize, StoreError> {
        let mut kept = 0;
        for suffix in [OPEN, USED, CANCELLED] {
            for (_, path) in self.files(suffix)? {
                let over = read(&path).is_ok_and(|granted| {
                    let kept_for = if granted.by_dashboard { REMEMBERED } else { kept_for };
                    granted.expires.saturating_add(kept_for) <= now.as_secs()
                });
                if !over || fs::remove_file(&path).is_err() {
                    kept += 1;
                }
            }
        }
        Ok(kept)
    }

    fn files(&self, suffix: &str) -> Result<Vec<(String, PathBuf)>, StoreError> {
        store::list(&self.dir.path(NodeFile::Invitations), suffix, MAX_PENDING)
    }

    fn path(&self, token: &Token, suffix: &str) -> PathBuf {
        self.dir.path(NodeFile::Invitations).join(format!("{}{suffix}", hex(&token.hash())))
    }
}

fn id(stem: &str) -> String {
    stem.chars().take(ID_LEN).collect()
}

/// An open invitation, and what it is when it has been taken back.
struct Open {
    stem: String,
    path: PathBuf,
    invited: Invited,
}

impl Open {
    fn names(&self, name: &str) -> bool {
        self.invited.granted.attributes.name.as_str() == name
    }
}

fn take_back(open: Vec<Open>) -> Result<Vec<Invited>, StoreError> {
    for Open { path, .. } in &open {
        let to = path.with_extension(&CANCELLED[1..]);
        fs::rename(path, &to)
            .and_then(|()| files::sync_parent(&to))
            .map_err(io_error("write", &to))?;
    }
    Ok(open.into_iter().map(|open| open.invited).collect())
}

fn read(path: &std::path::Path) -> Result<Granted, StoreError> {
    serde_json::from_slice(&store::read(path)?)
        .map_err(|error| StoreError::Damaged { path: path.to_owned(), why: error.to_string() })
}
