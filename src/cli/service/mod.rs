//! `ronproxy service`

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
    folder::Folder,
    output::{note, print},
};

/// Run the node as a systemd service, of this user or of the machine
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
            Action::Install(_) => unit.install(folder, options.now),
            Action::Uninstall(_) => unit.uninstall(options.now),
            Action::Show(_) => print(unit.text()?.trim_end()),
        }
    }
}

impl Unit {
    fn new(folder: &Folder, options: Options) -> Self {
        let manager = if options.system { Manager::System } else { Manager::User };
        let named = folder.named().map(Path::to_owned);
        // Root's own folders are no place for a service with a user of its own.
        let system_folder = options.system.then(|| PathBuf::from(SYSTEM_FOLDER));
        let dir = named.or(system_folder);
        let name = unit::name(manager, dir.as_deref());
        Self { manager, dir, name }
    }

    fn text(&self) -> Result<String, CliError> {
        unit::text(self.manager, &program()?, self.dir.as_deref())
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
        self.systemctl(now, &[&["daemon-reload"][..], &["enable", "--now", &self.name]])?;
        match self.manager {
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
        if now {
            self.systemctl(now, &[&["disable", "--now", &self.name]])?;
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
        self.systemctl(now, &[&["daemon-reload"]])
    }

    fn path(&self) -> Result<PathBuf, CliError> {
        let folder = match self.manager {
            Manager::System => PathBuf::from("/etc/systemd/system"),
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
        for arguments in commands {
            let arguments = [scope, *arguments].concat();
            let shown = format!("systemctl {}", arguments.join(" "));
            if !now {
                print(format_args!("  {shown}"))?;
                continue;
            }
            let status = Command::new("systemctl").args(arguments).status();
            if !status.is_ok_and(|status| status.success()) {
                return Err(CliError::say(format!("`{shown}` failed; run it by hand to see why")));
            }
        }
        Ok(())
    }
}

fn program() -> Result<PathBuf, CliError> {
    std::env::current_exe().map_err(|error| failed(Path::new("ronproxy"), &error))
}

fn check_ours(path: &Path) -> Result<(), CliError> {
    match fs::read_to_string(path) {
        Ok(text) if !text.starts_with(MARK) => Err(CliError::say(format!(
            "{} was not written by this program; move it away first",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn failed(path: &Path, error: &io::Error) -> CliError {
    CliError::say(format!("cannot change {}: {error}; check its owner", path.display()))
}
