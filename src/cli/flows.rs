//! `ronproxy flows`

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{Table, or_dash},
    reroutes,
    show::Show,
    units,
};
use crate::{app::FlowFacts, exit::ExitFlow, flow::FlowState};

/// Show the flows of this entry: every connection and association through its proxy, its route and its reroutes
///
/// With --exit: the flows of members that leave here, with their destinations if the operator logs these
/// (`destinations` under [log]).
#[derive(Debug, Args)]
pub(super) struct Flows {
    #[command(flatten)]
    show: Show,
    /// Show the flows of members that leave at this node instead, which is an exit
    #[arg(long)]
    exit: bool,
}

impl Flows {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        match self.exit {
            true => self.show.answer(folder, "/exit-flows", exit_table).await,
            false => self.show.answer(folder, "/flows", table).await,
        }
    }
}

fn table(flows: &Vec<FlowFacts>, columns: Option<usize>) -> String {
    if flows.is_empty() {
        return "No flow is open.".to_owned();
    }
    let heads =
        ["LABEL", "DESTINATION", "EXIT", "ROUTE", "HINT", "STATE", "AGE", "SENT", "RECEIVED"];
    let mut table = Table::new(&heads);
    for flow in flows {
        let still = reroutes::still(flow.stands_still_seconds, flow.waits_for);
        table.row([
            flow.label.to_string(),
            flow.target.clone(),
            flow.exit.to_string(),
            reroutes::route(&or_dash(flow.route.as_ref()), flow.reroutes, &flow.history),
            flow.hint.to_string(),
            reroutes::state(still, flow.state == FlowState::Opening, flow.quiet_seconds),
            units::span_in(flow.seconds),
            units::bytes(flow.sent),
            units::bytes(flow.received),
        ]);
    }
    let mut lines = vec![table.within(columns)];
    lines.extend(flows.iter().filter_map(datagrams));
    lines.join("\n")
}

/// The flows that leave here.
fn exit_table(flows: &Vec<ExitFlow>, columns: Option<usize>) -> String {
    if flows.is_empty() {
        return "No flow of a member leaves here.".to_owned();
    }
    let mut table =
        Table::new(&["MEMBER", "LABEL", "DESTINATION", "AGE", "QUIET", "SENT", "RECEIVED"]);
    for flow in flows {
        table.row([
            flow.member.to_string(),
            or_dash(flow.label),
            or_dash(flow.target.as_ref()),
            units::span_in(flow.seconds),
            units::span_in(flow.quiet_seconds),
            units::bytes(flow.sent),
            units::bytes(flow.received),
        ]);
    }
    table.within(columns)
}

/// What became of an association's datagrams.
fn datagrams(flow: &FlowFacts) -> Option<String> {
    let counts = flow.datagrams.as_ref()?;
    let (label, sent, received) = (flow.label, counts.sent, counts.received);
    let lost = counts.lost_sent + counts.lost_received;
    Some(format!("Datagrams of {label}: {sent} sent, {received} received, {lost} lost"))
}
