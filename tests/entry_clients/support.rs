//! A proxy on port 0, a dialer that connects directly, and small origins.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ronproxy::internals::{
    entry::{Config, Entry, User},
    flow::{
        Association, AssociationRequest, BoxFuture, Carried, DatagramDrops, DatagramSink, Flow,
        FlowDialer, FlowIo, FlowLabel, FlowRequest, Host, Refusal, RefusalKind, Spliced, Target,
    },
    identity::NodeName,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Far longer than anything here takes on a busy machine; only a hang reaches it.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Connects directly. A name ends in what it does: `NAME.refused.test` is refused with kind NAME,
/// `hang.test` never answers, any other name is 127.0.0.1.
#[derive(Default)]
pub(crate) struct DirectDialer {
    pub(crate) dialed: Mutex<Vec<FlowRequest>>,
    pub(crate) hanging: Notify,
    pub(crate) cancelled: Notify,
    pub(crate) associations: Mutex<Vec<AssociationRequest>>,
    pub(crate) drops: Arc<DatagramDrops>,
    labels: AtomicU32,
}

struct DirectFlow {
    label: FlowLabel,
    tcp: TcpStream,
}

struct NotifyOnDrop<'a>(&'a Notify);

impl Drop for NotifyOnDrop<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl FlowDialer for DirectDialer {
    fn dial(&self, request: FlowRequest) -> BoxFuture<'_, Result<Box<dyn Flow>, Refusal>> {
        self.dialed.lock().unwrap().push(request.clone());
        Box::pin(async move {
            let addr = match &request.target.host {
                Host::Ip(ip) => SocketAddr::new(*ip, request.target.port),
                Host::Name(name) => {
                    if name == "hang.test" {
                        let _cancelled = NotifyOnDrop(&self.cancelled);
                        self.hanging.notify_one();
                        std::future::pending::<()>().await;
                    }
                    if let Some(kind) = name.strip_suffix(".refused.test") {
                        return Err(Refusal::new(kind_named(kind), "the test says so"));
                    }
                    SocketAddr::from(([127, 0, 0, 1], request.target.port))
                }
            };
            let tcp = TcpStream::connect(addr)
                .await
                .map_err(|e| Refusal::new(RefusalKind::ConnectionRefused, e.to_string()))?;
            let label = FlowLabel(self.labels.fetch_add(1, Ordering::Relaxed));
            Ok(Box::new(DirectFlow { label, tcp }) as Box<dyn Flow>)
        })
    }

    fn associate(
        self: Arc<Self>,
        request: AssociationRequest,
        client: Arc<dyn DatagramSink>,
    ) -> Arc<dyn Association> {
        self.associations.lock().unwrap().push(request);
        Arc::new(Echo { client, refused: Notify::new() })
    }

    fn served(&self, _: Option<&NodeName>) -> Vec<String> {
        vec!["served.test".to_owned(), "192.0.2.0/24".to_owned()]
    }

    fn datagram_drops(&self) -> Arc<DatagramDrops> {
        self.drops.clone()
    }
}

/// Every address sends back what it gets. Names are refused.
struct Echo {
    client: Arc<dyn DatagramSink>,
    refused: Notify,
}

impl DatagramSink for Echo {
    fn deliver(&self, peer: &Target, payload: &[u8]) {
        match peer.host {
            Host::Ip(_) => self.client.deliver(peer, payload),
            Host::Name(_) => self.refused.notify_one(),
        }
    }

    fn refused(&self, _: &Target, _: Refusal) {}
}

impl Association for Echo {
    fn refusal(&self) -> BoxFuture<'_, Refusal> {
        Box::pin(async {
            self.refused.notified().await;
            Refusal::new(RefusalKind::NoExit, "the test says so")
        })
    }
}

impl Flow for DirectFlow {
    fn carried(&self) -> Arc<Carried> {
        Arc::default()
    }

    fn label(&self) -> FlowLabel {
        self.label
    }

    fn splice(
        self: Box<Self>,
        mut client: TcpStream,
        preread: Bytes,
    ) -> BoxFuture<'static, Spliced> {
        let mut tcp = self.tcp;
        Box::pin(async move {
            let carried = async {
                tcp.write_all(&preread).await?;
                copy_bidirectional(&mut client, &mut tcp).await
            };
            match carried.await {
                Ok((sent, received)) => {
                    Spliced { sent: sent + preread.len() as u64, received, result: Ok(()) }
                }
                Err(error) => Spliced { sent: 0, received: 0, result: Err(error) },
            }
        })
    }

    fn into_io(self: Box<Self>) -> Box<dyn FlowIo> {
        Box::new(self.tcp)
    }
}

pub(crate) const KINDS: [RefusalKind; 10] = [
    RefusalKind::Policy,
    RefusalKind::NameNotFound,
    RefusalKind::ConnectionRefused,
    RefusalKind::Unreachable,
    RefusalKind::TimedOut,
    RefusalKind::NoExit,
    RefusalKind::ExitUnreachable,
    RefusalKind::Overloaded,
    RefusalKind::Protocol,
    RefusalKind::NotAnExit,
];

fn kind_named(name: &str) -> RefusalKind {
    KINDS.into_iter().find(|kind| kind.name() == name).expect("a test names a kind")
}

/// A running entry.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    pub(crate) dialer: Arc<DirectDialer>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) running: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        Self::with(config(), Duration::ZERO).await
    }

    pub(crate) async fn with_users() -> Self {
        let user = User { name: "ann".to_owned(), password: "one".to_owned() };
        Self::with(Config { users: vec![user], ..config() }, Duration::ZERO).await
    }

    pub(crate) async fn with(config: Config, drain: Duration) -> Self {
        let dialer = Arc::new(DirectDialer::default());
        let entry = Entry::bind(config, dialer.clone()).await.unwrap();
        let shutdown = CancellationToken::new();
        let addr = entry.local_addr();
        let running = tokio::spawn(entry.run(shutdown.clone(), drain));
        Self { addr, dialer, shutdown, running }
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw(TcpStream::connect(self.addr).await.unwrap())
    }

    /// The last request the dialer saw.
    pub(crate) fn last_dialed(&self) -> FlowRequest {
        self.dialer.dialed.lock().unwrap().last().expect("something was dialed").clone()
    }
}

pub(crate) fn config() -> Config {
    Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() }
}

/// A client that speaks bytes.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Reads exactly what is expected.
    pub(crate) async fn expect(&mut self, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        timeout(LIMIT, self.0.read_exact(&mut got)).await.expect("no hang").unwrap();
        assert_eq!(got, expected, "got {:?}", String::from_utf8_lossy(&got));
    }

    /// Reads until the text has arrived, and returns everything up to and with it.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut got = Vec::new();
        let work = async {
            while !got.ends_with(end.as_bytes()) {
                match self.0.read_u8().await {
                    Ok(byte) => got.push(byte),
                    Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&got)),
                }
            }
        };
        timeout(LIMIT, work).await.expect("no hang");
        String::from_utf8(got).unwrap()
    }

    /// Reads a request's head; `None` if the connection ends before it is complete.
    pub(crate) async fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.ok()?);
        }
        Some(String::from_utf8(head).unwrap())
    }

    /// Reads a response's head and its `Content-Length` body.
    pub(crate) async fn response(&mut self) -> (String, String) {
        let head = self.until("\r\n\r\n").await;
        let length = header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        timeout(LIMIT, self.0.read_exact(&mut body)).await.expect("no hang").unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    /// Reads until the proxy closes the connection; a reset counts as closing.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        let read = timeout(LIMIT, self.0.read_to_end(&mut got)).await.expect("no hang");
        if let Err(error) = read {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        got
    }
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// An origin that returns every byte until the end of its input.
pub(crate) async fn echo() -> SocketAddr {
    serve(|tcp| async move {
        let (mut read, mut write) = tcp.into_split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// An HTTP origin that answers each request with its own head and body as text.
pub(crate) async fn mirror() -> SocketAddr {
    serve(|tcp| async move {
        let mut raw = Raw(tcp);
        while let Some(head) = raw.head().await {
            let length = header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
            let mut body = vec![0; length];
            raw.0.read_exact(&mut body).await.unwrap();
            let text = format!("{head}{}", String::from_utf8(body).unwrap());
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: x-hop\r\nX-Hop: 1\r\n\
                 Keep-Alive: timeout=9\r\nX-Origin: yes\r\n\r\n{text}",
                text.len()
            );
            raw.send(answer.as_bytes()).await;
        }
    })
    .await
}

/// An origin on port 0 that treats every connection alike.
pub(crate) async fn serve<F>(handle: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(handle(tcp));
        }
    });
    addr
}
