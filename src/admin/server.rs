//! The server's side: one short connection per request.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Limited};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::api::{Admin, RELOAD, answer};
use crate::accept;

/// Connections served at once. A person has a few commands open; 32 is room for a watch loop of
/// each kind, and bounds the memory that a runaway script can take.
const MAX_CONNECTIONS: u32 = 32;

/// A client on this machine sends its head at once; two seconds cover a suspended one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// From accept to the answer's last byte. Answers are snapshots in memory.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest configuration: as long as the file may be.
const MAX_BODY: usize = 1 << 20;

/// Bytes of a request's head, hyper's least. Only a configuration to be put into force has a body.
const MAX_HEAD: usize = 8 * 1024;

/// After the end, answers under way have so long to leave, that to `stop` among them. A command that waits for
/// events takes all of it.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Serves the API until `shutdown`, and until the last answers have left.
pub(crate) async fn serve(listener: UnixListener, admin: Arc<Admin>, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    shutdown.run_until_cancelled_owned(accept_all(listener, admin, &places)).await;
    let _ = timeout(LAST_ANSWERS, places.acquire_many(MAX_CONNECTIONS)).await;
}

async fn accept_all(listener: UnixListener, admin: Arc<Admin>, places: &Arc<Semaphore>) {
    loop {
        // Further clients wait, unaccepted, in the system's backlog.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = accept::or_pause(listener.accept().await, "the admin socket").await;
        let Some((stream, _)) = accepted else { continue };
        tokio::spawn(converse(stream, admin.clone(), place));
    }
}

/// The body as text. One that is too long or cut off is no configuration, and says so when it is parsed.
async fn read(body: Incoming) -> String {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => format!("the configuration did not arrive: {error}"),
    }
}

async fn converse(stream: UnixStream, admin: Arc<Admin>, _place: OwnedSemaphorePermit) {
    let service = service_fn(move |request: Request<Incoming>| {
        let admin = admin.clone();
        async move {
            let (head, body) = request.into_parts();
            let text = match head.uri.path().ends_with(RELOAD) {
                true => read(body).await,
                false => String::new(),
            };
            let (path, asked) = (head.uri.path(), head.uri.query().unwrap_or_default());
            Ok::<_, Infallible>(answer(&admin, &head.method, path, asked, &text).await)
        }
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
