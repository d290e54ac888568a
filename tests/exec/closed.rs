//! Nothing leaves another way: the network has one interface, and without the node or without `ronproxy exec` it leads
//! nowhere.

use std::{fs, process::Stdio};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::{
    overlay::wait_for,
    server::Server,
    stage::{Stage, WEB},
    tools::have,
};

/// Does what each line of its input asks, and prints what came of it.
const PROBE: &str = r#"
while read what; do
  case $what in
    fetch) curl -qsS -m 10 -o /dev/null "http://$NAME:$PORT/bytes/5"; echo "fetch $?" ;;
    again) curl -qsS -m 10 -o /dev/null --resolve "$NAME:$PORT:$ADDRESS" "http://$NAME:$PORT/bytes/5"; echo "again $?" ;;
    resolve) getent ahosts "$NAME" > /dev/null; echo "resolve $?" ;;
    address) getent ahosts "$NAME" | head -n 1 | cut -d ' ' -f 1 ;;
    v6) curl -qsS -m 5 -o /dev/null 'http://[2001:db8::1]/'; echo "v6 $?" ;;
  esac
done
"#;

/// A shell that runs the probe inside.
struct Probe {
    child: Child,
    ask: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Probe {
    fn start(stage: &Stage, server: &Server, address: &str) -> Self {
        let mut command = stage.exec(&[], &["sh", "-c", PROBE]);
        command.env("NAME", WEB).env("PORT", server.address.port().to_string());
        command.env("ADDRESS", address).stdin(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let ask = child.stdin.take().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, ask, said }
    }

    async fn ask(&mut self, what: &str) -> String {
        self.ask.write_all(format!("{what}\n").as_bytes()).await.unwrap();
        self.said.next_line().await.unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_node_nothing_connects_and_nothing_resolves() {
    let Some(mut stage) = Stage::set() else { return };
    if !have("curl") {
        return;
    }
    let server = Server::behind(stage.hub.pid()).await;
    // The first address that stands for a name.
    let mut probe = Probe::start(&stage, &server, "198.18.1.0");
    assert_eq!(probe.ask("address").await, "198.18.1.0");
    for what in ["fetch", "again", "resolve"] {
        assert_eq!(probe.ask(what).await, format!("{what} 0"));
    }
    stage.leaf.crash();
    // curl: 6 is no such name, 7 no connection. getent: 2 is no such name.
    for (what, code) in [("fetch", 6), ("again", 7), ("resolve", 2), ("v6", 7)] {
        assert_eq!(probe.ask(what).await, format!("{what} {code}"));
    }
    assert_eq!((server.connections(), server.strangers()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_outlives_ronproxy_exec_has_no_network() {
    let Some(stage) = Stage::set() else { return };
    if !have("curl") {
        return;
    }
    let server = Server::behind(stage.hub.pid()).await;
    let mut probe = Probe::start(&stage, &server, "198.18.1.0");
    assert_eq!(probe.ask("fetch").await, "fetch 0");
    let pid = child_of(probe.child.id().unwrap());
    assert_eq!(interfaces(pid), ["lo", "ronproxy0"]);
    probe.child.kill().await.unwrap();
    wait_for("the end of the interface", || interfaces(pid) == ["lo"]);
    for (what, code) in [("fetch", 6), ("again", 7), ("resolve", 2), ("v6", 7)] {
        assert_eq!(probe.ask(what).await, format!("{what} {code}"));
    }
    assert_eq!((server.connections(), server.strangers()), (1, 0));
}

/// The process that `parent` has started.
fn child_of(parent: u32) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).unwrap();
    let children = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")));
    let mut all = children.flat_map(|list| {
        list.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    all.next().unwrap().parse().unwrap()
}

/// The interfaces that a process has.
fn interfaces(pid: u32) -> Vec<String> {
    let list = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let named = list.lines().filter_map(|line| line.split_once(':'));
    let mut names: Vec<String> = named.map(|(name, _)| name.trim().to_owned()).collect();
    names.sort();
    names
}
