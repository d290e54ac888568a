//! The server's side: one short connection per request.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{metrics, question};
use crate::app::{NodeStatus, NodeView};

/// Connections served at once. A person has a few commands open; 32 is room for a watch loop of
/// each kind, and bounds the memory that a runaway script can take.
const MAX_CONNECTIONS: usize = 32;

/// A client on this machine sends its head at once; two seconds cover a suspended one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// From accept to the answer's last byte. Answers are snapshots in memory.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request's head, hyper's least. Bodies are never read.
const MAX_HEAD: usize = 8 * 1024;

/// After a failed accept, usually for want of file descriptors, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What can be asked for with GET.
const LISTINGS: [&str; 8] =
    ["/status", "/links", "/routes", "/why", "/lanes", "/flows", "/metrics", "/version"];

/// What the API shows and what it may do.
#[derive(Debug)]
pub struct Admin {
    /// The node's facts.
    pub view: NodeView,
    /// The process's facts.
    pub run: RunFacts,
    /// Cancelled by `POST /stop`.
    pub stop: CancellationToken,
}

/// What only the running program knows of itself.
#[derive(Debug, Clone, Serialize)]
pub struct RunFacts {
    /// The process number.
    pub pid: u32,
    /// Where the UDP socket listens.
    pub listen: SocketAddr,
    /// Whether the overlay authority is in this node's folder.
    pub authority: bool,
    /// How the process is confined, in words.
    pub confinement: String,
    /// When the node started; `status` shows its age.
    #[serde(skip)]
    pub started: Instant,
}

/// The answer to `GET /status`.
#[derive(Debug, Clone, Serialize)]
pub struct StatusReport {
    /// The node in numbers.
    #[serde(flatten)]
    pub node: NodeStatus,
    /// The process.
    #[serde(flatten)]
    pub run: RunFacts,
    /// Seconds since the node started.
    pub up_seconds: u64,
    /// Whether it is stopping.
    pub stopping: bool,
}

/// The answer to `GET /version`.
#[derive(Debug, Clone, Serialize)]
pub struct Version {
    /// The program's version.
    pub version: &'static str,
    /// The process number.
    pub pid: u32,
}

/// Serves the API until `shutdown`.
pub async fn serve(listener: UnixListener, admin: Arc<Admin>, shutdown: CancellationToken) {
    shutdown.run_until_cancelled_owned(accept(listener, admin)).await;
}

async fn accept(listener: UnixListener, admin: Arc<Admin>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Further clients wait, unaccepted, in the system's backlog.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(converse(stream, admin.clone(), place))),
            Err(error) => {
                tracing::warn!(%error, "the admin socket failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, admin: Arc<Admin>, _place: OwnedSemaphorePermit) {
    let service = service_fn(move |request| {
        let response = answer(&admin, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, serving).await {
        tracing::debug!(%error, "an admin connection failed");
    }
}

fn answer<B>(admin: &Admin, request: &Request<B>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    match (request.method(), path) {
        (&Method::GET, "/version") => json(&admin.version()),
        (&Method::GET, "/status") => json(&admin.status()),
        (&Method::GET, "/links") => json(&admin.view.link_facts()),
        (&Method::GET, "/routes") => json(&admin.view.routes()),
        (&Method::GET, "/why") => match question::read(request.uri().query().unwrap_or_default()) {
            Ok(question) => json(&admin.view.why(&question)),
            Err(error) => sentence(StatusCode::BAD_REQUEST, &error),
        },
        (&Method::GET, "/lanes") => json(&admin.view.lane_facts()),
        (&Method::GET, "/flows") => json(&admin.view.flow_facts()),
        (&Method::GET, "/metrics") => {
            let text = metrics::text(&admin.view.status(), &admin.view.link_facts());
            response(StatusCode::OK, metrics::CONTENT_TYPE, text.into())
        }
        (&Method::POST, "/stop") => {
            admin.stop.cancel();
            json(&admin.version())
        }
        (_, path) if LISTINGS.contains(&path) => {
            sentence(StatusCode::METHOD_NOT_ALLOWED, "use GET here")
        }
        (_, "/stop") => sentence(StatusCode::METHOD_NOT_ALLOWED, "use POST to stop the node"),
        _ => sentence(
            StatusCode::NOT_FOUND,
            &format!("nothing is here; ask for one of {}", LISTINGS.join(", ")),
        ),
    }
}

impl Admin {
    fn version(&self) -> Version {
        Version { version: env!("CARGO_PKG_VERSION"), pid: self.run.pid }
    }

    fn status(&self) -> StatusReport {
        StatusReport {
            node: self.view.status(),
            run: self.run.clone(),
            up_seconds: self.run.started.elapsed().as_secs(),
            stopping: self.stop.is_cancelled(),
        }
    }
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(bytes) => response(StatusCode::OK, "application/json", bytes.into()),
        Err(error) => {
            tracing::error!(%error, "a listing could not be written");
            sentence(StatusCode::INTERNAL_SERVER_ERROR, "the node could not write the answer")
        }
    }
}

fn sentence(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", format!("{text}\n").into())
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
