//! Whether TCP reaches members that accept streams, directly or by the proxy for streams; asked when no link is up.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{net::TcpStream, time::timeout};

use super::Finding;
use crate::{
    carrier::{DialError, HttpProxy, StreamDialler},
    identity::{Fingerprint, MemberInfo},
    mesh::to_try,
    wire::reach::streams_of,
};

/// Members of which the TCP port is tried.
const TRIED: usize = 3;

/// How long one may take to answer without a proxy.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Why an address was not reached.
enum Failure {
    /// Without a proxy.
    Direct,
    /// By this proxy, which may have refused.
    By(String, DialError),
}

/// Dials streams of the overlay with this authority by `proxy`.
pub(super) fn dialler(proxy: HttpProxy, authority: Fingerprint) -> Option<StreamDialler> {
    StreamDialler::new(Arc::default(), authority, Some(proxy)).ok()
}

/// Tries TCP to some members: by the proxy of `dialler` where it serves the address, else directly.
pub(super) async fn tcp(
    members: &[MemberInfo],
    dialler: Option<&StreamDialler>,
) -> Option<Finding> {
    let streams = members.iter().map(|member| to_try(streams_of(&member.addresses)));
    let streams: Vec<_> =
        streams.filter(|streams| !streams.is_empty()).take(TRIED).flatten().collect();
    if streams.is_empty() {
        let advice = "if this network lets no UDP out, a member has to accept streams: \
                      `stream_listen` under [node] there";
        return (!members.is_empty())
            .then(|| Finding::note("TCP", "no known member accepts TLS on TCP", advice));
    }
    let mut refused = None;
    for tried in join_all(streams.iter().map(|at| reach(*at, dialler))).await {
        match tried {
            Ok(reached) => {
                return Some(Finding::bad(
                    "TCP",
                    format!("passes to {reached}, but no link stands there"),
                    "a proxy of this network may break TLS, or another server has that port; \
                     see the log of `ronproxy -v run`",
                ));
            }
            // A proxy's answer tells more than silence.
            Err(Failure::By(proxy, error)) => refused = refused.or(Some((proxy, error))),
            Err(Failure::Direct) => {}
        }
    }
    let all = streams.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    Some(match refused {
        Some((proxy, error)) => failed_by(&proxy, &error, &all),
        None => Finding::bad(
            "TCP",
            format!("no answer at {all}"),
            "this network seems to let neither UDP nor TCP out; if it has an HTTP proxy, name it: \
             `via_proxy` under [node]",
        ),
    })
}

/// Reaches an address; returns what it is called, with the proxy that led there.
async fn reach(at: SocketAddr, dialler: Option<&StreamDialler>) -> Result<String, Failure> {
    let by = dialler.and_then(|dialler| Some((dialler, dialler.proxy()?)));
    match by.filter(|(_, proxy)| proxy.serves(at.ip())) {
        Some((dialler, proxy)) => match dialler.dial(at).await {
            Ok(_) => Ok(format!("{at} by the proxy {proxy}")),
            Err(error) => Err(Failure::By(proxy.to_string(), error)),
        },
        None => match timeout(ANSWERS_WITHIN, TcpStream::connect(at)).await {
            Ok(Ok(_)) => Ok(at.to_string()),
            Ok(Err(_)) | Err(_) => Err(Failure::Direct),
        },
    }
}

fn failed_by(proxy: &str, error: &DialError, all: &str) -> Finding {
    match error {
        DialError::Proxy(said) => Finding::bad(
            "TCP",
            format!("{said}; asked for {all}"),
            "ask who runs this network what its HTTP proxy lets pass and for whom, and correct `via_proxy` under \
             [node], or HTTPS_PROXY",
        ),
        error => Finding::bad(
            "TCP",
            format!("no TLS by the proxy {proxy} to {all}: {error}"),
            "the proxy may break TLS, or the members do not run; see the log of `ronproxy -v run`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
        net::TcpListener,
    };

    use super::*;
    use crate::{carrier::StreamListener, wire::reach::stream_mark};

    fn member(addresses: &[SocketAddr]) -> [MemberInfo; 1] {
        let name = "mit".parse().unwrap();
        [MemberInfo { name, addresses: addresses.to_vec(), key: None }]
    }

    #[tokio::test]
    async fn members_tcp_ports_are_tried_and_what_is_blocked_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        assert_eq!(tcp(&[], None).await, None);
        let none = tcp(&member(&[at]), None).await.unwrap().line();
        assert!(none.contains("no known member accepts"), "{none}");
        let told = member(&[at, stream_mark(at.port())]);
        let passes = tcp(&told, None).await.unwrap().line();
        assert!(passes.contains("passes to 127.0.0.1"), "{passes}");
        drop(listener);
        let closed = tcp(&told, None).await.unwrap().line();
        assert!(
            closed.contains("no answer at 127.0.0.1") && closed.contains("name it"),
            "{closed}"
        );
    }

    /// What is said of a member at 192.0.2.1 by way of a proxy that answers this, and then leads to `to`.
    async fn said_by(answer: &'static str, to: SocketAddr) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://user:secret@{}", listener.local_addr().unwrap());
        let serving = async move {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(near.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"CONNECT 192.0.2.1:443 HTTP/1.1\r\n"));
            near.write_all(answer.as_bytes()).await.unwrap();
            if let Ok(mut far) = TcpStream::connect(to).await {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        };
        let serving = tokio::spawn(serving);
        let line = said_of(&proxy).await;
        serving.abort();
        line
    }

    async fn said_of(proxy: &str) -> String {
        let dialler = dialler(proxy.parse().unwrap(), overlay());
        let told = member(&["192.0.2.1:4600".parse().unwrap(), stream_mark(443)]);
        let line = tcp(&told, dialler.as_ref()).await.unwrap().line();
        assert!(line.starts_with("FAIL") && !line.contains("secret"), "{line}");
        line
    }

    fn overlay() -> Fingerprint {
        Fingerprint::of(b"the certificate of an authority")
    }

    #[tokio::test]
    async fn where_a_proxy_is_set_tcp_is_tried_by_it_and_its_answer_told() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = said_by("HTTP/1.1 403 Not to this port\r\n\r\n", closed).await;
        assert!(
            refused.contains("refuses: 403 Not to this port; asked for 192.0.2.1:443"),
            "{refused}"
        );
        assert!(refused.contains("correct `via_proxy`"), "{refused}");
        let gone = said_of(&format!("http://user:secret@{closed}")).await;
        assert!(gone.contains(&format!("the proxy {closed} cannot be reached")), "{gone}");
        let broken = said_by("HTTP/1.1 200 OK\r\n\r\n", closed).await;
        assert!(broken.contains("no TLS by the proxy") && broken.contains("break TLS"), "{broken}");

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let listener = StreamListener::new(listener, Arc::default(), overlay()).unwrap();
        let serving = tokio::spawn(listener.run());
        let passes = said_by("HTTP/1.1 200 OK\r\n\r\n", at).await;
        assert!(passes.contains("passes to 192.0.2.1:443 by the proxy 127.0.0.1:"), "{passes}");
        serving.abort();
    }
}
