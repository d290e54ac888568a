//! The pages for a browser that opens the proxy's port itself. PURE.

use std::net::{IpAddr, SocketAddr};

use hyper::StatusCode;

use super::{answer::Answer, head::RequestHead};
use crate::{
    entry::pac::{self, Scope, Wish},
    identity::NodeName,
};

/// What the pages tell about the proxy.
pub(super) struct Around<'a> {
    /// The address that the client connected to.
    pub(super) local: SocketAddr,
    /// The exit for which that port stands.
    pub(super) exit: Option<&'a NodeName>,
    /// The exits for which ports stand, and where these listen.
    pub(super) ports: &'a [(NodeName, SocketAddr)],
    /// What exits serve by their certificates, or this one.
    pub(super) served: &'a dyn Fn(Option<&NodeName>) -> Vec<String>,
}

/// Answers a request in origin form.
pub(super) fn answer(head: &RequestHead, path: &[u8], around: &Around<'_>) -> Answer {
    let local = around.local;
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
    let (path, query) = match path.iter().position(|&byte| byte == b'?') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, &b""[..]),
    };
    match path {
        b"/" => Answer::document(StatusCode::OK, "text/html; charset=utf-8", page(local)),
        b"/proxy.pac" => match Wish::parse(&String::from_utf8_lossy(query)) {
            Ok(wish) => pac(&wish, around),
            Err(error) => Answer::plain(StatusCode::BAD_REQUEST, &error.to_string()),
        },
        _ => Answer::plain(StatusCode::NOT_FOUND, "Only / and /proxy.pac are served here."),
    }
}

/// The PAC file for this wish. Where there is none, an error: a browser would keep a file that sends nothing through
/// the proxy, but asks again after an error.
fn pac(wish: &Wish, around: &Around<'_>) -> Answer {
    let exit = wish.exit.as_ref().or(around.exit);
    let proxy = match &wish.exit {
        Some(exit) if around.exit != Some(exit) => {
            let Some((_, port)) = around.ports.iter().find(|(of, _)| of == exit) else {
                let sentence = format!(
                    "No port of this proxy stands for {exit}, and a browser cannot name an exit itself: add \
                     [[entry.port]] with exit = \"{exit}\" to config.toml, and restart the node."
                );
                return Answer::plain(StatusCode::NOT_FOUND, &sentence);
            };
            let ip = if port.ip().is_unspecified() { around.local.ip() } else { port.ip() };
            SocketAddr::new(ip, port.port())
        }
        _ => around.local,
    };
    if wish.scope == Scope::Everything {
        return Answer::pac(pac::everything(proxy));
    }
    let served = (around.served)(exit);
    if served.is_empty() {
        let who = exit.map_or_else(|| "no exit".to_owned(), |exit| format!("exit {exit} not"));
        let sentence = format!(
            "As far as is known here, {who} has a certificate that names what it serves (invite --serves): leave out \
             only=served, or try again when the node has links."
        );
        return Answer::plain(StatusCode::NOT_FOUND, &sentence);
    }
    Answer::pac(pac::served(proxy, &served))
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
<li>a browser: automatic proxy configuration, <a href="/proxy.pac">http://{local}/proxy.pac</a>; only for
what exits serve, <a href="/proxy.pac?only=served">http://{local}/proxy.pac?only=served</a></li>
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
    use crate::entry::http::{answer::Kept, head};

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

    fn get(request: &str, exit: Option<&str>) -> (u16, String) {
        let exit = exit.map(|name| name.parse().unwrap());
        let serves = |exit: Option<&NodeName>| match exit.map(ToString::to_string).as_deref() {
            None => vec!["mit.edu".to_owned(), "utah.edu".to_owned()],
            Some("mit") => vec!["mit.edu".to_owned()],
            Some(_) => Vec::new(),
        };
        let port = |name: &str, listen: &str| (name.parse().unwrap(), listen.parse().unwrap());
        let ports = [port("mit", "0.0.0.0:1081"), port("open", "127.0.0.2:1082")];
        let local = ([127, 0, 0, 1], 1080).into();
        let around = Around { local, exit: exit.as_ref(), ports: &ports, served: &serves };
        let head = head::request(request.as_bytes()).unwrap();
        let path = request.split(' ').nth(1).unwrap();
        let answer = answer(&head, path.as_bytes(), &around);
        let status = answer.status;
        let bytes = answer.bytes("GET", Kept::Closed);
        (status, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn each_path_has_its_answer() {
        for (method, path, status) in [
            ("GET", "/", 200),
            ("GET", "/?x", 200),
            ("HEAD", "/proxy.pac", 200),
            ("GET", "/favicon.ico", 404),
            ("POST", "/", 405),
        ] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(get(&request, None).0, status, "{method} {path}");
        }
        assert_eq!(get("GET / HTTP/1.0\r\n\r\n", None).0, 421);
    }

    #[test]
    fn a_pac_file_names_the_port_of_the_exit_and_what_it_serves() {
        for (query, at, status, text) in [
            ("", None, 200, "PROXY 127.0.0.1:1080"),
            ("?exit=mit", None, 200, "PROXY 127.0.0.1:1081"),
            ("?exit=open", None, 200, "PROXY 127.0.0.2:1082"),
            // The port itself is the exit's.
            ("?exit=mit", Some("mit"), 200, "PROXY 127.0.0.1:1080"),
            ("?exit=utah", None, 404, "add [[entry.port]] with exit = \"utah\""),
            ("?only=served", None, 200, r#"["mit.edu", "utah.edu"]"#),
            ("?only=served&exit=mit", None, 200, r#"["mit.edu"]"#),
            ("?only=served", Some("mit"), 200, r#"["mit.edu"]"#),
            ("?only=served&exit=open", None, 404, "leave out only=served"),
            ("?only=all", None, 400, "may have only=served and exit=NODE"),
            ("?exit=%6dit", None, 400, "may have only=served and exit=NODE"),
        ] {
            let request = format!("GET /proxy.pac{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let (got, answer) = get(&request, at);
            assert!(got == status && answer.contains(text), "{query} at {at:?}: {answer}");
            assert_eq!(got == 200, answer.contains("nosniff"), "{query}: {answer}");
        }
    }
}
