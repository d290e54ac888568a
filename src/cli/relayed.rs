//! `ronproxy relayed`

use clap::Args;

use super::{CliError, folder::Folder, output::Table, show::Show, units};
use crate::app::RelayedFacts;

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

fn table(relayed: &Vec<RelayedFacts>, columns: Option<usize>) -> String {
    if relayed.is_empty() {
        return "Nothing is forwarded for others.".to_owned();
    }
    let mut table = Table::new(&["FROM", "TO", "BYTES", "SINCE", "LABELS"]);
    for RelayedFacts { from, to, labels, bytes, seconds } in relayed {
        table.row([
            from.to_string(),
            to.to_string(),
            units::bytes(*bytes),
            units::span_in(*seconds),
            labels.to_string(),
        ]);
    }
    table.within(columns)
}
