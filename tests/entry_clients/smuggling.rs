//! Messages that two readers may understand differently: each is refused, or written anew in one way.

use crate::support::{Proxy, Raw, header, serve};

/// Requests whose bodies one reader ends elsewhere than another.
const AMBIGUOUS: [&str; 17] = [
    "Content-Length: 4\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 4",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding: chunked\x0b",
    "Transfer-Encoding: \x00chunked",
    "Transfer-Encoding: chunked;x",
    "X: y\rTransfer-Encoding: chunked",
    "Content-Length: 4\r\nContent-Length: 5",
    "Content-Length: 4, 5",
    "Content-Length: +4",
    "Content-Length: 4 4",
    " Content-Length: 4",
];

#[tokio::test]
async fn a_request_of_unclear_length_is_refused_and_nothing_behind_it_is_read() {
    let proxy = Proxy::start().await;
    for fields in AMBIGUOUS {
        let mut client = proxy.connect().await;
        let request = format!(
            "POST http://first.test/ HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n\
             GET http://second.test/ HTTP/1.1\r\nHost: b\r\n\r\n"
        );
        client.send(request.as_bytes()).await;
        let answer = String::from_utf8(client.rest().await).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 501 "),
            "{fields:?}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{fields:?}: {answer}");
    }
    assert!(proxy.dialer.dialed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn nothing_behind_a_wrong_chunk_of_a_request_is_read() {
    let origin = serve(|tcp| async move {
        let mut raw = Raw(tcp);
        let _ = raw.rest().await;
    })
    .await;
    let proxy = Proxy::start().await;
    for body in [
        "1\na\n0\n\n",
        "1\r\naX0\r\n\r\n",
        "1\r\na\r\n0\r\nX: 1\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        "1;x\rb\r\na\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "0\r\nX : 1\r\n\r\n",
        "10000000000000000\r\n",
    ] {
        let mut client = proxy.connect().await;
        let request = format!(
            "POST http://{origin}/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}\
             GET http://second.test/ HTTP/1.1\r\nHost: b\r\n\r\n"
        );
        client.send(request.as_bytes()).await;
        let answer = String::from_utf8(client.rest().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{body:?}: {answer}");
    }
    let dialed = proxy.dialer.dialed.lock().unwrap();
    assert!(dialed.iter().all(|request| request.target.host.to_string() != "second.test"));
}

#[tokio::test]
async fn a_tolerated_fault_in_an_answer_never_makes_a_second_one() {
    let evil = "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 4\r\n\r\nevil";
    for fields in [
        // The chunks are read, so the second answer is a part of nothing.
        "Content-Length: 200\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding:\r\n chunked\r\nContent-Length: 200\r\n\r\n0\r\n\r\n",
        "Content-Length : 0\r\n\r\n",
        "X: a\r\n Content-Length: 9\r\nContent-Length: 0\r\n\r\n",
        "X: a\rContent-Length: 9\r\nContent-Length: 0\r\n\r\n",
        "Content-Length 9\r\nContent-Length: 0\r\n\r\n",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}{evil}");
        let origin = serve(move |tcp| {
            let answer = answer.clone();
            async move {
                let mut raw = Raw(tcp);
                raw.until("\r\n\r\n").await;
                raw.send(answer.as_bytes()).await;
                raw.until("\r\n\r\n").await;
                raw.send(b"HTTP/1.1 200 OK\r\nX-Same: 1\r\nContent-Length: 0\r\n\r\n").await;
            }
        })
        .await;
        let proxy = Proxy::start().await;
        let mut client = proxy.connect().await;
        let request = format!("GET http://{origin}/ HTTP/1.1\r\nHost: x\r\n\r\n");
        client.send(request.as_bytes()).await;
        let head = client.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(header(&head, "x-evil"), None, "{head}");
        if header(&head, "transfer-encoding") == Some("chunked") {
            assert_eq!(header(&head, "content-length"), None, "{head}");
            client.expect(b"0\r\n\r\n").await;
        }
        // The connection holds bytes that nobody asked for, so the next request takes another.
        client.send(request.as_bytes()).await;
        let next = client.until("\r\n\r\n").await;
        assert_eq!(header(&next, "x-evil"), None, "{fields:?}: {next}");
        assert_eq!(proxy.dialer.dialed.lock().unwrap().len(), 2, "{fields:?}");
    }
}

#[tokio::test]
async fn a_head_carries_no_line_that_its_fields_do_not_say() {
    let answer = "HTTP/1.1 200 O\rK\r\nA: b\rSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n";
    let origin = serve(move |tcp| async move {
        let mut raw = Raw(tcp);
        raw.until("\r\n\r\n").await;
        raw.send(answer.as_bytes()).await;
        let _ = raw.rest().await;
    })
    .await;
    let proxy = Proxy::start().await;
    let mut client = proxy.connect().await;
    client.send(format!("GET http://{origin}/ HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let head = client.until("\r\n\r\n").await;
    assert_eq!(head.replace("\r\n", "").matches('\r').count(), 0, "{head:?}");
    assert_eq!(header(&head, "set-cookie"), None, "{head:?}");
    // Two hosts in one request are two destinations for two readers.
    for request in [
        format!("GET http://{origin}/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        format!("GET http://{origin}/ HTTP/1.1\r\nHost: a\r\nX: b\rHost: c\r\n\r\n"),
        format!("CONNECT {origin} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
    ] {
        let mut client = proxy.connect().await;
        client.send(request.as_bytes()).await;
        assert!(client.response().await.0.starts_with("HTTP/1.1 400 "), "{request}");
    }
}
