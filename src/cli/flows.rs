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
#[derive(Debug, Args)]
pub(super) struct Flows {
    #[command(flatten)]
    show: Show,
}

impl Flows {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let client = folder.client();
        self.show.run(async || Ok(client.get("/flows").await?), table).await
    }
}

fn table(flows: &Value, columns: Option<usize>) -> String {
    if entries(flows).is_empty() {
        return "No flow is open.".to_owned();
    }
    let heads = ["LABEL", "TARGET", "EXIT", "ROUTE", "HINT", "STATE", "AGE", "SENT", "RECEIVED"];
    let mut table = Table::new(&heads);
    for flow in entries(flows) {
        table.row([
            text(flow, "label"),
            text(flow, "target"),
            text(flow, "exit"),
            reroutes::route(flow),
            text(flow, "hint"),
            text(flow, "state"),
            units::span_of(flow, "seconds"),
            units::bytes_of(flow, "sent"),
            units::bytes_of(flow, "received"),
        ]);
    }
    let mut lines = vec![table.within(columns)];
    lines.extend(entries(flows).iter().filter_map(datagrams));
    lines.join("\n")
}

/// What became of an association's datagrams.
fn datagrams(flow: &Value) -> Option<String> {
    let counts = flow.get("datagrams").filter(|counts| !counts.is_null())?;
    let of = |name: &str| counts[name].as_u64().unwrap_or(0);
    let lost = of("lost_sent") + of("lost_received");
    let (label, sent, received) = (text(flow, "label"), of("sent"), of("received"));
    Some(format!("Datagrams of {label}: {sent} sent, {received} received, {lost} lost"))
}
