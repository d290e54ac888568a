//! `ronproxy errors`

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;

use super::{CliError, folder::Folder, output::wrapped, show::Show, units};
use crate::{
    events::{Event, Page, Record},
    flow::RefusalKind,
    text::Escaped,
};

/// Show what failed lately, each with its cause and what to do about it
///
/// Flows that were refused, which browsers do not explain, and links that went down. A node remembers a
/// day, at most 1,024 of each. The newest is first. Times are in UTC.
#[derive(Debug, Args)]
pub(super) struct Errors {
    /// Show the last N different failures
    #[arg(long, value_name = "N", default_value_t = 20)]
    last: usize,
    #[command(flatten)]
    show: Show,
}

/// A failure, and how often it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Failure {
    /// When it happened last, in milliseconds since 1970.
    at_ms: u64,
    /// How often it is remembered.
    times: usize,
    /// What failed.
    what: String,
    /// The kind of reason, a stable name.
    reason: &'static str,
    /// The cause in words.
    cause: String,
    /// What to do about it.
    cure: String,
}

impl Errors {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let client = folder.client();
        let read = async || {
            let page: Page = client.get("/events?class=refusals,overlay").await?;
            Ok(failures(&page.events, self.last))
        };
        self.show.run(read, |failures, columns| told(failures, columns)).await
    }
}

/// The last `most` different failures among events, the newest first.
fn failures(events: &[Record], most: usize) -> Vec<Failure> {
    let mut all: Vec<Failure> = Vec::new();
    let mut up = BTreeSet::new();
    for Record { at_ms, event, .. } in events.iter().rev() {
        let (what, reason, cause, cure) = match event {
            Event::LinkUp { peer } => {
                up.insert(peer.clone());
                continue;
            }
            Event::LinkDown { peer } => (
                format!("the link to {peer}"),
                "link-down",
                "four probes in a row had no answer".to_owned(),
                match up.contains(peer) {
                    true => "Nothing: it is up again.".to_owned(),
                    false => format!(
                        "See whether {peer} runs. `ronproxy ping {peer}` measures the routes to it."
                    ),
                },
            ),
            Event::FlowRefused { target, exit, reason, why, cure } => {
                let exit =
                    exit.as_ref().map_or_else(String::new, |exit| format!(" by exit {exit}"));
                let reason = RefusalKind::name(*reason);
                (format!("a flow to {target}{exit}"), reason, why.clone(), cure.clone())
            }
            _ => continue,
        };
        let has_room = all.len() < most;
        let known = all
            .iter_mut()
            .find(|known| (&known.what, known.reason, &known.cause) == (&what, reason, &cause));
        match known {
            Some(known) => known.times += 1,
            None if has_room => {
                all.push(Failure { at_ms: *at_ms, times: 1, what, reason, cause, cure });
            }
            None => {}
        }
    }
    all
}

fn told(failures: &[Failure], columns: Option<usize>) -> String {
    if failures.is_empty() {
        return "Nothing has failed lately.".to_owned();
    }
    let lines = failures.iter().flat_map(|failure| {
        let Failure { at_ms, times, what, reason, cause, cure } = failure;
        let times = if *times > 1 { format!(", {times} times") } else { String::new() };
        let date = units::date(at_ms / 1000);
        let head = format!("{date}  {}: {reason}{times}", Escaped(what));
        let cause = Escaped(cause).to_string();
        [
            wrapped(&head, columns, "", "  "),
            wrapped(&cause, columns, "  ", "  "),
            wrapped(cure, columns, "  → ", "    "),
        ]
        .concat()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Refusal;

    fn record(id: u64, event: Event) -> Record {
        Record { id, at_ms: 1_893_456_000_000 + id * 1000, event }
    }

    fn refused(target: &str) -> Event {
        let refusal = Refusal::new(RefusalKind::NameNotFound, "no such name");
        Event::refused(target.to_owned(), &refusal.at("mit".parse().unwrap()))
    }

    #[test]
    fn failures_have_cause_and_cure_and_the_same_one_is_counted() {
        let utah = || "utah".parse().unwrap();
        let events = [
            record(1, refused("a.test:443")),
            record(2, Event::LinkDown { peer: utah() }),
            record(3, Event::LinkUp { peer: utah() }),
            record(4, refused("a.test:443")),
            record(5, Event::MemberJoined { name: utah() }),
        ];
        let expected = "\
2030-01-01 00:00:04  a flow to a.test:443 by exit mit: name-not-found, 2 times
  no such name
  → Check the address for mistakes.
2030-01-01 00:00:02  the link to utah: link-down
  four probes in a row had no answer
  → Nothing: it is up again.";
        assert_eq!(told(&failures(&events, 20), None), expected);
        let narrow = told(&failures(&events, 20), Some(40));
        assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
        assert_eq!(failures(&events, 1).len(), 1);
        let down = failures(&events[..2], 1);
        assert!(down[0].cure.contains("ping utah"), "{down:?}");
        assert_eq!(told(&[], None), "Nothing has failed lately.");
    }
}
