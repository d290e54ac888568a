//! `ronproxy exec` and `ronproxy shell`

use std::{ffi::OsString, process::ExitCode};

use clap::Args;

use super::{CliError, completions, folder::Folder};
use crate::{flow::Hint, identity::NodeName};

/// Run a program whose connections, datagrams and names all go through the overlay (Linux)
///
/// It needs no proxy support and no privileges. The program has a network of its own, with nothing but loopback and an
/// interface to the running node: when the node stops, it has no network. Its exit code is that of the program; 125 if
/// ronproxy fails, 126 if the program cannot be run, 127 if there is none.
#[derive(Debug, Args)]
pub(super) struct Exec {
    #[command(flatten)]
    wish: Wish,
    /// Only look whether this system allows it, and say how to allow it
    #[arg(long, conflicts_with = "command")]
    check: bool,
    /// The program and its arguments
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required_unless_present = "check"
    )]
    command: Vec<OsString>,
}

/// Run a shell whose programs all go through the overlay, as with `ronproxy exec` (Linux)
///
/// It is the shell that SHELL names, else /bin/sh.
#[derive(Debug, Args)]
pub(super) struct Shell {
    #[command(flatten)]
    wish: Wish,
}

/// What is wanted for the program.
#[derive(Debug, Args)]
#[cfg_attr(
    not(target_os = "linux"),
    expect(dead_code, reason = "there it is only read, and refused")
)]
struct Wish {
    /// Leave at this exit, instead of what the rules say
    #[arg(long, value_name = "NODE", add = completions::exits())]
    exit: Option<NodeName>,
    /// The routing hint: latency, loss, throughput or app:METRIC
    #[arg(long)]
    hint: Option<Hint>,
    /// The user of the proxy, where config.toml has [[entry.users]]; default the first
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Let the program reach this TCP port of this machine's localhost; may be repeated
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    localhost: Vec<u16>,
}

impl Exec {
    pub(super) fn run(self, folder: &Folder, verbose: u8) -> Result<ExitCode, CliError> {
        start(folder, verbose, self.wish, self.command)
    }
}

impl Shell {
    pub(super) fn run(self, folder: &Folder, verbose: u8) -> Result<ExitCode, CliError> {
        let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
        let command = vec![shell.unwrap_or_else(|| "/bin/sh".into())];
        start(folder, verbose, self.wish, command)
    }
}

#[cfg(not(target_os = "linux"))]
fn start(_: &Folder, _: u8, _: Wish, _: Vec<OsString>) -> Result<ExitCode, CliError> {
    Err(CliError::say(
        "`exec` and `shell` need Linux; elsewhere set programs to the proxy, as with `ronproxy env`",
    ))
}

#[cfg(target_os = "linux")]
use linux::start;

#[cfg(target_os = "linux")]
mod linux {
    use std::{ffi::OsString, process::ExitCode};

    use super::{
        super::{CliError, env, folder::Folder, log, output::note, run::without_threads},
        Wish,
    };
    use crate::{
        config::Log,
        entry::User,
        exec::{self, Proxy},
    };

    /// Runs the program; without one it only looks whether the system allows it.
    pub(super) fn start(
        folder: &Folder,
        verbose: u8,
        wish: Wish,
        command: Vec<OsString>,
    ) -> Result<ExitCode, CliError> {
        // The program has the terminal: only what goes wrong is told.
        log::start(verbose, &Log { filter: "error".to_owned(), ..Log::default() })?;
        let outcome = if command.is_empty() {
            exec::check().map(|()| ExitCode::SUCCESS)
        } else {
            let users = folder.config()?.entry.users;
            let user = user(&wish, &users)?;
            // Before there are threads: a user namespace holds for all of a process.
            let address = without_threads(env::running_proxy(folder))?;
            exec::run(command, wish.localhost, Proxy { address, user })
        };
        outcome.or_else(|failure| {
            note(format_args!("ronproxy: {failure}"));
            Ok(failure.code())
        })
    }

    /// The user name for the proxy, with options as `entry/options.rs` reads them, and the password.
    fn user(wish: &Wish, users: &[User]) -> Result<Option<(String, String)>, CliError> {
        let options = [
            wish.exit.as_ref().map(|exit| format!("exit={exit}")),
            wish.hint.as_ref().map(|hint| format!("hint={hint}")),
        ];
        let options = options.into_iter().flatten().collect::<Vec<_>>().join(",");
        let known = match &wish.user {
            None => users.first(),
            Some(name) => Some(users.iter().find(|user| user.name == *name).ok_or_else(|| {
                CliError::say(format!(
                    "config.toml has no user {name:?} under [[entry.users]]; name one of those, or none"
                ))
            })?),
        };
        Ok(match (known, options.is_empty()) {
            (None, true) => None,
            // Some programs want a password; without users any does.
            (None, false) => Some((options, "x".to_owned())),
            (Some(user), true) => Some((user.name.clone(), user.password.clone())),
            (Some(user), false) => {
                Some((format!("{}+{options}", user.name), user.password.clone()))
            }
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_wish_becomes_a_user_name_of_the_proxy() {
            let wish = |exit: Option<&str>, hint: Option<&str>, user: Option<&str>| Wish {
                exit: exit.map(|exit| exit.parse().unwrap()),
                hint: hint.map(|hint| hint.parse().unwrap()),
                user: user.map(str::to_owned),
                localhost: vec![],
            };
            let ann = User { name: "ann".into(), password: "secret".into() };
            let bob = User { name: "bob".into(), password: "other".into() };
            let name = |wish: Wish, users: &[User]| user(&wish, users).unwrap().map(|user| user.0);
            assert_eq!(name(wish(None, None, None), &[]), None);
            let both = name(wish(Some("mit"), Some("loss"), None), &[]);
            assert_eq!(both.as_deref(), Some("exit=mit,hint=loss"));
            let users = [ann, bob];
            assert_eq!(name(wish(None, None, None), &users).as_deref(), Some("ann"));
            let of_bob = user(&wish(Some("mit"), None, Some("bob")), &users).unwrap();
            assert_eq!(of_bob, Some(("bob+exit=mit".into(), "other".into())));
            let error = user(&wish(None, None, Some("eve")), &users).unwrap_err().to_string();
            assert!(error.contains("eve"), "{error}");
        }
    }
}
