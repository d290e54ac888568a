//! The log, on stderr.

mod line;
mod repeats;

use std::{fmt, fs::File, io::IsTerminal as _, sync::Arc};

use tracing::field::Field;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    fmt::format::{Writer, debug_fn},
};

use self::line::{Lines, Shape};
use super::CliError;
use crate::{
    admin::LogLines,
    config::{self, Log, LogFormat},
    flow::DESTINATION_TARGET,
    text::write_escaped,
};

/// The variable that overrides the configured filter.
const VARIABLE: &str = "RON_LOG";

/// Starts logging: `-v` wins over `RON_LOG`, and that over the configuration.
pub(super) fn start(verbose: u8, configured: &Log) -> Result<Filter, CliError> {
    let lines = Arc::<LogLines>::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(verbose, configured)?)
        // Text of peers, clients and servers reaches the log as a field.
        .fmt_fields(debug_fn(field).delimited(" "))
        .with_ansi(false)
        // The error would go to stderr, which may be the closed terminal that failed.
        .log_internal_errors(false)
        .event_format(Lines::new(shape(configured.format), lines.clone()))
        .with_writer(std::io::stderr)
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    // It fails only where logging has been started already, as in tests.
    let _ = subscriber.try_init();
    let change = move |configured: &Log| {
        let next = filter(verbose, configured)?;
        handle.reload(next).map_err(|error| CliError::say(format!("the log stays: {error}")))
    };
    Ok(Filter { change: Box::new(change), lines })
}

/// Changes what is logged while the program runs, and has its last lines.
pub(super) struct Filter {
    change: Box<Change>,
    lines: Arc<LogLines>,
}

type Change = dyn Fn(&Log) -> Result<(), CliError> + Send + Sync;

impl Filter {
    /// Logs what is configured from now on, as far as `-v` and `RON_LOG` leave that open.
    pub(super) fn reload(&self, configured: &Log) -> Result<(), CliError> {
        (self.change)(configured)
    }

    /// The last lines.
    pub(super) fn lines(&self) -> Arc<LogLines> {
        self.lines.clone()
    }
}

fn shape(format: LogFormat) -> Shape {
    match format {
        LogFormat::Json => Shape::Json,
        LogFormat::Text if is_journal() => Shape::Journal,
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && !wants_no_colour();
            Shape::Text(tracing_subscriber::fmt::format().with_ansi(colours))
        }
    }
}

/// Whether `NO_COLOR` is set and not empty: <https://no-color.org>.
fn wants_no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Whether stderr leads to systemd's journal: `JOURNAL_STREAM` in systemd.exec(5).
fn is_journal() -> bool {
    #[cfg(unix)]
    {
        use std::os::{fd::AsFd as _, unix::fs::MetadataExt as _};
        let Ok(journal) = std::env::var("JOURNAL_STREAM") else { return false };
        let stderr = std::io::stderr().as_fd().try_clone_to_owned();
        let stderr = stderr.and_then(|stderr| File::from(stderr).metadata());
        stderr.is_ok_and(|stderr| journal == format!("{}:{}", stderr.dev(), stderr.ino()))
    }
    #[cfg(not(unix))]
    false
}

fn filter(verbose: u8, configured: &Log) -> Result<EnvFilter, CliError> {
    let from_environment = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let filter = match (verbose, from_environment) {
        (0, Some(text)) => {
            config::check_log_filter(&text)
                .map_err(|error| CliError::say(format!("{VARIABLE}: {error}")))?;
            EnvFilter::new(&text)
        }
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
    match shown_name(field) {
        None => Ok(()),
        Some("message") => write_escaped(writer, format_args!("{value:?}")),
        Some(name) => {
            write!(writer, "{name}=")?;
            write_escaped(writer, format_args!("{value:?}"))
        }
    }
}

/// A field's name in the log; `None` for the module and line that a library's `log` call came from.
fn shown_name(field: &Field) -> Option<&'static str> {
    let name = field.name();
    (!name.starts_with("log.")).then(|| name.strip_prefix("r#").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Mutex};

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
        logged_as(Shape::Journal, configured, work)
    }

    fn logged_as(shape: Shape, configured: &Log, work: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let _log = tracing_subscriber::fmt()
            .with_env_filter(filter(0, configured).unwrap())
            .fmt_fields(debug_fn(field).delimited(" "))
            .with_ansi(false)
            .event_format(Lines::new(shape, Arc::default()))
            .with_writer(move || writer.clone())
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
    fn a_line_tells_the_journal_its_priority_and_json_its_fields() {
        let work = || {
            tracing::warn!(count = 7, who = "ann", "said");
            (0..3).for_each(|_| tracing::error!("again"));
        };
        let text = logged(&Log::default(), work);
        assert!(text.starts_with("<4>") && text.contains("\n<3>"), "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
        let json = logged_as(Shape::Json, &Log::default(), work);
        let lines: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&"WARN".into(), &"said".into()));
        let fields = &lines[0]["fields"];
        assert_eq!((&fields["count"], &fields["who"]), (&7.into(), &"ann".into()));
        let hostile = logged_as(Shape::Json, &Log::default(), log_hostile_text);
        assert!(!hostile.trim_end().contains(char::is_control), "{hostile:?}");
        let hostile: serde_json::Value = serde_json::from_str(&hostile).unwrap();
        assert_eq!(hostile["fields"]["quoted"], "x\u{1b}[2J\nERROR forged\u{9b}31m");
    }

    #[test]
    fn destinations_are_shown_at_debug_or_when_asked_for() {
        let log = |filter: &str, destinations| Log {
            filter: filter.to_owned(),
            destinations,
            ..Log::default()
        };
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
