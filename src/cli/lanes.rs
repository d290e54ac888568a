//! `ronproxy lanes`

use clap::Args;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    output::{Table, entries, text},
    reroutes,
    show::Show,
    units,
};

/// Show the lanes that start or end at this node
#[derive(Debug, Args)]
pub(super) struct Lanes {
    #[command(flatten)]
    show: Show,
}

impl Lanes {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        self.show.answer(folder, "/lanes", table).await
    }
}

fn table(lanes: &Value, columns: Option<usize>) -> String {
    if entries(lanes).is_empty() {
        return "No lane is open; one opens with the first flow to an exit.".to_owned();
    }
    let heads = [
        "LANE", "END", "PEER", "ROUTE", "HINT", "CARRIES", "RTT", "REROUTES", "SENT", "RECEIVED",
        "STATE",
    ];
    let mut table = Table::new(&heads);
    for lane in entries(lanes) {
        let bytes = |index: usize| {
            let count = lane.get("bytes").and_then(|both| both.get(index)?.as_u64());
            count.map_or_else(|| "-".to_owned(), units::bytes)
        };
        table.row([
            text(lane, "lane"),
            text(lane, "end"),
            text(lane, "peer"),
            reroutes::route(lane),
            text(lane, "hint"),
            text(lane, "carries"),
            units::millis_of(lane, "rtt_ms"),
            text(lane, "reroutes"),
            bytes(0),
            bytes(1),
            reroutes::still(lane),
        ]);
    }
    table.within(columns)
}
