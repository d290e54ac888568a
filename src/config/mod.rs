//! The configuration file, `config.toml`.
//!
//! Each section is one type; those of the entry and the exit are the roles' own. An unknown key or
//! a value of the wrong kind is refused with the file, the line, and what would be right. The
//! commented default is `config.example.toml`, which `init` writes: a key on a line of its own
//! states the default, a key behind `#` is an example.

mod changes;
mod patterns;
mod problem;
mod rule_text;
mod rules;
mod sections;

use std::path::Path;

use serde::Deserialize;

pub use crate::{overlay::policy::Policy, quantity::Bitrate, transport::Congestion};
pub use changes::Changes;
pub use patterns::{Domain, Ports};
pub use problem::ConfigError;
pub use rules::{Action, Choice, Rule, Rules, Wishes};
pub use sections::{
    Authority, Dashboard, Events, Flow, Lane, Log, LogFormat, Metrics, Node, Probe, Relay,
    ViaProxy, check_log_filter, parse_reachable,
};

/// The largest file read: far above 1,024 long rules.
const MAX_FILE: u64 = 1 << 20;

/// The whole configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The node itself.
    pub node: Node,
    /// The local proxy.
    pub entry: crate::entry::Config,
    /// What the node does for others as an exit.
    pub exit: crate::exit::Config,
    /// Lanes, the connections that carry flows.
    pub lane: Lane,
    /// Flows, the proxied connections.
    pub flow: Flow,
    /// Probing of links.
    pub probe: Probe,
    /// Forwarding for others.
    pub relay: Relay,
    /// The overlay's authority.
    pub authority: Authority,
    /// The dashboard and the API on a TCP port.
    pub dashboard: Dashboard,
    /// The time line of what happened.
    pub events: Events,
    /// The log.
    pub log: Log,
    /// The `[[rule]]` tables.
    #[serde(rename = "rule")]
    pub rules: Rules,
    /// The `[[policy]]` tables.
    pub policy: Policy,
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or as for [`parse`](Self::parse).
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = problem::read(path, MAX_FILE)?;
        Self::parse(&text).map_err(|error| error.in_file(path))
    }

    /// Reads a configuration.
    ///
    /// # Errors
    /// Names the line, what is wrong there, and for an unknown key the nearest one there is.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| problem::explain(text, &error))?;
        config.check().map_err(|(section, message)| problem::in_section(text, section, message))?;
        Ok(config)
    }

    /// The commented file that states every default.
    #[must_use]
    pub fn default_text() -> &'static str {
        include_str!("../../config.example.toml")
    }

    /// Whether the node has a dashboard.
    #[must_use]
    pub fn has_dashboard(&self) -> bool {
        self.dashboard.enabled.unwrap_or(self.entry.enabled)
    }

    /// Checks combinations of values; the error names the section.
    fn check(&self) -> Result<(), (&'static str, String)> {
        self.node.check().map_err(|error| ("node", error))?;
        self.entry.check().map_err(|error| ("entry", error.to_string()))?;
        self.dashboard.check().map_err(|error| ("dashboard", error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
