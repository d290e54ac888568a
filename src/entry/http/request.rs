//! Rewrites the head of a request for the origin, and of a response for the client (RFC 9110,
//! section 7.6). PURE.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    fields::Fields,
    head::{RequestHead, ResponseHead, Version},
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
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
];

/// Fields that a `Connection` field may not remove: the message's framing and addressing.
const NEVER_DROPPED: [&str; 2] = ["content-length", "host"];

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// A page of the proxy itself, by path.
    Own(Vec<u8>),
    /// A resource elsewhere.
    Elsewhere(Address),
}

/// The address of a request in absolute form (RFC 9112, §3.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) scheme: String,
    /// Host and port as they were written, without user information.
    pub(super) authority: String,
    /// Path and query; empty if there is neither.
    pub(super) path: Vec<u8>,
}

/// Why a request's address is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadAddress {
    #[error("the address must begin with http:// or with a slash")]
    Form,
    #[error(transparent)]
    Target(#[from] ParseTargetError),
}

/// Reads a request target other than that of CONNECT.
pub(super) fn asked(target: &[u8]) -> Result<Asked, BadAddress> {
    if target.first() == Some(&b'/') {
        return Ok(Asked::Own(target.to_vec()));
    }
    let colon = target.windows(3).position(|three| three == b"://").ok_or(BadAddress::Form)?;
    let (scheme, rest) = (&target[..colon], &target[colon + 3..]);
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    if scheme.is_empty() || !scheme.iter().all(is_scheme) {
        return Err(BadAddress::Form);
    }
    // A fragment is not sent to servers.
    let rest = rest.split(|&byte| byte == b'#').next().unwrap_or_default();
    let end = rest.iter().position(|byte| b"/?\\".contains(byte)).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if path.first() == Some(&b'\\') {
        return Err(BadAddress::Form);
    }
    let host_at = authority.iter().rposition(|&byte| byte == b'@').map_or(0, |at| at + 1);
    let authority = String::from_utf8_lossy(&authority[host_at..]).into_owned();
    let path = match path.first() {
        Some(b'?') => [b"/", path].concat(),
        _ => path.to_vec(),
    };
    let scheme = String::from_utf8_lossy(scheme).to_ascii_lowercase();
    Ok(Asked::Elsewhere(Address { scheme, authority, path }))
}

impl Address {
    /// Where the request goes; port 80 if the address names none.
    pub(super) fn target(&self) -> Result<Target, ParseTargetError> {
        let (host, port) = match self.authority.rsplit_once(':') {
            // A colon within the brackets of an IPv6 address.
            Some((_, after)) if after.ends_with(']') => (self.authority.as_str(), ""),
            Some((host, port)) => (host, port),
            None => (self.authority.as_str(), ""),
        };
        let port = match port {
            "" => 80,
            port if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().map_err(|_| ParseTargetError::Port)?
            }
            _ => return Err(ParseTargetError::Port),
        };
        if host.contains(':') && !host.starts_with('[') {
            return Err(ParseTargetError::Host(host.chars().take(64).collect()));
        }
        Target::new(host, port)
    }
}

/// Checks `Proxy-Authorization`.
pub(super) fn authenticate(fields: &Fields, auth: &Authenticator) -> Result<Options, AuthError> {
    match fields.get("proxy-authorization").map(basic) {
        Some(Some((user, password))) => auth.check(&user, &password),
        Some(None) if auth.is_required() => Err(AuthError::Wrong),
        // Without configured users, a credential of another kind is ignored.
        Some(None) | None => auth.anonymous(),
    }
}

/// The user name and password of a Basic credential (RFC 7617).
fn basic(value: &[u8]) -> Option<(String, String)> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = text_of(&BASE64_STANDARD.decode(token.trim()).ok()?);
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// The `Max-Forwards` of TRACE or OPTIONS (RFC 9110, section 7.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// This proxy is the last recipient.
    Here,
    /// It is forwarded.
    Further,
}

/// Counts `Max-Forwards` down.
pub(super) fn count_forward(head: &mut RequestHead) -> Reach {
    if !matches!(head.method.as_str(), "TRACE" | "OPTIONS") {
        return Reach::Further;
    }
    let text = head.fields.get("max-forwards").and_then(|value| std::str::from_utf8(value).ok());
    match text.and_then(|text| text.parse::<u32>().ok()) {
        Some(0) => Reach::Here,
        Some(left) => {
            head.fields.set("Max-Forwards", (left - 1).to_string());
            Reach::Further
        }
        None => Reach::Further,
    }
}

/// Turns a client's request into the one for the origin. The body's framing is left to the caller.
pub(super) fn to_origin(head: &mut RequestHead, address: &Address) {
    let upgrade = upgrade_of(head);
    let trailers = head.fields.has_token("te", "trailers");
    let chunked = head.fields.get("transfer-encoding").is_some();
    drop_hop_by_hop(&mut head.fields);
    if let Some(protocol) = upgrade {
        set_upgrade(&mut head.fields, protocol);
    } else if trailers {
        head.fields.push("TE", "trailers");
        head.fields.push("Connection", "TE");
    }
    if head.version == Version::Http10 {
        // Its client does not know interim responses.
        head.fields.remove("expect");
    }
    if chunked {
        head.fields.push("Transfer-Encoding", "chunked");
    } else if let Some(length) = head.fields.get("content-length").map(first_number) {
        head.fields.set("Content-Length", length);
    }
    head.fields.set_first("Host", address.authority.as_bytes());
    head.target = match (head.method.as_str(), address.path.as_slice()) {
        ("OPTIONS", b"") => b"*".to_vec(),
        (_, b"") => b"/".to_vec(),
        (_, path) => path.to_vec(),
    };
}

/// One of several equal numbers.
fn first_number(value: &[u8]) -> Vec<u8> {
    value.split(|&byte| byte == b',').next().unwrap_or_default().trim_ascii().to_vec()
}

/// How a response's body is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BodyForm {
    /// As many bytes as `Content-Length` says, or none.
    Counted,
    /// In chunks, with these transfer codings beneath.
    Chunked(Vec<String>),
    /// Until the connection ends.
    UntilClose,
}

/// Turns an origin's response into the one for the client.
pub(super) fn to_client(head: &mut ResponseHead, form: &BodyForm) {
    let upgrade = head.fields.get("upgrade").map(<[u8]>::to_vec).filter(|_| head.status == 101);
    drop_hop_by_hop(&mut head.fields);
    if let Some(protocol) = upgrade {
        set_upgrade(&mut head.fields, protocol);
    }
    match form {
        BodyForm::Counted => {
            if let Some(length) = head.fields.get("content-length").map(first_number) {
                head.fields.set("Content-Length", length);
            }
            if matches!(head.status, 100..=199 | 204) {
                head.fields.remove("content-length");
            }
        }
        BodyForm::Chunked(codings) => {
            head.fields.remove("content-length");
            let all: String = codings.iter().map(|coding| format!("{coding}, ")).collect();
            head.fields.push("Transfer-Encoding", format!("{all}chunked"));
        }
        BodyForm::UntilClose => head.fields.remove("content-length"),
    }
}

/// The protocol a request asks to switch to. `h2c` is left out: RFC 9113 withdrew it, and its
/// settings field is hop-by-hop.
pub(super) fn upgrade_of(head: &RequestHead) -> Option<Vec<u8>> {
    let asks = head.version == Version::Http11 && head.fields.has_token("connection", "upgrade");
    let protocol = head.fields.get("upgrade").filter(|_| asks)?;
    (!head.fields.has_token("upgrade", "h2c")).then(|| protocol.to_vec())
}

fn set_upgrade(fields: &mut Fields, protocol: Vec<u8>) {
    fields.push("Connection", "Upgrade");
    fields.push("Upgrade", protocol);
}

fn drop_hop_by_hop(fields: &mut Fields) {
    let named: Vec<String> = fields
        .tokens("connection")
        .filter(|name| !NEVER_DROPPED.iter().any(|kept| kept.eq_ignore_ascii_case(name)))
        .map(str::to_owned)
        .collect();
    for name in named.iter().map(String::as_str).chain(HOP_BY_HOP) {
        fields.remove(name);
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
