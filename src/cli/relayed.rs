//! `ronproxy relayed`

use clap::Args;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    output::{Table, entries, text},
    show::Show,
    units,
};

/// Show what this relay forwards: from whom, to whom, how much
///
/// A relay sees no destination and no content. A line is there while a lane of the two nodes has a label
/// here, and two minutes longer.
#[derive(Debug, Args)]
pub(super) struct Relayed {
    #[command(flatten)]
    show: Show,
}

impl Relayed {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        self.show.answer(folder, "/relayed", table).await
    }
}

fn table(relayed: &Value, columns: Option<usize>) -> String {
    if entries(relayed).is_empty() {
        return "Nothing is forwarded for others.".to_owned();
    }
    let mut table = Table::new(&["FROM", "TO", "BYTES", "SINCE", "LABELS"]);
    for pair in entries(relayed) {
        table.row([
            text(pair, "from"),
            text(pair, "to"),
            units::bytes_of(pair, "bytes"),
            units::span_of(pair, "seconds"),
            text(pair, "labels"),
        ]);
    }
    table.within(columns)
}
