//! What a system may forbid, and how to allow it. PURE but for reading the system's settings.

use std::{fmt, fs, io, path::PathBuf};

/// A step towards the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    User,
    UserMap,
    Network,
    Resolver,
    Tun,
    Interface,
}

/// The system does not let programs have a network of their own.
#[derive(Debug)]
pub(crate) struct Blocked {
    step: Step,
    error: io::Error,
    settings: Settings,
}

/// The settings that forbid it.
#[derive(Debug, Default)]
struct Settings {
    /// `user.max_user_namespaces`
    namespaces: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, of Ubuntu
    apparmor: Option<u64>,
    /// `kernel.unprivileged_userns_clone`, of Debian
    clone: Option<u64>,
    /// This program.
    program: PathBuf,
}

impl Step {
    pub(super) fn failed(self, error: io::Error) -> Blocked {
        Blocked { step: self, error, settings: Settings::read() }
    }

    fn words(self) -> &'static str {
        match self {
            Self::User => "this system does not let users make user namespaces",
            Self::UserMap | Self::Network => {
                "this system does not let the user namespace have a network of its own"
            }
            Self::Resolver => "the resolver's files cannot be replaced for the program",
            Self::Tun => "the program cannot have an interface of its own (/dev/net/tun)",
            Self::Interface => "the program's interface cannot be set up",
        }
    }
}

impl Settings {
    fn read() -> Self {
        let number = |path| fs::read_to_string(path).ok()?.trim().parse().ok();
        Self {
            namespaces: number("/proc/sys/user/max_user_namespaces"),
            apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            program: std::env::current_exe().unwrap_or_else(|_| "/usr/bin/ronproxy".into()),
        }
    }
}

impl Blocked {
    /// How to allow it.
    pub(crate) fn cure(&self) -> String {
        let Settings { namespaces, apparmor, clone, program } = &self.settings;
        match (self.step, self.error.kind()) {
            (Step::Tun, io::ErrorKind::NotFound) => {
                "load the module with `sudo modprobe tun`; a container needs `--device /dev/net/tun`".into()
            }
            (Step::Tun, io::ErrorKind::PermissionDenied) => {
                "let users open it with `sudo chmod 0666 /dev/net/tun`, as most systems do".into()
            }
            (Step::Tun | Step::Interface, _) => {
                "load the module with `sudo modprobe tun`, or look for what is missing with `ronproxy exec -vv --check`".into()
            }
            (Step::Resolver, io::ErrorKind::NotFound) => {
                "make the file with `sudo touch /etc/resolv.conf`".into()
            }
            _ if *namespaces == Some(0) => {
                "allow some with `sudo sysctl -w user.max_user_namespaces=15000`, and for good in /etc/sysctl.d".into()
            }
            _ if *clone == Some(0) => {
                "allow them with `sudo sysctl -w kernel.unprivileged_userns_clone=1`, and for good in /etc/sysctl.d".into()
            }
            _ if *apparmor == Some(1) => format!(
                "AppArmor allows them to programs with a profile: the Debian package installs /etc/apparmor.d/ronproxy, and \
                 docs/apparmor/ronproxy is the same file; for another place write `profile ronproxy {} flags=(unconfined) {{ userns, }}` into that file; then \
                 `sudo apparmor_parser --replace /etc/apparmor.d/ronproxy`",
                program.display()
            ),
            _ => "a container or a security policy forbids it: start it outside of the container, allow the container \
                  unshare(2) and mount(2), or run it as root"
                .into(),
        }
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step.words(), self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cure(step: Step, code: i32, settings: Settings) -> String {
        Blocked { step, error: io::Error::from_raw_os_error(code), settings }.cure()
    }

    #[test]
    fn each_setting_that_forbids_it_is_named_with_its_cure() {
        const EPERM: i32 = 1;
        const ENOENT: i32 = 2;
        const EACCES: i32 = 13;
        const ENOSPC: i32 = 28;
        let none = Settings::default;
        let program = PathBuf::from("/home/ann/bin/ronproxy");
        for (step, code, settings, expected) in [
            (Step::User, ENOSPC, Settings { namespaces: Some(0), ..none() }, "max_user_namespaces"),
            (
                Step::User,
                EPERM,
                Settings { clone: Some(0), ..none() },
                "unprivileged_userns_clone=1",
            ),
            (
                Step::UserMap,
                EACCES,
                Settings { apparmor: Some(1), program, ..none() },
                "/home/ann/bin",
            ),
            (Step::Network, EPERM, Settings { apparmor: Some(1), ..none() }, "apparmor_parser"),
            (Step::User, EPERM, none(), "container"),
            (Step::Tun, ENOENT, none(), "modprobe tun"),
            (Step::Tun, EACCES, none(), "chmod 0666 /dev/net/tun"),
            (Step::Tun, EPERM, none(), "chmod 0666 /dev/net/tun"),
            (Step::Resolver, ENOENT, none(), "touch /etc/resolv.conf"),
        ] {
            let said = cure(step, code, settings);
            assert!(said.contains(expected), "{step:?} {code}: {said}");
        }
    }
}
