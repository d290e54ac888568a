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
            note("The running node takes the list over within a second and passes it on.");
        } else {
            note(format_args!(
                "No node is running here; the others hear of it when it is: {}",
                folder.command("run")
            ));
        }
        Ok(())
    }
}
