//! `ronproxy reload`

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{print, print_json},
};
use crate::{
    config::{Changes, Config},
    identity::NodeFile,
    text::Escaped,
};

/// Read the configuration again, and put into force what can change while the node runs
///
/// That are rules, policies, users, `advertise`, the exit's `allow`, `deny`, `allow_private` and
/// `max_associations_per_entry`, the times of flows, and what is logged. What else has changed is named: it
/// needs a restart. A configuration with a mistake changes nothing.
#[derive(Debug, Args)]
pub(super) struct Reload {
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Reload {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let path = folder.dir.path(NodeFile::Config);
        // A mistake is told with its line, before the node is asked.
        Config::load(&path)?;
        let text = std::fs::read_to_string(&path)
            .map_err(|error| CliError::say(format!("cannot read {}: {error}", path.display())))?;
        let facts = folder.client().post_text("/reload", text).await?;
        if self.json { print_json(&facts) } else { print(told(&facts)) }
    }
}

fn told(changes: &Changes) -> String {
    let (live, restart) = (changes.live.join(", "), changes.restart.join(", "));
    let live = if live.is_empty() { "nothing".to_owned() } else { live };
    match restart.as_str() {
        "" => format!("New in force: {}.", Escaped(live)),
        restart => {
            let (live, restart) = (Escaped(live), Escaped(restart));
            format!("New in force: {live}. A restart is needed for: {restart}.")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reload_says_what_is_new_and_what_needs_a_restart() {
        let told = |facts| told(&serde_json::from_value(facts).unwrap());
        let facts = json!({ "live": ["rule", "log.filter"], "restart": [] });
        assert_eq!(told(facts), "New in force: rule, log.filter.");
        let facts = json!({ "live": [], "restart": ["lane"] });
        assert_eq!(told(facts), "New in force: nothing. A restart is needed for: lane.");
    }
}
