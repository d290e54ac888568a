//! `ronproxy man`

use clap::{Args, CommandFactory as _};
use clap_mangen::Man as Page;

use super::{Cli, CliError, output::print};

/// Print the manual page, of the program or of one command
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The command; without it, the program
    command: Option<String>,
}

impl Man {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut program = Cli::command();
        program.build();
        let page = match &self.command {
            None => Page::new(program),
            Some(name) => {
                let command = program.find_subcommand(name).cloned().ok_or_else(|| {
                    CliError::say(format!(
                        "there is no command {name:?}; `ronproxy help` lists them"
                    ))
                })?;
                // `clap` wants a name that lives as long as the program.
                let title: &'static str = Box::leak(format!("ronproxy-{name}").into_boxed_str());
                Page::new(command.name(title))
            }
        };
        let mut text = Vec::new();
        page.render(&mut text).map_err(CliError::Output)?;
        print(String::from_utf8_lossy(&text).trim_end())
    }
}
