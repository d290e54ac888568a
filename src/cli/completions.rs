//! `ronproxy completions`, and what a shell asks while somebody types.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory as _, ValueEnum as _};
use clap_complete::{
    CompleteEnv, Shell,
    engine::{ArgValueCandidates, CompletionCandidate},
    env::Shells,
};
use serde::Deserialize;
use tokio::time::timeout;

use super::{Cli, CliError, folder::Folder, output::print};
use crate::identity::NodeName;

/// Names the shell when the program is asked for completions.
const ASKED: &str = "RON_COMPLETE";

/// What completions need of a link, so that a node of another version serves, too.
#[derive(Debug, Deserialize)]
struct LinkFacts {
    peer: NodeName,
    exit: bool,
    relay: bool,
}

/// How long a shell waits for the node's answer. Without one, nothing is offered.
const PATIENCE: Duration = Duration::from_secs(1);

/// Print a completion script for a shell
///
/// The script asks the program at each completion, so names of nodes complete, too, while the node runs.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), CliError> {
        let name = self.shell.to_possible_value().map(|shell| shell.get_name().to_owned());
        let shells = Shells::builtins();
        let shell = name.as_deref().and_then(|name| shells.completer(name));
        let shell =
            shell.ok_or_else(|| CliError::say("there are no completions for that shell"))?;
        let (mut script, program) = (Vec::new(), "ronproxy");
        shell
            .write_registration(ASKED, program, program, program, &mut script)
            .map_err(CliError::Runtime)?;
        print(String::from_utf8_lossy(&script).trim_end())
    }
}

/// Answers a shell that asks for completions, and ends the program then.
pub(super) fn answer_shell() {
    CompleteEnv::with_factory(Cli::command).var(ASKED).complete();
}

/// Completes the names of all other members.
pub(super) fn members() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names(|_| true))
}

/// Completes the names of exits.
pub(super) fn exits() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names(|link| link.exit))
}

/// Completes the names of exits, and this word.
pub(super) fn exits_or(word: &'static str) -> ArgValueCandidates {
    ArgValueCandidates::new(move || {
        let mut offered = names(|link| link.exit);
        offered.push(CompletionCandidate::new(word));
        offered
    })
}

/// Completes the names of relays.
pub(super) fn relays() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names(|link| link.relay))
}

/// The names of the members that the running node knows, and for which `which` holds.
fn names(which: fn(&LinkFacts) -> bool) -> Vec<CompletionCandidate> {
    let named = folder_in(std::env::args_os());
    let links = Folder::new(named.as_deref()).and_then(|folder| {
        super::wait(async move {
            let links = timeout(PATIENCE, folder.client().get::<Vec<LinkFacts>>("/links")).await;
            Ok(links.map_err(|_| CliError::say("the node does not answer"))??)
        })
    });
    // A node that does not run has nothing to offer, and a shell shows no reasons.
    let Ok(links) = links else { return Vec::new() };
    let members = links.iter().filter(|link| which(link));
    members.map(|link| CompletionCandidate::new(link.peer.as_str())).collect()
}

/// The folder of the command that is being typed.
fn folder_in(words: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let mut words = words.skip_while(|word| word != "--");
    let mut named = None;
    while let Some(word) = words.next() {
        if word == "--dir" {
            named = words.next().map(PathBuf::from);
        } else if let Some(folder) = word.to_str().and_then(|word| word.strip_prefix("--dir=")) {
            named = Some(PathBuf::from(folder));
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_that_of_the_command_that_is_typed() {
        let folder = |line: &str| folder_in(line.split(' ').map(OsString::from));
        assert_eq!(folder("ronproxy -- ronproxy ping u"), None);
        assert_eq!(folder("ronproxy -- ronproxy --dir /a ping u"), Some("/a".into()));
        assert_eq!(folder("ronproxy -- ronproxy ping --dir=/b u"), Some("/b".into()));
        assert_eq!(folder("ronproxy --dir /a -- ronproxy ping --dir"), None);
    }
}
