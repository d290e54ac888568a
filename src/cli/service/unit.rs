//! The text of a systemd unit, and its name. PURE.

use std::path::{Component, Path, PathBuf};

use ring::digest::{SHA256, digest};

use crate::cli::CliError;

/// The first line of every unit we write; others are not touched.
pub(super) const MARK: &str = "# Written by `ronproxy service install`.";

/// Where the folders of system services are (`StateDirectory=`).
pub(super) const STATE: &str = "/var/lib";

/// The folder of a system service that names none.
pub(super) const SYSTEM_FOLDER: &str = "/var/lib/ronproxy";

/// Where a system service cannot read the program: `ProtectHome=` and `PrivateTmp=` hide them.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// The service manager that runs the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    /// The user's own.
    User,
    /// The machine's.
    System,
}

/// The hardening of every unit. It works without privileges: system call filters, no mounts.
const COMMON: &str = "\
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
# IPv4 and IPv6; Unix sockets for the admin API; netlink tells which user a local client is.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
# With Landlock the node confines itself further.
SystemCallFilter=@system-service landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
";

/// The hardening that only the machine's manager can do without user namespaces. Many systems
/// forbid these, and in one the entry could not distinguish the users of local clients.
const SYSTEM_ONLY: &str = "\
# A user that exists while the service runs; the folder belongs to it.
DynamicUser=yes
StateDirectoryMode=0700
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
PrivateDevices=yes
PrivateMounts=yes
PrivateTmp=yes
RemoveIPC=yes
";

/// The unit that runs `program` in the folder `dir`, or in the user's own folders.
///
/// # Errors
/// When a path cannot stand in a unit, or a system service cannot have this folder.
pub(super) fn text(
    manager: Manager,
    program: &Path,
    dir: Option<&Path>,
) -> Result<String, CliError> {
    let mut start = escaped(program)?;
    if let Some(dir) = dir {
        start += " --dir ";
        start += &escaped(dir)?;
    }
    let (ordering, hardening, wanted_by) = match manager {
        Manager::User => (String::new(), String::new(), "default.target"),
        Manager::System => (
            "Wants=network-online.target\nAfter=network-online.target\n".to_owned(),
            format!("StateDirectory={}\n{SYSTEM_ONLY}", state_directory(dir)?),
            "multi-user.target",
        ),
    };
    Ok(format!(
        "{MARK}
[Unit]
Description=ronproxy, a Resilient Overlay Network proxy
{ordering}
[Service]
Type=exec
ExecStart={start} run
Restart=on-failure
RestartSec=2
# Longer than the drain, so that flows may finish.
TimeoutStopSec=30
LimitNOFILE=32768
{hardening}{COMMON}
[Install]
WantedBy={wanted_by}
"
    ))
}

/// The unit's name: `ronproxy.service` for the folder that needs no `--dir`, otherwise with the
/// folder's last name and a part of its path's SHA-256, so that each folder has a unit of its own.
pub(super) fn name(manager: Manager, dir: Option<&Path>) -> String {
    let plain = "ronproxy.service".to_owned();
    let Some(dir) = dir else { return plain };
    if manager == Manager::System && dir == Path::new(SYSTEM_FOLDER) {
        return plain;
    }
    let last = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let word: String = last.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    // A unit's name has at most 255 bytes.
    let word = word.get(..word.len().min(64)).unwrap_or_default();
    let hash = digest(&SHA256, dir.as_os_str().as_encoded_bytes());
    let hash: String = hash.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("ronproxy-{word}-{hash}.service")
}

/// What `StateDirectory=` says for `dir`, which must be below `/var/lib`.
fn state_directory(dir: Option<&Path>) -> Result<String, CliError> {
    let dir = dir.unwrap_or(Path::new(SYSTEM_FOLDER));
    let below = dir.strip_prefix(STATE).ok().filter(|below| {
        let mut parts = below.components();
        parts.clone().next().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
    });
    let below = below
        .and_then(Path::to_str)
        .filter(|below| below.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)));
    below.map(str::to_owned).ok_or_else(|| {
        CliError::say(format!(
            "a system service keeps its node below {STATE}, and {} is not there or has unusual characters; \
             make the node with --dir {SYSTEM_FOLDER}, or move the folder there",
            dir.display()
        ))
    })
}

/// Why a system service could not run `program`, if it cannot.
pub(super) fn hidden(program: &Path) -> Option<CliError> {
    let folder = HIDDEN.into_iter().find(|folder| program.starts_with(folder))?;
    let place = PathBuf::from("/usr/local/bin").join(program.file_name().unwrap_or_default());
    Some(CliError::say(format!(
        "a system service sees nothing of {folder}, where this program is; copy it to {} and call it there",
        place.display()
    )))
}

/// A path as one quoted word of `ExecStart` (systemd.service(5)).
fn escaped(path: &Path) -> Result<String, CliError> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    let text = text.ok_or_else(|| {
        CliError::say(format!("{path:?} cannot stand in a unit; use a path in plain text"))
    })?;
    let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(format!("\"{text}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_special_characters_stays_one_word() {
        let (program, dir) = (Path::new("/opt/100% \"x\"/ron"), Path::new("/home/a b"));
        let unit = text(Manager::User, program, Some(dir)).unwrap();
        let start = r#"ExecStart="/opt/100%% \"x\"/ron" --dir "/home/a b" run"#;
        assert!(unit.lines().any(|line| line == start), "{unit}");
        assert!(text(Manager::User, Path::new("/a\nb"), None).is_err());
    }

    #[test]
    fn each_folder_has_a_unit_of_its_own() {
        let name = |dir: &str| name(Manager::User, Some(Path::new(dir)));
        let names = ["/a-b", "/a/b", "/b", "/a b", "/"].map(name);
        for (at, one) in names.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            assert!(one.starts_with("ronproxy-") && one.chars().all(plain), "{one}");
            assert!(!names[at + 1..].contains(one), "{one}");
        }
        assert_eq!(super::name(Manager::User, None), "ronproxy.service");
        let system = Some(Path::new(SYSTEM_FOLDER));
        assert_eq!(super::name(Manager::System, system), "ronproxy.service");
    }

    #[test]
    fn a_system_service_has_its_folder_below_var_lib() {
        let unit = |dir| text(Manager::System, Path::new("/usr/bin/ron"), Some(Path::new(dir)));
        let good = unit("/var/lib/nodes/utah").unwrap();
        assert!(good.contains("\nStateDirectory=nodes/utah\n"), "{good}");
        assert!(good.contains("\nDynamicUser=yes\n"), "{good}");
        for bad in ["/home/ann/node", "/var/lib", "/var/lib/../etc", "/var/lib/a b", "/var/lib/a:b"]
        {
            let error = unit(bad).unwrap_err().to_string();
            assert!(error.contains("--dir /var/lib/ronproxy"), "{bad}: {error}");
        }
        assert!(hidden(Path::new("/home/ann/.cargo/bin/ronproxy")).is_some());
        assert!(hidden(Path::new("/usr/local/bin/ronproxy")).is_none());
    }
}
