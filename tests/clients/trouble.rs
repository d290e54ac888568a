//! Ends that do not behave: exits that are gone, destinations and clients that stop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

use crate::{
    bytes::{Checksum, MIB, Stream},
    overlay::{Running, Site, json, wait_for},
    sockets::{self, tunnel},
    tools::{LIMIT, curl, finish, have, resident, wait_until_idle},
    web,
};

/// Within this time a client must hear that the exit cannot be reached.
const REFUSAL_TIME: Duration = Duration::from_secs(45);

/// How long a laptop sleeps.
const SLEEP: Duration = Duration::from_secs(5);

/// When it must be of use again; the exit has tried other routes meanwhile, at growing pauses.
const AWAKE_WITHIN: Duration = Duration::from_secs(3);

/// What a stalled flow may cost each node: the windows of its stream, twice over.
const STALL_MEMORY: usize = 40 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_exit_is_reported_in_each_protocol_and_no_client_hangs() {
    let site = Site::new();
    let (mut exit, entry) = site.pair(&[]);
    let page = web::serve();
    assert_eq!(web::fetch(entry.proxy(), page).unwrap(), web::PAGE);
    exit.crash();
    refused_everywhere(&entry, page).await;
    let _exit = Running::start(&site.dir("hub"), &[]);
    wait_for("a flow", || web::fetch(entry.proxy(), page).is_ok_and(|text| text == web::PAGE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_exit_is_reported_in_each_protocol_and_serves_later() {
    let site = Site::new();
    let (exit, entry) = site.pair(&[]);
    let page = web::serve();
    assert_eq!(web::fetch(entry.proxy(), page).unwrap(), web::PAGE);
    exit.signal("-STOP");
    refused_everywhere(&entry, page).await;
    exit.signal("-CONT");
    wait_for("a flow", || web::fetch(entry.proxy(), page).is_ok_and(|text| text == web::PAGE));
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_go_on_and_new_ones_open_when_the_entry_wakes_up() {
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let (source, _) = sockets::source(64 * MIB).await;
    let mut download = tunnel(entry.proxy(), source).await.unwrap();
    let mut session = tunnel(entry.proxy(), sockets::echo().await).await.unwrap();
    sockets::ask_echo(&mut session, "before").await.unwrap();
    entry.signal("-STOP");
    // How long it sleeps is the point: longer than any time-out of the watch on its lane.
    tokio::time::sleep(SLEEP).await;
    entry.signal("-CONT");
    let woke = Instant::now();
    sockets::ask_echo(&mut session, "after").await.unwrap();
    println!("an answer {:?} after waking up", woke.elapsed());
    assert!(woke.elapsed() < AWAKE_WITHIN, "{:?}", woke.elapsed());
    sockets::ask_echo(&mut tunnel(entry.proxy(), sockets::echo().await).await.unwrap(), "new")
        .await
        .unwrap();
    assert_eq!(checksum_of(&mut download, 64 * MIB).await, Stream::of(64 * MIB).checksum());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_destination_costs_only_its_own_client_time() {
    if !have("curl") {
        return;
    }
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let (silent, open) = sockets::silent().await;
    let page = web::serve();
    let dir = site.dir("leaf");
    for scheme in ["socks5h", "http"] {
        let mut command = curl(&format!("{scheme}://{}", entry.proxy()));
        command.args(["--max-time", "5", &format!("http://{silent}/")]);
        let waiting = tokio::spawn(finish(command));
        wait_for("the flow", || json(&dir, &["flows"])[0]["target"] == silent.to_string());
        assert_eq!(web::fetch(entry.proxy(), page).unwrap(), web::PAGE);
        // 28: curl's own limit of time.
        assert_eq!(waiting.await.unwrap().status.code(), Some(28), "{scheme}");
        wait_until_idle(&dir, &site.dir("hub"));
        wait_for("the destination's end", || open.load(Ordering::Relaxed) == 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disappears_takes_its_flow_with_it() {
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let (silent, open) = sockets::silent().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(tunnel(entry.proxy(), silent).await.unwrap());
    }
    wait_for("all flows", || open.load(Ordering::Relaxed) == 20);
    assert_eq!(json(&site.dir("leaf"), &["status"])["flows"], 20);
    for (number, client) in clients.iter().enumerate() {
        // Half of them end as a killed process does with unread data: by a reset.
        if number % 2 == 0 {
            client.set_zero_linger().unwrap();
        }
    }
    drop(clients);
    wait_until_idle(&site.dir("leaf"), &site.dir("hub"));
    wait_for("the destination's end", || open.load(Ordering::Relaxed) == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_reader_bounds_memory_and_its_lane_lives_on() {
    let len = 64 * MIB;
    let site = Site::new();
    let (exit, entry) = site.pair(&[]);
    let page = web::serve();
    assert_eq!(web::fetch(entry.proxy(), page).unwrap(), web::PAGE);
    let lane = json(&site.dir("leaf"), &["lanes"])[0]["lane"].clone();
    let before = [&exit, &entry].map(|node| resident(node.pid()));
    let (source, gone) = sockets::source(len).await;
    let mut stream = tunnel(entry.proxy(), source).await.unwrap();
    still(&gone);
    let in_flight = gone.load(Ordering::Relaxed);
    println!("{in_flight} bytes in flight");
    assert!(in_flight < len, "nothing held the source back");
    assert_eq!(web::fetch(entry.proxy(), page).unwrap(), web::PAGE);
    for (node, before) in [&exit, &entry].into_iter().zip(before) {
        let more = resident(node.pid()).saturating_sub(before);
        println!("{} took {} KiB more", node.ready["name"], more / 1024);
        assert!(more < STALL_MEMORY, "{} took {more} bytes more", node.ready["name"]);
    }
    assert_eq!(checksum_of(&mut stream, len).await, Stream::of(len).checksum());
    let lanes = json(&site.dir("leaf"), &["lanes"]);
    assert_eq!((lanes.as_array().unwrap().len(), &lanes[0]["lane"]), (1, &lane));
}

/// The checksum of what comes out of `stream`, which must be `len` bytes.
async fn checksum_of(stream: &mut TcpStream, len: usize) -> String {
    let (mut checksum, mut buffer) = (Checksum::new(), vec![0; 256 * 1024]);
    let mut received = 0;
    while received < len {
        let read = timeout(LIMIT, stream.read(&mut buffer)).await.expect("a stall").unwrap();
        assert!(read > 0, "the stream ended after {received} bytes");
        checksum.add(&buffer[..read]);
        received += read;
    }
    checksum.hex()
}

/// A SOCKS client and, where there is one, curl over HTTP learn within their time that the exit
/// cannot be reached.
async fn refused_everywhere(entry: &Running, target: std::net::SocketAddr) {
    let start = Instant::now();
    let socks = tunnel(entry.proxy(), target);
    let http = async {
        let mut command = curl(&format!("http://{}", entry.proxy()));
        command.args(["--output", "/dev/null", "--write-out", "%{http_code}"]);
        command.arg(format!("http://{target}/"));
        have("curl").then_some(finish(command).await.stdout)
    };
    let (socks, http) = tokio::join!(socks, http);
    let took = start.elapsed();
    println!("refused after {took:?}");
    let refusal = socks.expect_err("a refusal").to_string();
    assert!(refusal.starts_with("SOCKS reply"), "{refusal}");
    let code = http.map(|code| String::from_utf8(code).unwrap());
    assert!(code.as_ref().is_none_or(|code| code.starts_with('5')), "HTTP {code:?}");
    assert!(took < REFUSAL_TIME, "{took:?}");
}

/// Waits until `count` has risen and then has not changed for a second.
fn still(count: &Arc<AtomicUsize>) {
    let (mut last, mut since) = (0, Instant::now());
    wait_for("a standstill", || {
        let now = count.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_secs(1)
    });
}
