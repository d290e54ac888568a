//! `ronproxy demo`: the four sites of "The Case for Resilient Overlay Networks" (HotOS 2001) as
//! four full nodes in this process, on an emulated Internet, with a real proxy to try them with.
//!
//! ```text
//!  you ─► proxy ─► ArosNet ──────(direct)────── MIT ─► campus.mit.test
//!                     ├────────── Utah ──────────┤
//!                     └──────── MediaOne ────────┘
//! ```
//!
//! Nothing is scripted: what is shown is read from the nodes and from the emulated Internet.
//!
//! | file | what it holds |
//! |---|---|
//! | `paths`, `facts`, `object`, `commands` | PURE: the sites, what is observed, test data, commands |
//! | `watch` | PURE: from observations to rates, loss, stalls and events |
//! | `text`, `map`, `view` | PURE: from a snapshot to lines of text |
//! | `site` | the campus web site behind the exit |
//! | `board` | the dashboard of the entry |
//! | `stage` | the nodes and their Internet, and what a visitor does to them |
//! | `client`, `check` | a client of the proxy; the round that `--check` makes |
//! | `auto` | the script of `--auto`, and its summary |
//! | `pair` | the same download through the overlay and without it, as graphs |
//! | `screen`, `shell`, `out` | the terminal, the loop, the voice |
//!
//! # Rates
//!
//! Paths to ArosNet run at the paper's 10 Mbit/s: 20 MiB take some 18 s, time enough to cut a
//! path in the middle and to see a stall of half a second. MediaOne has 4 Mbit/s.

mod auto;
mod board;
mod check;
mod client;
mod commands;
mod facts;
mod map;
mod object;
mod out;
mod pair;
mod paths;
mod screen;
mod shell;
mod site;
mod stage;
mod text;
mod view;
mod watch;

use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
};

use stage::{Stage, StageError};

/// How the demo is to run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Where the proxy listens; if the port is taken, another one of the same address is used.
    pub listen: SocketAddr,
    /// The seed of the emulated Internet's luck.
    pub seed: u64,
    /// Lines instead of a full screen, also on a terminal.
    pub plain: bool,
    /// Whether the end of standard input ends the plain demo.
    pub exit_on_eof: bool,
    /// Plays cuts, losses and heals by itself, with a step's time in this unit, and ends.
    pub auto: Option<std::time::Duration>,
    /// With [`check`]: whether a path is cut during a download.
    pub cut: bool,
}

/// Why the demo ended early; each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// It did not start.
    #[error("the demo did not start: {0}")]
    Start(String),
    /// The terminal failed.
    #[error("the terminal failed: {0}; try --plain")]
    Terminal(#[from] io::Error),
    /// Connections of the demo that plays by itself were lost.
    #[error("{0}")]
    Lost(String),
    /// Checks failed.
    #[error("{failed} of {all} checks failed")]
    Failed {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
    },
}

impl From<StageError> for DemoError {
    fn from(error: StageError) -> Self {
        Self::Start(error.to_string())
    }
}

/// Runs the demo for a visitor, until they quit.
///
/// # Errors
/// When the nodes do not start or the terminal fails.
pub(crate) async fn run(options: Options) -> Result<(), DemoError> {
    let full_screen = !options.plain && io::stdin().is_terminal() && io::stdout().is_terminal();
    let stage = Stage::start(options.listen, options.seed).await?;
    shell::run(stage, &options, full_screen).await
}

/// Makes the whole round without a visitor and prints one line per check.
///
/// # Errors
/// When a check fails.
pub(crate) async fn check(options: Options) -> Result<(), DemoError> {
    check::run(&options).await
}
