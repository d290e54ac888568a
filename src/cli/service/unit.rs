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

/// The hardening by namespaces, for a user's manager and for the machine's.
const NAMESPACES: &str = "\
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelModules=yes
ProtectProc=invisible
ProcSubset=pid
PrivateDevices=yes
PrivateMounts=yes
PrivateTmp=yes
RemoveIPC=yes
";

/// A user's manager makes the other namespaces in a user namespace. Its default for `KeyringMode=` is
/// `shared`, that of the machine's manager is `private`.
const USER_ONLY: &str = "\
# A user namespace, without which this manager can neither hide nor mount anything. In it all other
# users are one, root too; so the proxy serves this user only.
PrivateUsers=yes
ProtectHome=read-only
KeyringMode=private
";

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

/// The hardening that only the machine's manager can do. A user's manager of systemd 252 fails with the
/// two about the kernel: they hide files of root.
const SYSTEM_ONLY: &str = "\
# A user that exists while the service runs; the folder belongs to it.
DynamicUser=yes
StateDirectoryMode=0700
ProtectHome=yes
ProtectKernelLogs=yes
ProtectKernelTunables=yes
";

/// Whether a user's unit has namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sandbox {
    /// Yes; the node writes in these folders only.
    Namespaces(Vec<PathBuf>),
    /// No, and why.
    FiltersOnly(&'static str),
}

/// What forbids user namespaces to users without privileges, where it is the text of the file.
const FORBIDDEN: [(&str, &str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces is 0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone is 0"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns is 1",
    ),
];

impl Sandbox {
    /// What works for a user's service: `program` writes in `folders`, and `lists_users` is whether its
    /// proxy serves other users by name. `read` reads a file of the kernel, `None` if it is missing.
    pub(super) fn of(
        program: &Path,
        folders: Vec<PathBuf>,
        lists_users: bool,
        read: impl Fn(&str) -> Option<String>,
    ) -> Self {
        if lists_users {
            return Self::FiltersOnly("local_users names other users");
        }
        let temporary = |path: &Path| path.starts_with("/tmp") || path.starts_with("/var/tmp");
        if temporary(program) || folders.iter().any(|folder| temporary(folder)) {
            return Self::FiltersOnly("the program or its folder is a temporary one");
        }
        let forbidden = FORBIDDEN
            .into_iter()
            .find(|(file, text, _)| read(file).is_some_and(|said| said.trim() == *text));
        match forbidden {
            Some((_, _, why)) => Self::FiltersOnly(why),
            None => Self::Namespaces(folders),
        }
    }

    fn text(&self) -> Result<String, CliError> {
        let folders = match self {
            Self::FiltersOnly(why) => return Ok(format!("# No namespaces: {why}.\n")),
            Self::Namespaces(folders) => folders,
        };
        // Without a folder there is no node yet, and the service fails.
        let words = folders.iter().map(|folder| quoted("-", folder));
        let words: Result<Vec<_>, _> = words.collect();
        Ok(format!("{USER_ONLY}ReadWritePaths={}\n{NAMESPACES}", words?.join(" ")))
    }
}

/// The unit that runs `program` in the folder `dir`, or in the user's own folders.
///
/// # Errors
/// When a path cannot stand in a unit, or a system service cannot have this folder.
pub(super) fn text(
    manager: Manager,
    program: &Path,
    dir: Option<&Path>,
    sandbox: &Sandbox,
) -> Result<String, CliError> {
    let mut start = escaped(program)?;
    if let Some(dir) = dir {
        start += " --dir ";
        start += &escaped(dir)?;
    }
    let (ordering, hardening, wanted_by) = match manager {
        Manager::User => (String::new(), sandbox.text()?, "default.target"),
        Manager::System => (
            "Wants=network-online.target\nAfter=network-online.target\n".to_owned(),
            format!("StateDirectory={}\n{SYSTEM_ONLY}{NAMESPACES}", state_directory(dir)?),
            "multi-user.target",
        ),
    };
    Ok(format!(
        "{MARK}
[Unit]
Description=ronproxy, a Resilient Overlay Network proxy
{ordering}
[Service]
Type=notify
ExecStart={start} run
ExecReload={start} reload
# Three missed signs of life, and it is started again.
WatchdogSec=30
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

/// A path as one quoted word of `ExecStart` (systemd.service(5)), where `$` names a variable.
fn escaped(path: &Path) -> Result<String, CliError> {
    Ok(quoted("", path)?.replace('$', "$$"))
}

/// A path as one quoted word, behind a prefix of the directive.
fn quoted(prefix: &str, path: &Path) -> Result<String, CliError> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    let text = text.ok_or_else(|| {
        CliError::say(format!("{path:?} cannot stand in a unit; use a path in plain text"))
    })?;
    let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%");
    Ok(format!("\"{prefix}{text}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters() -> Sandbox {
        Sandbox::FiltersOnly("a test")
    }

    #[test]
    fn a_users_unit_has_namespaces_unless_something_forbids_them() {
        let folders = || vec![PathBuf::from("/home/ann/100% $x")];
        let ron = Path::new("/usr/bin/ron");
        let of = |program: &str, lists, kernel: (&str, &str)| {
            let read = |file: &str| (file == kernel.0).then(|| kernel.1.to_owned());
            Sandbox::of(Path::new(program), folders(), lists, read)
        };
        let none = ("", "");
        assert_eq!(of("/usr/bin/ron", false, none), Sandbox::Namespaces(folders()));
        let limit = (FORBIDDEN[0].0, "96364\n");
        assert_eq!(of("/usr/bin/ron", false, limit), Sandbox::Namespaces(folders()));
        for (program, lists, kernel) in [
            ("/tmp/ron", false, none),
            ("/usr/bin/ron", true, none),
            ("/usr/bin/ron", false, (FORBIDDEN[0].0, "0\n")),
            ("/usr/bin/ron", false, (FORBIDDEN[2].0, "1\n")),
        ] {
            let sandbox = of(program, lists, kernel);
            assert!(matches!(sandbox, Sandbox::FiltersOnly(_)), "{program} {lists} {kernel:?}");
            let unit = text(Manager::User, ron, None, &sandbox).unwrap();
            assert!(
                unit.contains("\n# No namespaces: ") && !unit.contains("PrivateUsers"),
                "{unit}"
            );
        }
        let unit = text(Manager::User, ron, None, &Sandbox::Namespaces(folders())).unwrap();
        assert!(unit.contains("\nReadWritePaths=\"-/home/ann/100%% $x\"\n"), "{unit}");
    }

    #[test]
    fn a_path_with_special_characters_stays_one_word() {
        let (program, dir) = (Path::new("/opt/100% \"x\"/ron"), Path::new("/home/a b"));
        let unit = text(Manager::User, program, Some(dir), &filters()).unwrap();
        let start = r#"ExecStart="/opt/100%% \"x\"/ron" --dir "/home/a b" run"#;
        assert!(unit.lines().any(|line| line == start), "{unit}");
        assert!(text(Manager::User, Path::new("/a\nb"), None, &filters()).is_err());
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
        let ron = Path::new("/usr/bin/ron");
        let unit = |dir| text(Manager::System, ron, Some(Path::new(dir)), &filters());
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

    /// The least exposed that a unit with a network can be is about 1; 2.5 is "OK" for systemd.
    const MOST_EXPOSED: f64 = 2.5;

    #[test]
    fn systemd_finds_the_units_little_exposed() {
        let (ron, node) = (Path::new("/usr/bin/ron"), Path::new("/var/lib/ronproxy"));
        let namespaces = Sandbox::Namespaces(vec![node.to_owned()]);
        for manager in [Manager::System, Manager::User] {
            let unit = text(manager, ron, Some(node), &namespaces).unwrap();
            let Some(score) = exposure(&unit) else { return };
            println!("{manager:?}: exposure {score} of at most {MOST_EXPOSED}");
            assert!(score < MOST_EXPOSED, "{manager:?}: {score}");
        }
    }

    /// What `systemd-analyze security` says of a unit; `None` where it cannot be asked.
    fn exposure(unit: &str) -> Option<f64> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ronproxy.service");
        std::fs::write(&file, unit).unwrap();
        let mut command = std::process::Command::new("systemd-analyze");
        let asked = command.args(["security", "--offline=true", "--no-pager"]).arg(file).output();
        let Ok(output) = asked else {
            println!("skipped: no systemd-analyze here");
            return None;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let score = text.lines().find_map(|line| {
            let (_, after) = line.split_once("Overall exposure level for ")?;
            after.split_whitespace().nth(1)?.parse().ok()
        });
        if score.is_none() {
            let said = String::from_utf8_lossy(&output.stderr);
            let old = said.contains("--offline") || said.contains("unrecognized option");
            assert!(old, "{text}{said}");
            println!(
                "skipped: this systemd-analyze cannot judge a file (before version 250): {said}"
            );
        }
        score
    }
}
