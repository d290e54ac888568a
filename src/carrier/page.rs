//! What strangers get: the answers of a web server that has nothing to show.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, DATE},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::visitor::Visitor;

/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of a request's head.
const MAX_HEAD: u16 = 16 << 10;

/// Requests at once on a connection of HTTP/2: a browser asks for a page and an icon.
const MAX_REQUESTS: u32 = 8;

/// The page that a web server shows before it is configured.
const PAGE: &str = "<html><body><h1>It works!</h1></body></html>\n";

/// Serves a visitor until it leaves, or knocks.
pub(super) async fn serve(visitor: &mut Visitor) {
    let h2 = visitor.speaks_h2();
    let io = TokioIo::new(visitor);
    let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request)) });
    let served = if h2 {
        let mut server = http2::Builder::new(TokioExecutor::new());
        server
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_REQUESTS)
            .max_header_list_size(MAX_HEAD.into())
            .serve_connection(io, service)
            .await
    } else {
        let mut server = http1::Builder::new();
        server
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD.into())
            .serve_connection(io, service)
            .await
    };
    if let Err(error) = served {
        tracing::trace!(%error, "a visitor's connection ended");
    }
}

fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/" | "/index.html") => (StatusCode::OK, PAGE),
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, "<html><body><h1>404 Not Found</h1></body></html>\n")
        }
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            "<html><body><h1>405 Method Not Allowed</h1></body></html>\n",
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/html"));
    if let Ok(date) = httpdate::fmt_http_date(SystemTime::now()).parse() {
        headers.insert(DATE, date);
    }
    response
}
