//! Whether a request comes from this page or from a program, and not from another web page. PURE.

use std::{borrow::Cow, net::SocketAddr};

use hyper::{
    HeaderMap, Method,
    header::{AUTHORIZATION, COOKIE, HOST, HeaderName, HeaderValue, ORIGIN},
};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// A name that leads here by somebody else's DNS, or none.
    #[error(
        "the Host header does not name this port of this machine; use the address that `ronproxy open` prints"
    )]
    Host,
    /// A page of another origin asks.
    #[error("a page of another origin may not ask this node")]
    Origin,
    /// A change without an Origin, as no browser sends it.
    #[error("a change by cookie needs an Origin header; programs use the bearer token")]
    NoOrigin,
    /// A method that the path does not have.
    #[error("use GET, or POST to change something")]
    Method,
}

/// What a request shows to be let in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown<'a> {
    /// `Authorization: Bearer TOKEN`.
    Bearer(Cow<'a, str>),
    /// Our cookie.
    Cookie(&'a str),
    /// Nothing.
    Nothing,
}

/// The browser says which kind of page made the request (Fetch Metadata, W3C).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The name of our cookie. Browsers keep cookies by host and not by port, so the port is in the name:
/// two nodes of one machine have two sessions.
pub(super) fn cookie_name(listen: SocketAddr) -> String {
    format!("ronproxy-{}", listen.port())
}

/// The methods of all paths.
const METHODS: [Method; 3] = [Method::GET, Method::HEAD, Method::POST];

/// What a path allows beside what all do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Allows<'a> {
    /// Methods.
    pub(super) methods: &'a [Method],
    /// Origins of pages that may ask, with the token.
    pub(super) origins: &'a [String],
}

/// The origin of the page that asks, if it is another one that is allowed.
pub(super) fn foreign<'a>(allows: Allows<'_>, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    let one = headers.get_all(ORIGIN).iter().count() == 1;
    let allowed = |allowed: &String| allowed.as_bytes() == origin.as_bytes();
    (one && allows.origins.iter().any(allowed)).then_some(origin)
}

/// Checks where a request comes from.
pub(super) fn check(
    listen: SocketAddr,
    method: &Method,
    headers: &HeaderMap,
    allows: Allows<'_>,
) -> Result<(), Refused> {
    let hosts = headers.get_all(HOST).iter().collect::<Vec<_>>();
    let [host] = hosts[..] else { return Err(Refused::Host) };
    if !host.to_str().is_ok_and(|host| is_ours(listen, host)) {
        return Err(Refused::Host);
    }
    let foreign = foreign(allows, headers).is_some();
    let asks_first = foreign && *method == Method::OPTIONS;
    if !METHODS.contains(method) && !allows.methods.contains(method) && !asks_first {
        return Err(Refused::Method);
    }
    if foreign {
        return Ok(());
    }
    for origin in headers.get_all(ORIGIN) {
        let ours = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        if ours.is_none_or(|origin| origin.as_bytes() != host.as_bytes()) {
            return Err(Refused::Origin);
        }
    }
    let site = |value: &HeaderValue| matches!(value.as_bytes(), b"same-origin" | b"none");
    if !headers.get_all(FETCH_SITE).iter().all(site) {
        return Err(Refused::Origin);
    }
    Ok(())
}

/// Whether somebody opens a page by a link of another one. Frames and scripts of pages are told apart from that.
pub(super) fn is_visit(method: &Method, headers: &HeaderMap) -> bool {
    let says = |name: &'static str, value: &[u8]| {
        let mut all = headers.get_all(HeaderName::from_static(name)).iter();
        all.next().is_some_and(|one| one.as_bytes() == value) && all.next().is_none()
    };
    *method == Method::GET
        && !headers.contains_key(ORIGIN)
        && says("sec-fetch-mode", b"navigate")
        && says("sec-fetch-dest", b"document")
}

/// Whether a Host header names this port by an address of loopback, or as `localhost`.
fn is_ours(listen: SocketAddr, host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.port() == listen.port() && address.ip().is_loopback();
    }
    host.strip_prefix("localhost:").is_some_and(|port| port == listen.port().to_string())
}

/// What a request shows.
pub(super) fn shown<'a>(listen: SocketAddr, headers: &'a HeaderMap) -> Shown<'a> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let token = value.to_str().ok().and_then(|value| value.split_once(' '));
        return match token {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Shown::Bearer(token.trim().into())
            }
            _ => Shown::Bearer("".into()),
        };
    }
    let name = cookie_name(listen);
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.split_once('='));
    pairs
        .find_map(|(key, value)| (key.trim() == name).then(|| value.trim()))
        .map_or(Shown::Nothing, Shown::Cookie)
}

/// The token in a query: a browser's WebSocket cannot have an Authorization.
pub(super) fn token_in(query: &str) -> Shown<'_> {
    let token = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "token");
    token.map_or(Shown::Nothing, |(_, token)| Shown::Bearer(token))
}

/// A change by cookie must say that it comes from our page: every browser does.
pub(super) fn check_change(method: &Method, headers: &HeaderMap) -> Result<(), Refused> {
    let is_change = ![Method::GET, Method::HEAD].contains(method);
    if is_change && !headers.contains_key(ORIGIN) { Err(Refused::NoOrigin) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn checked(pairs: &[(&str, &str)]) -> Result<(), Refused> {
        check(([127, 0, 0, 1], 1090).into(), &Method::GET, &headers(pairs), Allows::default())
    }

    #[test]
    fn only_a_host_of_this_machine_and_port_is_ours() {
        for host in ["127.0.0.1:1090", "localhost:1090", "[::1]:1090", "127.0.0.2:1090"] {
            assert_eq!(checked(&[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example:1090",
            "localhost.evil.example:1090",
            "127.0.0.1",
            "127.0.0.1:80",
            "192.0.2.1:1090",
            "localhost:1090@evil.example",
            "",
        ] {
            assert_eq!(checked(&[("host", host)]), Err(Refused::Host), "{host}");
        }
        assert_eq!(checked(&[]), Err(Refused::Host));
        let two = [("host", "localhost:1090"), ("host", "evil.example:1090")];
        assert_eq!(checked(&two), Err(Refused::Host));
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let from = |name, value| checked(&[("host", "127.0.0.1:1090"), (name, value)]);
        assert_eq!(from("origin", "http://127.0.0.1:1090"), Ok(()));
        for origin in [
            "http://evil.example",
            "null",
            "http://127.0.0.1:8080",
            "https://127.0.0.1:1090",
            "http://localhost:1090",
        ] {
            assert_eq!(from("origin", origin), Err(Refused::Origin), "{origin}");
        }
        assert_eq!(from("sec-fetch-site", "same-origin"), Ok(()));
        assert_eq!(from("sec-fetch-site", "none"), Ok(()));
        for site in ["cross-site", "same-site", ""] {
            assert_eq!(from("sec-fetch-site", site), Err(Refused::Origin), "{site}");
        }
    }

    #[test]
    fn a_link_of_another_page_is_told_apart_from_frames_and_scripts() {
        let visit = |mode: &str, dest: &str, more: &[(&str, &str)]| {
            let pairs = [&[("sec-fetch-mode", mode), ("sec-fetch-dest", dest)][..], more].concat();
            is_visit(&Method::GET, &headers(&pairs))
        };
        assert!(visit("navigate", "document", &[]));
        assert!(!visit("navigate", "iframe", &[]) && !visit("cors", "empty", &[]));
        assert!(!visit("navigate", "document", &[("origin", "null")]));
        assert!(!visit("navigate", "document", &[("sec-fetch-dest", "iframe")]));
        assert!(!is_visit(&Method::GET, &headers(&[])));
    }

    #[test]
    fn other_methods_and_changes_without_an_origin_are_refused() {
        let listen = ([127, 0, 0, 1], 1090).into();
        let headers = headers(&[("host", "127.0.0.1:1090")]);
        for method in [Method::PUT, Method::DELETE, Method::OPTIONS, Method::CONNECT] {
            assert_eq!(check(listen, &method, &headers, Allows::default()), Err(Refused::Method));
        }
        let put = Allows { methods: &[Method::PUT], origins: &[] };
        assert_eq!(check(listen, &Method::PUT, &headers, put), Ok(()));
        assert_eq!(check_change(&Method::PUT, &headers), Err(Refused::NoOrigin));
        assert_eq!(check_change(&Method::POST, &headers), Err(Refused::NoOrigin));
        assert_eq!(check_change(&Method::GET, &headers), Ok(()));
    }

    #[test]
    fn a_page_of_an_allowed_origin_may_ask_where_that_is_allowed() {
        let (listen, page) = (([127, 0, 0, 1], 1090).into(), "http://yacd.example");
        let origins = [page.to_owned()];
        let allows = Allows { methods: &[], origins: &origins };
        let asked = |method: Method, host: &str, origins: &[&str]| {
            let mut pairs = vec![("host", host), ("sec-fetch-site", "cross-site")];
            pairs.extend(origins.iter().map(|origin| ("origin", *origin)));
            check(listen, &method, &headers(&pairs), allows)
        };
        let here = "127.0.0.1:1090";
        for method in [Method::GET, Method::OPTIONS] {
            assert_eq!(asked(method, here, &[page]), Ok(()));
        }
        assert_eq!(asked(Method::PUT, here, &[page]), Err(Refused::Method));
        assert_eq!(asked(Method::GET, "yacd.example:1090", &[page]), Err(Refused::Host));
        for other in [&["http://evil.example"][..], &["http://yacd.example.evil"], &[page, page]] {
            assert_eq!(asked(Method::GET, here, other), Err(Refused::Origin), "{other:?}");
        }
        assert_eq!(asked(Method::OPTIONS, here, &["http://evil.example"]), Err(Refused::Method));
    }

    #[test]
    fn a_token_or_the_cookie_of_this_port_is_found() {
        let listen = ([127, 0, 0, 1], 1090).into();
        let of = |name, value| headers(&[(name, value)]);
        assert_eq!(shown(listen, &of("authorization", "Bearer abc")), Shown::Bearer("abc".into()));
        assert_eq!(shown(listen, &of("authorization", "Basic abc")), Shown::Bearer("".into()));
        let cookies = of("cookie", "ronproxy-1=x; ronproxy-1090=abc; other=y");
        assert_eq!(shown(listen, &cookies), Shown::Cookie("abc"));
        assert_eq!(shown(listen, &of("cookie", "ronproxy-1=x")), Shown::Nothing);
    }
}
