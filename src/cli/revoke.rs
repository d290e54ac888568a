//! `ronproxy revoke`

use clap::Args;

use super::{
    CliError, completions,
    folder::Folder,
    invite::{cancel_all_of, print_cancelled},
    output::{note, print, print_json},
};
use crate::identity::{Actor, Authority, AuthorityError, NodeName, UnixTime};

/// Take a node's membership away, and the open invitations of its name
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The node's name
    #[arg(add = completions::members())]
    name: NodeName,
    /// Revoke even the node that has the overlay's authority
    #[arg(long)]
    even_the_authority: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Revoke {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let authority = folder.authority()?;
        let own = Authority::node_name(&folder.dir)?.as_ref() == Some(&self.name);
        if own && !self.even_the_authority {
            return Err(CliError::say(format!(
                "{name} is the authority's own node: revoked, every member would refuse it, nobody could join \
                 or renew, and the overlay would end when the members' certificates do; to do it nevertheless, \
                 run `{}`",
                folder.command(&format!("revoke {} --even-the-authority", self.name)),
                name = self.name,
            )));
        }
        let now = UnixTime::now();
        // Whoever has one could join again under this name.
        let cancelled = cancel_all_of(folder, &self.name, now)?;
        if !self.json {
            print_cancelled(&cancelled)?;
        }
        let revoked = match authority.revoke(&self.name, Actor::this_user(), now) {
            Ok(list) => Some(list),
            // Nobody joined by them: that they are taken back is all there is to do.
            Err(AuthorityError::NoSuchNode(_)) if !cancelled.is_empty() => None,
            Err(error) => return Err(error.into()),
        };
        let running = folder.is_running().await;
        if self.json {
            return print_json(&serde_json::json!({
                "name": self.name,
                "list": revoked.as_ref().map(|list| list.number()),
                "revoked": revoked.as_ref().map(|list| list.len()),
                "cancelled": cancelled.iter().map(|invited| &invited.id).collect::<Vec<_>>(),
                "running": running,
            }));
        }
        let Some(list) = revoked else {
            return print(format_args!(
                "No certificate of {} is in force, so none is revoked.",
                self.name
            ));
        };
        print(format_args!(
            "{} is revoked; list {} names {} certificates.",
            self.name,
            list.number(),
            list.len()
        ))?;
        if running {
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
