//! The log, on stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::CliError;

/// The variable that overrides the configured filter.
const VARIABLE: &str = "RON_LOG";

/// Starts logging: `-v` wins over `RON_LOG`, and that over the configuration.
pub(super) fn start(verbose: u8, configured: &str) -> Result<(), CliError> {
    let from_environment = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let filter = match (verbose, from_environment) {
        (0, Some(text)) => EnvFilter::try_new(&text).map_err(|error| {
            CliError::say(format!(
                "{VARIABLE}={text:?} is no log filter ({error}); write for example {VARIABLE}=debug"
            ))
        })?,
        (0, None) => EnvFilter::new(configured),
        (1, _) => EnvFilter::new("info,ronproxy=debug"),
        (_, _) => EnvFilter::new("debug,ronproxy=trace"),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // It fails only where logging has been started already, as in tests.
    let _ = subscriber.try_init();
    Ok(())
}
