//! The pages for a browser that opens the proxy's port itself. PURE.

use std::net::{IpAddr, SocketAddr};

use hyper::{Method, Request, StatusCode, header::HOST};

use super::answer::{Answer, document, plain};
use crate::entry::pac;

/// Answers a request in origin form.
pub(super) fn answer<B>(request: &Request<B>, local: SocketAddr) -> Answer {
    // A page that reaches us under a foreign name is a rebinding attack on a local service.
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(|host| is_own_name(host, local.ip())) {
        let sentence = format!(
            "This is a proxy, not a web server: set it as your proxy, or open http://{local}/ for help."
        );
        return plain(StatusCode::MISDIRECTED_REQUEST, &sentence);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET is answered here.");
    }
    match request.uri().path() {
        "/" => document(StatusCode::OK, "text/html; charset=utf-8", page(local)),
        "/proxy.pac" => document(StatusCode::OK, pac::CONTENT_TYPE, pac::file(local)),
        _ => plain(StatusCode::NOT_FOUND, "Only / and /proxy.pac are served here."),
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
            let request =
                Request::builder().method(method).uri(path).header(HOST, "localhost").body(());
            let answer = answer(&request.unwrap(), ([127, 0, 0, 1], 1080).into());
            assert_eq!(answer.status(), status, "{method} {path}");
        }
        let nameless = Request::get("/").body(()).unwrap();
        assert_eq!(answer(&nameless, ([127, 0, 0, 1], 1080).into()).status(), 421);
    }
}
