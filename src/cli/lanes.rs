//! `ronproxy lanes`

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{Table, or_dash},
    reroutes,
    show::Show,
    units,
};
use crate::{
    app::{Carries, LaneStatus},
    events::LaneSide,
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

fn table(lanes: &Vec<LaneStatus>, columns: Option<usize>) -> String {
    if lanes.is_empty() {
        return "No lane is open; one opens with the first flow to an exit.".to_owned();
    }
    let heads = [
        "LANE", "END", "PEER", "ROUTE", "HINT", "CARRIES", "RTT", "REROUTES", "SENT", "RECEIVED",
        "STATE",
    ];
    let mut table = Table::new(&heads);
    for LaneStatus { end, hint, carries, rtt_ms, facts } in lanes {
        let carries = carries.map(|carries| match carries {
            Carries::Connections => "connections",
            Carries::Datagrams => "datagrams",
        });
        table.row([
            facts.lane.to_string(),
            self::end(*end).to_owned(),
            facts.peer.to_string(),
            reroutes::route(&facts.route.to_string(), facts.reroutes, &facts.history),
            or_dash(hint.as_ref()),
            or_dash(carries),
            or_dash(rtt_ms.map(units::millis)),
            facts.reroutes.to_string(),
            units::bytes(facts.bytes.0),
            units::bytes(facts.bytes.1),
            reroutes::still(facts.stands_still_seconds, None),
        ]);
    }
    table.within(columns)
}

/// Which end of a lane this node is.
pub(super) fn end(end: LaneSide) -> &'static str {
    match end {
        LaneSide::Entry => "entry",
        LaneSide::Exit => "exit",
    }
}
