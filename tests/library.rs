//! The library's door: a program that is a node itself. In an overlay in memory, in virtual time; and in
//! a folder, beside a real process.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "cli/overlay.rs"]
#[expect(dead_code, unreachable_pub, clippy::print_stderr, reason = "other tests use the rest")]
mod overlay;
mod support;

#[path = "../examples/dial.rs"]
#[expect(dead_code, reason = "the test calls what `main` calls")]
mod dial;
#[path = "../examples/conference.rs"]
#[expect(dead_code, reason = "the test calls what `main` calls")]
mod example_conference;
#[path = "../examples/events.rs"]
#[expect(dead_code, reason = "the test calls what `main` calls")]
mod example_events;
#[path = "../examples/perfdb.rs"]
#[expect(dead_code, reason = "the test calls what `main` calls")]
mod example_perfdb;
#[path = "../examples/serve.rs"]
#[expect(dead_code, reason = "the test calls what `main` calls")]
mod example_serve;

#[path = "../examples/mirror.rs"]
#[expect(dead_code, reason = "the test calls what `main` calls")]
mod example_mirror;

#[path = "library/conduits.rs"]
mod conduits;
#[path = "library/connects.rs"]
mod connects;
#[path = "library/events.rs"]
mod events;
#[path = "library/metrics.rs"]
mod metrics;
#[path = "library/performance.rs"]
mod performance;
#[path = "library/serving.rs"]
mod serving;

use std::{io::ErrorKind, time::Duration};

use ronproxy::{Error, Hint, Node, RefusalKind, Stream, internals::lab::Lab};
use support::{pattern, services};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

/// Anything that must happen happens within this time.
const SOON: Duration = Duration::from_secs(5);

async fn triangle() -> (Lab, Node) {
    let lab = Lab::triangle(services()).await.unwrap();
    let node = lab.open("entry").unwrap();
    timeout(SOON, node.ready()).await.expect("the node is not ready").unwrap();
    (lab, node)
}

async fn echo(node: &Node) -> Stream {
    node.connect("echo.test:7").await.unwrap()
}

async fn type_a_key(stream: &mut Stream) -> std::io::Result<()> {
    stream.write_all(b"k").await?;
    stream.read_exact(&mut [0]).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn the_example_dial_prints_its_flow_and_the_answer() {
    let (flow, answer) = dial::in_memory().await.unwrap();
    assert!(flow.contains("left at exit, route direct"), "{flow}");
    assert!(answer.ends_with("Hello from the exit.\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_survives_a_cut_and_tells_its_route() {
    let (lab, node) = triangle().await;
    // Nodes advertise their links at most once a second.
    sleep(Duration::from_secs(3)).await;
    let mut stream = node.connect("echo.test:7").exit("exit").hint(Hint::Latency).await.unwrap();
    type_a_key(&mut stream).await.unwrap();
    assert_eq!(stream.route().unwrap().to_string(), "direct");
    let listed = &lab.node("entry").unwrap().flow_facts()[0];
    assert_eq!(listed.label, stream.label());
    assert_eq!(serde_json::to_value(listed.ingress).unwrap(), "library");
    let (a, b) = (lab.topology().address("entry"), lab.topology().address("exit"));
    lab.internet().cut(a, b);
    timeout(SOON, type_a_key(&mut stream)).await.expect("it stands still").unwrap();
    assert_eq!(stream.route().unwrap().to_string(), "via relay");
    assert_eq!(stream.bytes(), (2, 2));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_means_that_the_exit_has_everything() {
    let (lab, node) = triangle().await;
    const LEN: usize = 400_000;
    let mut stream = node.connect("sink.test:9").await.unwrap();
    stream.write_all(pattern(0, LEN)).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, format!("{LEN}\n"), "reading goes on after the shutdown");
    // To shut it down again changes nothing.
    stream.shutdown().await.unwrap();
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn streams_of_a_stopped_node_fail_and_new_ones_are_refused() {
    let (lab, node) = triangle().await;
    let (mut waits, mut idle) = (echo(&node).await, echo(&node).await);
    let waiting = tokio::spawn(async move { waits.read(&mut [0]).await });
    sleep(Duration::from_millis(10)).await;
    timeout(SOON, node.stop()).await.expect("stopping hangs");
    timeout(SOON, node.stopped()).await.unwrap();
    let error = timeout(SOON, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    let error = idle.write(b"k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    let refused = timeout(SOON, node.connect("echo.test:7").into_future()).await.unwrap();
    assert!(matches!(refused, Err(Error::Stopped)), "{refused:?}");
    assert!(matches!(node.ready().await, Err(Error::Stopped)));
    node.stop().await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_dropped_in_mid_write_is_reset_and_leaves_no_flow() {
    let (lab, node) = triangle().await;
    let mut stream = node.connect("sink.test:9").await.unwrap();
    let more = pattern(0, 1 << 20);
    // The first byte that does not fit waits: the drop comes in the middle of a write.
    let cut = timeout(Duration::from_millis(20), stream.write_all(more)).await;
    assert!(cut.is_err(), "all of it fits at once");
    drop(stream);
    support::wait_for("the end of the flow at the exit", SOON, || {
        lab.node("exit").unwrap().status().exit_flows == 0
    })
    .await;
    assert!(lab.node("entry").unwrap().flow_facts().is_empty());
    // The lane goes on.
    type_a_key(&mut echo(&node).await).await.unwrap();
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_user_who_closes_a_flow_ends_its_stream() {
    let (lab, node) = triangle().await;
    let mut stream = echo(&node).await;
    let label = stream.label();
    let waiting = tokio::spawn(async move { stream.read(&mut [0]).await });
    sleep(Duration::from_millis(10)).await;
    assert!(lab.node("entry").unwrap().view().close_flow(label));
    let error = timeout(SOON, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("closed by the user"), "{error}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_invalid_request_is_refused_before_anything_is_opened() {
    let (lab, node) = triangle().await;
    let error = node.connect("echo.test").await.unwrap_err();
    assert!(matches!(error, Error::Target(_)) && error.to_string().contains("port"), "{error}");
    let error = node.connect("a b:80").await.unwrap_err();
    assert!(matches!(error, Error::Target(_)), "{error}");
    let error = node.connect("echo.test:7").exit("No Node").await.unwrap_err();
    assert!(matches!(error, Error::Name(_)), "{error}");
    let error = node.connect("echo.test:7").patience(Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, Error::Patience(_)), "{error}");
    let error = node.connect("echo.test:7").class("Bulk!").await.unwrap_err();
    assert!(matches!(error, Error::Class(_)), "{error}");
    assert!(lab.node("entry").unwrap().lanes().lanes().is_empty());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_its_kind_and_the_exit() {
    let (lab, node) = triangle().await;
    for (target, exit, kind) in [
        ("echo.test:7", "nobody", RefusalKind::NoExit),
        ("echo.test:7", "relay", RefusalKind::NotAnExit),
        ("absent.test:7", "exit", RefusalKind::NameNotFound),
    ] {
        let asked = timeout(SOON, node.connect(target).exit(exit).into_future()).await;
        let Err(Error::Refused(refusal)) = asked.expect("it hangs") else { panic!("{target}") };
        assert_eq!((refusal.kind, refusal.exit.unwrap().as_str()), (kind, exit));
        assert!(!refusal.kind.cure().is_empty());
    }
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_of_a_lab_s_node_leaves_it_running() {
    let (lab, node) = triangle().await;
    let mut stream = echo(&node).await;
    drop(node);
    type_a_key(&mut stream).await.unwrap();
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joined_folder_opens_serves_commands_and_is_locked() {
    let site = overlay::Site::new();
    let (_hub, dir) = (overlay::Running::start(&site.hub(), &[]), site.join("leaf"));
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = server.local_addr().unwrap();
    let answers = tokio::spawn(async move {
        let (mut tcp, _) = server.accept().await.unwrap();
        let mut asked = String::new();
        tcp.read_to_string(&mut asked).await.unwrap();
        tcp.write_all(asked.to_uppercase().as_bytes()).await.unwrap();
    });
    let node = Node::open(&dir).start().await.unwrap();
    timeout(overlay::PATIENCE, node.ready()).await.unwrap().unwrap();
    assert!(node.proxy_addr().is_none() && node.local_addr().is_some());

    let busy = Node::open(&dir).listen(([127, 0, 0, 1], 0).into()).start().await.unwrap_err();
    assert!(matches!(busy, Error::Busy(_)), "{busy}");

    let mut stream = node.connect(target).exit("hub").await.unwrap();
    // The commands of the program show the node of another.
    let flows = overlay::json(&dir, &["flows"]);
    assert_eq!(flows[0]["label"], stream.label().to_string());
    assert_eq!(flows[0]["ingress"], "library");
    events::listings_read_back(&dir);
    metrics::a_command_posts(&node, &dir);
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "HELLO");
    answers.await.unwrap();

    overlay::must(&dir, &["stop"]);
    timeout(overlay::PATIENCE, node.stopped()).await.unwrap();
    node.stop().await;
    // The folder is free, and knows the members.
    let again = Node::open(&dir).listen(([127, 0, 0, 1], 0).into()).start().await.unwrap();
    timeout(overlay::PATIENCE, again.ready()).await.unwrap().unwrap();
    drop(again);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_handle_of_a_folder_s_node_ends_its_streams() {
    let site = overlay::Site::new();
    let (_hub, dir) = (overlay::Running::start(&site.hub(), &[]), site.join("leaf"));
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Node::open(&dir).start().await.unwrap();
    let mut stream = node.connect(server.local_addr().unwrap()).exit("hub").await.unwrap();
    drop(node);
    let end = timeout(overlay::PATIENCE, stream.read(&mut [0])).await.expect("reading hangs");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn a_folder_that_cannot_be_opened_says_why() {
    let site = overlay::Site::new();
    let nothing = Node::open(site.dir("nothing")).config("").start().await.unwrap_err();
    assert!(matches!(nothing, Error::Folder(_)), "{nothing}");
    let hub = site.hub();
    let authority = Node::open(&hub).start().await.unwrap_err();
    assert!(matches!(authority, Error::Authority(_)), "{authority}");
    let mistake = Node::open(&hub).config("[lane]\npatienc = 1").start().await.unwrap_err();
    assert!(matches!(mistake, Error::Config(_)) && mistake.to_string().contains("patience"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_rules_and_a_mistake_changes_nothing() {
    let site = overlay::Site::new();
    let (_hub, dir) = (overlay::Running::start(&site.hub(), &[]), site.join("leaf"));
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = server.local_addr().unwrap();
    let node = Node::open(&dir).start().await.unwrap();
    timeout(overlay::PATIENCE, node.ready()).await.unwrap().unwrap();
    let mut open = node.connect(target).exit("hub").await.unwrap();
    let rejected = format!("[[rule]]\nport = {}\nreject = true\n", target.port());
    let file = dir.join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();

    std::fs::write(&file, format!("{text}\n{rejected}")).unwrap();
    let changes = node.reload().unwrap();
    assert_eq!(changes.live, ["rule"]);
    assert!(changes.restart.is_empty());
    let refused = node.connect(target).await;
    assert!(matches!(refused, Err(Error::Refused(r)) if r.kind == RefusalKind::Policy));
    open.write_all(b"an open stream goes on").await.unwrap();

    let mistake = node.reload_with("[lane]\npatienc = 1").unwrap_err();
    assert!(matches!(mistake, Error::Config(_)), "{mistake}");
    assert!(node.connect(target).await.is_err(), "the rule still holds");
    // What is the program's own, as the log is, or what it has not, as a proxy, is not said to be in force.
    let lane = text.replacen("patience = \"10min\"", "patience = \"20s\"", 1);
    let lane = lane.replacen("filter = \"info\"", "filter = \"debug\"", 1);
    let users = "[[entry.users]]\nname = \"ann\"\npassword = \"x\"\n";
    let changes = node.reload_with(&format!("{lane}\n{users}"));
    let changes = changes.unwrap();
    assert_eq!(changes.live, ["rule"]);
    assert_eq!(changes.restart, ["lane"]);
    node.connect(target).exit("hub").await.unwrap();
    std::fs::write(&file, text).unwrap();
    assert!(overlay::must(&dir, &["reload"]).contains("A restart is needed for: lane"));
    node.stop().await;
    assert!(matches!(node.reload(), Err(Error::Stopped)));

    // Without a file there is none to read again.
    let own = Node::open(&dir).config("").listen(([127, 0, 0, 1], 0).into()).start().await.unwrap();
    assert!(matches!(own.reload(), Err(Error::Config(_))));
    overlay::must_fail(&dir, &["reload"]);
    own.reload_with(&rejected).unwrap();
}
