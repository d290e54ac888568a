use proptest::prelude::*;

use super::*;

fn field<'a>(head: &'a ResponseHead, name: &str) -> Option<&'a str> {
    head.fields.get(name).map(|value| std::str::from_utf8(value).unwrap())
}

#[test]
fn a_request_reads_and_is_written_as_it_came() {
    let bytes = b"\r\nGET http://a.test/x|y?\"\xc3\xa4 HTTP/1.1\r\nHost: a\r\nx-Mine:  1 \r\n\r\n";
    assert_eq!(end(bytes, 0), Some(bytes.len()));
    let head = request(bytes).unwrap();
    assert_eq!((head.method.as_str(), head.version), ("GET", Version::Http11));
    assert_eq!(
        head.bytes(),
        b"GET http://a.test/x|y?\"\xc3\xa4 HTTP/1.1\r\nHost: a\r\nx-Mine: 1\r\n\r\n"
    );
    assert_eq!(request(b"GET / HTTP/1.0\n\n").unwrap().version, Version::Http10);
}

#[test]
fn a_request_that_is_not_clear_is_refused_with_the_line() {
    for (bytes, reason) in [
        (&b"GET /\r\n\r\n"[..], "begin with METHOD"),
        (b"GET  / HTTP/1.1\r\n\r\n", "begin with METHOD"),
        (b"GET /a b HTTP/1.1\r\n\r\n", "begin with METHOD"),
        (b"G(T / HTTP/1.1\r\n\r\n", "begin with METHOD"),
        (b"GET / HTTP/9.9\r\n\r\n", "another version than HTTP/1.0 and HTTP/1.1: \"HTTP/9.9\""),
        (b"GET / HTTP/1.11\r\n\r\n", "version"),
        (b"GET /\x01 HTTP/1.1\r\n\r\n", "escaped"),
        (b"GET /\t HTTP/1.1\r\n\r\n", "escaped"),
        (b"GET / HTTP/1.1\r\nA: 1\r\nfoo\r\n\r\n", "line 3: \"foo\""),
        (b"GET / HTTP/1.1\r\nA: 1\r\n b\r\n\r\n", "folded line in its head, line 3"),
        (b"GET / HTTP/1.1\r\nA : 1\r\n\r\n", "no valid field name in line 2"),
        (b"GET / HTTP/1.1\r\n: 1\r\n\r\n", "no valid field name in line 2"),
        (b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", "control character in line 2"),
        (b"GET / HTTP/1.1\r\nA: b\0\r\n\r\n", "control character in line 2"),
    ] {
        let error = request(bytes).unwrap_err();
        let error = format!("{error}: {}", error.quoted().unwrap());
        assert!(error.contains(reason), "{}: {error}", bytes.escape_ascii());
    }
}

#[test]
fn a_response_is_read_as_browsers_read_it_and_written_clean() {
    let bytes = b"HTTP/1.1 200 OK\r\n lost\r\nA: one\r\n\ttwo\r\n  three\r\nSet-Cookie : c=1\r\n\
        stray line\r\n folded behind it\r\nB: x\x01y\rz\0\r\n(C): d\r\n: e\r\nD:\xff\r\n\r\n";
    let head = response(bytes).unwrap();
    assert_eq!(
        head.bytes(),
        b"HTTP/1.1 200 OK\r\nA: one two three\r\nSet-Cookie: c=1\r\nB: x y z\r\nD: \xff\r\n\r\n"
    );
}

#[test]
fn status_lines_are_read_as_browsers_read_them() {
    for (line, status, reason) in [
        ("HTTP/1.1 200 OK", Some(200), "OK"),
        ("HTTP/1.1 200", Some(200), ""),
        ("http/1.0  404  Not  Found", Some(404), "Not  Found"),
        ("HTTP/1.1 999 \x01a", Some(999), "a"),
        ("HTTP/2.0 200 OK", Some(200), "OK"),
        ("HTTP/1.1 2000", None, ""),
        ("HTTP/1.1 20", None, ""),
        ("HTTP/1.1 099", None, ""),
        ("HTTP/1.1", None, ""),
        ("<html>", None, ""),
        ("", None, ""),
    ] {
        let head = response(format!("{line}\r\n\r\n").as_bytes()).ok();
        assert_eq!(head.as_ref().map(|head| head.status), status, "{line}");
        let found = head.map(|head| head.reason).unwrap_or_default();
        assert_eq!(found, reason.as_bytes(), "{line}");
    }
}

#[test]
fn the_fields_that_frame_a_response_must_be_clean() {
    for line in [
        "Transfer-Encoding: chunked\r\n \x01",
        "Content-Length: 5\x0b",
        "Transfer-Encoding: \x01chunked",
        "content-length : 1\r2",
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\nA: b\r\n{line}\r\n\r\n");
        let error = response(bytes.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("control character in line"), "{error}");
    }
    let spaced = response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n").unwrap();
    assert_eq!(field(&spaced, "transfer-encoding"), Some("chunked"));
}

#[test]
fn more_fields_than_the_cap_are_refused() {
    let of = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert!(response(of(MAX_HTTP_HEADERS).as_bytes()).is_ok());
    assert_eq!(response(of(MAX_HTTP_HEADERS + 1).as_bytes()), Err(BadHead::TooMany));
}

#[test]
fn a_head_ends_at_its_empty_line() {
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1\r\n\r\nrest"[..], Some(18)),
        (b"GET / HTTP/1.1\n\nrest", Some(16)),
        (b"GET / HTTP/1.1\r\n\nrest", Some(17)),
        (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", Some(22)),
        (b"GET / HTTP/1.1\r\nA: b\r\n", None),
        (b"\r\n\r\n", None),
        (b"", None),
    ] {
        for seen in 0..expected.unwrap_or(bytes.len()) {
            assert_eq!(end(bytes, seen), expected, "{}", bytes.escape_ascii());
        }
    }
}

#[test]
fn keeping_alive_follows_the_version_and_the_field() {
    for (head, kept) in [
        ("GET / HTTP/1.1\r\n", true),
        ("GET / HTTP/1.1\r\nConnection: Close\r\n", false),
        ("GET / HTTP/1.1\r\nProxy-Connection: close\r\n", false),
        ("GET / HTTP/1.0\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n", true),
        ("GET / HTTP/1.0\r\nProxy-Connection: keep-alive\r\n", true),
    ] {
        let head = request(format!("{head}\r\n").as_bytes()).unwrap();
        assert_eq!(head.keeps_alive(), kept, "{head:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic_or_write_a_second_head(
        start in prop_oneof![Just("GET / HTTP/1.1\r\n"), Just("HTTP/1.1 200 OK\r\n"), Just("")],
        rest in prop::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), any::<u8>()], 0..80),
    ) {
        let bytes = [start.as_bytes(), &rest, b"\r\n\r\n"].concat();
        let head_end = end(&bytes, 0).unwrap_or(bytes.len());
        let whole = |bytes: Vec<u8>| assert_eq!(end(&bytes, 0), Some(bytes.len()));
        if let Ok(head) = request(&bytes[..head_end]) {
            whole(head.bytes());
        }
        if let Ok(head) = response(&bytes[..head_end]) {
            whole(head.bytes());
            let again = response(&head.bytes()).unwrap();
            prop_assert_eq!(again.fields, head.fields);
        }
    }
}
