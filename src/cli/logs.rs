//! `ronproxy logs`

use clap::{Args, builder::PossibleValuesParser};

use super::{
    CliError,
    folder::Folder,
    output::{json_line, print, print_json, unread},
    units,
};
use crate::admin::{LEVELS, LONGEST_WAIT, LogLine, LogPage};

/// Show the last lines of the running node's log, wherever it goes
///
/// A node remembers 2,000 lines. The key `filter` under [log] says which lines are logged; `reload` changes it at once.
/// Times are in UTC.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Wait for what is logged next, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Show the last N lines
    #[arg(long, value_name = "N", default_value_t = 100)]
    last: usize,
    /// Only lines of this level or graver: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", value_parser = PossibleValuesParser::new(LEVELS))]
    level: Option<String>,
    /// Print facts as JSON; with --follow one object a line
    #[arg(long)]
    json: bool,
}

impl Logs {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let level = self.level.as_ref().map_or_else(String::new, |level| format!("&level={level}"));
        let client = folder.client();
        let asked = format!("/logs?limit={}{level}", self.last);
        let mut page: LogPage = client.get(&asked).await?;
        if self.json && !self.follow {
            return print_json(&page.lines);
        }
        loop {
            if page.dropped > 0 && !self.json {
                print(format_args!("({} lines are no longer kept)", page.dropped))?;
            }
            for line in &page.lines {
                self.tell(line)?;
            }
            if !self.follow {
                return Ok(());
            }
            let wait = LONGEST_WAIT.as_secs();
            let next = format!("/logs?since={}&wait={wait}{level}", page.next);
            page = tokio::select! {
                next = client.get(&next) => next?,
                () = unread() => return Ok(()),
            };
        }
    }

    fn tell(&self, line: &LogLine) -> Result<(), CliError> {
        if self.json {
            return print(json_line(line)?);
        }
        print(format_args!("{}  {}", units::date_ms(line.at_ms), line.text))
    }
}
