//! HTTP/1 clients: CONNECT, requests in absolute form, and the entry's own two pages.
//!
//! One task serves one client connection. A CONNECT or an upgrade ends HTTP on it: the bytes are
//! then carried by the same task, so that the connection cap and the shutdown see it.

mod answer;
mod forward;
mod headers;
mod local;
mod tunnel;
mod upstream;

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use hyper::{
    Method, Request, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tracing::{debug, info};

use self::{answer::Answer, tunnel::Tunnel, upstream::Upstream};
use super::{
    config::{HANDSHAKE_TIMEOUT, MAX_HTTP_HEAD, MAX_HTTP_HEADERS},
    options::Options,
    session::Session,
};

/// One client connection.
struct Client {
    session: Session,
    /// The connection to the origin of the last request, for the next one.
    idle: Mutex<Option<Upstream>>,
    /// What the connection becomes when HTTP on it has ended.
    tunnel: Mutex<Option<Tunnel>>,
}

/// Serves one HTTP client to its end.
pub(super) async fn serve(tcp: TcpStream, session: Session) {
    let stop = session.shared.stop.clone();
    let client = Arc::new(Client { session, idle: Mutex::default(), tunnel: Mutex::default() });
    let service = {
        let client = Arc::clone(&client);
        service_fn(move |request| {
            let client = Arc::clone(&client);
            async move { Ok::<_, Infallible>(client.answer(request).await) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .max_header_size(MAX_HTTP_HEAD)
        .max_headers(MAX_HTTP_HEADERS)
        .max_buf_size(MAX_HTTP_HEAD)
        .serve_connection(TokioIo::new(tcp), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            // The request in progress is answered; no further one is read.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!(client = %client.session.client, %error, "HTTP connection ended");
    }
    let tunnel = take(&client.tunnel);
    if let Some(tunnel) = tunnel {
        tunnel.run().await;
    }
}

impl Client {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if request.method() != Method::CONNECT && request.uri().scheme().is_none() {
            return local::answer(&request, self.session.local);
        }
        let options = match headers::authenticate(request.headers(), &self.session.shared.auth) {
            Ok(options) => options,
            Err(error) => {
                info!(client = %self.session.client, %error, "HTTP client refused");
                return answer::unauthenticated(&error);
            }
        };
        if request.method() == Method::CONNECT {
            return self.connect(request, options).await;
        }
        match request.uri().scheme_str() {
            Some("http") => self.forward(request, options).await,
            Some("https") => answer::plain(
                StatusCode::BAD_REQUEST,
                "An https:// address needs an encrypted tunnel: ask the proxy with CONNECT host:port.",
            ),
            _ => answer::plain(
                StatusCode::BAD_REQUEST,
                "Only http:// addresses can be asked for in this form; use CONNECT host:port.",
            ),
        }
    }

    /// Opens a tunnel (RFC 9110, §9.3.6).
    async fn connect(&self, request: Request<Incoming>, options: Options) -> Answer {
        let authority = request.uri().authority().map_or("", |authority| authority.as_str());
        let target = match authority.parse() {
            Ok(target) => target,
            Err(error) => {
                return answer::closing(answer::plain(
                    StatusCode::BAD_REQUEST,
                    &format!("CONNECT to a wrong destination: {error}."),
                ));
            }
        };
        let ingress = crate::flow::Ingress::HttpConnect;
        match self.session.open(target, options, ingress).await {
            Ok(opened) => {
                let client = hyper::upgrade::on(request);
                put(&self.tunnel, Tunnel::Connect { client, opened });
                answer::connected()
            }
            // A client may have sent bytes of the tunnel ahead; they must not be read as HTTP.
            Err(refusal) => answer::closing(answer::refused(&refusal)),
        }
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn put<T>(slot: &Mutex<Option<T>>, value: T) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
}
