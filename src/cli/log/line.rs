//! One line of the log: as text, with the priority that journald reads, or as JSON.

use std::{
    fmt::{self, Debug},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde_json::{Map, Value, json};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{Format, Full, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use super::{repeats::Repeats, shown_name};
use crate::{admin::LogLines, cli::output::json_escaped};

/// How a line looks.
#[derive(Debug)]
pub(super) enum Shape {
    /// For people.
    Text(Format<Full, SystemTime>),
    /// The same for the system's journal, which notes the time itself; see sd-daemon(3).
    Journal,
    /// One JSON object.
    Json,
}

/// Writes lines, each once a minute.
#[derive(Debug)]
pub(super) struct Lines {
    shape: Shape,
    repeats: Mutex<Repeats>,
    /// Keeps the last ones.
    kept: Arc<LogLines>,
}

impl Lines {
    pub(super) fn new(shape: Shape, kept: Arc<LogLines>) -> Self {
        Self { shape, repeats: Mutex::default(), kept }
    }

    /// Whether the event is written, and how many like it were left out before. At `debug` and
    /// `trace` every event is written.
    fn admit(&self, event: &Event<'_>) -> Option<u64> {
        if *event.metadata().level() > Level::INFO {
            return Some(0);
        }
        let mut hasher = DefaultHasher::new();
        event.metadata().callsite().hash(&mut hasher);
        let place = hasher.finish();
        event.record(&mut Hashed(&mut hasher));
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        repeats.write(Instant::now(), place, hasher.finish())
    }
}

struct Hashed<'a>(&'a mut DefaultHasher);

impl Visit for Hashed<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        (field.name(), format!("{value:?}")).hash(self.0);
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(left_out) = self.admit(event) else { return Ok(()) };
        let level = *event.metadata().level();
        let more = match left_out {
            0 => String::new(),
            more => format!(" (left out {more} like it)"),
        };
        let mut plain = String::new();
        let format = tracing_subscriber::fmt::format().without_time().with_ansi(false);
        format.format_event(context, Writer::new(&mut plain), event)?;
        let plain = format!("{}{more}", plain.trim_end());
        self.kept.push(&level.as_str().to_ascii_lowercase(), &plain);
        match &self.shape {
            Shape::Text(format) => {
                let mut line = String::new();
                format.format_event(context, Writer::new(&mut line), event)?;
                writeln!(writer, "{}{more}", line.trim_end())
            }
            // The journal notes the time itself.
            Shape::Journal => writeln!(writer, "<{}>{plain}", priority(level)),
            Shape::Json => writeln!(writer, "{}", json_line(context, event, left_out)?),
        }
    }
}

/// syslog(3)
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn json_line<S, N>(
    context: &FmtContext<'_, S, N>,
    event: &Event<'_>,
    left_out: u64,
) -> Result<String, fmt::Error>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let (mut time, mut fields) = (String::new(), Fields(Map::new()));
    SystemTime.format_time(&mut Writer::new(&mut time))?;
    event.record(&mut fields);
    let spans = context.event_scope().into_iter().flat_map(|scope| scope.from_root());
    let spans = spans.map(|span| {
        let extensions = span.extensions();
        let fields = extensions.get::<FormattedFields<N>>().map_or("", |fields| &fields.fields);
        json!({ "name": span.name(), "fields": fields })
    });
    let mut line = json!({
        "time": time,
        "level": event.metadata().level().as_str(),
        "target": event.metadata().target(),
        "spans": spans.collect::<Vec<_>>(),
        "message": fields.0.remove("message"),
        "fields": fields.0,
    });
    if left_out > 0 {
        line["left_out"] = left_out.into();
    }
    Ok(json_escaped(&line.to_string()))
}

struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        if let Some(name) = shown_name(field) {
            self.0.insert(name.to_owned(), value.into());
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.insert(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }
}
