//! `ronproxy service`

mod launchd;
mod unit;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{Args, Subcommand};

use self::unit::{MARK, Manager, SYSTEM_FOLDER};
use super::{
    CliError,
    folder::{Folder, quoted},
    output::{note, print},
};

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

/// One unit: where it is and whose it is.
struct Unit {
    manager: Manager,
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
            Action::Show(_) => print(unit.text()?.trim_end()),
        }
    }
}

impl Unit {
    fn new(folder: &Folder, options: Options) -> Self {
        let manager = match (options.launchd, options.system) {
            (true, _) => Manager::Launchd,
            (false, true) => Manager::System,
            (false, false) => Manager::User,
        };
        let named = folder.named().map(Path::to_owned);
        // Root's own folders are no place for a service with a user of its own.
        let system_folder = options.system.then(|| PathBuf::from(SYSTEM_FOLDER));
        let dir = named.or(system_folder);
        let name = match manager {
            Manager::Launchd => format!("{}.plist", launchd::label(dir.as_deref())),
            Manager::User | Manager::System => unit::name(manager, dir.as_deref()),
        };
        Self { manager, dir, name }
    }

    fn text(&self) -> Result<String, CliError> {
        let (program, dir) = (program()?, self.dir.as_deref());
        match self.manager {
            Manager::Launchd => launchd::text(&program, dir),
            manager => unit::text(manager, &program, dir),
        }
    }

    fn install(&self, folder: &Folder, now: bool) -> Result<(), CliError> {
        let text = self.text()?;
        match (self.manager, &self.dir) {
            (Manager::System, Some(dir)) => {
                if let Some(error) = unit::hidden(&program()?) {
                    return Err(error);
                }
                Folder::new(Some(dir))?.config()?;
            }
            // A service without a node would fail again and again.
            _ => drop(folder.config()?),
        }
        let path = self.path()?;
        check_ours(&path)?;
        let written = path.parent().map_or(Ok(()), fs::create_dir_all);
        written.and_then(|()| fs::write(&path, text)).map_err(|error| failed(&path, &error))?;
        print(format_args!("The unit is {}.", path.display()))?;
        match self.manager {
            Manager::Launchd => self.launchctl(now, "load", &path)?,
            _ => {
                self.systemctl(now, &[&["daemon-reload"][..], &["enable", "--now", &self.name]])?
            }
        }
        match self.manager {
            Manager::Launchd => {}
            Manager::User => note("To run it while you are not logged in: loginctl enable-linger"),
            Manager::System => note(
                "It runs as a user of its own. Its proxy serves root only; \
                 name other users with local_users under [entry].",
            ),
        }
        Ok(())
    }

    fn uninstall(&self, now: bool) -> Result<(), CliError> {
        let path = self.path()?;
        check_ours(&path)?;
        match self.manager {
            Manager::Launchd if now => self.launchctl(now, "unload", &path)?,
            _ if now => self.systemctl(now, &[&["disable", "--now", &self.name]])?,
            _ => {}
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
        match self.manager {
            Manager::Launchd => Ok(()),
            _ => self.systemctl(now, &[&["daemon-reload"]]),
        }
    }

    fn path(&self) -> Result<PathBuf, CliError> {
        let folder = match self.manager {
            Manager::System => PathBuf::from("/etc/systemd/system"),
            Manager::Launchd => {
                let home = dirs::home_dir().ok_or_else(|| {
                    CliError::say("no home folder is known for this user; set HOME")
                })?;
                home.join("Library/LaunchAgents")
            }
            Manager::User => {
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

    /// Calls systemctl, or says what to call.
    fn systemctl(&self, now: bool, commands: &[&[&str]]) -> Result<(), CliError> {
        let scope: &[&str] = if self.manager == Manager::User { &["--user"] } else { &[] };
        let mut commands = commands.iter().map(|arguments| [scope, arguments].concat());
        commands.try_for_each(|arguments| call(now, "systemctl", &arguments))
    }

    /// Calls launchctl, or says what to call.
    fn launchctl(&self, now: bool, action: &str, agent: &Path) -> Result<(), CliError> {
        call(now, "launchctl", &[action, "-w", &agent.to_string_lossy()])
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

fn check_ours(path: &Path) -> Result<(), CliError> {
    match fs::read_to_string(path) {
        Ok(text) if !text.contains(MARK) && !text.contains(launchd::MARK) => Err(CliError::say(
            format!("{} was not written by this program; move it away first", path.display()),
        )),
        _ => Ok(()),
    }
}

fn failed(path: &Path, error: &io::Error) -> CliError {
    CliError::say(format!("cannot change {}: {error}; check its owner", path.display()))
}
