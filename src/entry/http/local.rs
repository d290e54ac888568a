//! The pages for a browser that opens the proxy's port itself. PURE.

use std::net::{IpAddr, SocketAddr};

use hyper::StatusCode;

use super::{answer::Answer, head::RequestHead};
use crate::entry::pac;

/// Answers a request in origin form.
pub(super) fn answer(head: &RequestHead, path: &[u8], local: SocketAddr) -> Answer {
    // A request under a foreign name is a DNS rebinding attack on a local service.
    let host = head.fields.get("host").and_then(|host| std::str::from_utf8(host).ok());
    if !host.is_some_and(|host| is_own_name(host, local.ip())) {
        let sentence = format!(
            "This is a proxy, not a web server: set it as your proxy, or open http://{local}/ for help."
        );
        return Answer::plain(StatusCode::MISDIRECTED_REQUEST, &sentence);
    }
    if !matches!(head.method.as_str(), "GET" | "HEAD") {
        return Answer::plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET is answered here.");
    }
    match path.split(|&byte| byte == b'?').next() {
        Some(b"/") => Answer::document(StatusCode::OK, "text/html; charset=utf-8", page(local)),
        Some(b"/proxy.pac") => {
            Answer::document(StatusCode::OK, pac::CONTENT_TYPE, pac::file(local))
        }
        _ => Answer::plain(StatusCode::NOT_FOUND, "Only / and /proxy.pac are served here."),
    }
}

/// Whether a `Host` field names this machine's loopback or the address the client connected to.
fn is_own_name(host: &str, local: IpAddr) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip.to_canonical() == local.to_canonical(),
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

fn page(local: SocketAddr) -> String {
    format!(
        r#"<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ronproxy</title>
<h1>This is a proxy</h1>
<p>It speaks SOCKS5, SOCKS4a and HTTP on <code>{local}</code>. Point applications at it:</p>
<ul>
<li>a browser: automatic proxy configuration, <a href="/proxy.pac">http://{local}/proxy.pac</a></li>
<li><code>curl --proxy socks5h://{local} http://example.org/</code></li>
<li><code>curl --proxy http://{local} https://example.org/</code></li>
<li>one exit and hint: <code>curl --proxy socks5h://exit=NODE,hint=loss:x@{local} …</code></li>
</ul>
</html>
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::http::head;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        let local = SocketAddr::from(([192, 0, 2, 9], 1080));
        for (host, own) in [
            ("localhost", true),
            ("LOCALHOST:1080", true),
            ("127.0.0.1:1080", true),
            ("127.8.8.8", true),
            ("[::1]:1080", true),
            ("[::1]", true),
            ("192.0.2.9:1080", true),
            ("192.0.2.8:1080", false),
            ("evil.test:1080", false),
            ("localhost.evil.test", false),
            ("127.0.0.1.evil.test", false),
            ("", false),
            (":1080", false),
        ] {
            assert_eq!(is_own_name(host, local.ip()), own, "{host:?}");
        }
    }

    #[test]
    fn each_path_has_its_answer() {
        for (method, path, status) in [
            ("GET", "/", 200),
            ("HEAD", "/proxy.pac", 200),
            ("GET", "/favicon.ico", 404),
            ("POST", "/", 405),
        ] {
            let bytes = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let head = head::request(bytes.as_bytes()).unwrap();
            let answer = answer(&head, path.as_bytes(), ([127, 0, 0, 1], 1080).into());
            assert_eq!(answer.status, status, "{method} {path}");
        }
        let nameless = head::request(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(answer(&nameless, b"/", ([127, 0, 0, 1], 1080).into()).status, 421);
    }
}
