use proptest::prelude::*;

use super::*;
use crate::entry::http::head;

fn request(line: &str, fields: &[&str]) -> RequestHead {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    head::request(format!("{line}\r\n{fields}\r\n").as_bytes()).unwrap()
}

fn address(target: &str) -> Address {
    match asked(target.as_bytes()).unwrap() {
        Asked::Elsewhere(address) => address,
        Asked::Own(path) => panic!("{path:?}"),
    }
}

/// The request for the origin, as text.
fn forwarded(line: &str, fields: &[&str]) -> String {
    let mut head = request(line, fields);
    let address = address(std::str::from_utf8(&head.target).unwrap());
    to_origin(&mut head, &address);
    String::from_utf8(head.bytes()).unwrap()
}

/// The response for the client, as text.
fn answered(head: &str, form: &BodyForm) -> String {
    let mut head = head::response(format!("{head}\r\n\r\n").as_bytes()).unwrap();
    to_client(&mut head, form);
    String::from_utf8(head.bytes()).unwrap()
}

#[test]
fn hop_by_hop_fields_stay_behind_and_the_rest_keeps_its_order() {
    let seen = forwarded(
        "GET http://u:p@Example.org:8080/a?b=c HTTP/1.1",
        &[
            "x-First: 1",
            "hOST: wrong.test",
            "Connection: keep-alive, X-Mine, Content-Length, Host",
            "connection: x-other",
            "X-Mine: 1",
            "x-other: 1",
            "X-KEPT: 1",
            "Content-Length: 3",
            "keep-alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic YTpi",
            "te: deflate",
            "Upgrade: websocket",
            "x-last: 1",
        ],
    );
    assert_eq!(
        seen,
        "GET /a?b=c HTTP/1.1\r\nx-First: 1\r\nhOST: Example.org:8080\r\nX-KEPT: 1\r\n\
         Content-Length: 3\r\nx-last: 1\r\n\r\n"
    );
}

#[test]
fn framing_reaches_the_origin_once_and_clean() {
    let seen = forwarded(
        "POST http://a.test/ HTTP/1.1",
        &["Content-Length: 3, 3", "X: 1", "Content-Length: 3"],
    );
    assert_eq!(seen, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nX: 1\r\n\r\n");
    let seen = forwarded(
        "POST http://a.test/ HTTP/1.1",
        &["Transfer-Encoding: chunked", "Host: a", "TE: trailers", "Connection: TE"],
    );
    let expected = "POST / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
    assert_eq!(seen, expected);
}

#[test]
fn an_upgrade_is_passed_on_and_h2c_is_not() {
    for (protocol, passed) in [("websocket", true), ("h2c", false), ("foo, H2C", false)] {
        let upgrade = format!("Upgrade: {protocol}");
        let seen = forwarded("GET http://a.test HTTP/1.1", &["Connection: Upgrade", &upgrade]);
        assert_eq!(seen.contains("Connection: Upgrade\r\nUpgrade: "), passed, "{seen}");
        assert_eq!(seen.contains("Upgrade"), passed, "{seen}");
    }
    let old = forwarded(
        "GET http://a.test HTTP/1.0",
        &["Connection: Upgrade", "Upgrade: websocket", "Expect: 100-continue"],
    );
    assert_eq!(old, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

#[test]
fn addresses_are_taken_apart_as_they_are_written() {
    for (target, scheme, authority, path) in [
        ("http://Example.org/", "http", "Example.org", "/"),
        ("HTTP://example.org", "http", "example.org", ""),
        ("ws://a:81?x#frag", "ws", "a:81", "/?x"),
        ("http://u@v:p@a/b@c", "http", "a", "/b@c"),
        ("http://[::1]:8/%zz|\"", "http", "[::1]:8", "/%zz|\""),
        ("ftp://a/b://c", "ftp", "a", "/b://c"),
    ] {
        let expected = Address {
            scheme: scheme.to_owned(),
            authority: authority.to_owned(),
            path: path.as_bytes().to_vec(),
        };
        assert_eq!(address(target), expected, "{target}");
    }
    assert_eq!(asked(b"/a"), Ok(Asked::Own(b"/a".to_vec())));
    for target in ["*", "a.test:80", "://a", "h ttp://a", "http:/a", "http://a\\@b/"] {
        assert_eq!(asked(target.as_bytes()), Err(BadAddress::Form), "{target}");
    }
}

#[test]
fn the_target_is_the_addresss_host_with_port_80_by_default() {
    for (text, expected) in [
        ("http://example.org/", Some("example.org:80")),
        ("http://example.org:/", Some("example.org:80")),
        ("http://[::1]:8080/", Some("[::1]:8080")),
        ("http://[::1]/", Some("[::1]:80")),
        ("http://user@example.org:81/", Some("example.org:81")),
        ("http://example.org:99999/", None),
        ("http://example.org:0/", None),
        ("http://example.org:+80/", None),
        ("http://example.org:80:80/", None),
        ("http://::1/", None),
        ("http://a..b/", None),
        ("http:///", None),
        ("http://b\u{fc}cher.test/", None),
    ] {
        let found = address(text).target().ok().map(|target| target.to_string());
        assert_eq!(found.as_deref(), expected, "{text}");
    }
}

#[test]
fn basic_credentials_are_read_and_others_are_not() {
    for (value, expected) in [
        ("Basic YW5uOm9uZQ==", Some(("ann", "one"))),
        ("basic  YW5uOm9uZTp0d28=", Some(("ann", "one:two"))),
        ("Basic avZyZzrf", Some(("j\u{f6}rg", "\u{df}"))),
        ("Basic", None),
        ("Basic YW5u", None),
        ("Bearer YW5uOm9uZQ==", None),
    ] {
        let found = basic(value.as_bytes());
        let expected = expected.map(|(user, password)| (user.to_owned(), password.to_owned()));
        assert_eq!(found, expected, "{value}");
    }
}

#[test]
fn a_credential_of_another_kind_means_nothing_where_none_is_needed() {
    let open = Authenticator::new(Vec::new());
    for value in ["Bearer x", "NTLM TlRM", "Basic !!", "Basic YW5uOm9uZQ==", ""] {
        let mut fields = Fields::default();
        fields.push("Proxy-Authorization", value);
        assert_eq!(authenticate(&fields, &open), Ok(Options::default()), "{value}");
    }
}

#[test]
fn max_forwards_counts_down_to_this_proxy() {
    for (method, value, reach, left) in [
        ("TRACE", "0", Reach::Here, "0"),
        ("OPTIONS", "0", Reach::Here, "0"),
        ("OPTIONS", "3", Reach::Further, "2"),
        ("OPTIONS", "x", Reach::Further, "x"),
        ("GET", "0", Reach::Further, "0"),
    ] {
        let line = format!("{method} http://a.test/ HTTP/1.1");
        let mut head = request(&line, &[&format!("Max-forwards: {value}")]);
        assert_eq!(count_forward(&mut head), reach, "{method} {value}");
        assert_eq!(head.fields.get("max-forwards"), Some(left.as_bytes()));
    }
}

#[test]
fn options_without_a_path_asks_the_server_itself() {
    for (target, expected) in [
        ("http://a.test", "OPTIONS * HTTP/1.1\r\n"),
        ("http://a.test/", "OPTIONS / HTTP/1.1\r\n"),
        ("http://a.test?x", "OPTIONS /?x HTTP/1.1\r\n"),
    ] {
        let seen = forwarded(&format!("OPTIONS {target} HTTP/1.1"), &[]);
        assert!(seen.starts_with(expected), "{seen}");
    }
}

#[test]
fn a_response_says_how_its_body_is_written_and_nothing_else() {
    let head = "HTTP/1.1 200 OK\r\nx-A: 1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\
                Connection: close, x-a2\r\nX-A2: 1\r\nkeep-alive: 5\r\nB: 2";
    let rest = "HTTP/1.1 200 OK\r\nx-A: 1\r\n";
    for (form, expected) in [
        (BodyForm::Chunked(Vec::new()), "B: 2\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (
            BodyForm::Chunked(vec!["gzip".to_owned()]),
            "B: 2\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        ),
        (BodyForm::UntilClose, "B: 2\r\n\r\n"),
        (BodyForm::Counted, "Content-Length: 5\r\nB: 2\r\n\r\n"),
    ] {
        assert_eq!(answered(head, &form), format!("{rest}{expected}"));
    }
    let switch = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade";
    let expected = "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(answered(switch, &BodyForm::Counted), expected);
    let offer = "HTTP/1.1 200 x\r\nUpgrade: h2";
    assert_eq!(answered(offer, &BodyForm::Counted), "HTTP/1.1 200 x\r\n\r\n");
}

proptest! {
    #[test]
    fn random_targets_and_values_never_panic(
        target in prop::collection::vec(any::<u8>(), 0..60),
        value in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let _ = basic(&value);
        for target in [target.clone(), [b"http://", target.as_slice()].concat()] {
            if let Ok(Asked::Elsewhere(address)) = asked(&target) {
                let _ = address.target();
            }
        }
    }
}
