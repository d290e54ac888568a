//! `ronproxy stop`

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::{CliError, folder::Folder, output::print, units};

/// How often to look whether the node has gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Stop the running node in order, and wait until it has stopped
#[derive(Debug, Args)]
pub(super) struct Stop {
    /// How long to wait for it
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::parse_duration)]
    wait: Duration,
}

impl Stop {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        folder.client().post::<serde::de::IgnoredAny>("/stop").await?;
        let start = Instant::now();
        while folder.is_running().await {
            if start.elapsed() >= self.wait {
                return Err(CliError::say(
                    "the node is still letting its flows finish; wait, or end it with a second signal",
                ));
            }
            sleep(LOOK_EVERY).await;
        }
        print("The node has stopped.")
    }
}
