//! `ronproxy revoke`

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{note, print},
};
use crate::identity::{NodeName, UnixTime};

/// Take a node's membership away
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The node's name
    name: NodeName,
}

impl Revoke {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let list = folder.authority()?.revoke(&self.name, UnixTime::now())?;
        print(format_args!(
            "{} is revoked; list {} names {} certificates.",
            self.name,
            list.number(),
            list.len()
        ))?;
        if folder.is_running().await {
            note(format_args!(
                "The running node read its list when it started: restart it with `{}` and `{}`.",
                folder.command("stop"),
                folder.command("run")
            ));
        }
        Ok(())
    }
}
