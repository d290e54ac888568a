//! The running node confines itself. Afterwards it reaches its own folder, the files of name
//! look-ups, and the network, and cannot start a program. An attacker who exploits a fault in a
//! parser then gets this node's key and flows, but not the files of its user.
//! The signer of an authority reaches the authority's files and what the node has written, but neither
//! the node's key nor the network.
//!
//! Landlock confines a thread and those that it starts. So `run` calls this on the main thread, when
//! the node's files are found and the signer of an authority runs, and before the runtime has threads.

use std::fmt;

use super::folder::Folder;
use crate::config::Config;

/// What is enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Confinement {
    /// The configuration says `confine = false`.
    Off,
    /// All requested rules that the kernel knows.
    Landlock {
        /// Whether the kernel knows all of it.
        whole: bool,
        /// Which TCP connections it may not make.
        tcp: Tcp,
    },
    /// The kernel has no Landlock, or the system is not Linux.
    Unsupported,
    /// The rules could not be set.
    Failed(String),
}

/// The TCP rights of a confined node, if the kernel has such rules (Linux 6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tcp {
    /// An exit connects to anything, and listens for clients and streams only.
    Connects,
    /// Without the exit role a node connects to the ports of members' streams: 443, those that it knew when
    /// it started, and that of its proxy.
    Streams,
    /// Without streams it connects to nothing by TCP.
    ListensOnly,
    /// The signer uses no TCP at all.
    Nothing,
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off, by the configuration"),
            Self::Unsupported => f.write_str("none: this system has no Landlock"),
            Self::Failed(error) => write!(f, "none: {error}"),
            Self::Landlock { whole, tcp } => {
                let parts = if *whole { "" } else { ", as far as this kernel can" };
                let rest = match tcp {
                    Tcp::Connects => "own folder, no programs, no TCP port but its own",
                    Tcp::Streams => {
                        "own folder, no programs, no TCP port but its own, no TCP connection but for streams"
                    }
                    Tcp::ListensOnly => {
                        "own folder, no programs, no TCP port but its own, no TCP connection"
                    }
                    Tcp::Nothing => "the authority's folder, no programs, no TCP",
                };
                write!(f, "Landlock: {rest}{parts}")
            }
        }
    }
}

/// Confines this thread, and those that it starts from now on.
pub(super) fn confine(folder: &Folder, config: &Config) -> Confinement {
    if !config.node.confine {
        return Confinement::Off;
    }
    enforce(folder, config)
}

/// Confines this thread, and those that it starts from now on, to what the signer needs.
pub(super) fn confine_signer(folder: &Folder, config: &Config) -> Confinement {
    if !config.node.confine {
        return Confinement::Off;
    }
    enforce_signer(folder)
}

#[cfg(not(target_os = "linux"))]
fn enforce(_: &Folder, _: &Config) -> Confinement {
    Confinement::Unsupported
}

#[cfg(not(target_os = "linux"))]
fn enforce_signer(_: &Folder) -> Confinement {
    Confinement::Unsupported
}

#[cfg(target_os = "linux")]
use linux::{enforce, enforce_signer};

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        collections::BTreeSet,
        path::{Path, PathBuf},
    };

    use landlock::{
        ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, Ruleset, RulesetAttr as _,
        RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, make_bitflags,
        path_beneath_rules,
    };

    use super::{Confinement, Tcp};
    use crate::{
        cli::folder::Folder,
        config::Config,
        identity::{AuthorityContact, NodeFile},
        node::Written,
        wire::reach::is_stream_mark,
    };

    /// The newest rights asked for: those of Linux 6.12. An older kernel enforces what it knows.
    const RIGHTS: ABI = ABI::V6;

    /// The files that may be read besides the node's own. A missing file needs no rule.
    const READABLE: [&str; 3] = [
        // Name servers, hosts and users. Their files are replaced by new ones while the node runs,
        // so the rule is about the folder.
        "/etc",
        // The owner of a local client, where netlink is forbidden. Landlock itself keeps a confined
        // process from the memory and the environment of others.
        "/proc",
        // How many processors the runtime's threads may use.
        "/sys/fs/cgroup",
    ];

    /// Reading files and folders; not running them.
    const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});

    /// Replacing files in one step and having a socket in the folder.
    const WRITE: BitFlags<AccessFs> =
        make_bitflags!(AccessFs::{WriteFile | Truncate | RemoveFile | MakeReg | MakeSock});

    pub(super) fn enforce(folder: &Folder, config: &Config) -> Confinement {
        let tcp = match (config.exit.enabled, config.node.stream_dial) {
            (true, _) => Tcp::Connects,
            (false, true) => Tcp::Streams,
            (false, false) => Tcp::ListensOnly,
        };
        enforced(restrict(folder, config, tcp), tcp)
    }

    pub(super) fn enforce_signer(folder: &Folder) -> Confinement {
        enforced(restrict_signer(folder), Tcp::Nothing)
    }

    fn enforced(status: Result<RulesetStatus, RulesetError>, tcp: Tcp) -> Confinement {
        match status {
            Ok(RulesetStatus::FullyEnforced) => Confinement::Landlock { whole: true, tcp },
            Ok(RulesetStatus::PartiallyEnforced) => Confinement::Landlock { whole: false, tcp },
            Ok(RulesetStatus::NotEnforced) => Confinement::Unsupported,
            Err(error) => Confinement::Failed(error.to_string()),
        }
    }

    /// All that is forbidden where no rule allows it.
    fn forbid(tcp: Tcp) -> Result<RulesetCreated, RulesetError> {
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(RIGHTS))?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::from_all(RIGHTS))?;
        match tcp {
            Tcp::Connects => ruleset.create(),
            Tcp::Streams | Tcp::ListensOnly | Tcp::Nothing => {
                ruleset.handle_access(AccessNet::ConnectTcp)?.create()
            }
        }
    }

    fn restrict_signer(folder: &Folder) -> Result<RulesetStatus, RulesetError> {
        let dir = &folder.dir;
        let write = READ | WRITE | AccessFs::MakeDir;
        let ruleset = forbid(Tcp::Nothing)?
            .add_rules(path_beneath_rules([dir.path(NodeFile::Config)], READ))?
            .add_rules(path_beneath_rules([dir.state_folder()], READ))?
            .add_rules(path_beneath_rules([dir.path(NodeFile::AuthorityFolder)], write))?;
        Ok(ruleset.restrict_self()?.ruleset)
    }

    fn restrict(folder: &Folder, config: &Config, tcp: Tcp) -> Result<RulesetStatus, RulesetError> {
        let dir = &folder.dir;
        let kept = [NodeFile::Config, NodeFile::Key].map(|file| dir.path(file));
        let mut ruleset = forbid(tcp)?
            .add_rules(path_beneath_rules(READABLE, READ))?
            .add_rules(path_beneath_rules(behind_links(), READ))?
            .add_rules(path_beneath_rules(kept, READ))?
            .add_rules(path_beneath_rules([dir.state_folder()], READ | WRITE))?;
        let proxy = config.entry.all().filter(|_| config.entry.enabled);
        let dashboard = config.has_dashboard().then_some(config.dashboard.listen);
        for listen in proxy.chain(dashboard).chain(config.node.stream_listen) {
            ruleset = ruleset.add_rule(NetPort::new(listen.port(), AccessNet::BindTcp))?;
        }
        if tcp == Tcp::Streams {
            for port in stream_ports(folder, config) {
                ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
            }
        }
        Ok(ruleset.restrict_self()?.ruleset)
    }

    /// The ports to which streams are dialled: 443, and those that the members' records named when the node
    /// ran last, or that its proxy has.
    fn stream_ports(folder: &Folder, config: &Config) -> BTreeSet<u16> {
        const HTTPS: u16 = 443;
        let members = Written::load(&folder.dir).bootstrap;
        let authority = AuthorityContact::load(&folder.dir).ok().flatten();
        let told = members.into_iter().map(|member| member.addresses);
        let told = told.chain(authority.map(|contact| contact.addresses)).flatten();
        let marks = told.filter(|address| is_stream_mark(*address)).map(|mark| mark.port());
        let proxy = config.node.stream_proxy().map(|proxy| proxy.port());
        marks.chain(proxy).chain([HTTPS]).collect()
    }

    /// The folders of the files that `/etc/resolv.conf` links to: their owner replaces them when the
    /// network changes, and a rule about the file would be about the old one.
    fn behind_links() -> Option<PathBuf> {
        let real = std::fs::canonicalize("/etc/resolv.conf").ok()?;
        real.parent().filter(|folder| *folder != Path::new("/etc")).map(Path::to_owned)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::{
        fs,
        io::ErrorKind,
        net::{TcpListener, TcpStream},
        process::Command,
        thread,
    };

    use super::*;
    use crate::{
        identity::{AuthorityContact, NodeFile},
        wire::reach::stream_mark,
    };

    /// Runs `work` on a thread that is confined to a folder as a node is; `None` where the kernel cannot.
    fn confined<T: Send>(
        exit: bool,
        work: impl FnOnce(&Folder) -> T + Send,
    ) -> Option<(Confinement, T)> {
        confined_by(confine, exit, work)
    }

    fn confined_by<T: Send>(
        confine: impl Fn(&Folder, &Config) -> Confinement + Sync,
        exit: bool,
        work: impl FnOnce(&Folder) -> T + Send,
    ) -> Option<(Confinement, T)> {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::new(Some(&temporary.path().join("node"))).unwrap();
        folder.begin().unwrap();
        folder.dir.write_default_config("").unwrap();
        folder.dir.write(NodeFile::Key, b"key").unwrap();
        fs::create_dir(folder.dir.path(NodeFile::AuthorityFolder)).unwrap();
        folder.dir.write(NodeFile::AuthorityKey, b"key").unwrap();
        fs::write(temporary.path().join("outside"), "secret").unwrap();
        let mut config = Config::default();
        config.exit.enabled = exit;
        config.entry.listen.set_port(0);
        // Landlock stays with the thread, and ends with it.
        thread::scope(|scope| {
            let on_it = scope.spawn(|| match confine(&folder, &config) {
                Confinement::Unsupported => None,
                confinement => Some((confinement, work(&folder))),
            });
            on_it.join().unwrap()
        })
        .or_else(|| {
            println!("skipped: this kernel has no Landlock");
            None
        })
    }

    #[test]
    fn a_confined_thread_has_its_folder_and_nothing_beside_it() {
        let Some((confinement, ())) = confined(false, |folder| {
            let outside = folder.named().unwrap().with_file_name("outside");
            let denied =
                |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            denied(fs::read(&outside).unwrap_err());
            denied(fs::write(&outside, "x").unwrap_err());
            denied(fs::read_dir(outside.parent().unwrap()).unwrap_err());
            denied(fs::write("/tmp/ronproxy-confined", "x").unwrap_err());
            denied(Command::new("/bin/true").status().unwrap_err());
            for file in [NodeFile::Key, NodeFile::AuthorityKey, NodeFile::Audit] {
                denied(fs::write(folder.dir.path(file), "x").unwrap_err());
            }
            denied(fs::read(folder.dir.path(NodeFile::AuthorityKey)).unwrap_err());
            folder.dir.read(NodeFile::Key).unwrap();
            folder.dir.write(NodeFile::Members, b"[]").unwrap();
            folder.dir.write(NodeFile::Revoked, b"list").unwrap();
            assert_eq!(folder.dir.read(NodeFile::Revoked).unwrap(), b"list");
            folder.config().unwrap();
            fs::read_to_string("/etc/hosts").unwrap();
            fs::read_to_string("/proc/net/tcp").unwrap();
        }) else {
            return;
        };
        assert!(matches!(confinement, Confinement::Landlock { .. }), "{confinement}");
        assert!(confinement.to_string().starts_with("Landlock: own folder"), "{confinement}");
    }

    #[test]
    fn only_an_exit_connects_by_tcp_and_it_connects_anywhere() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for exit in [false, true] {
            let connect = |_: &Folder| {
                (
                    TcpStream::connect(address),
                    TcpListener::bind("127.0.0.1:0"),
                    TcpListener::bind("127.0.0.1:41999"),
                )
            };
            let Some((confinement, (connected, proxy, other))) = confined(exit, connect) else {
                return;
            };
            if confinement == (Confinement::Landlock { whole: false, tcp: Tcp::Connects }) {
                println!("skipped: this kernel has no rules for TCP");
                return;
            }
            assert_eq!(connected.is_ok(), exit, "{connected:?}");
            proxy.unwrap();
            assert_eq!(other.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn a_confined_node_connects_to_the_ports_of_streams_that_it_knew() {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [known, other] = listeners.each_ref().map(|tcp| tcp.local_addr().unwrap());
        let confine_knowing = |folder: &Folder, config: &Config| {
            let addresses = vec!["192.0.2.1:4600".parse().unwrap(), stream_mark(known.port())];
            let contact =
                AuthorityContact { name: "mit".parse().unwrap(), addresses, names: Vec::new() };
            contact.save(&folder.dir).unwrap();
            confine(folder, config)
        };
        let connect = |_: &Folder| (TcpStream::connect(known), TcpStream::connect(other));
        let Some((confinement, connected)) = confined_by(confine_knowing, false, connect) else {
            return;
        };
        if confinement == (Confinement::Landlock { whole: true, tcp: Tcp::Streams }) {
            connected.0.unwrap();
            assert_eq!(connected.1.unwrap_err().kind(), ErrorKind::PermissionDenied);
        } else {
            println!("skipped: this kernel has no rules for TCP");
        }
    }

    #[test]
    fn a_confined_signer_has_the_authoritys_folder_and_no_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let Some((confinement, tcp)) = confined_by(confine_signer, false, |folder| {
            let denied =
                |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            let outside = folder.named().unwrap().with_file_name("outside");
            denied(fs::read(&outside).unwrap_err());
            denied(fs::read("/etc/hosts").unwrap_err());
            denied(fs::read(folder.dir.path(NodeFile::Key)).unwrap_err());
            denied(fs::write(folder.dir.path(NodeFile::Revoked), "x").unwrap_err());
            denied(Command::new("/bin/true").status().unwrap_err());
            folder.dir.write(NodeFile::Audit, b"line").unwrap();
            fs::create_dir(folder.dir.path(NodeFile::Issued)).unwrap();
            assert_eq!(folder.dir.read(NodeFile::AuthorityKey).unwrap(), b"key");
            folder.config().unwrap();
            (TcpStream::connect(address), TcpListener::bind("127.0.0.1:0"))
        }) else {
            return;
        };
        match confinement {
            Confinement::Landlock { whole: true, .. } => {
                assert_eq!(tcp.0.unwrap_err().kind(), ErrorKind::PermissionDenied);
                assert_eq!(tcp.1.unwrap_err().kind(), ErrorKind::PermissionDenied);
            }
            Confinement::Landlock { .. } => println!("skipped: TCP, as the kernel is older"),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_switch_leaves_the_thread_as_it_is() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::new(Some(temporary.path())).unwrap();
        let mut config = Config::default();
        config.node.confine = false;
        assert_eq!(confine(&folder, &config), Confinement::Off);
        assert_eq!(confine_signer(&folder, &config), Confinement::Off);
        assert!(Command::new("/bin/true").status().is_ok());
    }
}
