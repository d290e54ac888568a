//! More connections than usual, and than there is room for.

use std::time::Duration;

use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use crate::{
    overlay::{Running, Site, json, wait_for},
    sockets::{ask_echo, echo, tunnel},
    tools::{LIMIT, wait_until_idle},
    web,
};

/// More clients than the node may open files.
const CROWD: usize = 100;

/// The files a node may open where they are short: more than it needs for itself, fewer than half
/// the crowd does.
const FEW_FILES: u32 = 48;

/// Clients that must be served with so few files.
const AT_LEAST: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_are_served_at_once() {
    rlimit::increase_nofile_limit(8192).unwrap();
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let (proxy, echo) = (entry.proxy(), echo().await);
    let mut opening = JoinSet::new();
    for number in 0..1_000 {
        opening.spawn(async move {
            let mut stream = tunnel(proxy, echo).await.unwrap();
            ask_echo(&mut stream, &format!("hello {number}")).await.unwrap();
            stream
        });
    }
    let mut open = opening.join_all().await;
    assert_eq!(json(&site.dir("leaf"), &["status"])["flows"], 1_000);
    assert_eq!(json(&site.dir("hub"), &["status"])["exit_flows"], 1_000);
    for (number, stream) in open.iter_mut().enumerate() {
        ask_echo(stream, &format!("still there, {number}?")).await.unwrap();
    }
    drop(open);
    wait_until_idle(&site.dir("leaf"), &site.dir("hub"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_free_files_lets_clients_wait_and_recovers() {
    let site = Site::new();
    let _exit = Running::start(&site.hub(), &[]);
    let leaf = site.join("leaf");
    let entry = Running::start_with_few_files(&leaf, FEW_FILES);
    wait_for("the link", || json(&leaf, &["links"])[0]["up"] == true);
    let (proxy, echo) = (entry.proxy(), echo().await);
    let mut waiting = JoinSet::new();
    for number in 0..CROWD {
        waiting.spawn(async move {
            let mut stream = tunnel(proxy, echo).await.unwrap();
            ask_echo(&mut stream, &format!("hello {number}")).await.unwrap();
            stream
        });
    }
    let served = settled(&mut waiting).await;
    assert!(served.len() < CROWD, "files were not short");
    // Each place that becomes free serves one that waited.
    drop(served);
    let mut served = 0;
    while let Some(stream) = timeout(LIMIT, waiting.join_next()).await.expect("clients wait on") {
        drop(stream.unwrap());
        served += 1;
    }
    assert!(served > 0);
    wait_until_idle(&leaf, &site.dir("hub"));
    assert_eq!(web::fetch(proxy, web::serve()).unwrap(), web::PAGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_without_free_files_refuses_flows_and_recovers() {
    let site = Site::new();
    let hub = site.hub();
    let _exit = Running::start_with_few_files(&hub, FEW_FILES);
    let leaf = site.join("leaf");
    let entry = Running::start(&leaf, &[]);
    wait_for("the link", || json(&leaf, &["links"])[0]["up"] == true);
    let (proxy, echo) = (entry.proxy(), echo().await);
    let mut opening = JoinSet::new();
    for _ in 0..CROWD {
        opening.spawn(tunnel(proxy, echo));
    }
    let outcomes = opening.join_all().await;
    let (served, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert!((AT_LEAST..CROWD).contains(&served.len()), "{} served", served.len());
    for refusal in refused {
        let said = refusal.unwrap_err().to_string();
        assert!(said.starts_with("SOCKS reply"), "{said}");
    }
    for stream in served {
        ask_echo(&mut stream.unwrap(), "hello").await.unwrap();
    }
    wait_until_idle(&leaf, &hub);
    assert_eq!(web::fetch(proxy, web::serve()).unwrap(), web::PAGE);
}

/// Those that are done: at least [`AT_LEAST`], and until for a second there are no more.
async fn settled(waiting: &mut JoinSet<TcpStream>) -> Vec<TcpStream> {
    let mut done = Vec::new();
    loop {
        let limit = if done.len() < AT_LEAST { LIMIT } else { Duration::from_secs(1) };
        match timeout(limit, waiting.join_next()).await {
            Ok(Some(stream)) => done.push(stream.unwrap()),
            _ => break,
        }
    }
    assert!(done.len() >= AT_LEAST, "only {} served", done.len());
    done
}
