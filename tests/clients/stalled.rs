//! Flows that stand still, in every listing: the far end or the client takes no more, or the lane is silent.

use std::{path::Path, time::Duration};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    bytes::MIB,
    cdp::Page,
    overlay::{Site, json, must, wait_for},
    page::of_node,
    sockets::{self, tunnel},
    tools::have,
};

/// Sends until nobody takes more for a while.
async fn fill(stream: &mut TcpStream) {
    let block = vec![7; 64 << 10];
    while timeout(Duration::from_millis(500), stream.write_all(&block)).await.is_ok() {}
}

fn flow(dir: &Path, target: &str) -> Value {
    let flows = json(dir, &["flows"]);
    let found = flows.as_array().unwrap().iter().find(|flow| flow["target"] == target);
    found.unwrap().clone()
}

/// Waits until the flow stands still, and then that its time goes on; the listings say the same words.
fn stands_still(dir: &Path, target: &str, waits_for: &str, words: &str) {
    let still = || flow(dir, target)["stands_still_seconds"].as_f64();
    wait_for("the flow to stand still", || still().is_some());
    assert_eq!(flow(dir, target)["waits_for"], waits_for);
    let since = still().unwrap();
    wait_for("its time to go on", || still().is_some_and(|now| now > since + 1.0));
    for command in ["flows", "top"] {
        let said = must(dir, &[command]);
        let line = said.lines().find(|line| line.contains(target)).unwrap();
        let facts = flow(dir, target);
        assert!(
            line.contains("stands still for ") && line.contains(words),
            "{command}: {line} {facts} {}",
            json(dir, &["lanes"])
        );
    }
}

/// Waits until the page says that the flow stands still, with this hint.
async fn on_page(page: &mut Option<Page>, target: &str, hint: &str) {
    let Some(page) = page else { return };
    page.eval("location.hash = '/flows'").await;
    page.until(&format!(
        "[...document.querySelectorAll('#flow-table tr.still')].some((row) => \
         row.querySelector('.target').textContent === '{target}' && \
         /^stands still for \\d+s$/.test(row.querySelector('.pill').textContent) && \
         row.querySelector('.pill').title === '{hint}')"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_that_stand_still_say_so_and_since_when_everywhere() {
    let site = Site::new();
    let (exit, entry) = site.pair(&[]);
    let dir = site.dir("leaf");
    let mut page = if have("chromium") { Some(of_node(&site, "leaf").await) } else { None };

    // A server that accepts and reads nothing.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf_at = deaf.local_addr().unwrap();
    let mut upload = tunnel(entry.proxy(), deaf_at).await.unwrap();
    let (_held, _) = deaf.accept().await.unwrap();
    fill(&mut upload).await;
    let target = deaf_at.to_string();
    stands_still(&dir, &target, "destination", "the destination takes no more");
    on_page(&mut page, &target, "the destination takes no more bytes").await;

    // A client that reads nothing.
    let (source, _) = sockets::source(256 * MIB).await;
    let _download = tunnel(entry.proxy(), source).await.unwrap();
    let target = source.to_string();
    stands_still(&dir, &target, "client", "the client takes no more");
    on_page(&mut page, &target, "the client takes no more bytes").await;
    assert!(json(&dir, &["lanes"])[0]["stands_still_seconds"].is_null(), "the lane is well");

    // An exit that is silent. The flow asks for something, so it waits.
    let echo = sockets::echo().await;
    let mut session = tunnel(entry.proxy(), echo).await.unwrap();
    sockets::ask_echo(&mut session, "before").await.unwrap();
    exit.signal("-STOP");
    session.write_all(b"x").await.unwrap();
    let lane = || json(&dir, &["lanes"])[0]["stands_still_seconds"].is_number();
    wait_for("the lane to stand still", lane);
    let target = echo.to_string();
    let said = flow(&dir, &target);
    assert_eq!(said["waits_for"], "lane", "{said}");
    for command in ["lanes", "flows", "top"] {
        assert!(must(&dir, &[command]).contains("stands still for "), "{command}");
    }
    on_page(&mut page, &target, "its lane hears nothing").await;
    if let Some(page) = &mut page {
        page.eval("location.hash = '/map'").await;
        page.until("document.querySelector('#graph .route.still')").await;
        page.until("document.querySelector('.lane .pill.bad')?.textContent.startsWith('stands still for ')").await;
    }
    exit.signal("-CONT");
    wait_for("the lane to go on", || !lane());
}
