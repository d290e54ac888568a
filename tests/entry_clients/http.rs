//! HTTP by raw bytes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::io::AsyncWriteExt;

use crate::support::{KINDS, Proxy, Raw, echo, header, mirror, serve};

#[tokio::test]
async fn two_requests_share_the_clients_and_the_origins_connection() {
    let (proxy, origin) = (Proxy::start().await, mirror().await);
    let mut client = proxy.connect().await;
    for path in ["/one", "/two?x=1"] {
        let request = format!("GET http://{origin}{path} HTTP/1.1\r\nHost: wrong.test\r\n\r\n");
        client.send(request.as_bytes()).await;
        let (head, seen) = client.response().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(seen.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{seen}");
        assert_eq!(header(&seen, "host"), Some(origin.to_string().as_str()));
    }
    assert_eq!(proxy.dialer.dialed.lock().unwrap().len(), 1);
    // Another origin, or other options, are another flow.
    let other = mirror().await;
    client.send(format!("GET http://{other}/ HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    client.response().await;
    let options = "Proxy-Authorization: Basic aGludD1sb3NzOg==\r\n"; // hint=loss:
    let request = format!("GET http://{other}/ HTTP/1.1\r\nHost: x\r\n{options}\r\n");
    client.send(request.as_bytes()).await;
    let (_, seen) = client.response().await;
    assert_eq!(header(&seen, "proxy-authorization"), None);
    assert_eq!(proxy.last_dialed().hint.unwrap().to_string(), "loss");
    assert_eq!(proxy.dialer.dialed.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn hop_by_hop_fields_are_removed_both_ways() {
    let (proxy, origin) = (Proxy::start().await, mirror().await);
    let mut client = proxy.connect().await;
    let request = format!(
        "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nConnection: x-secret, keep-alive\r\n\
         X-Secret: 1\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nX-Kept: 1\r\n\r\n"
    );
    client.send(request.as_bytes()).await;
    let (head, seen) = client.response().await;
    for name in ["x-secret", "keep-alive", "proxy-connection", "connection"] {
        assert_eq!(header(&seen, name), None, "{seen}");
    }
    assert_eq!(header(&seen, "x-kept"), Some("1"));
    assert_eq!(header(&head, "x-origin"), Some("yes"));
    for name in ["x-hop", "keep-alive"] {
        assert_eq!(header(&head, name), None, "{head}");
    }
}

#[tokio::test]
async fn a_stale_kept_connection_costs_no_request() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    // Answers one request per connection, reads the second, and closes without a word.
    let origin = serve(move |tcp| {
        let count = count.clone();
        async move {
            let mut raw = Raw(tcp);
            raw.until("\r\n\r\n").await;
            count.fetch_add(1, Ordering::SeqCst);
            raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            raw.until("\r\n\r\n").await;
        }
    })
    .await;
    let proxy = Proxy::start().await;
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        client.send(format!("GET http://{origin}/ HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert_eq!(client.response().await.1, "ok");
    }
    assert_eq!(served.load(Ordering::SeqCst), 2);
    // A request that must not be sent twice takes no connection that may be closing.
    for method in ["POST", "PATCH", "PUT"] {
        let length = if method == "PATCH" { 0 } else { 2 };
        let head = format!("{method} http://{origin}/ HTTP/1.1\r\nHost: x\r\n");
        let body = &"1\n"[..length];
        client.send(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).await;
        assert_eq!(client.response().await.1, "ok", "{method}");
    }
    assert_eq!(served.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_body_waits_for_100_continue_and_is_streamed() {
    let (proxy, origin) = (Proxy::start().await, mirror().await);
    let mut client = proxy.connect().await;
    let request = format!(
        "POST http://{origin}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\
         Expect: 100-continue\r\n\r\n"
    );
    client.send(request.as_bytes()).await;
    client.expect(b"HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send(b"hello").await;
    assert!(client.response().await.1.ends_with("hello"));
}

#[tokio::test]
async fn chunked_bodies_and_trailers_pass_in_both_directions() {
    let origin = serve(|tcp| async move {
        let mut raw = Raw(tcp);
        let head = raw.until("\r\n\r\n").await;
        assert_eq!(header(&head, "te"), Some("trailers"), "{head}");
        let body = raw.until("\r\n\r\n").await.to_ascii_lowercase();
        assert!(body.ends_with("0\r\nx-sum: up\r\n\r\n"), "{body}");
        raw.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
              4\r\ndown\r\n0\r\nx-sum: down\r\n\r\n",
        )
        .await;
    })
    .await;
    let proxy = Proxy::start().await;
    let mut client = proxy.connect().await;
    let request = format!(
        "POST http://{origin}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-sum\r\nTE: trailers\r\nConnection: TE\r\n\r\n2\r\nup\r\n0\r\nx-sum: up\r\n\r\n"
    );
    client.send(request.as_bytes()).await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let body = client.until("\r\n\r\n").await.to_ascii_lowercase();
    assert_eq!(body, "4\r\ndown\r\n0\r\nx-sum: down\r\n\r\n");
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let origin = serve(|tcp| async move {
        let mut raw = Raw(tcp);
        let head = raw.until("\r\n\r\n").await;
        assert_eq!(header(&head, "upgrade"), Some("websocket"), "{head}");
        raw.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi",
        )
        .await;
        let (mut read, mut write) = raw.0.into_split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    })
    .await;
    let proxy = Proxy::start().await;
    let mut client = proxy.connect().await;
    let request = format!(
        "GET http://{origin}/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    client.send(request.as_bytes()).await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    client.expect(b"hi").await;
    client.send(b"there").await;
    client.0.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"there");
}

#[tokio::test]
async fn a_tunnel_carries_what_was_sent_behind_the_request() {
    let (proxy, origin) = (Proxy::start().await, echo().await);
    let mut client = proxy.connect().await;
    client.send(format!("CONNECT {origin} HTTP/1.1\r\nHost: x\r\n\r\nearly").as_bytes()).await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    client.send(b" and late").await;
    client.0.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"early and late");
}

#[tokio::test]
async fn every_refusal_reaches_an_http_client_with_its_status_and_a_sentence() {
    let proxy = Proxy::start().await;
    let statuses = [403, 502, 502, 502, 504, 503, 502, 503, 502, 503];
    for (kind, status) in KINDS.into_iter().zip(statuses) {
        let host = format!("{}.refused.test", kind.name());
        for request in [format!("GET http://{host}/"), format!("CONNECT {host}:443")] {
            let mut client = proxy.connect().await;
            client.send(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
            let (head, body) = client.response().await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
            assert!(body.contains("the test says so"), "{body}");
            let proxy_status = header(&head, "proxy-status").unwrap();
            assert!(proxy_status.starts_with("ronproxy; error="), "{proxy_status}");
        }
    }
}

#[tokio::test]
async fn without_credentials_the_client_is_asked_for_them() {
    let proxy = Proxy::with_users().await;
    let mut client = proxy.connect().await;
    client.send(b"CONNECT origin.test:443 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (head, _) = client.response().await;
    assert!(head.starts_with("HTTP/1.1 407 "), "{head}");
    assert!(header(&head, "proxy-authenticate").unwrap().starts_with("Basic realm="), "{head}");
    assert!(proxy.dialer.dialed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_browser_at_the_proxys_port_finds_help_and_a_pac_file() {
    let proxy = Proxy::start().await;
    let mut client = proxy.connect().await;
    for (path, host, status, text) in [
        ("/", "localhost", 200, "This is a proxy"),
        ("/proxy.pac", "127.0.0.1", 200, "FindProxyForURL"),
        ("/x", "localhost", 404, "/proxy.pac"),
        ("/proxy.pac", "evil.test", 421, "not a web server"),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        let (head, body) = client.response().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {host}: {head}");
        assert!(body.contains(text), "{body}");
    }
    for (request, text) in [
        ("GET https://example.org/", "CONNECT"),
        ("GET ftp://example.org/", "CONNECT"),
        ("CONNECT example.org:0", "port"),
        ("GET http://a..b/", "host name"),
        ("GET *", "begin with http://"),
        ("GET ws://a.test/", "CONNECT"),
        ("GET wss://a.test/", "CONNECT"),
    ] {
        let mut client = proxy.connect().await;
        client.send(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        let (head, body) = client.response().await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{request}: {head}");
        assert!(body.contains(text), "{request}: {body}");
    }
    assert!(proxy.dialer.dialed.lock().unwrap().is_empty());
}
