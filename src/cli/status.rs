//! `ronproxy status`

use clap::Args;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    links::{is, roles},
    output::{entries, print, print_json, text},
    units,
};
use crate::identity::UnixTime;

/// Show what the running node is doing
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let facts = folder.client().get("/status").await?;
        if self.json { print_json(&facts) } else { print(table(&facts)) }
    }
}

fn table(status: &Value) -> String {
    let pair = |a: &str, what_a: &str, b: &str, what_b: &str| {
        format!("{} {what_a}, {} {what_b}", text(status, a), text(status, b))
    };
    let state = if is(status, "stopping") { "stopping" } else { "running" };
    let up = units::span_of(status, "up_seconds");
    let lines = [
        ("node", format!("{} ({})", text(status, "name"), roles(status))),
        ("state", format!("{state} since {up}, pid {}", text(status, "pid"))),
        ("proxy", text(status, "proxy")),
        ("UDP", text(status, "listen")),
        ("members", pair("members", "known", "links_up", "linked")),
        ("lanes", pair("lanes_out", "as entry", "lanes_in", "as exit")),
        ("flows", pair("flows", "as entry", "exit_flows", "as exit")),
        ("forwarded", format!("{} packets", text(status, "forwarded"))),
        ("dropped", drops(status)),
        ("certificate", certificate(status, UnixTime::now().as_secs())),
        ("version", text(status, "version")),
    ];
    lines.map(|(name, value)| format!("{name:12} {value}")).join("\n")
}

fn drops(status: &Value) -> String {
    let drops = status.get("dropped").map(entries).unwrap_or_default();
    let named = drops
        .iter()
        .filter_map(|drop| Some(format!("{} {}", drop.get(1)?.as_u64()?, drop.get(0)?.as_str()?)));
    let named: Vec<String> = named.collect();
    if named.is_empty() { "nothing".to_owned() } else { named.join(", ") }
}

fn certificate(status: &Value, now: u64) -> String {
    let expires = status.get("certificate_expires").and_then(Value::as_u64);
    match expires.map(|expires| expires.checked_sub(now)) {
        Some(Some(left)) => format!("valid for {}", units::span(left)),
        Some(None) => "expired; see `ronproxy doctor`".to_owned(),
        None => "-".to_owned(),
    }
}
