//! `ronproxy reload`, and what a running node does at it and at SIGHUP.

use std::{
    io::ErrorKind,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    log,
    output::{entries, print, print_json},
};
use crate::{
    app::{LiveSettings, NodeView},
    config::{Changes, Config, ConfigError},
    events::Event,
    exit::Exit,
    identity::NodeFile,
};

/// Read the configuration again, and put into force what can change while the node runs
///
/// That are rules, policies, users, the exit's `allow`, `deny`, `allow_private` and
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

fn told(changes: &Value) -> String {
    let named = |field: &str| {
        let names = changes.get(field).map(entries).unwrap_or_default();
        names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    let (live, restart) = (named("live"), named("restart"));
    let live = if live.is_empty() { "nothing".to_owned() } else { live };
    match restart.as_str() {
        "" => format!("New in force: {live}."),
        restart => format!("New in force: {live}. A restart is needed for: {restart}."),
    }
}

/// Puts the configuration of a running node into force again.
pub(super) struct Reloader {
    path: PathBuf,
    /// The configuration that was read last, as the file says.
    read: Mutex<Config>,
    view: NodeView,
    exit: Arc<Exit>,
    log: log::Filter,
}

impl Reloader {
    pub(super) fn new(
        folder: &Folder,
        read: Config,
        view: NodeView,
        exit: Arc<Exit>,
        log: log::Filter,
    ) -> Self {
        let path = folder.dir.path(NodeFile::Config);
        Self { path, read: Mutex::new(read), view, exit, log }
    }

    /// Reads the configuration, from `text` or else from the file, and puts it into force.
    ///
    /// # Errors
    /// One sentence; then nothing has changed.
    pub(super) fn reload(&self, text: Option<&str>) -> Result<Changes, String> {
        let next = match text {
            Some(text) => Config::parse(text).map_err(|error| error.to_string())?,
            None => Config::load(&self.path).map_err(|error| self.explain(&error))?,
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = read.changes(&next);
        self.log.reload(&next.log).map_err(|error| error.to_string())?;
        self.exit.reload(&next.exit);
        self.view.reload(LiveSettings {
            rules: next.rules.clone(),
            policy: next.policy.clone(),
            flow: next.flow.into(),
            users: next.entry.users.clone(),
        });
        let (live, restart) = (changes.live.join(", "), changes.restart.join(", "));
        tracing::info!(live, restart, "the configuration was read again");
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let event =
            Event::Reloaded { live: owned(&changes.live), restart: owned(&changes.restart) };
        self.view.events().record(event);
        *read = next;
        Ok(changes)
    }

    /// An editor that saves puts another file in the place of the one that a confined node may read.
    fn explain(&self, error: &ConfigError) -> String {
        let denied = std::fs::File::open(&self.path)
            .is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
        match denied {
            true => format!(
                "this confined node may not read {}, as it is another file than at its start; run `ronproxy reload`",
                self.path.display()
            ),
            false => error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reload_says_what_is_new_and_what_needs_a_restart() {
        let facts = json!({ "live": ["rule", "log.filter"], "restart": [] });
        assert_eq!(told(&facts), "New in force: rule, log.filter.");
        let facts = json!({ "live": [], "restart": ["lane"] });
        assert_eq!(told(&facts), "New in force: nothing. A restart is needed for: lane.");
    }
}
