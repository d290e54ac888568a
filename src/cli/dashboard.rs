//! `ronproxy open`, and the dashboard of a running node.

use std::process::{Command, Stdio};

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{note, print, print_json},
};
use crate::{
    admin::Opened,
    config::{Config, Metrics},
    dashboard::{self, Dashboard, LINK_LASTS, Settings},
    identity::{NodeDir, NodeFile, StoreError},
    text::Escaped,
};

/// Print a link that opens the dashboard in a browser of this machine, once
///
/// With --browser the link is opened at once. Programs use the token instead:
/// `curl -H "Authorization: Bearer $(ronproxy open --token)" http://127.0.0.1:1090/api/v1/status`.
#[derive(Debug, Args)]
pub(super) struct Open {
    /// Open the link in the default browser too
    #[arg(long)]
    browser: bool,
    /// Print the bearer token for programs instead
    #[arg(long, conflicts_with = "browser")]
    token: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Open {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        if self.token {
            let token = token(&folder.dir)?;
            return match self.json {
                true => print_json(&serde_json::json!({ "token": token })),
                false => print(token),
            };
        }
        let facts: Opened = folder.client().post("/open").await?;
        if self.json {
            print_json(&facts)?;
        } else {
            print(Escaped(&facts.link))?;
            let minutes = LINK_LASTS.as_secs() / 60;
            note(format_args!("The link works once, within {minutes} minutes, on this machine."));
        }
        if self.browser {
            show(&facts.link)?;
        }
        Ok(())
    }
}

/// Opens a link as the desktop does.
fn show(link: &str) -> Result<(), CliError> {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(opener);
    command.arg(link).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(drop).map_err(|error| {
        CliError::say(format!("cannot start {opener}: {error}; open the link yourself"))
    })
}

/// Binds the dashboard, if the node has one. Whatever is in its way is logged: the node runs without it.
pub(super) async fn open(folder: &Folder, config: &Config) -> Option<Dashboard> {
    if !config.has_dashboard() {
        return None;
    }
    let token = token(&folder.dir)
        .inspect_err(|error| tracing::warn!(%error, "this node runs without a dashboard: its token cannot be read or written"))
        .ok()?;
    let settings = Settings {
        listen: config.dashboard.listen,
        open_metrics: config.dashboard.metrics == Metrics::Open,
        local_users: config.entry.local_users.clone(),
        token,
        clash_origins: config.dashboard.clash_origins.clone(),
    };
    Dashboard::bind(settings)
        .await
        .inspect_err(|error| tracing::warn!(%error, "this node runs without a dashboard"))
        .ok()
}

/// The bearer token; made when it is needed first.
fn token(dir: &NodeDir) -> Result<String, StoreError> {
    if dir.path(NodeFile::ControlToken).exists() {
        let bytes = dir.read(NodeFile::ControlToken)?;
        let token = String::from_utf8_lossy(&bytes).trim().to_owned();
        if !token.is_empty() {
            return Ok(token);
        }
    }
    let token = dashboard::token(rand::random());
    dir.write(NodeFile::ControlToken, format!("{token}\n").as_bytes())?;
    Ok(token)
}
