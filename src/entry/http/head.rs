//! Reading the heads of messages (RFC 9112). PURE.
//!
//! Requests are read strictly: the program that sends an ambiguous one can correct it. Responses are read as
//! browsers read them, because a user can do nothing about a server, and are written anew, so that the
//! next reader has only one way to understand them.

use super::{MAX_HTTP_HEADERS, fields::Fields};

/// A request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestHead {
    pub(super) method: String,
    /// The request target as it was sent; free of spaces and controls.
    pub(super) target: Vec<u8>,
    pub(super) version: Version,
    pub(super) fields: Fields,
}

/// A response's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResponseHead {
    pub(super) version: Version,
    pub(super) status: u16,
    pub(super) reason: Vec<u8>,
    pub(super) fields: Fields,
}

/// The versions of HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Http10,
    /// 1.1, or a later 1.x, which is to be read as 1.1.
    Http11,
}

/// Why a head cannot be used. Each message completes "The request" or "The server's answer". The bytes
/// that it is about are apart: they may name a destination, which the log does not show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    #[error("does not begin with METHOD ADDRESS HTTP/1.1")]
    RequestLine(Quoted),
    #[error("has a character in its address that must be escaped with %")]
    Address(Quoted),
    #[error("is in another version than HTTP/1.0 and HTTP/1.1")]
    Version(Quoted),
    #[error("does not begin with an HTTP/1 status line")]
    StatusLine(Quoted),
    #[error("has a line without a colon in its head, line {0}")]
    NoColon(usize, Quoted),
    #[error("has a folded line in its head, line {0}")]
    Folded(usize, Quoted),
    #[error("has no valid field name in line {0} of its head")]
    Name(usize, Quoted),
    #[error("has a control character in line {0} of its head")]
    Control(usize, Quoted),
    #[error("has more than {MAX_HTTP_HEADERS} fields in its head")]
    TooMany,
}

/// Bytes of a peer as people may see them: printable, and not too many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quoted(String);

impl Quoted {
    fn new(bytes: &[u8]) -> Self {
        const SHOWN: usize = 60;
        let text = String::from_utf8_lossy(bytes.get(..SHOWN).unwrap_or(bytes));
        Self(format!("{text:?}{}", if bytes.len() > SHOWN { "…" } else { "" }))
    }
}

impl std::fmt::Display for Quoted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl BadHead {
    /// The bytes that it is about.
    pub(super) fn quoted(&self) -> Option<&Quoted> {
        match self {
            Self::RequestLine(quoted)
            | Self::Address(quoted)
            | Self::Version(quoted)
            | Self::StatusLine(quoted)
            | Self::NoColon(_, quoted)
            | Self::Folded(_, quoted)
            | Self::Name(_, quoted)
            | Self::Control(_, quoted) => Some(quoted),
            Self::TooMany => None,
        }
    }
}

/// Where the head at the start of `bytes` ends: behind its empty line. Empty lines before it belong to
/// it (RFC 9112, §2.2). It does not end within the first `seen` bytes.
pub(super) fn end(bytes: &[u8], seen: usize) -> Option<usize> {
    // The last three of those may begin its end.
    let mut at = blank(bytes).max(seen.saturating_sub(3));
    while let Some(found) = bytes[at..].iter().position(|&byte| byte == b'\n') {
        at += found + 1;
        match bytes.get(at..) {
            Some([b'\n', ..]) => return Some(at + 1),
            Some([b'\r', b'\n', ..]) => return Some(at + 2),
            _ => {}
        }
    }
    None
}

/// How many bytes of empty lines `bytes` begins with.
pub(super) fn blank(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}

/// Reads a request's head, its empty line included.
pub(super) fn request(bytes: &[u8]) -> Result<RequestHead, BadHead> {
    let mut lines = lines(bytes);
    let first = lines.next().map_or(&b""[..], |(_, line)| line);
    let mut parts = first.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BadHead::RequestLine(Quoted::new(first)));
    };
    let version = match version {
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Version::Http11,
        _ if version.starts_with(b"HTTP/") => return Err(BadHead::Version(Quoted::new(version))),
        _ => return Err(BadHead::RequestLine(Quoted::new(first))),
    };
    if !is_token(method) || target.is_empty() {
        return Err(BadHead::RequestLine(Quoted::new(first)));
    }
    if target.iter().any(|&byte| is_control(byte) || byte == b'\t') {
        return Err(BadHead::Address(Quoted::new(target)));
    }
    let fields = fields(lines, Reading::Strict)?;
    let method = String::from_utf8_lossy(method).into_owned();
    Ok(RequestHead { method, target: target.to_vec(), version, fields })
}

/// Reads a response's head, its empty line included.
pub(super) fn response(bytes: &[u8]) -> Result<ResponseHead, BadHead> {
    let mut lines = lines(bytes);
    let first = lines.next().map_or(&b""[..], |(_, line)| line);
    let (version, status, reason) =
        status_line(first).ok_or_else(|| BadHead::StatusLine(Quoted::new(first)))?;
    let fields = fields(lines, Reading::Lenient)?;
    Ok(ResponseHead { version, status, reason, fields })
}

/// Reads trailers, their empty line included.
pub(super) fn trailers(bytes: &[u8], reading: Reading) -> Result<Fields, BadHead> {
    // Their lines are counted like those of a head, which has one line more.
    fields(lines(bytes), reading)
}

fn status_line(line: &[u8]) -> Option<(Version, u16, Vec<u8>)> {
    let (name, rest) = line.split_at_checked(5)?;
    if !name.eq_ignore_ascii_case(b"HTTP/") {
        return None;
    }
    let [major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9', b' ', rest @ ..] = rest else {
        return None;
    };
    let version = match (major, minor) {
        (b'0', _) | (b'1', b'0') => Version::Http10,
        _ => Version::Http11,
    };
    let rest = rest.trim_ascii_start();
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', reason @ ..] = rest else {
        return None;
    };
    if reason.first().is_some_and(|&byte| !matches!(byte, b' ' | b'\t')) {
        return None;
    }
    let digit = |byte: &u8| u16::from(byte - b'0');
    let status = digit(a) * 100 + digit(b) * 10 + digit(c);
    Some((version, status, printable(reason)))
}

/// How much a reader forgives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Everything that two readers may understand differently is an error.
    Strict,
    /// As browsers do: a folded line belongs to the one before, a space before the colon is dropped, a
    /// line that is no field is left out, a control byte in a value becomes a space.
    Lenient,
}

fn fields<'a>(
    lines: impl Iterator<Item = (usize, &'a [u8])>,
    reading: Reading,
) -> Result<Fields, BadHead> {
    let strict = reading == Reading::Strict;
    let mut fields = Fields::default();
    // The last line's field, which a folded line may continue.
    let mut last: Option<Part> = None;
    for (number, line) in lines.take_while(|(_, line)| !line.is_empty()) {
        let part = if matches!(line.first(), Some(b' ' | b'\t')) {
            if strict {
                return Err(BadHead::Folded(number, Quoted::new(line)));
            }
            last.take().map(|part| Part { value: trim(line), folded: true, ..part })
        } else {
            part(number, line, strict)?
        };
        let Some(part) = part else {
            tracing::debug!(number, line = %Quoted::new(line), "left out a line that is no field");
            last = None;
            continue;
        };
        if (strict || part.frames) && part.value.iter().copied().any(is_control) {
            return Err(BadHead::Control(number, Quoted::new(line)));
        }
        if part.folded {
            fields.continue_last(&printable(part.value));
        } else if fields.len() < MAX_HTTP_HEADERS {
            fields.push(part.name, printable(part.value));
        } else {
            return Err(BadHead::TooMany);
        }
        last = Some(part);
    }
    Ok(fields)
}

/// What one line adds to the fields.
#[derive(Clone, Copy)]
struct Part<'a> {
    name: &'a str,
    value: &'a [u8],
    /// Whether the line continues the field before.
    folded: bool,
    /// Whether the field says where the body ends.
    frames: bool,
}

/// The field that a line is; `None` if it is none and that is forgiven.
fn part(number: usize, line: &[u8], strict: bool) -> Result<Option<Part<'_>>, BadHead> {
    let Some(colon) = line.iter().position(|&byte| byte == b':') else {
        let error = BadHead::NoColon(number, Quoted::new(line));
        return if strict { Err(error) } else { Ok(None) };
    };
    let name = if strict { &line[..colon] } else { trim(&line[..colon]) };
    match std::str::from_utf8(name) {
        Ok(name) if is_token(name.as_bytes()) => {
            let framing = ["content-length", "transfer-encoding"];
            let frames = framing.iter().any(|known| name.eq_ignore_ascii_case(known));
            Ok(Some(Part { name, value: trim(&line[colon + 1..]), folded: false, frames }))
        }
        _ if strict => Err(BadHead::Name(number, Quoted::new(line))),
        _ => Ok(None),
    }
}

/// The lines from the first that is not empty on, numbered from 1, without their ends.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = bytes[blank(bytes)..].split(|&byte| byte == b'\n');
    (1..).zip(lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)))
}

/// Without spaces and tabs at both ends.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The bytes with each control replaced by a space (RFC 9110, §5.5).
fn printable(bytes: &[u8]) -> Vec<u8> {
    let clean = |&byte: &u8| if is_control(byte) { b' ' } else { byte };
    trim(&bytes.iter().map(clean).collect::<Vec<u8>>()).to_vec()
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// Whether `bytes` are a token (RFC 9110, §5.6.2).
fn is_token(bytes: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(allowed)
}

impl RequestHead {
    /// Whether the client keeps the connection for a further request.
    pub(super) fn keeps_alive(&self) -> bool {
        let says = |token| {
            self.fields.has_token("connection", token)
                || self.fields.has_token("proxy-connection", token)
        };
        match self.version {
            Version::Http11 => !says("close"),
            Version::Http10 => says("keep-alive") && !says("close"),
        }
    }

    /// The head as it goes to the origin.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        out.extend_from_slice(&self.target);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        self.fields.write(&mut out);
        out
    }
}

impl ResponseHead {
    /// Whether the origin keeps the connection for a further request.
    pub(super) fn keeps_alive(&self) -> bool {
        match self.version {
            Version::Http11 => !self.fields.has_token("connection", "close"),
            Version::Http10 => self.fields.has_token("connection", "keep-alive"),
        }
    }

    /// The head as it goes to the client.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(format!("HTTP/1.1 {} ", self.status).as_bytes());
        out.extend_from_slice(&self.reason);
        out.extend_from_slice(b"\r\n");
        self.fields.write(&mut out);
        out
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
