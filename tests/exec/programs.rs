//! Programs without proxy support, or that do not use it.

use std::{path::Path, process::Stdio};

use crate::{
    bytes::{MIB, Stream},
    datagrams,
    server::Server,
    stage::{Stage, WEB},
    tools::{client, finish, have, text},
};

/// How a program names the server.
fn url(server: &Server, path: &str) -> String {
    format!("http://{WEB}:{}{path}", server.address.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_downloads_and_uploads_without_knowing_of_a_proxy() {
    let Some(stage) = Stage::set() else { return };
    if !have("curl") {
        return;
    }
    let server = Server::behind(stage.hub.pid()).await;
    let got = stage.site.dir("got");
    let path = got.to_str().unwrap();
    let from = url(&server, &format!("/bytes/{}", 20 * MIB));
    text(stage.exec(&[], &["curl", "-qsSf", "-o", path, &from])).await;
    let mut sum = crate::bytes::Checksum::new();
    sum.add(&std::fs::read(&got).unwrap());
    assert_eq!(sum.hex(), Stream::of(20 * MIB).checksum());

    let to = url(&server, "/upload");
    let sent = stage.exec(&[], &["curl", "-qsSf", "--data-binary", &format!("@{path}"), &to]);
    assert_eq!(text(sent).await, Stream::of(20 * MIB).checksum());
    // Nothing went another way, and the names were resolved at the exit.
    assert_eq!((server.connections(), server.strangers()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn python_opens_a_page_by_name() {
    let Some(stage) = Stage::set() else { return };
    if !have("python3") {
        return;
    }
    let server = Server::start().await;
    let script = "import sys, urllib.request as r; print(len(r.urlopen(sys.argv[1]).read()))";
    let page = url(&server, "/bytes/100000");
    let mut python = stage.exec(&[], &["python3", "-c", script, &page]);
    // The proxy of the shell is not reached from inside, and not needed.
    python.env("http_proxy", format!("http://{}", stage.leaf.proxy()));
    assert_eq!(text(python).await.trim(), "100000");
}

#[tokio::test(flavor = "multi_thread")]
async fn git_clones_without_knowing_of_a_proxy() {
    let Some(stage) = Stage::set() else { return };
    if !have("git") {
        return;
    }
    let origin = stage.site.dir("origin");
    std::fs::create_dir(&origin).unwrap();
    std::fs::write(origin.join("big"), vec![7; MIB]).unwrap();
    let git = |arguments: &[&str]| {
        let mut git = client("git");
        let ann = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"];
        git.current_dir(&origin).args(ann).args(arguments);
        git
    };
    for arguments in [
        &["init", "-q", "-b", "main"][..],
        &["add", "."],
        &["commit", "-q", "-m", "one"],
        &["update-server-info"],
    ] {
        text(git(arguments)).await;
    }
    let server = Server::of_files(origin.clone()).await;
    let clone = stage.site.dir("clone");
    let into = clone.to_str().unwrap();
    text(stage.exec(&[], &["git", "clone", "-q", &url(&server, "/.git"), into])).await;
    assert_eq!(std::fs::read(clone.join("big")).unwrap(), vec![7; MIB]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_program_with_its_own_resolver_goes_through_the_exit() {
    let Some(stage) = Stage::set() else { return };
    let program = stage.site.dir("static");
    if !built(&program).await {
        return;
    }
    let server = Server::behind(stage.hub.pid()).await;
    let (program, port) = (program.to_str().unwrap(), server.address.port().to_string());
    let said = text(stage.exec(&[], &[program, WEB, &port])).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert_eq!((server.connections(), server.strangers()), (1, 0));
}

/// Builds a program that links no library at run time; says so if that is not possible here.
async fn built(program: &Path) -> bool {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/exec/static_client.rs");
    let mut rustc = client("rustc");
    rustc.args(["--edition", "2024", "-C", "target-feature=+crt-static", source, "-o"]);
    rustc.arg(program).stderr(Stdio::piped());
    let built = rustc.output().await.is_ok_and(|output| output.status.success());
    if !built {
        println!("skipped: no static program can be built here");
    }
    built
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_program_of_musl_fetches_by_name_what_the_exit_has() {
    let Some(stage) = Stage::set() else { return };
    if !have("musl-gcc") {
        return;
    }
    let program = stage.site.dir("musl");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/exec/musl_client.c");
    let mut compiler = client("musl-gcc");
    compiler.args(["-static", "-Wall", "-Werror", source, "-o"]).arg(&program);
    text(compiler).await;
    let server = Server::behind(stage.hub.pid()).await;
    let (program, port) = (program.to_str().unwrap(), server.address.port().to_string());
    let path = format!("/bytes/{}", 3 * MIB);
    let fetched = finish(stage.exec(&[], &[program, WEB, &port, &path])).await;
    let said = String::from_utf8_lossy(&fetched.stderr);
    assert!(fetched.status.success() && said.contains(" 200 OK"), "{said}");
    let mut sum = crate::bytes::Checksum::new();
    sum.add(&fetched.stdout);
    assert_eq!(sum.hex(), Stream::of(3 * MIB).checksum());
    assert_eq!((server.connections(), server.strangers()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_by_name_are_answered_from_the_address_they_went_to() {
    let Some(stage) = Stage::set() else { return };
    if !have("dig") {
        return;
    }
    let port = datagrams::serve(|question, _| Some(datagrams::answer(question))).to_string();
    let server = format!("@{WEB}");
    let ask = ["dig", &server, "-p", &port, "a.test", "A", "+noedns", "+tries=1", "+short"];
    assert_eq!(text(stage.exec(&[], &ask)).await.trim(), "192.0.2.80");
    // A name server that is not named is the one inside.
    let asked = text(stage.exec(&[], &["dig", "b.test", "A", "+tries=1", "+short"])).await;
    assert!(asked.starts_with("198.18."), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn localhost_is_the_programs_own_unless_a_port_is_asked_for() {
    let Some(stage) = Stage::set() else { return };
    if !have("curl") {
        return;
    }
    let server = Server::start().await;
    let (port, page) = (server.address.port().to_string(), server.url("/bytes/5"));
    let closed = finish(stage.exec(&[], &["curl", "-qsS", &page])).await;
    assert_eq!((closed.status.code(), server.connections()), (Some(7), 0));
    let opened = text(stage.exec(&["--localhost", &port], &["curl", "-qsS", &page])).await;
    assert_eq!((opened.len(), server.connections()), (5, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_that_is_asked_for_is_the_one_that_is_taken() {
    let Some(stage) = Stage::set() else { return };
    if !have("curl") {
        return;
    }
    let server = Server::start().await;
    let page = url(&server, "/bytes/5");
    let by = |exit| stage.exec(&["--exit", exit, "--hint", "loss"], &["curl", "-qsS", &page]);
    assert_eq!(text(by("hub")).await.len(), 5);
    let refused = finish(by("nobody")).await;
    assert_eq!(refused.status.code(), Some(7), "{refused:?}");
}

/// Prints the error number of a connection to each address.
const CONNECT: &str = r#"
import socket, sys
for host, port in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        socket.create_connection((host, int(port)), 20)
    except OSError as error:
        print(error.errno)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_fails_with_its_reason() {
    let Some(stage) = Stage::set() else { return };
    if !have("python3") {
        return;
    }
    let closed = crate::overlay::free_tcp().port().to_string();
    // The exit's policy forbids private addresses, and those of documents.
    let denied = ["10.9.8.7", "80", "2001:db8::1", "80"];
    let program = [&["python3", "-c", CONNECT, WEB, &closed][..], &denied].concat();
    let errors = text(stage.exec(&[], &program)).await;
    // Connection refused; no route to host; for IPv6 permission denied, or without it no address family.
    let v6 = if Path::new("/proc/net/if_inet6").exists() { 13 } else { 97 };
    assert_eq!(errors, format!("111\n113\n{v6}\n"));
}
