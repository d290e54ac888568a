//! An HTTP proxy through which TCP connections to members go (CONNECT, RFC 9110, section 9.3.6).

use std::{
    env, fmt, io,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, lookup_host},
};

use crate::eyeballs;

/// The longest head of a proxy's answer that is read, as much as this node's own proxy takes.
const MAX_HEAD: usize = 64 << 10;

/// The port of a proxy that names none, as in curl.
const DEFAULT_PORT: u16 = 1080;

/// An HTTP proxy that the site demands.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpProxy {
    host: String,
    port: u16,
    /// `USER:PASSWORD`.
    credentials: Option<String>,
    /// Where it is not used, by `NO_PROXY`.
    direct: Direct,
}

/// Where connections go without the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Direct(Vec<IpNet>);

/// The text is no proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no HTTP proxy; write http://[USER:PASSWORD@]HOST[:PORT]")]
pub struct ParseProxyError(String);

/// Why a proxy made no connection.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It does not answer.
    #[error("the proxy {0} cannot be reached: {1}")]
    Unreachable(String, io::Error),
    /// It refuses.
    #[error("the proxy {0} refuses: {1}")]
    Refused(String, String),
}

impl FromStr for HttpProxy {
    type Err = ParseProxyError;

    fn from_str(text: &str) -> Result<Self, ParseProxyError> {
        let wrong = || ParseProxyError(without_credentials(text));
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(wrong()),
            None => text,
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let (credentials, at) = match authority.rsplit_once('@') {
            Some((credentials, at)) => (Some(unescaped(credentials).ok_or_else(wrong)?), at),
            None => (None, authority),
        };
        let (host, port) = match at.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (at, DEFAULT_PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        if host.is_empty() || port == 0 || !host.bytes().all(allowed) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port, credentials, direct: Direct::default() })
    }
}

impl HttpProxy {
    /// The proxy that the environment names for HTTPS: `HTTPS_PROXY` or `ALL_PROXY`, without where
    /// `NO_PROXY` says. One on this machine is none: it would mostly be this node's own.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let named = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let either = |name: &str| named(&name.to_lowercase()).or_else(|| named(name));
        let text = either("HTTPS_PROXY").or_else(|| either("ALL_PROXY"))?;
        let proxy: Self = text
            .parse()
            .inspect_err(|error| tracing::warn!(%error, "the environment's proxy is not used"))
            .ok()?;
        let direct = either("NO_PROXY").map_or_else(Direct::default, |list| Direct::parse(&list));
        (!proxy.is_of_this_machine()).then_some(Self { direct, ..proxy })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether connections to `ip` go through it.
    #[must_use]
    pub fn serves(&self, ip: IpAddr) -> bool {
        !self.direct.contains(ip)
    }

    fn is_of_this_machine(&self) -> bool {
        let ip = self.host.parse::<IpAddr>();
        self.host == "localhost" || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
    }

    /// Asks it for a connection to `to`.
    pub(super) async fn connect(&self, to: SocketAddr) -> Result<TcpStream, ProxyError> {
        let unreachable = |error| ProxyError::Unreachable(self.to_string(), error);
        let mut tcp = self.reach().await.map_err(unreachable)?;
        tcp.write_all(self.request(to).as_bytes()).await.map_err(unreachable)?;
        let head = read_head(&mut tcp).await.map_err(unreachable)?;
        let status = status(&head).unwrap_or("an answer that is no HTTP");
        if status.starts_with('2') {
            return Ok(tcp);
        }
        Err(ProxyError::Refused(self.to_string(), crate::text::cleaned(status, 100)))
    }

    /// Connects to the first of its addresses that answers.
    async fn reach(&self) -> io::Result<TcpStream> {
        let all: Vec<_> = lookup_host((&*self.host, self.port)).await?.collect();
        let (tcp, _) = eyeballs::first(&all, TcpStream::connect, |_| false).await?;
        Ok(tcp)
    }

    fn request(&self, to: SocketAddr) -> String {
        let authorization = self.credentials.as_ref().map_or_else(String::new, |credentials| {
            let encoded = BASE64_STANDARD.encode(credentials);
            format!("Proxy-Authorization: Basic {encoded}\r\n")
        });
        format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{authorization}\r\n")
    }
}

/// The head of an answer, with its last empty line. Nothing behind it is read: those bytes are of the
/// connection.
async fn read_head(tcp: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            return Err(io::Error::other("its answer does not end"));
        }
        head.push(tcp.read_u8().await?);
    }
    Ok(head)
}

/// The code and the words of an answer.
fn status(head: &[u8]) -> Option<&str> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let (version, status) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    version.starts_with("HTTP/1.").then_some(status)
}

/// Reads percent escapes.
fn unescaped(text: &str) -> Option<String> {
    // `+` means a space in forms only.
    let escaped = text.replace('+', "%2B");
    let (decoded, _) = form_urlencoded::parse(escaped.as_bytes()).next()?;
    // A form's `=` and `&` end a field.
    (!text.contains(['=', '&'])).then(|| decoded.into_owned())
}

fn without_credentials(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => text.to_owned(),
    }
}

impl Direct {
    /// Reads a list as in `NO_PROXY`. Names do not matter: members are reached by address.
    fn parse(list: &str) -> Self {
        let nets = |item: &str| match item.trim() {
            "*" => vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())],
            item => {
                let ip = || item.parse::<IpAddr>().map(IpNet::from);
                item.parse().or_else(|_| ip()).into_iter().collect()
            }
        };
        Self(list.split(',').flat_map(nets).collect())
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|net| net.contains(&ip))
    }
}

impl fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpProxy({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_host_and_may_have_a_port_and_credentials() {
        for (text, shown, credentials) in [
            ("http://proxy.site:3128", "proxy.site:3128", None),
            ("proxy.site", "proxy.site:1080", None),
            ("http://u:p%40s@[2001:db8::1]:80/", "[2001:db8::1]:80", Some("u:p@s")),
            ("http://u%25:a+b@p:1", "p:1", Some("u%:a+b")),
        ] {
            let proxy: HttpProxy = text.parse().unwrap();
            assert_eq!((&*proxy.to_string(), proxy.credentials.as_deref()), (shown, credentials));
        }
        for text in ["", "socks5://p:1", "http://", "http://p:0", "http://p:x", "http://a b:1"] {
            assert!(text.parse::<HttpProxy>().is_err(), "{text}");
        }
        let error = "https://u:secret@p:1".parse::<HttpProxy>().unwrap_err().to_string();
        assert!(!error.contains("secret") && error.contains("@p:1"), "{error}");
    }

    #[test]
    fn a_request_names_the_address_and_proves_who_asks() {
        let proxy: HttpProxy = "http://user:pass@p:1".parse().unwrap();
        assert_eq!(
            proxy.request("192.0.2.1:443".parse().unwrap()),
            "CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\n\
             Proxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n"
        );
        assert_eq!(status(b"HTTP/1.0 403 No way\r\n\r\n"), Some("403 No way"));
        assert_eq!(status(b"SSH-2.0\r\n\r\n"), None);
    }

    #[test]
    fn a_list_of_addresses_is_reached_without_the_proxy() {
        let direct = Direct::parse("localhost, .site, 10.0.0.0/8,192.0.2.1");
        for (ip, is_direct) in [("10.1.2.3", true), ("192.0.2.1", true), ("192.0.2.2", false)] {
            assert_eq!(direct.contains(ip.parse().unwrap()), is_direct, "{ip}");
        }
        assert!(Direct::parse("*").contains("192.0.2.2".parse().unwrap()));
    }
}
