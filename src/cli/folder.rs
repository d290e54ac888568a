//! The folder a command works on.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::CliError;
use crate::{
    admin::Client,
    config::Config,
    identity::{Authority, NodeDir, NodeFile, StoreError},
};

/// The longest path of a socket, in bytes: `sun_path` in unix(7), without the zero at its end.
const LONGEST_SOCKET: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The node's folder, and how the user named it.
#[derive(Debug)]
pub(super) struct Folder {
    /// The folder's files.
    pub(super) dir: NodeDir,
    named: Option<PathBuf>,
}

impl Folder {
    /// The folder named by `--dir`, or the user's own.
    pub(super) fn new(named: Option<&Path>) -> Result<Self, CliError> {
        let Some(named) = named else {
            return Ok(Self { dir: NodeDir::of_user()?, named: None });
        };
        let path = std::path::absolute(named)
            .map_err(|_| CliError::say("--dir needs a path; name a folder"))?;
        Ok(Self { dir: NodeDir::at(&path), named: Some(path) })
    }

    /// Reads the configuration.
    pub(super) fn config(&self) -> Result<Config, CliError> {
        Ok(Config::load(&self.dir.path(NodeFile::Config))?)
    }

    /// Opens the overlay authority with its key.
    pub(super) fn authority(&self) -> Result<Authority, CliError> {
        self.expect_authority()?;
        Ok(Authority::load(&self.dir)?)
    }

    /// Moves the files of an older version to where this one has them.
    pub(super) fn bring_up_to_date(&self) -> Result<(), CliError> {
        if self.dir.bring_up_to_date()? {
            tracing::info!(
                "the folder is brought up to date: `authority/` and the state are apart now"
            );
        }
        Ok(())
    }

    /// Checks that the overlay authority is here. Only one node has it.
    pub(super) fn expect_authority(&self) -> Result<(), CliError> {
        self.bring_up_to_date()?;
        if self.dir.has_authority() {
            return Ok(());
        }
        let here = self.dir.path(NodeFile::AuthorityKey);
        Err(CliError::say(format!(
            "the overlay authority is not here ({} is missing); run this on the node that ran `ronproxy init`",
            here.display()
        )))
    }

    /// Makes the folder for a new node.
    pub(super) fn begin(&self) -> Result<(), CliError> {
        let config = self.dir.path(NodeFile::Config);
        // An old configuration would overrule the options of this command without a message.
        if config.exists() && !self.dir.has_node() {
            return Err(StoreError::Exists(config).into());
        }
        self.check_depth()?;
        Ok(self.dir.begin()?)
    }

    /// Checks that the path of the running node's socket is short enough for the system.
    pub(super) fn check_depth(&self) -> Result<(), CliError> {
        let socket = self.socket();
        if socket.as_os_str().len() <= LONGEST_SOCKET {
            return Ok(());
        }
        Err(CliError::say(format!(
            "{} has more than {LONGEST_SOCKET} bytes, too many for the path of a socket; name a shorter folder with --dir",
            socket.display()
        )))
    }

    /// Where the running node listens for commands: next to what it learns.
    pub(super) fn socket(&self) -> PathBuf {
        self.dir.socket()
    }

    /// Asks the running node.
    pub(super) fn client(&self) -> Client {
        Client::new(self.socket())
    }

    /// Whether a node runs in the folder.
    pub(super) async fn is_running(&self) -> bool {
        self.client().get::<serde::de::IgnoredAny>("/version").await.is_ok()
    }

    /// The folder as an absolute path, if it was named.
    pub(super) fn named(&self) -> Option<&Path> {
        self.named.as_deref()
    }

    /// A command to be shown to the user, for this folder.
    pub(super) fn command<'a>(&'a self, command: &'a str) -> impl fmt::Display + 'a {
        ShownCommand { folder: self, command }
    }
}

struct ShownCommand<'a> {
    folder: &'a Folder,
    command: &'a str,
}

impl fmt::Display for ShownCommand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ronproxy ")?;
        if let Some(dir) = &self.folder.named {
            write!(f, "--dir {} ", quoted(&dir.to_string_lossy()))?;
        }
        f.write_str(self.command)
    }
}

/// `text` as one word of a POSIX shell.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_pasted() {
        let folder = Folder::new(Some(Path::new("/tmp/a node"))).unwrap();
        assert_eq!(folder.command("run").to_string(), "ronproxy --dir '/tmp/a node' run");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("/tmp/x-1"), "/tmp/x-1");
    }
}
