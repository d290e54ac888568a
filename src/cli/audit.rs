//! `ronproxy audit`

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{Table, columns, note, print, print_json},
    units,
};
use crate::identity::{AuditEntry, AuditLog, NodeFile};

/// Show what the overlay's authority did: invitations, certificates, revocations, backups
#[derive(Debug, Args)]
pub(super) struct Audit {
    /// Show the last N entries
    #[arg(long, value_name = "N", default_value_t = 100)]
    last: usize,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Audit {
    pub(super) fn run(self, folder: &Folder) -> Result<(), CliError> {
        folder.expect_authority()?;
        let lines = AuditLog::new(&folder.dir).read(self.last)?;
        if let [first, ..] = lines.unreadable.as_slice() {
            let path = folder.dir.path(NodeFile::Audit);
            let count = lines.unreadable.len();
            note(format_args!(
                "{}: {count} unreadable lines, from line {first} on",
                path.display()
            ));
        }
        if self.json {
            return print_json(&lines.entries);
        }
        if lines.entries.is_empty() {
            return print("Nothing is on the log yet.");
        }
        print(table(&lines.entries))
    }
}

fn table(entries: &[AuditEntry]) -> String {
    let mut table = Table::new(&["TIME (UTC)", "EVENT", "NAME", "SERIAL", "BY"]);
    for entry in entries {
        table.row([
            units::date(entry.time),
            entry.event.to_string(),
            entry.name.to_string(),
            entry.serial.clone().unwrap_or_else(|| "-".to_owned()),
            entry.by.clone(),
        ]);
    }
    table.within(columns())
}
