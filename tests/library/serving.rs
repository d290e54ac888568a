//! A program serves a name; other nodes reach it.

use std::{io::ErrorKind, process::Command, time::Duration};

use ronproxy::{
    Error, Inbound, Listener, Node, RefusalKind, ServeError,
    internals::{
        emulator,
        lab::{Lab, LabNode},
        transport::Congestion,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, sleep, timeout},
};

use super::{SOON, example_serve, overlay, pattern, services, triangle};

/// `entry`; `exit`, which serves every name; and `relay`, an exit that serves `wiki.lab` only.
async fn with_a_wiki() -> (Lab, Node, Node) {
    let mut nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", false, true),
        LabNode::new("relay", true, true),
    ];
    nodes[0].groups = vec!["staff".to_owned()];
    nodes[2].serves = vec!["wiki.lab".to_owned()];
    let topology = emulator::triangle();
    let lab = Lab::start(topology, 1, nodes, services(), Congestion::default()).await.unwrap();
    let (entry, wiki) = (lab.open("entry").unwrap(), lab.open("relay").unwrap());
    timeout(SOON, entry.ready()).await.unwrap().unwrap();
    // Until both exits are known.
    sleep(Duration::from_secs(3)).await;
    (lab, entry, wiki)
}

async fn accept(listener: &mut Listener) -> Inbound {
    timeout(SOON, listener.accept()).await.expect("nobody called").unwrap()
}

/// A stream that `entry` opens to the wiki, and its other end.
async fn call(entry: &Node, wiki: &mut Listener) -> (ronproxy::Stream, Inbound) {
    let (stream, inbound) = tokio::join!(entry.connect("wiki.lab:80").into_future(), accept(wiki));
    (stream.unwrap(), inbound)
}

fn kind<T>(result: Result<T, Error>) -> RefusalKind {
    match result {
        Err(Error::Refused(refusal)) => refusal.kind,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was not refused"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_example_serve_greets_its_caller_by_name() {
    let answer = example_serve::in_memory().await.unwrap();
    assert!(answer.ends_with("Hello entry, in [].\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_served_name_is_found_by_the_certificate_and_tells_who_calls() {
    let (lab, entry, wiki) = with_a_wiki().await;
    let mut listener = wiki.serve("Wiki.Lab.:80").unwrap();
    assert_eq!(listener.target().to_string(), "wiki.lab:80");
    let (mut stream, mut inbound) = call(&entry, &mut listener).await;
    assert_eq!((stream.exit().as_str(), inbound.peer().as_str()), ("relay", "entry"));
    assert_eq!((inbound.groups(), inbound.label()), (&["staff".to_owned()][..], stream.label()));
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut asked = String::new();
    inbound.read_to_string(&mut asked).await.unwrap();
    inbound.write_all(b"answer").await.unwrap();
    inbound.shutdown().await.unwrap();
    drop(inbound);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!((asked.as_str(), answer.as_str()), ("question", "answer"));
    // Other ports of the name, and other names, are not served.
    assert_eq!(kind(entry.connect("wiki.lab:81").exit("relay").await), RefusalKind::NameNotFound);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_nobody_accepts_is_refused_in_time() {
    let (lab, entry, wiki) = with_a_wiki().await;
    let mut listener = wiki.serve("wiki.lab:80").unwrap();
    let started = Instant::now();
    let calls = (0..17).map(|_| {
        let entry = entry.clone();
        tokio::spawn(async move { kind(entry.connect("wiki.lab:80").exit("relay").await) })
    });
    let mut kinds = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        kinds.push(call.await.unwrap());
    }
    let of = |wanted| kinds.iter().filter(|kind| **kind == wanted).count();
    assert_eq!((of(RefusalKind::TimedOut), of(RefusalKind::Overloaded)), (16, 1), "{kinds:?}");
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    // Those that gave up hold no place, and are not handed out.
    let (_stream, inbound) = call(&entry, &mut listener).await;
    assert_eq!(inbound.peer().as_str(), "entry");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn neither_side_takes_a_part_for_the_whole() {
    let (lab, entry, wiki) = with_a_wiki().await;
    let mut listener = wiki.serve("wiki.lab:80").unwrap();
    // The caller goes away in the middle.
    let (mut stream, mut inbound) = call(&entry, &mut listener).await;
    stream.write_all(b"half").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    drop(stream);
    let mut read = Vec::new();
    let end = timeout(SOON, inbound.read_to_end(&mut read)).await.expect("reading hangs");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(read, b"half");
    // The program goes away in the middle.
    let (mut stream, mut inbound) = call(&entry, &mut listener).await;
    inbound.write_all(b"half").await.unwrap();
    drop(inbound);
    let end = timeout(SOON, stream.read_to_end(&mut Vec::new())).await.expect("reading hangs");
    assert!(end.is_err(), "{end:?}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_arrives_whole_though_the_request_is_not_read() {
    let (lab, entry, wiki) = with_a_wiki().await;
    let mut listener = wiki.serve("wiki.lab:80").unwrap();
    let (stream, mut inbound) = call(&entry, &mut listener).await;
    let (mut reads, mut writes) = tokio::io::split(stream);
    let upload = tokio::spawn(async move { writes.write_all(pattern(0, 1 << 20)).await });
    sleep(Duration::from_secs(1)).await;
    tokio::spawn(async move {
        inbound.write_all(pattern(0, 300_000)).await.unwrap();
        inbound.shutdown().await.unwrap();
    });
    let mut answer = Vec::new();
    timeout(SOON, reads.read_to_end(&mut answer)).await.expect("reading hangs").unwrap();
    assert!(answer == pattern(0, 300_000), "{} bytes", answer.len());
    // The upload is told that nobody reads it.
    assert!(timeout(SOON, upload).await.expect("writing hangs").unwrap().is_err());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_may_not_be_served_is_refused_with_a_reason() {
    let (lab, entry, wiki) = with_a_wiki().await;
    let serve = |node: &Node, name: &str| match node.serve(name) {
        Err(Error::Serve(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(serve(&entry, "wiki.lab:80"), ServeError::NotAnExit);
    assert!(matches!(serve(&wiki, "192.0.2.1:80"), ServeError::Address(_)));
    let error = serve(&wiki, "other.test:80");
    assert!(error.to_string().contains("--serves other.test"), "{error}");
    assert!(matches!(wiki.serve("wiki.lab"), Err(Error::Target(_))));
    let listener = wiki.serve("docs.wiki.lab:80").unwrap();
    assert!(matches!(serve(&wiki, "docs.wiki.lab:80"), ServeError::Taken(_)));
    drop(listener);
    wiki.serve("docs.wiki.lab:80").expect("the name is free again");
    lab.stop().await;
    assert!(matches!(wiki.serve("wiki.lab:80"), Err(Error::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_service_refuses_who_waits_and_leaves_who_is_served() {
    let (lab, entry, wiki) = with_a_wiki().await;
    let mut listener = wiki.serve("wiki.lab:80").unwrap();
    let (mut stream, mut inbound) = call(&entry, &mut listener).await;
    let waits = {
        let entry = entry.clone();
        tokio::spawn(async move { kind(entry.connect("wiki.lab:80").exit("relay").await) })
    };
    sleep(Duration::from_secs(1)).await;
    drop(listener);
    assert_eq!(timeout(SOON, waits).await.unwrap().unwrap(), RefusalKind::ConnectionRefused);
    stream.write_all(b"k").await.unwrap();
    inbound.read_exact(&mut [0]).await.unwrap();
    // The node's end ends both.
    let mut again = wiki.serve("wiki.lab:80").unwrap();
    let waits = tokio::spawn(async move { again.accept().await.map(drop) });
    sleep(Duration::from_millis(10)).await;
    wiki.stop().await;
    assert!(matches!(timeout(SOON, waits).await.unwrap().unwrap(), Err(Error::Stopped)));
    let end = timeout(SOON, inbound.read(&mut [0])).await.expect("reading hangs");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_reaches_the_name_that_it_serves_itself() {
    let (lab, node) = triangle().await;
    let exit = lab.open("exit").unwrap();
    let mut listener = exit.serve("wiki.lab:80").unwrap();
    let (mut stream, mut inbound) = call(&exit, &mut listener).await;
    assert_eq!((stream.exit(), inbound.peer()), (exit.name(), exit.name()));
    stream.write_all(b"half").await.unwrap();
    drop(stream);
    let mut read = Vec::new();
    let end = timeout(SOON, inbound.read_to_end(&mut read)).await.expect("reading hangs");
    assert_eq!((end.is_err(), read.as_slice()), (true, &b"half"[..]));
    drop(node);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_at_another_node_gets_a_page_of_a_served_name() {
    let site = overlay::Site::new();
    let _hub = overlay::Running::start(&site.hub(), &[]);
    let invite = ["invite", "--name", "wiki", "--exit", "--serves", "wiki.lab"];
    let line = overlay::must(&site.dir("hub"), &invite);
    let udp = overlay::free_udp().to_string();
    let dir = site.join_by(line.trim(), "wiki", &["--listen", &udp]);
    let node = Node::open(&dir).config(example_serve::CONFIG).listen(udp.parse().unwrap());
    let node = node.start().await.unwrap();
    let serves = tokio::spawn(example_serve::greet_all(node.serve("wiki.lab:80").unwrap()));
    let leaf_dir = site.join("leaf");
    let leaf = overlay::Running::start(&leaf_dir, &[]);
    overlay::wait_for("the links", || {
        let links = overlay::json(&leaf_dir, &["links"]);
        links.as_array().unwrap().iter().filter(|link| link["up"] == true).count() == 2
    });
    let proxy = format!("socks5h://{}", leaf.proxy());
    let ask = move |url: &'static str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", "-x", &proxy, url]).output().unwrap()
    };
    let (page, other) =
        tokio::task::spawn_blocking(move || (ask("http://wiki.lab/"), ask("http://wiki.lab:81/")))
            .await
            .unwrap();
    assert_eq!(String::from_utf8_lossy(&page.stdout), "Hello leaf, in [].\n", "{page:?}");
    assert!(!other.status.success(), "the node carries nothing else: {other:?}");
    node.stop().await;
    timeout(overlay::PATIENCE, serves).await.expect("the service goes on").unwrap();
}
