//! Two nodes, and programs in a network of their own.

use std::{
    path::Path,
    process::{Command as StdCommand, Stdio},
};

use tokio::process::Command;

use crate::{
    overlay::{Running, Site, json, ronproxy, run, stderr, wait_for},
    tools::client,
};

/// A name that the exit finds at this machine's loopback address, and that this machine itself does not know.
pub(crate) const WEB: &str = "web.test";

/// An exit, and an entry for programs.
pub(crate) struct Stage {
    pub(crate) hub: Running,
    pub(crate) leaf: Running,
    pub(crate) site: Site,
}

impl Stage {
    /// Starts the nodes; nothing where the system does not allow such programs, which is then said.
    pub(crate) fn set() -> Option<Self> {
        let site = Site::new();
        if !is_allowed(&site.dir("leaf")) {
            return None;
        }
        let hub = Running::start_as(naming(&site.hub()), &site.dir("hub"), &[]);
        let dir = site.join("leaf");
        let leaf = Running::start(&dir, &[]);
        wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
        Some(Self { hub, leaf, site })
    }

    /// `ronproxy exec` of a program, with these options.
    pub(crate) fn exec(&self, options: &[&str], program: &[&str]) -> Command {
        let mut command = client(env!("CARGO_BIN_EXE_ronproxy"));
        command.arg("--dir").arg(self.site.dir("leaf")).arg("exec");
        command.args(options).arg("--").args(program);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A fact of the entry's status.
    pub(crate) fn status(&self, field: &str) -> String {
        json(&self.site.dir("leaf"), &["status"])[field].to_string()
    }
}

/// Whether this system lets programs have a network of their own.
pub(crate) fn is_allowed(dir: &Path) -> bool {
    let check = run(dir, &["exec", "--check"]);
    if !check.status.success() {
        println!("skipped: {}", stderr(&check).trim());
    }
    check.status.success()
}

/// The program on `dir`, as an exit that knows the name [`WEB`]: in a mount namespace with its own `/etc/hosts`.
pub(crate) fn naming(dir: &Path) -> StdCommand {
    let hosts = dir.join("hosts");
    let own = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    std::fs::write(&hosts, format!("{own}\n127.0.0.1 {WEB}\n")).unwrap();
    let command = ronproxy(dir);
    let mut wrapped = StdCommand::new("unshare");
    let script = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
    wrapped.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(hosts);
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped.env_remove("RON_LOG").stdin(Stdio::null());
    wrapped
}
