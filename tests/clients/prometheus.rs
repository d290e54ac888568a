//! The real Prometheus, with the configuration, the alerts and the board of `docs/monitoring`.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    overlay::{Running, Site, json, must, wait_for},
    tools::have,
    web::{fetch, serve},
};

const MONITORING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitoring");

/// A running Prometheus that scrapes a node, and evaluates the alerts, each second.
struct Prometheus {
    child: std::process::Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Prometheus {
    fn start(node: SocketAddr, token: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = fs::read_to_string(format!("{MONITORING}/prometheus.yml")).unwrap();
        let here = config.replace("127.0.0.1:1090", &node.to_string()).replace("15s", "1s");
        assert!(here.contains(&node.to_string()) && here.contains("1s"));
        fs::write(folder.path().join("prometheus.yml"), here).unwrap();
        fs::copy(format!("{MONITORING}/alerts.yml"), folder.path().join("alerts.yml")).unwrap();
        fs::write(folder.path().join("ronproxy.token"), token).unwrap();
        // It tells its port nowhere, so it cannot choose one.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, address, _folder: folder }
    }

    /// What its API answers; `None` while it starts.
    fn ask(&self, path: &str) -> Option<Value> {
        let answer = get(self.address, path)?;
        let answer: Value = serde_json::from_str(&answer).ok()?;
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        Some(answer["data"].clone())
    }

    /// The results of an expression.
    fn query(&self, expression: &str) -> Vec<Value> {
        let data = self.ask(&format!("/api/v1/query?query={}", encoded(expression))).unwrap();
        data["result"].as_array().unwrap().clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of an answer of curl.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let url = format!("http://{address}{path}");
    let mut curl = Command::new("curl");
    let output = curl.args(["-q", "-sS", "--max-time", "10", "--noproxy", "*", &url]).output();
    let output = output.unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// All texts that stand under `key` in `value`.
fn texts(value: &Value, key: &str) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(|item| texts(item, key)).collect(),
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, field)| match field {
                Value::String(text) if name == key => vec![text.clone()],
                field => texts(field, key),
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The board's expressions, for all nodes.
fn board() -> Vec<String> {
    let text = fs::read_to_string(Path::new(MONITORING).join("grafana.json")).unwrap();
    let board: Value = serde_json::from_str(&text).unwrap();
    let filled = |text: String| text.replace("$node", ".*").replace("$__rate_interval", "1m");
    texts(&board, "expr").into_iter().map(filled).collect()
}

#[test]
fn prometheus_takes_the_metrics_the_alerts_and_the_board() {
    if !have("prometheus") || !have("curl") {
        return;
    }
    let site = Site::new();
    let _hub = Running::start(&site.hub(), &[]);
    let dir = site.join("leaf");
    let leaf = Running::start(&dir, &[]);
    wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
    let target = serve();
    (0..3).for_each(|_| drop(fetch(leaf.proxy(), target).unwrap()));
    let prometheus = Prometheus::start(leaf.dashboard(), &must(&dir, &["open", "--token"]));
    let is_up = || {
        let targets = prometheus.ask("/api/v1/targets");
        targets.is_some_and(|targets| targets["activeTargets"][0]["health"] == "up")
    };
    wait_for("a scrape", is_up);
    wait_for("the link's round trip", || !prometheus.query("ronproxy_link_rtt_seconds").is_empty());

    // What it has is what `status` says.
    let status = json(&dir, &["status"]);
    for (metric, field) in [("ronproxy_links_up", "links_up"), ("ronproxy_members", "members")] {
        let value = &prometheus.query(metric)[0]["value"][1];
        assert_eq!(value.as_str().unwrap(), status[field].to_string(), "{metric}");
    }
    assert_eq!(prometheus.query("ronproxy_link_up")[0]["value"][1], "1");
    let opened = prometheus.query("sum(ronproxy_opened_flows_total)");
    assert_eq!(opened[0]["value"][1], "3");

    // All alerts can be evaluated, and none fires in a sound overlay.
    let rules = || texts(&prometheus.ask("/api/v1/rules").unwrap()["groups"][0]["rules"], "health");
    wait_for("the alerts", || rules().iter().all(|health| health == "ok"));
    assert_eq!(rules().len(), 10);
    assert!(prometheus.query("ALERTS{alertstate=\"firing\"}").is_empty());

    // What the board shows of a node that does something.
    let board = board();
    assert_eq!(board.len(), 14);
    for expression in board {
        // Without a reroute there is no stall, and without a refusal or a drop no reason.
        let may_be_empty =
            ["stall", "refused", "dropped", "reroutes"].iter().any(|it| expression.contains(it));
        let has = || may_be_empty || !prometheus.query(&expression).is_empty();
        wait_for(&expression, has);
        prometheus.query(&expression);
    }
}
