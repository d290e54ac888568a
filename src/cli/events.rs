//! `ronproxy events`

use clap::Args;
use serde::Serialize;

use super::{
    CliError,
    folder::Folder,
    output::{json_line, print, print_json, unread},
    units,
};
use crate::{
    admin::LONGEST_WAIT,
    events::{Class, Page, Record},
};

/// Show what happened: reroutes, links, members, flows, refusals, renewals
///
/// A node remembers a day, at most 1,024 events of each class. Times are in UTC.
#[derive(Debug, Args)]
pub(super) struct Events {
    /// Wait for what happens next, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Show the last N events
    #[arg(long, value_name = "N", default_value_t = 100)]
    last: usize,
    /// Only events of this class: overlay, reroutes, flows or refusals
    #[arg(long, value_name = "CLASS")]
    class: Option<Class>,
    /// Print facts as JSON; with --follow one object a line
    #[arg(long)]
    json: bool,
}

/// With `--json`, how many events were dropped before the next one.
#[derive(Debug, Serialize)]
struct Dropped {
    dropped: u64,
}

impl Events {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let class = self.class.map_or_else(String::new, |class| format!("&class={}", class.name()));
        let client = folder.client();
        let asked = format!("/events?limit={}{class}", self.last);
        let mut page: Page = client.get(&asked).await?;
        if self.json && !self.follow {
            return print_json(&page.events);
        }
        if page.events.is_empty() && !self.follow && self.last > 0 {
            return print("Nothing has happened yet.");
        }
        loop {
            if page.dropped > 0 {
                self.tell_dropped(page.dropped)?;
            }
            for record in &page.events {
                self.tell(record)?;
            }
            if !self.follow {
                return Ok(());
            }
            let wait = LONGEST_WAIT.as_secs();
            let next = format!("/events?since={}&wait={wait}{class}", page.next);
            page = tokio::select! {
                next = client.get(&next) => next?,
                () = unread() => return Ok(()),
            };
        }
    }

    fn tell(&self, record: &Record) -> Result<(), CliError> {
        if self.json {
            return print(json_line(record)?);
        }
        print(format_args!("{}  {}", units::date_ms(record.at_ms), record.event))
    }

    fn tell_dropped(&self, dropped: u64) -> Result<(), CliError> {
        match self.json {
            true => print(json_line(&Dropped { dropped })?),
            false => print(format_args!("({dropped} events were dropped: they came too fast)")),
        }
    }
}
