//! A small client of the proxy, in each of the ways an application may speak to it.
//!
//! It is written by hand so that the demo proves the proxy with what goes over the wire, and names
//! are never resolved on this side.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::object::Hash;

/// The longest answer to CONNECT that is read.
const MAX_HEAD: usize = 8 * 1024;

/// How a request reaches the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// SOCKS5 with the name resolved at the far end: curl's `socks5h`.
    Socks5,
    /// HTTP, the request in absolute form.
    Forward,
    /// HTTP CONNECT.
    Connect,
}

/// Why a request got no answer from the site.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The connection to the proxy.
    #[error("the connection to the proxy failed: {0}")]
    Io(#[from] io::Error),
    /// HTTP.
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    /// The request cannot be built.
    #[error("no such request: {0}")]
    Request(#[from] hyper::http::Error),
    /// The SOCKS server's reply code (RFC 1928, §6).
    #[error("SOCKS5 reply {0}")]
    Socks(u8),
    /// The proxy's status for CONNECT, with its head.
    #[error("CONNECT was answered with status {status}")]
    Connect {
        /// The status.
        status: u16,
        /// The whole head.
        head: String,
    },
    /// The peer does not speak the protocol.
    #[error("the proxy answered something else than {0}")]
    Protocol(&'static str),
    /// The site's answer is not the one asked for.
    #[error("the site answered with status {0}")]
    Status(u16),
}

/// A download that arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Download {
    /// Its bytes.
    pub bytes: u64,
    /// Its digest in hexadecimal.
    pub sha256: String,
    /// From the request to the last byte.
    pub took: Duration,
    /// The longest time without a byte, once the first had come.
    pub stall: Duration,
}

impl Download {
    /// Megabits per second.
    #[must_use]
    pub(super) fn mbit(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let bits = self.bytes as f64 * 8.0;
        bits / self.took.as_secs_f64().max(1e-3) / 1e6
    }
}

/// A client of the proxy at an address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    proxy: SocketAddr,
}

impl Client {
    /// A client of this proxy.
    #[must_use]
    pub(super) const fn new(proxy: SocketAddr) -> Self {
        Self { proxy }
    }

    /// Sends one request for `path` at `host`, with `body` by POST if there is one.
    ///
    /// # Errors
    /// When no answer comes; an answer with any status is one.
    pub(super) async fn ask(
        &self,
        way: Way,
        host: &str,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut tcp = TcpStream::connect(self.proxy).await?;
        tcp.set_nodelay(true)?;
        match way {
            Way::Socks5 => socks5(&mut tcp, host).await?,
            Way::Connect => connect(&mut tcp, host).await?,
            Way::Forward => {}
        }
        let uri =
            if way == Way::Forward { format!("http://{host}{path}") } else { path.to_owned() };
        let method = if body.is_some() { "POST" } else { "GET" };
        let request = Request::builder().method(method).uri(uri).header("Host", host);
        let request = request.body(http_body_util::Full::new(body.unwrap_or_default()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
        tokio::spawn(async move {
            // The reader of the answer sees the same error.
            let _ = connection.await;
        });
        Ok(sender.send_request(request).await?)
    }

    /// Downloads `path` through SOCKS5, telling `progress` the bytes so far.
    ///
    /// # Errors
    /// When the answer is not 200 or breaks off.
    pub(super) async fn download(
        &self,
        host: &str,
        path: &str,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<Download, ClientError> {
        let start = Instant::now();
        let mut answer = self.ask(Way::Socks5, host, path, None).await?;
        if answer.status() != 200 {
            return Err(ClientError::Status(answer.status().as_u16()));
        }
        let (mut hash, mut last, mut stall) = (Hash::default(), Instant::now(), Duration::ZERO);
        while let Some(frame) = answer.frame().await {
            hash.update(frame?.data_ref().map_or(&[], |data| data));
            stall = stall.max(last.elapsed());
            last = Instant::now();
            progress(hash.count());
        }
        let bytes = hash.count();
        Ok(Download { bytes, sha256: hash.hex(), took: start.elapsed(), stall })
    }
}

/// The whole body of an answer as text.
///
/// # Errors
/// When it breaks off.
pub(super) async fn text(answer: Response<Incoming>) -> Result<String, ClientError> {
    let bytes = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn socks5(tcp: &mut TcpStream, host: &str) -> Result<(), ClientError> {
    const STRANGE: ClientError = ClientError::Protocol("SOCKS5");
    tcp.write_all(&[5, 1, 0]).await?;
    let mut method = [0; 2];
    tcp.read_exact(&mut method).await?;
    if method != [5, 0] {
        return Err(STRANGE);
    }
    let len = u8::try_from(host.len()).map_err(|_| STRANGE)?;
    let mut request = vec![5, 1, 0, 3, len];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&80u16.to_be_bytes());
    tcp.write_all(&request).await?;
    let mut reply = [0; 4];
    tcp.read_exact(&mut reply).await?;
    match reply {
        [5, 0, _, 1] => drop(tcp.read_exact(&mut [0; 4 + 2]).await?),
        [5, 0, _, 4] => drop(tcp.read_exact(&mut [0; 16 + 2]).await?),
        [5, code, ..] if code != 0 => return Err(ClientError::Socks(code)),
        _ => return Err(STRANGE),
    }
    Ok(())
}

async fn connect(tcp: &mut TcpStream, host: &str) -> Result<(), ClientError> {
    let request = format!("CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n\r\n");
    tcp.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // Byte by byte, because what follows the head belongs to the tunnel.
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        head.push(tcp.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    match status {
        Some(200) => Ok(()),
        Some(status) => Err(ClientError::Connect { status, head }),
        None => Err(ClientError::Protocol("HTTP")),
    }
}
