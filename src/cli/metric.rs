//! `ronproxy metric`

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    CliError, completions,
    folder::Folder,
    output::{or_dash, print, print_json},
};
use crate::{
    admin::{self, PostedValue},
    flow::AppMetric,
    identity::NodeName,
    overlay::posted::{Better, Declared},
    quantity::parse_duration,
    text::Escaped,
};

/// Post values of metrics that you define
///
/// The hint `app:METRIC` sends flows to the exit with the best value. The node itself measures
/// the metric `connect`: how long exits take to connect to the destination.
#[derive(Debug, Args)]
pub(super) struct Metric {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Post(Post),
}

/// Post a value for an exit
///
/// Later posts count more: one counts half as much after each half-life, and is gone after eight. What the
/// last post says of the metric holds.
#[derive(Debug, Args)]
struct Post {
    /// The metric: 1 to 32 characters of a-z, 0-9, '-' and '_'
    #[arg(value_name = "METRIC")]
    metric: AppMetric,
    /// The exit
    #[arg(value_name = "EXIT", add = completions::exits())]
    exit: NodeName,
    /// The value, at least 0, in any unit
    #[arg(value_name = "VALUE")]
    value: f64,
    /// Large values are good ones, as of a rate; else small ones are
    #[arg(long)]
    more: bool,
    /// After how long a value counts half as much, from 1s to 24h; default 10m
    #[arg(long, value_name = "TIME", value_parser = declared)]
    half_life: Option<Declared>,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

fn declared(text: &str) -> Result<Declared, String> {
    let half_life: Duration = parse_duration(text).map_err(|error| error.to_string())?;
    Declared::default().with_half_life(half_life).map_err(|error| error.to_string())
}

impl Metric {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let Command::Post(Post { metric, exit, value, more, half_life, json }) = self.command;
        let better = if more { Better::More } else { Better::Less };
        let declared = Declared { better, ..half_life.unwrap_or_default() };
        let asked = admin::post(&admin::Post { metric, exit, value, declared });
        let facts: PostedValue = folder.client().post(&asked).await?;
        if json {
            return print_json(&facts);
        }
        let PostedValue { metric, exit, value } = facts;
        print(format_args!("{} of {exit} is {} now.", Escaped(metric), or_dash(value)))
    }
}
