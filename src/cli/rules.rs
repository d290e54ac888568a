//! `ronproxy rules`

use clap::Args;

use super::{CliError, folder::Folder, output::Table, show::Show};
use crate::app::RuleFacts;

/// Show the routing rules of the running node, and which are paused
#[derive(Debug, Args)]
pub(super) struct Rules {
    #[command(flatten)]
    show: Show,
}

impl Rules {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        self.show.answer(folder, "/rules", table).await
    }
}

fn table(rules: &Vec<RuleFacts>, columns: Option<usize>) -> String {
    if rules.is_empty() {
        return "There is no rule: the node decides for each flow.".to_owned();
    }
    let mut table = Table::new(&["RULE", "ID", "STATE", "FLOWS"]);
    for RuleFacts { rule, id, text, paused } in rules {
        let state = if *paused { "paused" } else { "in force" };
        table.row([rule.to_string(), id.clone(), state.to_owned(), text.clone()]);
    }
    table.within(columns)
}
