//! What a running node does with its folder: writes members down, and takes over a new revocation list.

use std::{fs, path::PathBuf, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::written::Written;
use crate::{
    app::NodeView,
    identity::{Credentials, NodeDir, NodeFile},
};

/// How often to check whether the members changed; only then they are stored. A restarted node must
/// know whom to dial, because the others still wait for its old process.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// How often to check whether a command wrote a newer revocation list. `revoke` has to act within
/// seconds, and a check costs one system call.
const LOOK_AT_LIST_EVERY: Duration = Duration::from_secs(1);

/// Writes the members down when they change.
pub(crate) struct MemberKeeper {
    dir: NodeDir,
    view: NodeView,
    saved: Written,
}

impl MemberKeeper {
    /// Writes into `dir` what `view` shows.
    pub(crate) fn new(dir: NodeDir, view: NodeView) -> Self {
        Self { dir, view, saved: Written::default() }
    }

    /// Looks each second; never ends.
    pub(crate) async fn run(&mut self) {
        let mut ticks = interval(SAVE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.save();
        }
    }

    /// Writes the members down now, if they changed.
    pub(crate) fn save(&mut self) {
        let (bootstrap, records) = self.view.written_members();
        let blocked = self.view.blocked_networks();
        let members = Written { bootstrap, records, blocked };
        if members == self.saved || members == Written::default() {
            return;
        }
        match members.save(&self.dir) {
            Ok(()) => self.saved = members,
            Err(error) => tracing::warn!(%error, "the members could not be written down"),
        }
    }
}

/// Takes over the revocation list that a command writes into the folder.
pub(crate) struct ListWatch {
    path: PathBuf,
    credentials: Credentials,
}

impl ListWatch {
    /// Watches the list in `dir`.
    pub(crate) fn new(dir: &NodeDir, credentials: Credentials) -> Self {
        Self { path: dir.path(NodeFile::Revoked), credentials }
    }

    /// Looks each second; never ends.
    pub(crate) async fn run(&self) {
        let mut ticks = interval(LOOK_AT_LIST_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = None;
        loop {
            ticks.tick().await;
            let changed = fs::metadata(&self.path).and_then(|file| file.modified()).ok();
            if changed == seen {
                continue;
            }
            seen = changed;
            match self.credentials.reload_revocations() {
                Ok(Some(number)) => tracing::info!(number, "a newer revocation list is in force"),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the revocation list was not taken over"),
            }
        }
    }
}
