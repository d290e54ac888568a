//! Clients on this machine that are not served, and why.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// Why a client on this machine is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalRefusal {
    /// It belongs to a user that `local_users` does not name.
    OtherUser,
    /// The system does not say whose it is: it has closed already, or a sandbox hides it.
    UnknownUser,
}

/// How many clients were not served, by reason.
#[derive(Debug, Default)]
pub struct RefusedClients {
    other_user: AtomicU64,
    unknown_user: AtomicU64,
}

impl LocalRefusal {
    /// The stable name, as in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OtherUser => "other-user",
            Self::UnknownUser => "unknown-user",
        }
    }
}

impl fmt::Display for LocalRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherUser => {
                "This proxy serves the user who runs it; that user can add others with local_users under [entry]."
            }
            Self::UnknownUser => {
                "This proxy cannot tell which user of this machine asks; local_users under [entry] decides who is served."
            }
        })
    }
}

impl RefusedClients {
    /// The counts with their stable names.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u64); 2] {
        [
            (LocalRefusal::OtherUser.name(), self.other_user.load(Ordering::Relaxed)),
            (LocalRefusal::UnknownUser.name(), self.unknown_user.load(Ordering::Relaxed)),
        ]
    }

    #[cfg(feature = "proxy")]
    pub(super) fn count(&self, refusal: LocalRefusal) {
        let counter = match refusal {
            LocalRefusal::OtherUser => &self.other_user,
            LocalRefusal::UnknownUser => &self.unknown_user,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
