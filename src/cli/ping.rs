//! `ronproxy ping`

use std::time::Duration;

use clap::{Args, value_parser};
use serde::Serialize;

use super::{
    CliError, completions,
    folder::Folder,
    output::{Table, columns, or_dash, print, print_json},
    units,
};
use crate::{admin, app::RoutePing, flow, identity::NodeName};

/// Between two rounds: longer than most bursts of loss, so that one burst does not take all probes.
const PAUSE: Duration = Duration::from_millis(200);

/// Measure the round trip and the loss of each route to a node
///
/// Each round probes the first link of every route. Behind a relay it adds what the relay advertises of
/// its link to the node: BEYOND.
#[derive(Debug, Args)]
pub(super) struct Ping {
    /// The node
    #[arg(value_name = "NODE", add = completions::members())]
    node: NodeName,
    /// Only the route through this relay
    #[arg(long, value_name = "RELAY", add = completions::relays())]
    via: Option<NodeName>,
    /// How many rounds, up to 1000
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u16).range(1..=1000))]
    count: u16,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

/// The probes of one route.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Route {
    /// The route.
    route: flow::Route,
    /// Probes sent.
    sent: u64,
    /// Those without an answer in time.
    lost: u64,
    /// The round-trip times of the others in milliseconds; `None` when all were lost.
    min_ms: Option<f64>,
    mean_ms: Option<f64>,
    max_ms: Option<f64>,
    /// The part of them that the relay advertises, and the loss there.
    beyond_ms: Option<f64>,
    beyond_loss_percent: Option<f64>,
    /// Why no lane takes the route now.
    excluded: Option<String>,
}

impl Ping {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let (client, question) = (folder.client(), admin::ask_ping(&self.node, self.via.as_ref()));
        let mut rounds = Vec::new();
        for round in 0..self.count {
            if round > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            rounds.push(client.get(&question).await?);
        }
        let routes = summary(&rounds);
        if self.json {
            print_json(&routes)?;
        } else {
            print(table(&routes, columns()))?;
        }
        match routes.iter().any(|route| route.min_ms.is_some()) {
            true => Ok(()),
            false => Err(CliError::say(format!(
                "no route to {} answered; see with `ronproxy links` which nodes are up",
                self.node
            ))),
        }
    }
}

/// The rounds by route, in the order of the last one.
fn summary(rounds: &[Vec<RoutePing>]) -> Vec<Route> {
    let last = rounds.last().into_iter().flatten();
    last.map(|last| of_route(rounds, last)).collect()
}

fn of_route(rounds: &[Vec<RoutePing>], last: &RoutePing) -> Route {
    let all = rounds.iter().flatten().filter(|probe| probe.route == last.route);
    let (mut sent, mut times) = (0, Vec::new());
    for probe in all {
        sent += 1;
        times.extend(probe.rtt_ms);
    }
    let answered = times.len() as u64;
    #[expect(clippy::cast_precision_loss, reason = "at most 1,000 rounds")]
    let mean = times.iter().sum::<f64>() / answered as f64;
    Route {
        route: last.route.clone(),
        sent,
        lost: sent - answered,
        min_ms: times.iter().copied().reduce(f64::min),
        mean_ms: (answered > 0).then_some(mean),
        max_ms: times.iter().copied().reduce(f64::max),
        beyond_ms: last.beyond_ms,
        beyond_loss_percent: last.beyond_loss_percent,
        excluded: last.excluded.clone(),
    }
}

fn table(routes: &[Route], columns: Option<usize>) -> String {
    if routes.is_empty() {
        return "There is no such route.".to_owned();
    }
    let millis = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), units::millis);
    let mut table = Table::new(&["ROUTE", "LOST", "LEAST", "MEAN", "MOST", "BEYOND", "EXCLUDED"]);
    for route in routes {
        let loss = route.beyond_loss_percent.map(|loss| format!(", {loss:.1} % lost"));
        let beyond = route.beyond_ms.map(|ms| units::millis(ms) + &loss.unwrap_or_default());
        table.row([
            route.route.to_string(),
            format!("{} of {}", route.lost, route.sent),
            millis(route.min_ms),
            millis(route.mean_ms),
            millis(route.max_ms),
            or_dash(beyond),
            or_dash(route.excluded.as_ref()),
        ]);
    }
    table.within(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_summed_up_by_route() {
        let probe = |route: &str, rtt_ms| RoutePing {
            route: route.parse().unwrap(),
            rtt_ms,
            beyond_ms: None,
            beyond_loss_percent: None,
            excluded: None,
        };
        let round = |direct: Option<f64>, relayed: Option<f64>| {
            let relayed = RoutePing {
                beyond_ms: Some(41.0),
                beyond_loss_percent: Some(0.5),
                excluded: Some("link utah–mit is down".to_owned()),
                ..probe("via utah", relayed)
            };
            vec![probe("direct", direct), relayed]
        };
        let rounds = [round(Some(60.0), None), round(None, None), round(Some(61.0), None)];
        let routes = summary(&rounds);
        let expected = "\
ROUTE     LOST    LEAST    MEAN     MOST     BEYOND               EXCLUDED
direct    1 of 3  60.0 ms  60.5 ms  61.0 ms  -                    -
via utah  3 of 3  -        -        -        41.0 ms, 0.5 % lost  link utah–mit is down";
        assert_eq!(table(&routes, None), expected);
        let narrow = table(&routes, Some(40));
        assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
    }
}
