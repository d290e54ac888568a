//! `ronproxy perfdb`

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{Table, or_dash},
    show::Show,
    units,
};
use crate::mesh::SharedFacts;

/// Show what the other nodes of this site measured of members, and what became of it
///
/// The nodes of a site name each other with `share_with` under `[probe]`. One of them probes a member, and the rest
/// use its figures.
#[derive(Debug, Args)]
pub(super) struct Perfdb {
    #[command(flatten)]
    show: Show,
}

impl Perfdb {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        self.show.answer(folder, "/perfdb", table).await
    }
}

fn table(figures: &Vec<SharedFacts>, columns: Option<usize>) -> String {
    if figures.is_empty() {
        return "No other node of this site tells what it measures. Name the nodes of one site with share_with \
                under [probe], each at all others."
            .to_owned();
    }
    let heads = ["PEER", "BY", "AGE", "RTT", "LOSS OUT", "LOSS IN", "DELIVERED", "USE"];
    let mut table = Table::new(&heads);
    for figure in figures {
        table.row([
            figure.peer.to_string(),
            figure.by.to_string(),
            units::span_in(figure.age_seconds),
            units::millis(figure.rtt_ms),
            units::percent(figure.loss_out_percent),
            units::percent(figure.loss_in_percent),
            or_dash(figure.delivered_bps.map(units::rate)),
            figure.used.clone(),
        ]);
    }
    table.within(columns)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_figure_shows_who_measured_it_when_and_what_became_of_it() {
        let figure = json!({
            "peer": "utah", "by": "attic", "age_seconds": 12, "rtt_ms": 60.0, "loss_out_percent": 1.0,
            "loss_in_percent": 0.0, "delivered_bps": null, "use": "used",
        });
        let table = table(&serde_json::from_value(json!([figure])).unwrap(), None);
        let row: Vec<&str> = table.lines().last().unwrap().split("  ").map(str::trim).collect();
        let row: Vec<&str> = row.into_iter().filter(|cell| !cell.is_empty()).collect();
        assert_eq!(row, ["utah", "attic", "12s", "60.0 ms", "1.0 %", "0.0 %", "-", "used"]);
    }
}
