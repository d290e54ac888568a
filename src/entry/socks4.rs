//! SOCKS4 and SOCKS4a, for clients that know nothing newer.

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tracing::{debug, info};

use super::{
    auth::{AuthError, text_of},
    options::{Options, OptionsError},
    session::{Session, close},
};
use crate::flow::{Ingress, ParseTargetError, Target};

/// Longest user name in bytes, without its final zero. The protocol sets no limit; login names and
/// random names of isolation stay far below.
const MAX_USER: usize = 1024;
/// Longest domain name, likewise.
const MAX_DOMAIN: usize = 255;
/// Version, command, port, address.
const FIXED: usize = 8;
/// Longest request. What a client sends beyond it belongs to the flow.
const MAX_REQUEST: usize = FIXED + MAX_USER + 1 + MAX_DOMAIN + 1;
/// The command CONNECT; the only other one is BIND.
const CONNECT: u8 = 1;
/// Reply codes: SOCKS4 has one for every failure that is not about identd.
const GRANTED: u8 = 90;
const REJECTED: u8 = 91;

/// A complete request.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    target: Target,
    user: String,
    /// Its length in bytes.
    length: usize,
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("not SOCKS4")]
    Version,
    #[error("command {0} is not supported, only CONNECT is")]
    Command(u8),
    #[error("a user name or domain name exceeds {0} bytes")]
    TooLong(usize),
    #[error(transparent)]
    Target(#[from] ParseTargetError),
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error("SOCKS4 has no password; use SOCKS5 or HTTP ({0})")]
    Auth(#[from] AuthError),
}

/// Serves one SOCKS4 client to its end.
pub(super) async fn serve(mut tcp: TcpStream, session: &Session) {
    let (target, options, preread) = match session.handshake(handshake(&mut tcp, session)).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) => {
            match &error {
                Failed::Auth(_) | Failed::Options(_) | Failed::Command(_) => {
                    info!(client = %session.client, %error, "SOCKS4 client refused");
                }
                _ => debug!(client = %session.client, %error, "SOCKS4 handshake failed"),
            }
            return reject(tcp).await;
        }
        Err(abandoned) => return debug!(client = %session.client, %abandoned, "SOCKS4 client cut"),
    };
    match session.open_for(&tcp, target, options, Ingress::Socks4).await {
        None => {}
        Some(Err(_)) => reject(tcp).await,
        Some(Ok(opened)) => match tcp.write_all(&reply(GRANTED)).await {
            Ok(()) => opened.splice(tcp, preread).await,
            Err(error) => opened.span.in_scope(|| debug!(%error, "the client left")),
        },
    }
}

async fn handshake(
    tcp: &mut TcpStream,
    session: &Session,
) -> Result<(Target, Options, Bytes), Failed> {
    let anonymous = session.shared.auth.anonymous()?;
    let mut buffer = BytesMut::with_capacity(MAX_REQUEST);
    let request = loop {
        if let Some(request) = parse(&buffer)? {
            break request;
        }
        // The parser refuses what is longer than MAX_REQUEST, so this ends.
        if tcp.read_buf(&mut buffer).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    };
    let options = Options { user: anonymous.user, ..Options::of_name(&request.user)? };
    Ok((request.target, options, buffer.split_off(request.length).freeze()))
}

async fn reject(mut tcp: TcpStream) {
    if tcp.write_all(&reply(REJECTED)).await.is_ok() {
        close(tcp).await;
    }
}

fn reply(code: u8) -> [u8; 8] {
    [0, code, 0, 0, 0, 0, 0, 0]
}

/// Reads a request off the start of `bytes`; `None` when more bytes are needed.
fn parse(bytes: &[u8]) -> Result<Option<Request>, Failed> {
    if bytes.first().is_some_and(|&version| version != 4) {
        return Err(Failed::Version);
    }
    if let Some(&command) = bytes.get(1).filter(|&&command| command != CONNECT) {
        return Err(Failed::Command(command));
    }
    let Some((&[_, _, p1, p2, a, b, c, d], rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(None);
    };
    let Some((user, after_user)) = text(rest, MAX_USER)? else { return Ok(None) };
    let port = u16::from_be_bytes([p1, p2]);
    // 4a: the impossible address 0.0.0.x, x not 0, says that a name follows.
    let (host, rest) = if [a, b, c] == [0; 3] && d != 0 {
        let Some((domain, rest)) = text(after_user, MAX_DOMAIN)? else { return Ok(None) };
        (domain, rest)
    } else {
        (std::net::Ipv4Addr::new(a, b, c, d).to_string(), after_user)
    };
    let target = Target::new(&host, port)?;
    Ok(Some(Request { target, user, length: bytes.len() - rest.len() }))
}

/// A zero-terminated text and what follows it; `None` when its end has not arrived.
fn text(bytes: &[u8], longest: usize) -> Result<Option<(String, &[u8])>, Failed> {
    match bytes.iter().take(longest + 1).position(|&byte| byte == 0) {
        Some(end) => Ok(Some((text_of(&bytes[..end]), &bytes[end + 1..]))),
        None if bytes.len() > longest => Err(Failed::TooLong(longest)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: &[u8] = b"\x04\x01\x00\x50\xc0\x00\x02\x07ann\0GET /";
    const V4A: &[u8] = b"\x04\x01\x01\xbb\x00\x00\x00\x01\0example.org\0hello";

    #[test]
    fn both_versions_are_read_and_what_follows_is_left() {
        for (bytes, target, user, rest) in [
            (V4, "192.0.2.7:80", "ann", &b"GET /"[..]),
            (V4A, "example.org:443", "", &b"hello"[..]),
        ] {
            let request = parse(bytes).unwrap().unwrap();
            assert_eq!(request.target.to_string(), target);
            assert_eq!(request.user, user);
            assert_eq!(&bytes[request.length..], rest);
        }
    }

    #[test]
    fn an_identity_may_be_long_and_of_any_bytes() {
        for user in [&b"\xff\xfe"[..], &[b'x'; 256], b"J\xf6rg=1"] {
            let bytes = [&V4[..8], user, b"\0"].concat();
            let request = parse(&bytes).unwrap().unwrap();
            assert_eq!(Options::of_name(&request.user), Ok(Options::default()), "{user:?}");
        }
    }

    #[test]
    fn a_truncated_request_waits_for_the_rest() {
        for whole in [V4, V4A] {
            let length = parse(whole).unwrap().unwrap().length;
            for end in 0..length {
                assert_eq!(parse(&whole[..end]).unwrap(), None, "{end} bytes");
            }
        }
    }

    #[test]
    fn forbidden_input_is_refused_as_soon_as_it_is_seen() {
        let long_user = [&V4[..8], &[b'x'; 1025]].concat();
        let long_domain = [&V4A[..9], &[b'x'; 256]].concat();
        let zero_port = b"\x04\x01\x00\x00\xc0\x00\x02\x07\0";
        let bad_name = b"\x04\x01\x00\x50\x00\x00\x00\x01\0a b\0";
        for bytes in [&b"\x05"[..], b"\x04\x02", &long_user, &long_domain, zero_port, bad_name] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_make_it_wait_beyond_the_longest_request(
            tail in proptest::collection::vec(any::<u8>(), 0..1600),
            prefix in prop_oneof![Just(&b""[..]), Just(&b"\x04\x01"[..]), Just(&V4A[..8])],
        ) {
            let bytes = [prefix, &tail].concat();
            match parse(&bytes) {
                Ok(Some(request)) => prop_assert!(request.length <= MAX_REQUEST),
                Ok(None) => prop_assert!(bytes.len() < MAX_REQUEST),
                Err(_) => {}
            }
        }
    }
}
