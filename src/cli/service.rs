//! `ronproxy service`

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{Args, Subcommand};

use super::{
    CliError,
    folder::Folder,
    output::{note, print},
};

/// The unit's name.
const UNIT: &str = "ronproxy.service";

/// The first line of every unit we write; others are not touched.
const MARK: &str = "# Written by `ronproxy service install`.";

/// Run the node as a systemd service of this user
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
}

#[derive(Debug, Args)]
struct Options {
    /// Call systemctl too, so that it takes effect at once
    #[arg(long)]
    now: bool,
}

impl Service {
    pub(super) fn run(self, folder: &Folder) -> Result<(), CliError> {
        let path = unit_path()?;
        match self.action {
            Action::Install(options) => install(folder, &path, options.now),
            Action::Uninstall(options) => uninstall(&path, options.now),
        }
    }
}

fn install(folder: &Folder, path: &Path, now: bool) -> Result<(), CliError> {
    // A service without a node would fail again and again.
    folder.config()?;
    check_ours(path)?;
    let program = std::env::current_exe().map_err(|error| failed(Path::new("ronproxy"), &error))?;
    let text = unit(&program, folder.named())?;
    let written = path.parent().map_or(Ok(()), fs::create_dir_all);
    written.and_then(|()| fs::write(path, text)).map_err(|error| failed(path, &error))?;
    print(format_args!("The unit is {}.", path.display()))?;
    let commands = [&["daemon-reload"][..], &["enable", "--now", UNIT]];
    systemctl(now, &commands)?;
    note("To run it while you are not logged in: loginctl enable-linger");
    Ok(())
}

fn uninstall(path: &Path, now: bool) -> Result<(), CliError> {
    check_ours(path)?;
    if now {
        systemctl(now, &[&["disable", "--now", UNIT]])?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CliError::say(format!("no unit is at {}; nothing to do", path.display())));
        }
        done => done.map_err(|error| failed(path, &error))?,
    }
    print(format_args!("{} is removed.", path.display()))?;
    systemctl(now, &[&["daemon-reload"]])
}

/// Calls systemctl, or says what to call.
fn systemctl(now: bool, commands: &[&[&str]]) -> Result<(), CliError> {
    for arguments in commands {
        let shown = format!("systemctl --user {}", arguments.join(" "));
        if !now {
            print(format_args!("  {shown}"))?;
            continue;
        }
        let status = Command::new("systemctl").arg("--user").args(*arguments).status();
        if !status.is_ok_and(|status| status.success()) {
            return Err(CliError::say(format!("`{shown}` failed; run it by hand to see why")));
        }
    }
    Ok(())
}

fn unit(program: &Path, dir: Option<&Path>) -> Result<String, CliError> {
    let mut start = escaped(program)?;
    if let Some(dir) = dir {
        start += " --dir ";
        start += &escaped(dir)?;
    }
    Ok(format!(
        "{MARK}
[Unit]
Description=ronproxy, a Resilient Overlay Network proxy

[Service]
ExecStart={start} run
Restart=on-failure
RestartSec=2
# Longer than the drain, so that flows may finish.
TimeoutStopSec=30
LimitNOFILE=32768
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"
    ))
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

fn check_ours(path: &Path) -> Result<(), CliError> {
    match fs::read_to_string(path) {
        Ok(text) if !text.starts_with(MARK) => Err(CliError::say(format!(
            "{} was not written by this program; move it away first",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn unit_path() -> Result<PathBuf, CliError> {
    let config = dirs::config_dir().ok_or_else(|| {
        CliError::say("no configuration folder is known for this user; set XDG_CONFIG_HOME")
    })?;
    Ok(config.join("systemd/user").join(UNIT))
}

fn failed(path: &Path, error: &io::Error) -> CliError {
    CliError::say(format!("cannot change {}: {error}; check its owner", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_special_characters_stays_one_word() {
        let text = unit(Path::new("/opt/100% \"x\"/ron"), Some(Path::new("/home/a b"))).unwrap();
        let start = r#"ExecStart="/opt/100%% \"x\"/ron" --dir "/home/a b" run"#;
        assert!(text.lines().any(|line| line == start), "{text}");
        assert!(unit(Path::new("/a\nb"), None).is_err());
    }
}
