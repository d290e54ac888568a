//! Messages as real servers and clients send them, beside the book or at its edge.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::support::{LIMIT, Proxy, Raw, header, mirror, serve};

/// An origin that answers every request head with `bytes` and keeps the connection.
async fn answers(bytes: Vec<u8>) -> std::net::SocketAddr {
    serve(move |tcp| {
        let bytes = bytes.clone();
        async move {
            let mut raw = Raw(tcp);
            while raw.head().await.is_some() {
                raw.send(&bytes).await;
            }
        }
    })
    .await
}

/// An origin that answers the first request head with `bytes` and closes at once, with what it has not
/// read; `reset` adds a reset.
async fn answers_and_closes(bytes: Vec<u8>, reset: bool) -> std::net::SocketAddr {
    serve(move |tcp| {
        let bytes = bytes.clone();
        async move {
            let mut raw = Raw(tcp);
            raw.until("\r\n\r\n").await;
            raw.send(&bytes).await;
            if reset {
                raw.0.set_zero_linger().unwrap();
            }
        }
    })
    .await
}

fn get(origin: std::net::SocketAddr) -> String {
    format!("GET http://{origin}/ HTTP/1.1\r\nHost: x\r\n\r\n")
}

#[tokio::test]
async fn transfer_encoding_wins_and_the_next_answer_is_whole() {
    let both = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
                 6\r\nabcdef\r\n0\r\n\r\n";
    let (proxy, origin) = (Proxy::start().await, answers(both.to_vec()).await);
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        client.send(get(origin).as_bytes()).await;
        let head = client.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(header(&head, "content-length"), None, "{head}");
        client.expect(b"6\r\nabcdef\r\n0\r\n\r\n").await;
    }
    assert_eq!(proxy.dialer.dialed.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_always_arrives() {
    let proxy = Proxy::start().await;
    for status in ["413 Too Large", "401 Unauthorized", "307 Elsewhere", "200 OK"] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 6\r\nX-Mine: 1\r\n\r\nanswer");
        let origin = answers_and_closes(answer.into_bytes(), false).await;
        for round in 0..8 {
            let (mut read, mut write) = proxy.connect().await.0.into_split();
            // The client reads only when it has sent everything, as Python does.
            let head = format!(
                "POST http://{origin}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n"
            );
            let upload = async {
                write.write_all(head.as_bytes()).await.unwrap();
                for _ in 0..80 {
                    write.write_all(&[b'x'; 100_000]).await.unwrap();
                }
            };
            timeout(LIMIT, upload).await.expect("the upload is not taken");
            let mut answer = Vec::new();
            timeout(LIMIT, read.read_to_end(&mut answer)).await.expect("no hang").unwrap();
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{round}: {answer}");
            assert!(answer.ends_with("answer"), "{round}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_client_that_ends_its_side_behind_the_request_gets_the_answer() {
    for (delay, size) in [(0, 5), (700, 5), (300, 3_000_000)] {
        let origin = serve(move |tcp| async move {
            let mut raw = Raw(tcp);
            raw.until("\r\n\r\n").await;
            tokio::time::sleep(Duration::from_millis(delay)).await;
            raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes()).await;
            raw.send(&vec![b'x'; size]).await;
        })
        .await;
        let proxy = Proxy::start().await;
        for version in ["1.0", "1.1"] {
            let mut client = proxy.connect().await;
            client.send(format!("GET http://{origin}/ HTTP/{version}\r\n\r\n").as_bytes()).await;
            client.0.shutdown().await.unwrap();
            let answer = client.rest().await;
            let body = answer.len() - answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() - 4;
            assert_eq!(body, size, "{version}, {delay} ms");
        }
    }
}

#[tokio::test]
async fn answers_that_browsers_accept_are_passed_in_a_clean_form() {
    for (sent, passed) in [
        ("A: one\r\n two", "A: one two\r\n"),
        ("A : one", "A: one\r\n"),
        ("stray line\r\nA: one", "A: one\r\n"),
        ("A: one\x01two\x7f", "A: one two\r\n"),
        ("A: one\rB: two", "A: one B: two\r\n"),
        ("A: one\r\n: nothing\r\n(B): two", "A: one\r\n"),
        ("Content-Length: 2, 2", "Content-Length: 2\r\n"),
    ] {
        let length = if sent.starts_with("Content") { "" } else { "Content-Length: 2\r\n" };
        let answer = format!("HTTP/1.1 200 OK\r\nDate: x\r\n{length}{sent}\r\n\r\nok");
        let (proxy, origin) = (Proxy::start().await, answers(answer.into_bytes()).await);
        let mut client = proxy.connect().await;
        client.send(get(origin).as_bytes()).await;
        let (head, body) = client.response().await;
        assert_eq!(head, format!("HTTP/1.1 200 OK\r\nDate: x\r\n{length}{passed}\r\n"), "{sent:?}");
        assert_eq!(body, "ok");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_clear_is_refused_with_the_reason() {
    for (sent, reason) in [
        ("<html>", "status line: \"<html>\""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2", "two different"),
        ("HTTP/1.1 200 OK\r\nContent-Length: x", "no number: \"x\""),
        ("HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 1\x01", "control character in line 3"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: br", "coding \"br\""),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip", "chunked must be the last"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x", "without being asked"),
    ] {
        let origin = answers_and_closes(format!("{sent}\r\n\r\n").into_bytes(), false).await;
        let proxy = Proxy::start().await;
        let mut client = proxy.connect().await;
        client.send(get(origin).as_bytes()).await;
        let (head, body) = client.response().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert!(body.contains(reason), "{sent}: {body}");
        assert!(header(&head, "proxy-status").unwrap().contains("http_protocol_error"), "{head}");
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}", "A: b\r\n".repeat(501));
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n", "x".repeat(70_000));
    for (sent, reason) in [(many, "more than 500 fields"), (long, "exceeds 65536 bytes")] {
        let origin = answers_and_closes(format!("{sent}\r\n").into_bytes(), false).await;
        let proxy = Proxy::start().await;
        let mut client = proxy.connect().await;
        client.send(get(origin).as_bytes()).await;
        let (_, body) = client.response().await;
        assert!(body.contains(reason), "{body}");
    }
}

#[tokio::test]
async fn bytes_before_a_broken_answer_are_delivered() {
    let proxy = Proxy::start().await;
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked", "X: until close"] {
        let chunked = framing.starts_with("Transfer");
        let part = if chunked { "a\r\n0123456789\r\n" } else { "0123456789" };
        let answer = format!("HTTP/1.1 200 OK\r\nDate: x\r\n{framing}\r\n\r\n{part}");
        for reset in [false, true] {
            let origin = answers_and_closes(answer.clone().into_bytes(), reset).await;
            for round in 0..10 {
                let mut client = proxy.connect().await;
                let request = get(origin).replace("Host: x", "Connection: close");
                client.send(request.as_bytes()).await;
                let got = String::from_utf8(client.rest().await).unwrap();
                assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{framing} {reset} {round}: {got}");
                assert!(got.contains("0123456789"), "{framing} {reset} {round}: {got}");
                let complete = framing.starts_with('X') && !reset;
                assert_eq!(got.ends_with("\r\n0\r\n\r\n"), complete, "{framing} {reset}: {got}");
            }
        }
    }
}

#[tokio::test]
async fn an_early_end_is_told_in_a_sentence() {
    for (sent, reason) in
        [("", "the server closed it"), ("HTTP/1.1 200 OK\r\nA", "within the head")]
    {
        let origin = answers_and_closes(sent.as_bytes().to_vec(), false).await;
        let proxy = Proxy::start().await;
        let mut client = proxy.connect().await;
        client.send(get(origin).as_bytes()).await;
        let (head, body) = client.response().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert!(body.contains("broke before it answered") && body.contains(reason), "{body}");
        assert!(header(&head, "proxy-status").unwrap().contains("connection_terminated"));
    }
}

#[tokio::test]
async fn names_keep_their_spelling_and_order_both_ways() {
    let answer = b"HTTP/1.1 299 Very Fine\r\nx-lower: 1\r\nX-UPPER: 2\r\nDate: x\r\nX-lower: 3\r\n\
                   content-length: 0\r\nETag: W/\"a\"\r\n\r\n";
    let (proxy, origin) = (Proxy::start().await, answers(answer.to_vec()).await);
    let mut client = proxy.connect().await;
    client.send(get(origin).as_bytes()).await;
    assert_eq!(client.until("\r\n\r\n").await.as_bytes(), answer);
    let mirror = mirror().await;
    let request = format!(
        "GET http://{mirror}/a|b\"{{}} HTTP/1.1\r\nuser-AGENT: x\r\nX-b: 1\r\nHOST: x\r\nx-A: 2\r\n\
         X-B: 3\r\n\r\n"
    );
    client.send(request.as_bytes()).await;
    let expected = format!(
        "GET /a|b\"{{}} HTTP/1.1\r\nuser-AGENT: x\r\nX-b: 1\r\nHOST: {mirror}\r\nx-A: 2\r\nX-B: 3\r\n\r\n"
    );
    assert_eq!(client.response().await.1, expected);
}

#[tokio::test]
async fn interim_responses_reach_a_client_that_knows_them() {
    let answer = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n\
                   HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok";
    let (proxy, origin) = (Proxy::start().await, answers(answer.to_vec()).await);
    let mut client = proxy.connect().await;
    client.send(get(origin).as_bytes()).await;
    client.expect(b"HTTP/1.1 102 Processing\r\n\r\n").await;
    client.expect(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await;
    assert_eq!(client.response().await.1, "ok");
    let mut old = proxy.connect().await;
    old.send(format!("GET http://{origin}/ HTTP/1.0\r\n\r\n").as_bytes()).await;
    assert!(old.response().await.0.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn the_servers_100_continue_is_passed_and_its_refusal_too() {
    let origin = serve(|tcp| async move {
        let mut raw = Raw(tcp);
        let head = raw.until("\r\n\r\n").await;
        assert_eq!(header(&head, "expect"), Some("100-continue"), "{head}");
        if head.starts_with("POST /no ") {
            return raw.send(b"HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno").await;
        }
        raw.send(b"HTTP/1.1 100 Go On\r\n\r\n").await;
        let mut body = [0; 5];
        raw.0.read_exact(&mut body).await.unwrap();
        raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
        raw.send(&body).await;
    })
    .await;
    let proxy = Proxy::start().await;
    for path in ["/yes", "/no"] {
        let mut client = proxy.connect().await;
        let request = format!(
            "POST http://{origin}{path} HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        );
        client.send(request.as_bytes()).await;
        if path == "/yes" {
            client.expect(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            client.send(b"hello").await;
            assert_eq!(client.response().await.1, "hello");
        } else {
            assert_eq!(client.response().await.1, "no");
        }
    }
}

#[tokio::test]
async fn a_websocket_address_is_one_of_http_when_it_upgrades() {
    let answer = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi";
    let (proxy, origin) = (Proxy::start().await, answers(answer.to_vec()).await);
    let mut client = proxy.connect().await;
    let request = format!(
        "GET ws://{origin}/chat HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    client.send(request.as_bytes()).await;
    assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 101 "));
    client.expect(b"hi").await;
}

#[tokio::test]
async fn http_1_0_is_kept_alive_only_where_the_length_is_known() {
    let proxy = Proxy::start().await;
    let keep = "Connection: Keep-Alive\r\n";
    for (answer, body, kept) in [
        ("Content-Length: 2\r\n\r\nok", "ok", true),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", false),
    ] {
        let origin = answers(format!("HTTP/1.1 200 OK\r\n{answer}").into_bytes()).await;
        let mut client = proxy.connect().await;
        let request = format!("GET http://{origin}/ HTTP/1.0\r\n{keep}\r\n");
        client.send(request.as_bytes()).await;
        let head = client.until("\r\n\r\n").await;
        let says = if kept { "keep-alive" } else { "close" };
        assert_eq!(header(&head, "connection"), Some(says), "{head}");
        assert_eq!(header(&head, "transfer-encoding"), None, "{head}");
        client.expect(body.as_bytes()).await;
        if kept {
            client.send(request.as_bytes()).await;
            assert_eq!(client.response().await.1, body);
        } else {
            assert_eq!(client.rest().await, b"");
        }
    }
}

#[tokio::test]
async fn a_transfer_coding_is_passed_on_and_not_dropped() {
    let answer = b"HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nz\r\n0\r\n\r\n";
    let (proxy, origin) = (Proxy::start().await, answers(answer.to_vec()).await);
    let mut client = proxy.connect().await;
    client.send(get(origin).as_bytes()).await;
    client.expect(answer).await;
    let mut old = proxy.connect().await;
    old.send(format!("GET http://{origin}/ HTTP/1.0\r\n\r\n").as_bytes()).await;
    let (head, body) = old.response().await;
    assert!(head.starts_with("HTTP/1.1 502 ") && body.contains("\"gzip\""), "{head}{body}");
}

#[tokio::test]
async fn max_forwards_ends_at_the_proxy_or_counts_down() {
    let (proxy, origin) = (Proxy::start().await, mirror().await);
    let mut client = proxy.connect().await;
    let ask = |method: &str, left: u8| {
        format!(
            "{method} http://{origin} HTTP/1.1\r\nHost: x\r\nMax-Forwards: {left}\r\nCookie: secret\r\n\r\n"
        )
    };
    client.send(ask("TRACE", 0).as_bytes()).await;
    let (head, body) = client.response().await;
    assert_eq!(header(&head, "content-type"), Some("message/http"), "{head}");
    assert!(body.starts_with("TRACE http://") && !body.contains("secret"), "{body}");
    client.send(ask("OPTIONS", 0).as_bytes()).await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 204 ") && header(&head, "allow").is_some(), "{head}");
    assert!(proxy.dialer.dialed.lock().unwrap().is_empty());
    client.send(ask("OPTIONS", 7).as_bytes()).await;
    let (_, seen) = client.response().await;
    assert!(seen.starts_with("OPTIONS * HTTP/1.1\r\n"), "{seen}");
    assert_eq!(header(&seen, "max-forwards"), Some("6"));
}

#[tokio::test]
async fn a_browser_gets_a_page_about_what_went_wrong_and_curl_a_line() {
    let proxy = Proxy::start().await;
    for (accept, kind) in [("text/html,*/*", "text/html"), ("*/*", "text/plain")] {
        let mut client = proxy.connect().await;
        let request = format!(
            "GET http://name-not-found.refused.test/ HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n"
        );
        client.send(request.as_bytes()).await;
        let (head, body) = client.response().await;
        assert!(header(&head, "content-type").unwrap().starts_with(kind), "{head}");
        assert_eq!(body.contains("<h1>"), kind == "text/html", "{body}");
        assert_eq!(body.matches("the test says so").count(), 1, "{body}");
        assert!(!body.contains("<script"), "{body}");
    }
    for (line, reason) in [
        ("GET http://a.test/\x01 HTTP/1.1", "escaped"),
        ("GET http://a.test/a b HTTP/1.1", "METHOD ADDRESS"),
        ("GET http://a.test/ HTTP/3.0", "version than HTTP/1.0 and HTTP/1.1: \"HTTP/3.0\""),
    ] {
        let mut client = proxy.connect().await;
        client.send(format!("{line}\r\nHost: x\r\n\r\n").as_bytes()).await;
        let (head, body) = client.response().await;
        assert!(body.contains(reason), "{head}{body}");
    }
    let mut client = proxy.connect().await;
    let many = "A: b\r\n".repeat(501);
    client.send(format!("GET http://a.test/ HTTP/1.1\r\n{many}\r\n").as_bytes()).await;
    let (head, body) = client.response().await;
    assert!(head.starts_with("HTTP/1.1 431 ") && body.contains("more than 500 fields"), "{head}");
}

#[tokio::test]
async fn urgent_data_arrives_in_its_place() {
    let (proxy, origin) = (Proxy::start().await, crate::support::echo().await);
    let mut client = proxy.connect().await;
    client.send(format!("CONNECT {origin} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    client.until("\r\n\r\n").await;
    client.send(b"before ").await;
    client.expect(b"before ").await;
    socket2::SockRef::from(&client.0).send_out_of_band(b"!").unwrap();
    client.send(b" after").await;
    client.expect(b"! after").await;
}
