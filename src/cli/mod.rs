//! The command line: one command per file. Parsing only validates; the rest of the program does not
//! know that there is a command line.
//!
//! Every command works without a terminal. Facts go to stdout, notes and errors to stderr. The exit
//! code is 0, 1 after an error (one sentence with a next step), or 2 when the command line is wrong.

mod audit;
mod backup;
mod browser;
mod completions;
mod confine;
mod dashboard;
mod demo;
mod doctor;
mod env;
mod error;
mod errors;
mod events;
mod exec;
mod flows;
mod folder;
mod init;
mod invite;
mod join;
mod lanes;
mod links;
mod log;
mod logs;
mod man;
mod members;
mod metric;
mod netcheck;
mod notify;
mod output;
mod passphrase;
mod perfdb;
mod ping;
mod relayed;
mod reload;
mod reroutes;
mod revoke;
mod routes;
mod rules;
mod run;
mod service;
mod show;
mod signer;
mod status;
mod steer;
mod stop;
mod template;
mod top;
mod units;
mod why;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

pub use error::CliError;
use folder::Folder;

/// A local SOCKS5 + HTTP proxy whose connections survive path failures.
///
/// Each connection becomes a flow over an overlay of cooperating nodes, directly or through one of
/// them, and leaves at an exit. When a path fails, flows move to another within a few round trips.
#[derive(Debug, Parser)]
#[command(name = "ronproxy", version = VERSION, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
struct Global {
    /// Keep configuration, keys and state in DIR instead of the user's own folders
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Log more: -v for debug, -vv for trace
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Init(init::Init),
    Invite(invite::Invite),
    Join(join::Join),
    Run(run::Run),
    Stop(stop::Stop),
    Status(status::Status),
    Top(top::Top),
    Links(links::Links),
    Routes(routes::Routes),
    Why(why::Why),
    Ping(ping::Ping),
    Netcheck(netcheck::Netcheck),
    Perfdb(perfdb::Perfdb),
    Lanes(lanes::Lanes),
    Flows(flows::Flows),
    Relayed(relayed::Relayed),
    Events(events::Events),
    Errors(errors::Errors),
    Logs(logs::Logs),
    Reload(reload::Reload),
    Use(steer::Use),
    Hint(steer::HintCommand),
    Avoid(steer::Avoid),
    Rules(rules::Rules),
    Pause(steer::Pause),
    Metric(metric::Metric),
    Open(dashboard::Open),
    Env(env::Env),
    Browser(browser::Browser),
    Exec(exec::Exec),
    Shell(exec::Shell),
    Doctor(doctor::Doctor),
    Revoke(revoke::Revoke),
    Members(members::Members),
    Audit(audit::Audit),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Service(service::Service),
    #[command(hide = true)]
    Signer(signer::Signer),
    Completions(completions::Completions),
    Man(man::Man),
}

/// The version, and the commit of a release build. The build script `.release/commit.rs` sets it.
const VERSION: &str = env!("RONPROXY_VERSION");

/// Runs the program with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    completions::answer_shell();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with code 0, mistakes to stderr with code 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            output::note(format_args!("ronproxy: {error}"));
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn run(self) -> Result<ExitCode, CliError> {
        let folder = || Folder::new(self.global.dir.as_deref());
        let done = match self.command {
            Command::Run(command) => return command.run(&folder()?, self.global.verbose),
            Command::Doctor(command) => return wait(command.run(&folder()?)),
            Command::Exec(command) => return command.run(&folder()?, self.global.verbose),
            Command::Shell(command) => return command.run(&folder()?, self.global.verbose),
            Command::Demo(command) => wait(async { Ok(demo::run(command).await?) }),
            Command::Init(command) => command.run(&folder()?),
            Command::Invite(command) => wait(command.run(&folder()?)),
            Command::Join(command) => wait(command.run(&folder()?)),
            Command::Stop(command) => wait(command.run(&folder()?)),
            Command::Status(command) => wait(command.run(&folder()?)),
            Command::Top(command) => wait(command.run(&folder()?)),
            Command::Links(command) => wait(command.run(&folder()?)),
            Command::Routes(command) => wait(command.run(&folder()?)),
            Command::Why(command) => wait(command.run(&folder()?)),
            Command::Netcheck(command) => wait(command.run(&folder()?)),
            Command::Perfdb(command) => wait(command.run(&folder()?)),
            Command::Ping(command) => wait(command.run(&folder()?)),
            Command::Lanes(command) => wait(command.run(&folder()?)),
            Command::Relayed(command) => wait(command.run(&folder()?)),
            Command::Flows(command) => wait(command.run(&folder()?)),
            Command::Events(command) => wait(command.run(&folder()?)),
            Command::Logs(command) => wait(command.run(&folder()?)),
            Command::Errors(command) => wait(command.run(&folder()?)),
            Command::Reload(command) => wait(command.run(&folder()?)),
            Command::Use(command) => wait(command.run(&folder()?)),
            Command::Hint(command) => wait(command.run(&folder()?)),
            Command::Avoid(command) => wait(command.run(&folder()?)),
            Command::Rules(command) => wait(command.run(&folder()?)),
            Command::Pause(command) => wait(command.run(&folder()?)),
            Command::Metric(command) => wait(command.run(&folder()?)),
            Command::Open(command) => wait(command.run(&folder()?)),
            Command::Env(command) => wait(command.run(&folder()?)),
            Command::Browser(command) => wait(command.run(&folder()?)),
            Command::Revoke(command) => wait(command.run(&folder()?)),
            Command::Members(command) => wait(command.run(&folder()?)),
            Command::Audit(command) => command.run(&folder()?),
            Command::Backup(command) => command.run(&folder()?),
            Command::Restore(command) => command.run(&folder()?),
            Command::Service(command) => command.run(&folder()?),
            Command::Signer(command) => command.run(&folder()?, self.global.verbose),
            Command::Completions(command) => command.run(),
            Command::Man(command) => command.run(),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

/// Runs `work` to its end on a runtime of its own. Its threads start here, with this thread's
/// confinement.
fn wait<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(CliError::Runtime)?;
    let done = runtime.block_on(work);
    // What is left after a second signal, or blocked in the system, is not waited for.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_says_what_it_is_for() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {argument}", command.get_name());
            }
        }
    }
}
