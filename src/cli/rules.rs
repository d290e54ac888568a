//! `ronproxy rules`

use clap::Args;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    links::is,
    output::{Table, entries, text},
    show::Show,
};

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

fn table(rules: &Value, columns: Option<usize>) -> String {
    if entries(rules).is_empty() {
        return "There is no rule: the node decides for each flow.".to_owned();
    }
    let mut table = Table::new(&["RULE", "ID", "STATE", "FLOWS"]);
    for rule in entries(rules) {
        let state = if is(rule, "paused") { "paused" } else { "in force" };
        table.row([text(rule, "rule"), text(rule, "id"), state.to_owned(), text(rule, "text")]);
    }
    table.within(columns)
}
