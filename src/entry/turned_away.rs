//! The answer to a client that is refused because of its user.
//!
//! The client gets a refusal in its own protocol. This code does not use the parsers of other
//! clients, so a user without permission cannot attack them.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{detect::Protocol, refused::LocalRefusal, session::close};

/// How long the client may take for its request. It is on this machine, and holds a place
/// meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// SOCKS5 replies (RFC 1928): the method without authentication or with a name and a password, and
/// "connection not allowed by ruleset".
const NO_AUTHENTICATION: u8 = 0;
const USER_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const NOT_ALLOWED: [u8; 10] = [5, 2, 0, 1, 0, 0, 0, 0, 0, 0];
/// SOCKS4: rejected.
const REJECTED: [u8; 8] = [0, 91, 0, 0, 0, 0, 0, 0];

/// Answers the client, and closes the connection.
pub(super) async fn turn_away(mut tcp: TcpStream, refusal: LocalRefusal) {
    // The client may not read the answer.
    let _ = timeout(PATIENCE, tell(&mut tcp, refusal)).await;
    close(tcp).await;
}

async fn tell(tcp: &mut TcpStream, refusal: LocalRefusal) -> io::Result<()> {
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Ok(());
    }
    match Protocol::of(first[0]) {
        Protocol::Socks5 => socks5(tcp).await,
        Protocol::Socks4 => tcp.write_all(&REJECTED).await,
        Protocol::Http | Protocol::Unknown => tcp.write_all(page(refusal).as_bytes()).await,
        // It speaks a protocol without a fitting answer.
        Protocol::Tls => Ok(()),
    }
}

/// The refusal of SOCKS5 is a reply to the request, so the exchange before it takes place.
async fn socks5(tcp: &mut TcpStream) -> io::Result<()> {
    let [_, methods] = read(tcp).await?;
    let mut offered = vec![0; methods.into()];
    tcp.read_exact(&mut offered).await?;
    let method = [NO_AUTHENTICATION, USER_PASSWORD].into_iter().find(|m| offered.contains(m));
    tcp.write_all(&[5, method.unwrap_or(NO_METHOD)]).await?;
    match method {
        None => return Ok(()),
        Some(USER_PASSWORD) => {
            let [_, user] = read(tcp).await?;
            skip(tcp, user).await?;
            let [password] = read(tcp).await?;
            skip(tcp, password).await?;
            tcp.write_all(&[1, 0]).await?;
        }
        Some(_) => {}
    }
    // Version, command, reserved, kind of address: the rest is thrown away with the connection.
    let _: [u8; 4] = read(tcp).await?;
    tcp.write_all(&NOT_ALLOWED).await
}

async fn read<const N: usize>(tcp: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    tcp.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn skip(tcp: &mut TcpStream, length: u8) -> io::Result<()> {
    tcp.read_exact(&mut vec![0; length.into()]).await.map(drop)
}

fn page(refusal: LocalRefusal) -> String {
    let text = format!("{refusal}\n");
    format!(
        "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n\r\n{text}",
        text.len()
    )
}
