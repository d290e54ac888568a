//! Hostile input, limits, and stopping.

use std::{sync::Arc, time::Duration};

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config as Cases, RngAlgorithm, TestRng, TestRunner},
};
use ronproxy::internals::entry::{Config, Entry, EntryError, HANDSHAKE_TIMEOUT};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::{DirectDialer, LIMIT, Proxy, config, echo};

/// What a handshake may begin with, so that random bytes reach every stage.
const STAGES: [&[u8]; 9] = [
    b"",
    b"\x05",
    b"\x05\x01\x00\x05\x01\x00\x03",
    b"\x05\x01\x02\x01",
    b"\x04\x01\x00\x50\x00\x00\x00\x01",
    b"GET ",
    b"GET http://127.0.0.1:1/ HTTP/1.1\r\n",
    b"CONNECT ",
    b"\x16\x03\x01",
];

#[tokio::test]
async fn garbage_at_any_stage_ends_its_own_connection_only() {
    let (proxy, origin) = (Proxy::start().await, echo().await);
    let mut bystander = tunnel(&proxy, origin.port()).await;
    let mut runner = TestRunner::new_with_rng(
        Cases::default(),
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let garbage = prop::collection::vec(any::<u8>(), 0..300);
    for case in 0..180 {
        let bytes = garbage.new_tree(&mut runner).unwrap().current();
        let mut client = proxy.connect().await;
        // The proxy may close, even reset, while we still send.
        let _ = client.0.write_all(&[STAGES[case % STAGES.len()], &bytes].concat()).await;
        let _ = client.0.shutdown().await;
        client.rest().await;
    }
    bystander.send(b"still here").await;
    bystander.expect(b"still here").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_anywhere_is_closed_after_the_handshake_timeout() {
    for stage in STAGES {
        let proxy = Proxy::start().await;
        let mut client = proxy.connect().await;
        let since = Instant::now();
        client.send(stage).await;
        let got = client.rest().await;
        assert!(got.len() < 20, "{stage:?}: {got:?}");
        let allowed = HANDSHAKE_TIMEOUT + Duration::from_secs(1);
        assert!(since.elapsed() <= allowed, "{stage:?} took {:?}", since.elapsed());
    }
}

#[tokio::test]
async fn an_endless_head_is_cut_off() {
    let proxy = Proxy::start().await;
    for start in ["GET http://origin.test/", "GET http://origin.test/ HTTP/1.1\r\nX: "] {
        let mut client = proxy.connect().await;
        let _ = client.0.write_all(&[start.as_bytes(), &[b'x'; 100_000]].concat()).await;
        let answer = String::from_utf8(client.rest().await).unwrap();
        let refused = ["", "HTTP/1.1 431", "HTTP/1.1 414", "HTTP/1.1 400"];
        assert!(refused.iter().any(|r| answer.get(..12).unwrap_or("") == *r), "{answer}");
    }
    assert!(proxy.dialer.dialed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn unknown_protocols_are_told_what_is_spoken_here() {
    let proxy = Proxy::start().await;
    let mut client = proxy.connect().await;
    client.send(b"\x00\x01\x02").await;
    let answer = String::from_utf8(client.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{answer}");
    let mut client = proxy.connect().await;
    client.send(b"\x16\x03\x01\x02\x00\x01").await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_client_that_disappears_cancels_its_dial() {
    let proxy = Proxy::start().await;
    for hello in [
        &b"\x05\x01\x00\x05\x01\x00\x03\x09hang.test\x00\x50"[..],
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00hang.test\x00",
        b"CONNECT hang.test:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://hang.test/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST http://hang.test/ HTTP/1.1\r\nContent-Length: 9\r\n\r\nbody",
    ] {
        let mut client = proxy.connect().await;
        client.send(hello).await;
        let dialing = timeout(LIMIT, proxy.dialer.hanging.notified()).await;
        dialing.unwrap_or_else(|_| panic!("{hello:?} was not dialed"));
        // A client that is killed resets; one that ends its side only may wait for the answer.
        client.0.set_zero_linger().unwrap();
        drop(client);
        let cancelled = timeout(LIMIT, proxy.dialer.cancelled.notified()).await;
        cancelled.unwrap_or_else(|_| panic!("{hello:?} was not cancelled"));
    }
}

#[tokio::test]
async fn beyond_the_cap_a_client_waits_until_another_leaves() {
    let config = Config { max_connections: 2, ..config() };
    let (proxy, origin) = (Proxy::with(config, Duration::ZERO).await, echo().await);
    let first = tunnel(&proxy, origin.port()).await;
    let _second = tunnel(&proxy, origin.port()).await;
    let mut third = proxy.connect().await;
    third.send(b"\x05\x01\x00").await;
    let early = timeout(Duration::from_millis(200), third.0.readable()).await;
    assert!(early.is_err(), "the third client was served beyond the cap");
    drop(first);
    third.expect(b"\x05\x00").await;
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_the_port() {
    let proxy = Proxy::start().await;
    let again = Config { listen: proxy.addr, ..config() };
    let error = Entry::bind(again, Arc::new(DirectDialer::default())).await.unwrap_err();
    assert!(matches!(error, EntryError::PortInUse(addr) if addr == proxy.addr));
    let text = error.to_string();
    assert!(
        text.contains(&proxy.addr.port().to_string()) && text.contains("entry.listen"),
        "{text}"
    );
}

#[tokio::test]
async fn an_open_proxy_is_refused_without_users() {
    let open = Config { listen: ([0, 0, 0, 0], 0).into(), ..config() };
    let error = Entry::bind(open, Arc::new(DirectDialer::default())).await.unwrap_err();
    assert!(error.to_string().contains("add [[entry.users]]"), "{error}");
}

#[tokio::test]
async fn stopping_lets_running_flows_finish_and_takes_no_new_ones() {
    let (proxy, origin) = (Proxy::with(config(), LIMIT).await, echo().await);
    let mut flow = tunnel(&proxy, origin.port()).await;
    let mut handshaking = proxy.connect().await;
    handshaking.send(b"\x05\x01\x00").await;
    handshaking.expect(b"\x05\x00").await;
    proxy.shutdown.cancel();
    let dropped = timeout(HANDSHAKE_TIMEOUT / 2, handshaking.rest()).await;
    assert_eq!(dropped.expect("dropped at once, not by the handshake's timeout"), b"");
    assert!(TcpStream::connect(proxy.addr).await.is_err());
    flow.send(b"last words").await;
    flow.expect(b"last words").await;
    assert!(!proxy.running.is_finished());
    drop(flow);
    timeout(LIMIT, proxy.running).await.expect("run returns with the last flow").unwrap();
}

#[tokio::test]
async fn a_flow_that_outlives_the_drain_time_is_cut() {
    let (proxy, origin) = (Proxy::with(config(), Duration::from_millis(50)).await, echo().await);
    let mut flow = tunnel(&proxy, origin.port()).await;
    proxy.shutdown.cancel();
    timeout(LIMIT, proxy.running).await.expect("run returns").unwrap();
    assert_eq!(flow.rest().await, b"");
}

async fn tunnel(proxy: &Proxy, port: u16) -> crate::support::Raw {
    let mut client = proxy.connect().await;
    let hello = [b"\x05\x01\x00\x05\x01\x00\x01\x7f\0\0\x01", &port.to_be_bytes()[..]].concat();
    client.send(&hello).await;
    client.expect(&[5, 0, 5, 0, 0, 1, 127, 0, 0, 1]).await;
    client.expect(&proxy.addr.port().to_be_bytes()).await;
    client
}

#[tokio::test]
async fn a_burst_of_clients_waits_for_the_entry_and_loses_no_packet() {
    let entry = Entry::bind(config(), Arc::new(DirectDialer::default())).await.unwrap();
    // Nobody accepts them yet. A SYN that the kernel drops is repeated after a second.
    let within = Duration::from_millis(500);
    let connect = |_| std::net::TcpStream::connect_timeout(&entry.local_addr(), within);
    let clients: Result<Vec<_>, _> = (0..600).map(connect).collect();
    assert!(clients.is_ok(), "{:?}", clients.err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_drips_its_request_is_closed_after_the_same_time() {
    let long = b"a".repeat(200);
    for head in [&b"GET http://a.test/ HTTP/1.1\r\nX: "[..], b"\x05\xff", b"\x04\x01\0P\0\0\0\x01"]
    {
        let proxy = Proxy::start().await;
        let mut client = proxy.connect().await;
        let since = Instant::now();
        for byte in [head, &long].concat() {
            if client.0.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let took = since.elapsed();
        assert!(took < HANDSHAKE_TIMEOUT + Duration::from_secs(2), "{took:?} after {head:?}");
    }
}
