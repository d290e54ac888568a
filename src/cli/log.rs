//! The log, on stderr.

use std::{fmt, io::IsTerminal as _};

use tracing::field::Field;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    fmt::format::{Writer, debug_fn},
};

use super::CliError;
use crate::{config::Log, flow::DESTINATION_TARGET, text::write_escaped};

/// The variable that overrides the configured filter.
const VARIABLE: &str = "RON_LOG";

/// Starts logging: `-v` wins over `RON_LOG`, and that over the configuration.
pub(super) fn start(verbose: u8, configured: &Log) -> Result<(), CliError> {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(verbose, configured)?)
        // Whatever a peer, a client or a server wrote reaches the log as a field.
        .fmt_fields(debug_fn(field).delimited(" "))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // It fails only where logging has been started already, as in tests.
    let _ = subscriber.try_init();
    Ok(())
}

fn filter(verbose: u8, configured: &Log) -> Result<EnvFilter, CliError> {
    let from_environment = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let filter = match (verbose, from_environment) {
        (0, Some(text)) => EnvFilter::try_new(&text).map_err(|error| {
            CliError::say(format!(
                "{VARIABLE}={text:?} is no log filter ({error}); write for example {VARIABLE}=debug"
            ))
        })?,
        (0, None) => EnvFilter::new(&configured.filter),
        (1, _) => EnvFilter::new("info,ronproxy=debug"),
        (_, _) => EnvFilter::new("debug,ronproxy=trace"),
    };
    if !configured.destinations {
        return Ok(filter);
    }
    let directive = format!("{DESTINATION_TARGET}=debug").parse();
    directive.map(|directive| filter.add_directive(directive)).map_err(|error| {
        CliError::say(format!(
            "the log cannot show destinations: {error}; set destinations = false"
        ))
    })
}

/// Writes one field: the message as it is, others with their name; without control characters.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => write_escaped(writer, format_args!("{value:?}")),
        // The module and the line that a library's `log` call came from.
        name if name.starts_with("log.") => Ok(()),
        name => {
            write!(writer, "{}=", name.strip_prefix("r#").unwrap_or(name))?;
            write_escaped(writer, format_args!("{value:?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::util::SubscriberInitExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(configured: &Log, work: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let _log = tracing_subscriber::fmt()
            .with_env_filter(filter(0, configured).unwrap())
            .fmt_fields(debug_fn(field).delimited(" "))
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .set_default();
        work();
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    fn log_hostile_text() {
        let hostile = "x\u{1b}[2J\nERROR forged\u{9b}31m";
        let span = tracing::info_span!("flow", label = %hostile, late = tracing::field::Empty);
        let _entered = span.enter();
        span.record("late", tracing::field::display(hostile));
        tracing::info!(name = %hostile, quoted = hostile, debug = ?hostile, "said {hostile}");
    }

    #[test]
    fn a_hostile_text_stays_one_line_and_drives_no_terminal() {
        let text = logged(&Log::default(), log_hostile_text);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.trim_end().contains(char::is_control), "{text:?}");
        assert_eq!(text.matches(r"x\u{1b}[2J\nERROR forged").count(), 6, "{text}");
    }

    #[test]
    fn destinations_are_shown_at_debug_or_when_asked_for() {
        let log = |filter: &str, destinations| Log { filter: filter.to_owned(), destinations };
        for (configured, shown) in [
            (log("info", false), false),
            (log("ronproxy=info,debug", false), false),
            (log("debug", false), true),
            (log("info", true), true),
            (log("ronproxy::lane=trace", true), true),
        ] {
            let text = logged(&configured, || {
                let flow = tracing::info_span!("flow", label = 7);
                let span = crate::flow::with_destination(&flow, &"secret.example:443");
                span.in_scope(|| tracing::info!("flow open"));
                span.in_scope(|| tracing::debug!(target: DESTINATION_TARGET, "why"));
            });
            assert_eq!(text.contains("secret.example"), shown, "{configured:?}: {text}");
            if configured.filter == "info" {
                assert!(text.contains("flow{label=7}"), "{text}");
            }
        }
    }
}
