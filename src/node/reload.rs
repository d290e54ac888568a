//! Puts the configuration of a running node into force again.

use std::{
    borrow::Cow,
    io::ErrorKind,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    app::{LiveSettings, NodeView},
    config::{Changes, Config, ConfigError, Log},
    events::Event,
    exit::Exit,
    identity::{NodeDir, NodeFile},
};

/// Changes what is logged.
pub(crate) type LogReload = dyn Fn(&Log) -> Result<(), String> + Send + Sync;

/// Puts the configuration of a running node into force again.
pub(crate) struct Reloader {
    /// The file; `None`: the program has given the configuration.
    path: Option<PathBuf>,
    /// The configuration that is in force, as it was written.
    read: Mutex<Config>,
    view: NodeView,
    exit: Arc<Exit>,
    /// `None`: the log is not the node's own.
    log: Option<Box<LogReload>>,
    /// Sections of which the node takes nothing.
    others: &'static [&'static str],
}

impl Reloader {
    /// Of the node in `dir`, which was started with `read` from its file.
    pub(crate) fn new(dir: &NodeDir, read: Config, view: NodeView, exit: Arc<Exit>) -> Self {
        let path = Some(dir.path(NodeFile::Config));
        Self { path, read: Mutex::new(read), view, exit, log: None, others: &[] }
    }

    /// The same of a node whose log this changes.
    #[cfg(feature = "cli")]
    pub(crate) fn with_log(self, log: Box<LogReload>) -> Self {
        Self { log: Some(log), ..self }
    }

    /// The same of a node that takes nothing of these sections.
    pub(super) fn without(self, others: &'static [&'static str]) -> Self {
        Self { others, ..self }
    }

    /// The same of a node whose program has given the configuration.
    pub(super) fn without_file(self) -> Self {
        Self { path: None, ..self }
    }

    /// Reads the configuration, from `text` or else from the file, and puts it into force.
    ///
    /// # Errors
    /// One sentence; then nothing has changed.
    pub(crate) fn reload(&self, text: Option<&str>) -> Result<Changes, String> {
        let next = match (text, &self.path) {
            (Some(text), _) => Config::parse(text).map_err(|error| error.to_string())?,
            (None, Some(path)) => Config::load(path).map_err(|error| explain(path, &error))?,
            (None, None) => {
                return Err("this node's program has its configuration; it has no file".to_owned());
            }
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = read.changes(&next);
        if let Some(log) = &self.log {
            log(&next.log)?;
        }
        for section in self.others {
            changes.leave_out(section);
        }
        self.exit.reload(&next.exit);
        self.view.reload(LiveSettings {
            rules: next.rules.clone(),
            policy: next.policy.clone(),
            flow: next.flow.into(),
            users: next.entry.users.clone(),
            advertise: next.node.advertise.clone(),
        });
        let (live, restart) = (changes.live.join(", "), changes.restart.join(", "));
        tracing::info!(live, restart, "the configuration was read again");
        let owned = |names: &[Cow<'static, str>]| names.iter().map(ToString::to_string).collect();
        let event =
            Event::Reloaded { live: owned(&changes.live), restart: owned(&changes.restart) };
        self.view.events().record(event);
        *read = next;
        Ok(changes)
    }
}

/// An editor that saves puts another file in the place of the one that a confined node may read.
fn explain(path: &std::path::Path, error: &ConfigError) -> String {
    let denied =
        std::fs::File::open(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    match denied {
        true => format!(
            "this confined node may not read {}, as it is another file than at its start; run `ronproxy reload`",
            path.display()
        ),
        false => error.to_string(),
    }
}
