//! `ronproxy demo`: four sites on this machine, and a proxy to try them with.

use std::{net::SocketAddr, time::Duration};

use super::units;
use crate::demo::{self, DemoError, Options};

/// Try ronproxy without any other machine: four nodes and an Internet you can break.
///
/// Runs the four sites of the RON paper in this process on an emulated Internet, with a real proxy
/// at ArosNet and a campus web site behind MIT. Cut paths while you download and watch.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Where the proxy listens; if the port is taken, a free one is used
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1080")]
    listen: SocketAddr,
    /// Seed of the emulated Internet's loss and jitter
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print lines and read commands instead of showing a full screen
    #[arg(long)]
    plain: bool,
    /// End the plain demo at the end of standard input
    #[arg(long)]
    exit_on_eof: bool,
    /// Make the whole round without a visitor, print each check, and exit with 0 if all hold
    #[arg(long, conflicts_with_all = ["plain", "exit_on_eof"])]
    check: bool,
    /// Play cuts, losses and heals by itself, with captions, and end with a summary
    #[arg(long, conflicts_with_all = ["check", "exit_on_eof"])]
    auto: bool,
    /// With --auto: the unit of the times between its steps
    #[arg(long, requires = "auto", hide = true, value_parser = units::parse_duration, default_value = "1s")]
    beat: Duration,
    /// With --check: cut no path
    #[arg(long, requires = "check", hide = true)]
    no_cut: bool,
}

pub(super) async fn run(args: DemoArgs) -> Result<(), DemoError> {
    let options = Options {
        listen: args.listen,
        seed: args.seed,
        plain: args.plain,
        exit_on_eof: args.exit_on_eof,
        auto: args.auto.then_some(args.beat),
        cut: !args.no_cut,
    };
    if args.check { demo::check(options).await } else { demo::run(options).await }
}
