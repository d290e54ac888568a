//! The audit log of the authority: one JSON line per action, never rewritten.
//!
//! The file only grows. The number of recorded actions bounds it: a member gets at most six new
//! certificates in the life of one, joining needs an invitation, and refusals go to the ordinary
//! log. 256 members write about 8 MB a year. An attacker could make a rotating log forget. To
//! shorten the log, an operator moves the file away.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead as _, BufReader},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{NodeDir, NodeFile, NodeName, StoreError, UnixTime, files, store::io_error};

/// The longest line read. Ours are under 400 bytes.
const MAX_LINE: u64 = 4096;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// The authority's node got its certificate by `init`.
    Issue,
    /// An invitation was given out.
    Invite,
    /// An invitation was taken back.
    Cancel,
    /// A node used its invitation and got its certificate.
    Join,
    /// A node got its next certificate.
    Renew,
    /// A name's certificates were revoked.
    Revoke,
    /// A backup was written.
    Backup,
    /// The authority was restored from a backup.
    Restore,
}

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// A user of this machine, by a command.
    User(u32),
    /// A node, from this address.
    Address(IpAddr),
    /// A node, over its link.
    Link,
    /// The authority's own node.
    Node,
    /// A user of this machine, by the dashboard or the API of the authority's node.
    Dashboard,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When, in seconds since 1970.
    pub time: u64,
    /// What was done.
    pub event: Deed,
    /// To which node.
    pub name: NodeName,
    /// The certificate issued, the invitation's identifier, or the revocation list's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Who did it: `uid 1000`, an address, `this node`, or `this node's dashboard`.
    pub by: String,
}

/// The log of the authority in a folder.
#[derive(Debug, Clone)]
pub struct AuditLog {
    dir: NodeDir,
}

/// What the log says.
#[derive(Debug, Default)]
pub struct AuditLines {
    /// The entries, oldest first.
    pub entries: Vec<AuditEntry>,
    /// The numbers of the lines that are no entry, from 1.
    pub unreadable: Vec<usize>,
}

impl AuditLog {
    /// The log of the authority in `dir`.
    #[must_use]
    pub fn new(dir: &NodeDir) -> Self {
        Self { dir: dir.clone() }
    }

    /// Adds a line and waits until it is on disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(
        &self,
        event: Deed,
        name: &NodeName,
        serial: Option<String>,
        by: Actor,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let entry = AuditEntry {
            time: now.as_secs(),
            event,
            name: name.clone(),
            serial,
            by: by.to_string(),
        };
        let path = self.dir.path(NodeFile::Audit);
        let line =
            serde_json::to_string(&entry).map_err(|e| self.dir.damaged(NodeFile::Audit, e))?;
        files::append(&path, &line).map_err(io_error("write", &path))
    }

    /// The last `limit` entries. Lines that are no entry are numbered and left out.
    ///
    /// # Errors
    /// When the file cannot be read. A file that is not there is an empty log.
    pub fn read(&self, limit: usize) -> Result<AuditLines, StoreError> {
        let path = self.dir.path(NodeFile::Audit);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(AuditLines::default());
            }
            file => file.map_err(io_error("read", &path))?,
        };
        parse(BufReader::new(file), limit).map_err(io_error("read", &path))
    }
}

fn parse(mut reader: impl io::BufRead, limit: usize) -> io::Result<AuditLines> {
    let mut lines = AuditLines::default();
    let mut entries = std::collections::VecDeque::new();
    for number in 1.. {
        let mut line = Vec::new();
        if io::Read::take(&mut reader, MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(entry) => {
                entries.push_back(entry);
                if entries.len() > limit {
                    entries.pop_front();
                }
            }
            Err(_) => lines.unreadable.push(number),
        }
    }
    lines.entries = entries.into();
    Ok(lines)
}

impl Actor {
    /// The user who runs this process.
    #[must_use]
    pub fn this_user() -> Self {
        Self::User(rustix::process::getuid().as_raw())
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Address(address) => address.fmt(f),
            Self::Link => f.write_str("over a link"),
            Self::Node => f.write_str("this node"),
            Self::Dashboard => f.write_str("this node's dashboard"),
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Issue => "issue",
            Self::Invite => "invite",
            Self::Cancel => "cancel",
            Self::Join => "join",
            Self::Renew => "renew",
            Self::Revoke => "revoke",
            Self::Backup => "backup",
            Self::Restore => "restore",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::identity::test_support::{NOW, Overlay};

    #[test]
    fn the_audit_log_only_grows_and_survives_a_cut_line() {
        let overlay = Overlay::new();
        let log = AuditLog::new(&overlay.dir);
        assert!(log.read(9).unwrap().entries.is_empty());
        let name: NodeName = "utah".parse().unwrap();
        log.record(Deed::Invite, &name, None, Actor::User(7), NOW).unwrap();
        let path = overlay.dir.path(NodeFile::Audit);
        assert!(!files::is_exposed(&path).unwrap());
        // A crash in the middle of a line.
        File::options().append(true).open(&path).unwrap().write_all(b"{\"time\":1").unwrap();
        log.record(Deed::Join, &name, Some("40".into()), Actor::Node, NOW).unwrap();
        let lines = log.read(9).unwrap();
        assert_eq!(lines.unreadable, [2]);
        let seen: Vec<_> = lines.entries.iter().map(|e| (e.event, e.by.as_str())).collect();
        assert_eq!(seen, [(Deed::Invite, "uid 7"), (Deed::Join, "this node")]);
        assert_eq!(log.read(1).unwrap().entries[0].event, Deed::Join);
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let lines = parse(BufReader::new(&vec![b'x'; 3 * 4096][..]), 1).unwrap();
        assert_eq!((lines.entries.len(), lines.unreadable.len()), (0, 3));
    }
}
