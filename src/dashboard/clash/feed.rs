//! Answers that never end: rates, flows, events.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::facts;
use crate::{
    admin::Admin,
    events::{Event, Query, Record},
};

/// How often rates are told, and flows unless it is asked for otherwise.
const EVERY: Duration = Duration::from_secs(1);

/// The bounds of what may be asked for, in milliseconds.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 500..=60_000;

/// An answer that never ends.
pub(super) struct Feed {
    admin: Arc<Admin>,
    ticks: Interval,
    what: What,
}

enum What {
    /// Rates: when they were counted last, and what was carried then.
    Traffic(Instant, (u64, u64)),
    Connections,
    /// Events from this level on, and those that are read but not told.
    Logs(Level, Query, VecDeque<Record>),
}

/// How grave an event is, in the words of Clash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Debug,
    Info,
    Warning,
    Error,
    Silent,
}

impl Level {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warning" => Ok(Self::Warning),
            "error" => Ok(Self::Error),
            "silent" => Ok(Self::Silent),
            other => {
                Err(format!("{other:?} is no level; write debug, info, warning, error or silent"))
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error | Self::Silent => "error",
        }
    }

    fn of(event: &Event) -> Self {
        match event {
            Event::FlowRefused { .. } => Self::Error,
            Event::LinkDown { .. } | Event::MemberLeft { .. } | Event::MemberRevoked { .. } => {
                Self::Warning
            }
            _ => Self::Info,
        }
    }
}

impl Feed {
    /// What stands at the path `/what`, as `asked` in its query.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub(super) fn new(what: &str, asked: &str, admin: Arc<Admin>) -> Result<Self, String> {
        let asked = |name: &str| {
            let found = form_urlencoded::parse(asked.as_bytes()).find(|(key, _)| key == name);
            found.map(|(_, value)| value.into_owned())
        };
        let (what, every) = match what {
            "traffic" => (What::Traffic(Instant::now(), facts::carried(&admin.view)), EVERY),
            "logs" => {
                let level = asked("level").as_deref().map_or(Ok(Level::Info), Level::read)?;
                let since = Some(admin.view.events().last());
                (What::Logs(level, Query { since, ..Query::default() }, VecDeque::new()), EVERY)
            }
            _ => (What::Connections, every(asked("interval").as_deref())?),
        };
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { admin, ticks, what })
    }

    /// The next message. It may be dropped half way.
    pub(super) async fn next(&mut self) -> Value {
        let view = &self.admin.view;
        match &mut self.what {
            What::Traffic(at, before) => {
                self.ticks.tick().await;
                let (now, carried) = (Instant::now(), facts::carried(view));
                let (up, down) = rates(now - *at, *before, carried);
                (*at, *before) = (now, carried);
                json!({ "up": up, "down": down, "upTotal": carried.0, "downTotal": carried.1 })
            }
            What::Connections => {
                self.ticks.tick().await;
                facts::connections(view)
            }
            What::Logs(from, query, waiting) => loop {
                if let Some(record) = waiting.pop_front() {
                    let (level, payload) = (Level::of(&record.event), record.event.to_string());
                    if level >= *from {
                        break json!({ "type": level.name(), "payload": payload });
                    }
                    continue;
                }
                let page = view.events().news(query).await;
                query.since = Some(page.next);
                waiting.extend(page.events);
            },
        }
    }
}

/// Bytes a second between two counts.
fn rates(time: Duration, before: (u64, u64), now: (u64, u64)) -> (u64, u64) {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let rate =
        |before: u64, now: u64| (now.saturating_sub(before) * 1000).checked_div(ms).unwrap_or(0);
    (rate(before.0, now.0), rate(before.1, now.1))
}

/// How often flows are told, in milliseconds as these programs ask.
fn every(asked: Option<&str>) -> Result<Duration, String> {
    let Some(text) = asked else { return Ok(EVERY) };
    let ms: u64 = text.parse().map_err(|_| format!("interval={text:?} is no number"))?;
    Ok(Duration::from_millis(ms.clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bytes_a_second() {
        let of = |ms, before, now| rates(Duration::from_millis(ms), before, now);
        assert_eq!(of(1000, (10, 20), (110, 20)), (100, 0));
        assert_eq!(of(500, (0, 0), (100, 50)), (200, 100));
        assert_eq!(of(0, (0, 0), (100, 50)), (0, 0), "the first message comes at once");
    }

    #[test]
    fn a_wrong_query_is_bounded_or_answered_with_the_right_form() {
        assert_eq!(every(None), Ok(EVERY));
        assert_eq!(every(Some("1")), Ok(Duration::from_millis(500)));
        assert_eq!(every(Some("999999999")), Ok(Duration::from_secs(60)));
        assert!(every(Some("x")).unwrap_err().contains("no number"));
        assert!(Level::read("loud").unwrap_err().contains("warning"));
        let down = Event::LinkDown { peer: "mit".parse().unwrap() };
        assert!(
            Level::of(&down) == Level::Warning && Level::read("silent").unwrap() > Level::Error
        );
    }
}
