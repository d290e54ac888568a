//! The web server behind the exit: bytes, uploads, files, a page with a WebSocket.

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE},
    server::conn::http1,
    service::service_fn,
    upgrade,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use crate::{
    bytes::{Checksum, Stream},
    tools::opened_by,
};

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// A page that loads four images and talks to a WebSocket, and is only complete (the last image
/// waits for it) when it has reported what it saw.
const PAGE: &str = r#"<!doctype html><title>loading</title><body><script>
const socket = new Promise((done, failed) => {
  const ws = new WebSocket(`ws://${location.host}/ws`);
  ws.onopen = () => ws.send("through the overlay");
  ws.onmessage = message => done(message.data);
  ws.onerror = () => failed("the WebSocket failed");
});
const image = n => new Promise((done, failed) => {
  const img = new Image();
  img.onload = () => done(img.naturalWidth);
  img.onerror = () => failed(`image ${n} failed`);
  img.src = `/dot.svg?${n}`;
});
Promise.all([socket, image(1), image(2), image(3), image(4)])
  .then(seen => seen.join(" "), error => error)
  .then(text => { document.body.append(text); return fetch("/report", {method: "POST"}); });
</script><img src="/last.svg"></body>"#;

/// What the body of the page shows when all went well.
pub const PAGE_SAW: &str = "through the overlay 7 7 7 7";

const DOT: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" width="7" height="7"/>"#;

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    files: Option<PathBuf>,
    /// The only process that may connect.
    exit: Option<u32>,
    connections: AtomicUsize,
    strangers: AtomicUsize,
    requests: AtomicUsize,
    reported: watch::Sender<bool>,
}

impl Server {
    /// Serves `/bytes/N`, `/upload` and the page.
    pub async fn start() -> Self {
        Self::with(None, None, None).await
    }

    /// Also serves the files of a folder.
    pub async fn of_files(folder: PathBuf) -> Self {
        Self::with(Some(folder), None, None).await
    }

    /// Also notes connections that the process `exit` did not open.
    pub async fn behind(exit: u32) -> Self {
        Self::with(None, Some(exit), None).await
    }

    /// The same at this address of loopback.
    pub async fn behind_at(ip: &str, exit: u32) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        Self::at(listener, None, Some(exit), None)
    }

    /// Speaks TLS for 127.0.0.1; also returns its certificate as PEM.
    pub async fn with_tls() -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        (Self::with(None, None, Some(tls)).await, made.cert.pem())
    }

    async fn with(files: Option<PathBuf>, exit: Option<u32>, tls: Option<TlsAcceptor>) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), files, exit, tls)
    }

    fn at(
        listener: TcpListener,
        files: Option<PathBuf>,
        exit: Option<u32>,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            files,
            exit,
            connections: AtomicUsize::new(0),
            strangers: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            reported: watch::Sender::new(false),
        });
        tokio::spawn(accept(listener, state.clone(), tls));
        Self { address, state }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// How many of them came from elsewhere than the exit.
    pub fn strangers(&self) -> usize {
        self.state.strangers.load(Ordering::Relaxed)
    }

    /// How many requests it has answered.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, tls: Option<TlsAcceptor>) {
    while let Ok((tcp, client)) = listener.accept().await {
        state.connections.fetch_add(1, Ordering::Relaxed);
        if state.exit.is_some_and(|exit| !opened_by(exit, client)) {
            state.strangers.fetch_add(1, Ordering::Relaxed);
        }
        let (state, tls) = (state.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => converse(tcp, state).await,
                Some(tls) => match tls.accept(tcp).await {
                    Ok(stream) => converse(stream, state).await,
                    Err(error) => eprintln!("TLS with {client} failed: {error}"),
                },
            }
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(request, &state).await) }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A client that goes away is no concern of the server.
    let _ = serving.with_upgrades().await;
}

async fn answer(mut request: Request<Incoming>, state: &State) -> Answer {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path().to_owned();
    if let Some(len) = path.strip_prefix("/bytes/") {
        return Response::new(Stream::of(len.parse().unwrap()).boxed());
    }
    match path.as_str() {
        "/page" => body("text/html", PAGE),
        "/dot.svg" => body("image/svg+xml", DOT),
        "/last.svg" => {
            let mut reported = state.reported.subscribe();
            // The sender lives as long as the server.
            let _ = reported.wait_for(|reported| *reported).await;
            body("image/svg+xml", DOT)
        }
        "/report" => {
            state.reported.send_replace(true);
            body("text/plain", "thanks")
        }
        "/upload" => body("text/plain", checksum(request.into_body()).await),
        "/ws" => echo_messages(&mut request),
        _ => file(state, &path),
    }
}

async fn checksum(mut body: Incoming) -> String {
    let mut checksum = Checksum::new();
    while let Some(Ok(frame)) = body.frame().await {
        checksum.add(frame.data_ref().map_or(&[][..], |data| data));
    }
    checksum.hex()
}

fn echo_messages(request: &mut Request<Incoming>) -> Answer {
    let Some(key) = request.headers().get("sec-websocket-key") else {
        return status(StatusCode::BAD_REQUEST);
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrading = upgrade::on(request);
    tokio::spawn(async move {
        let Ok(io) = upgrading.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
        let (write, read) = socket.split();
        let _ = read.forward(write).await;
    });
    let mut answer = status(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept.parse().unwrap());
    answer
}

fn file(state: &State, path: &str) -> Answer {
    let folder = state.files.as_ref();
    let read = folder.and_then(|folder| fs::read(folder.join(path.trim_start_matches('/'))).ok());
    read.map_or_else(
        || status(StatusCode::NOT_FOUND),
        |bytes| body("application/octet-stream", bytes),
    )
}

fn status(status: StatusCode) -> Answer {
    let mut answer = body("text/plain", "");
    *answer.status_mut() = status;
    answer
}

fn body(kind: &'static str, bytes: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(bytes.into()).boxed());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
