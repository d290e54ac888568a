//! `ronproxy flows`

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

fn table(flows: &Value, columns: Option<usize>) -> String {
    if entries(flows).is_empty() {
        return "No flow is open.".to_owned();
    }
    let heads =
        ["LABEL", "DESTINATION", "EXIT", "ROUTE", "HINT", "STATE", "AGE", "SENT", "RECEIVED"];
    let mut table = Table::new(&heads);
    for flow in entries(flows) {
        table.row([
            text(flow, "label"),
            text(flow, "target"),
            text(flow, "exit"),
            reroutes::route(flow),
            text(flow, "hint"),
            reroutes::state(flow),
            units::span_of(flow, "seconds"),
            units::bytes_of(flow, "sent"),
            units::bytes_of(flow, "received"),
        ]);
    }
    let mut lines = vec![table.within(columns)];
    lines.extend(entries(flows).iter().filter_map(datagrams));
    lines.join("\n")
}

/// The flows that leave here.
fn exit_table(flows: &Value, columns: Option<usize>) -> String {
    if entries(flows).is_empty() {
        return "No flow of a member leaves here.".to_owned();
    }
    let mut table =
        Table::new(&["MEMBER", "LABEL", "DESTINATION", "AGE", "QUIET", "SENT", "RECEIVED"]);
    for flow in entries(flows) {
        table.row([
            text(flow, "member"),
            text(flow, "label"),
            text(flow, "target"),
            units::span_of(flow, "seconds"),
            units::span_of(flow, "quiet_seconds"),
            units::bytes_of(flow, "sent"),
            units::bytes_of(flow, "received"),
        ]);
    }
    table.within(columns)
}

/// What became of an association's datagrams.
fn datagrams(flow: &Value) -> Option<String> {
    let counts = flow.get("datagrams").filter(|counts| !counts.is_null())?;
    let of = |name: &str| counts[name].as_u64().unwrap_or(0);
    let lost = of("lost_sent") + of("lost_received");
    let (label, sent, received) = (text(flow, "label"), of("sent"), of("received"));
    Some(format!("Datagrams of {label}: {sent} sent, {received} received, {lost} lost"))
}
