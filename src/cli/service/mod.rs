//! `ronproxy service`

mod launchd;
mod unit;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{Args, Subcommand};

use self::unit::{MARK, Manager, SYSTEM_FOLDER, Sandbox};
use super::{
    CliError,
    folder::{Folder, quoted},
    output::{note, print},
};
use crate::{entry::LocalUsers, identity::NodeFile};

/// Run the node as a service: of systemd, of this user or of the machine, or of launchd
#[derive(Debug, Args)]
pub(super) struct Service {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write the unit
    Install(Options),
    /// Remove the unit
    Uninstall(Options),
    /// Print the unit, and write nothing
    Show(Options),
}

#[derive(Debug, Clone, Copy, Args)]
struct Options {
    /// Call systemctl too, so that it takes effect at once
    #[arg(long)]
    now: bool,
    /// A service of the machine: as root, with the node's folder below /var/lib
    #[arg(long)]
    system: bool,
    /// An agent of launchd: the default on macOS; elsewhere it can only be shown
    #[arg(long, conflicts_with = "system", default_value_t = cfg!(target_os = "macos"))]
    launchd: bool,
}

/// What a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A unit of systemd.
    Unit(Manager),
    /// An agent of launchd.
    Agent,
}

/// When commands are called.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The file is written.
    Written,
    /// The file will be removed.
    Removing,
    /// The file is removed.
    Removed,
}

/// One unit or agent: where it is and whose it is.
struct Unit {
    kind: Kind,
    /// The node's folder, if it is to be named.
    dir: Option<PathBuf>,
    name: String,
}

impl Service {
    pub(super) fn run(self, folder: &Folder) -> Result<(), CliError> {
        let (Action::Install(options) | Action::Uninstall(options) | Action::Show(options)) =
            self.action;
        let unit = Unit::new(folder, options);
        match self.action {
            Action::Install(_) | Action::Uninstall(_)
                if options.launchd && !cfg!(target_os = "macos") =>
            {
                Err(CliError::say("this machine has no launchd; leave --launchd out"))
            }
            Action::Install(_) => unit.install(folder, options.now),
            Action::Uninstall(_) => unit.uninstall(options.now),
            Action::Show(_) => print(unit.text(folder)?.trim_end()),
        }
    }
}

impl Unit {
    fn new(folder: &Folder, options: Options) -> Self {
        let kind = match (options.launchd, options.system) {
            (true, _) => Kind::Agent,
            (false, true) => Kind::Unit(Manager::System),
            (false, false) => Kind::Unit(Manager::User),
        };
        let named = folder.named().map(Path::to_owned);
        // A service with a user of its own cannot use root's folders.
        let system_folder = options.system.then(|| PathBuf::from(SYSTEM_FOLDER));
        let dir = named.or(system_folder);
        let name = match kind {
            Kind::Agent => format!("{}.plist", launchd::label(dir.as_deref())),
            Kind::Unit(manager) => unit::name(manager, dir.as_deref()),
        };
        Self { kind, dir, name }
    }

    fn text(&self, folder: &Folder) -> Result<String, CliError> {
        let (program, dir) = (program()?, self.dir.as_deref());
        match self.kind {
            Kind::Agent => launchd::text(&program, dir),
            Kind::Unit(manager) => {
                let (config, state) =
                    (folder.dir.path(NodeFile::Config), folder.dir.state_folder());
                let mut folders: Vec<_> = config.parent().map(Path::to_owned).into_iter().collect();
                if !folders.iter().any(|folder| state.starts_with(folder)) {
                    folders.push(state.to_owned());
                }
                // A folder without a node gets the default configuration.
                let config = folder.config().unwrap_or_default();
                let lists_users = matches!(config.entry.local_users, LocalUsers::Listed(_));
                let read = |file: &str| fs::read_to_string(file).ok();
                let sandbox = Sandbox::of(&program, folders, lists_users, read);
                unit::text(manager, &program, dir, &sandbox)
            }
        }
    }

    fn install(&self, folder: &Folder, now: bool) -> Result<(), CliError> {
        let text = self.text(folder)?;
        match (self.kind, &self.dir) {
            (Kind::Unit(Manager::System), Some(dir)) => {
                if let Some(error) = unit::hidden(&program()?) {
                    return Err(error);
                }
                Folder::new(Some(dir))?.config()?;
            }
            // A service without a node would fail again and again.
            _ => drop(folder.config()?),
        }
        let path = self.path()?;
        self.check_ours(&path)?;
        let written = path.parent().map_or(Ok(()), fs::create_dir_all);
        written.and_then(|()| fs::write(&path, &text)).map_err(|error| failed(&path, &error))?;
        print(format_args!("The unit is {}.", path.display()))?;
        self.call(now, Step::Written, &path)?;
        match self.kind {
            Kind::Agent => {}
            Kind::Unit(Manager::User) => {
                note("To run it while you are not logged in: loginctl enable-linger");
                if text.contains("\nPrivateUsers=yes\n") {
                    note(
                        "Its proxy serves this user only, not root; to serve others, name them with \
                         local_users under [entry] and install the service again.",
                    );
                }
            }
            Kind::Unit(Manager::System) => note(
                "It runs as a user of its own. Its proxy serves root only; \
                 name other users with local_users under [entry].",
            ),
        }
        Ok(())
    }

    fn uninstall(&self, now: bool) -> Result<(), CliError> {
        let path = self.path()?;
        self.check_ours(&path)?;
        if now {
            self.call(now, Step::Removing, &path)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CliError::say(format!(
                    "no unit is at {}; nothing to do",
                    path.display()
                )));
            }
            done => done.map_err(|error| failed(&path, &error))?,
        }
        print(format_args!("{} is removed.", path.display()))?;
        self.call(now, Step::Removed, &path)
    }

    fn path(&self) -> Result<PathBuf, CliError> {
        let folder = match self.kind {
            Kind::Unit(Manager::System) => PathBuf::from("/etc/systemd/system"),
            Kind::Agent => {
                let home = dirs::home_dir().ok_or_else(|| {
                    CliError::say("no home folder is known for this user; set HOME")
                })?;
                home.join("Library/LaunchAgents")
            }
            Kind::Unit(Manager::User) => {
                let config = dirs::config_dir().ok_or_else(|| {
                    CliError::say(
                        "no configuration folder is known for this user; set XDG_CONFIG_HOME",
                    )
                })?;
                config.join("systemd/user")
            }
        };
        Ok(folder.join(&self.name))
    }

    /// A file that this program did not write is not changed.
    fn check_ours(&self, path: &Path) -> Result<(), CliError> {
        let Ok(text) = fs::read_to_string(path) else { return Ok(()) };
        let ours = match self.kind {
            Kind::Unit(_) => text.starts_with(MARK),
            Kind::Agent => text.lines().any(|line| line == launchd::MARK),
        };
        match ours {
            true => Ok(()),
            false => Err(CliError::say(format!(
                "{} was not written by this program; move it away first",
                path.display()
            ))),
        }
    }

    /// Calls what belongs to a step if it is to be `now`, or says what to call.
    fn call(&self, now: bool, step: Step, path: &Path) -> Result<(), CliError> {
        let (path, name) = (path.to_string_lossy(), self.name.as_str());
        let (program, commands): (_, &[&[&str]]) = match (self.kind, step) {
            (Kind::Agent, Step::Written) => ("launchctl", &[&["load", "-w", &path]]),
            (Kind::Agent, Step::Removing) => ("launchctl", &[&["unload", "-w", &path]]),
            (Kind::Agent, Step::Removed) => ("launchctl", &[]),
            (Kind::Unit(_), Step::Written) => {
                ("systemctl", &[&["daemon-reload"], &["enable", "--now", name]])
            }
            (Kind::Unit(_), Step::Removing) => ("systemctl", &[&["disable", "--now", name]]),
            (Kind::Unit(_), Step::Removed) => ("systemctl", &[&["daemon-reload"]]),
        };
        let scope: &[&str] = if self.kind == Kind::Unit(Manager::User) { &["--user"] } else { &[] };
        commands.iter().try_for_each(|arguments| call(now, program, &[scope, arguments].concat()))
    }
}

/// Calls a program if it is to be `now`, or says what to call.
fn call(now: bool, program: &str, arguments: &[&str]) -> Result<(), CliError> {
    let words = arguments.iter().map(|word| quoted(word)).collect::<Vec<_>>();
    let shown = format!("{program} {}", words.join(" "));
    if !now {
        return print(format_args!("  {shown}"));
    }
    let status = Command::new(program).args(arguments).status();
    if status.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(CliError::say(format!("`{shown}` failed; run it by hand to see why")))
}

fn program() -> Result<PathBuf, CliError> {
    std::env::current_exe().map_err(|error| failed(Path::new("ronproxy"), &error))
}

fn failed(path: &Path, error: &io::Error) -> CliError {
    CliError::say(format!("cannot change {}: {error}; check its owner", path.display()))
}
