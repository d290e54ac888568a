//! What a proxy does to a message's head. PURE.

use base64::{Engine, prelude::BASE64_STANDARD};
use hyper::{
    HeaderMap, Uri, Version,
    header::{
        CONNECTION, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRANSFER_ENCODING, UPGRADE,
    },
    http::{request, response, uri::PathAndQuery},
};

use crate::{
    entry::{
        auth::{AuthError, Authenticator, text_of},
        options::Options,
    },
    flow::{ParseTargetError, Target},
};

/// Fields about one connection only, whether or not `Connection` names them (RFC 9110, §7.6.1),
/// and those that are between client and proxy (§11.7).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-authentication-info"),
];

/// Fields that no `Connection` field may take away: the message's framing and addressing.
const NEVER_DROPPED: [&str; 2] = ["content-length", "host"];

/// Checks `Proxy-Authorization`.
pub(super) fn authenticate(
    headers: &HeaderMap,
    auth: &Authenticator,
) -> Result<Options, AuthError> {
    let Some(value) = headers.get(PROXY_AUTHORIZATION) else { return auth.anonymous() };
    let credentials = match basic(value) {
        Some(credentials) => credentials,
        None if auth.is_required() => return Err(AuthError::Wrong),
        // Without users a credential of any kind means nothing.
        None => return auth.anonymous(),
    };
    let (user, password) = credentials;
    auth.check(&user, &password)
}

/// The user name and password of a Basic credential (RFC 7617).
fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = text_of(&BASE64_STANDARD.decode(token.trim()).ok()?);
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Where a request in absolute form goes.
pub(super) fn target(uri: &Uri) -> Result<Target, ParseTargetError> {
    let port = match uri.authority().map(|authority| authority.as_str()) {
        // `Uri` drops a port it cannot read; guessing 80 would go somewhere else than asked.
        Some(text) if uri.port().is_none() && has_port(text) => return Err(ParseTargetError::Port),
        _ => uri.port_u16().unwrap_or(80),
    };
    Target::new(uri.host().unwrap_or_default(), port)
}

fn has_port(authority: &str) -> bool {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.ends_with(']'))
}

/// Turns a client's request into the one for the origin.
pub(super) fn to_origin(head: &mut request::Parts) -> Result<(), ParseTargetError> {
    let upgrade = upgrade_of(&head.headers);
    let trailers = wants_trailers(&head.headers);
    drop_hop_by_hop(&mut head.headers);
    if let Some(protocol) = upgrade {
        set_upgrade(&mut head.headers, protocol);
    } else if trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
        head.headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    let host = host_field(&head.uri)?;
    head.headers.insert(HOST, host);
    let path = head.uri.path_and_query().cloned();
    head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    head.version = Version::HTTP_11;
    Ok(())
}

/// Turns an origin's response into the one for the client.
pub(super) fn to_client(head: &mut response::Parts) {
    let switching = head.status == hyper::StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = head.headers.get(UPGRADE).cloned().filter(|_| switching);
    drop_hop_by_hop(&mut head.headers);
    if let Some(protocol) = upgrade {
        set_upgrade(&mut head.headers, protocol);
    }
    head.version = Version::HTTP_11;
}

fn host_field(uri: &Uri) -> Result<HeaderValue, ParseTargetError> {
    let host = uri.host().unwrap_or_default();
    let text = match uri.port_u16() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    HeaderValue::try_from(&text).map_err(|_| ParseTargetError::Host(text))
}

/// The protocol a request asks to switch to. `h2c` is left out: RFC 9113 withdrew it, and its
/// settings field is hop-by-hop.
pub(super) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let named = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE).filter(|_| named)?;
    let h2c = tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case("h2c"));
    (!h2c).then(|| protocol.clone())
}

fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"))
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|token| token.parse().ok())
        .filter(|name: &HeaderName| !NEVER_DROPPED.contains(&name.as_str()))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The comma-separated tokens of a field.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use proptest::prelude::*;

    use super::*;

    fn request(uri: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::get(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_fields_stay_behind() {
        let mut head = request(
            "http://u:p@Example.org:8080/a?b=c",
            &[
                ("host", "wrong.test"),
                ("connection", "keep-alive, X-Mine, Content-Length, Host"),
                ("connection", "x-other"),
                ("x-mine", "1"),
                ("x-other", "1"),
                ("x-kept", "1"),
                ("content-length", "3"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("proxy-authorization", "Basic YTpi"),
                ("te", "deflate"),
                ("upgrade", "websocket"),
            ],
        );
        to_origin(&mut head).unwrap();
        assert_eq!(names(&head.headers), ["content-length", "host", "x-kept"]);
        assert_eq!(head.headers[HOST], "Example.org:8080");
        assert_eq!(head.uri, "/a?b=c");
    }

    #[test]
    fn an_upgrade_is_passed_on_and_h2c_is_not() {
        for (protocol, passed) in [("websocket", true), ("h2c", false), ("foo, H2C", false)] {
            let fields = [("connection", "Upgrade"), ("upgrade", protocol)];
            let mut head = request("http://example.org", &fields);
            to_origin(&mut head).unwrap();
            assert_eq!(head.headers.contains_key(UPGRADE), passed, "{protocol}");
            assert_eq!(head.headers.contains_key(CONNECTION), passed, "{protocol}");
        }
    }

    #[test]
    fn the_target_is_the_uris_host_with_port_80_by_default() {
        for (uri, expected) in [
            ("http://example.org/", Some("example.org:80")),
            ("http://[::1]:8080/", Some("[::1]:8080")),
            ("http://[::1]/", Some("[::1]:80")),
            ("http://user@example.org:81/", Some("example.org:81")),
            ("http://example.org:99999/", None),
            ("http://example.org:0/", None),
        ] {
            let Ok(uri) = uri.parse::<Uri>() else {
                assert_eq!(expected, None, "{uri}");
                continue;
            };
            let found = target(&uri).ok().map(|target| target.to_string());
            assert_eq!(found.as_deref(), expected, "{uri}");
        }
    }

    #[test]
    fn basic_credentials_are_read_and_others_are_not() {
        for (value, expected) in [
            ("Basic YW5uOm9uZQ==", Some(("ann", "one"))),
            ("basic  YW5uOm9uZTp0d28=", Some(("ann", "one:two"))),
            ("Basic", None),
            ("Basic YW5u", None),
            ("Bearer YW5uOm9uZQ==", None),
        ] {
            let found = basic(&HeaderValue::from_static(value));
            let expected = expected.map(|(user, password)| (user.to_owned(), password.to_owned()));
            assert_eq!(found, expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn random_field_values_never_panic(value in proptest::collection::vec(any::<u8>(), 0..99)) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            let _ = basic(&value);
            let mut head = request("http://example.org/", &[]);
            head.headers.insert(CONNECTION, value.clone());
            head.headers.insert(UPGRADE, value);
            to_origin(&mut head).unwrap();
        }
    }
}
