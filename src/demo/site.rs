//! The campus web site: the only thing behind the demo's exit.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame},
    header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until};

use super::object::{CHUNK, Hash, Object};
use crate::lab::{Service, Services};

/// The site's names. `.test` names exist nowhere else (RFC 6761).
pub(super) const HOSTS: [&str; 2] = ["campus.mit.test", "www.campus.mit.test"];

/// The biggest download in MiB: an hour at the demo's rates.
const MAX_MB: u64 = 4096;

/// What `/big` serves when no size is given, in MiB.
const DEFAULT_MB: u64 = 20;

/// `/slow` ends after an hour, so that a forgotten tab does not tick for ever.
const TICKS: u32 = 3600;

/// A name of the same site; the demo's entry holds flows to it to the direct path.
pub(super) const HELD: &str = "held.campus.mit.test";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The site as the services of a lab.
#[must_use]
pub(super) fn services() -> Services {
    HOSTS
        .into_iter()
        .chain([HELD])
        .fold(Services::default(), |services, host| services.with(host, service()))
}

/// HTTP/1.1 on each connection.
fn service() -> Service {
    Arc::new(|io| {
        tokio::spawn(async move {
            let answer = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
            let served = http1::Builder::new().serve_connection(TokioIo::new(io), answer).await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection to the demo's web site broke");
            }
        });
    })
}

async fn answer<B>(request: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let (path, query) = (request.uri().path(), request.uri().query());
    let head = request.method() == Method::HEAD;
    if path == "/echo" {
        return match *request.method() {
            Method::POST | Method::PUT => sink(request.into_body()).await,
            _ => not_allowed("POST, PUT"),
        };
    }
    if !head && request.method() != Method::GET {
        return not_allowed("GET, HEAD");
    }
    match (path, object(query)) {
        ("/" | "/index.html", _) => {
            text("text/html; charset=utf-8", include_str!("site/index.html"))
        }
        ("/style.css", _) => text("text/css", include_str!("site/style.css")),
        ("/campus.svg", _) => text("image/svg+xml", include_str!("site/campus.svg")),
        ("/slow", _) => streamed(ticks()),
        ("/big", Ok(object)) => big(object),
        ("/big.sha256", Ok(object)) => digest(object).await,
        ("/big" | "/big.sha256", Err(sentence)) => plain(StatusCode::BAD_REQUEST, sentence),
        _ => plain(StatusCode::NOT_FOUND, format!("The campus has no {path}.\n")),
    }
}

/// The object that `mb=N` asks for.
fn object(query: Option<&str>) -> Result<Object, String> {
    let asked = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("mb="));
    let mb = asked.map_or(Ok(DEFAULT_MB), str::parse).ok().filter(|mb| *mb <= MAX_MB);
    mb.map(|mb| Object::new(mb << 20)).ok_or_else(|| format!("mb is 0 to {MAX_MB}.\n"))
}

fn big(object: Object) -> Answer {
    let chunks = stream::unfold(0, move |at| async move {
        Some((Ok(Frame::data(object.chunk(at)?)), at + CHUNK as u64))
    });
    let mut answer = Response::new(StreamBody::new(chunks).boxed_unsync());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // With a length, curl and browsers show how much is left.
    headers.insert(CONTENT_LENGTH, object.len().into());
    answer
}

async fn digest(object: Object) -> Answer {
    match tokio::task::spawn_blocking(move || object.sha256()).await {
        Ok(hex) => plain(StatusCode::OK, format!("{hex}\n")),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "The server is stopping.\n".into()),
    }
}

async fn sink<B>(mut body: B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut hash = Hash::default();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => hash.update(frame.data_ref().map_or(&[], |data| data)),
            Err(error) => {
                let sentence = format!("The upload broke after {} bytes: {error}\n", hash.count());
                return plain(StatusCode::BAD_REQUEST, sentence);
            }
        }
    }
    let count = hash.count();
    plain(StatusCode::OK, format!("{count} bytes, sha256 {}\n", hash.hex()))
}

/// One line a second. A tick is due at its own time, so a stall never shifts the later ones.
fn ticks() -> impl stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    let start = Instant::now();
    stream::unfold(1, move |tick| async move {
        if tick > TICKS {
            return None;
        }
        sleep_until(start + Duration::from_secs(1) * (tick - 1)).await;
        Some((Ok(Frame::data(format!("tick {tick}\n").into())), tick + 1))
    })
}

fn streamed(
    body: impl stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static,
) -> Answer {
    let mut answer = Response::new(StreamBody::new(body).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

fn text(media_type: &'static str, body: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(body).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

fn plain(status: StatusCode, sentence: String) -> Answer {
    let mut answer = Response::new(Full::from(sentence).boxed_unsync());
    *answer.status_mut() = status;
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = Response::new(Empty::new().boxed_unsync());
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(method: Method, uri: &str, body: &'static [u8]) -> (StatusCode, Bytes) {
        let request = Request::builder().method(method).uri(uri).body(Full::from(body)).unwrap();
        let answer = answer(request).await;
        (answer.status(), answer.into_body().collect().await.unwrap().to_bytes())
    }

    #[tokio::test]
    async fn the_index_names_its_style_and_its_image_and_both_exist() {
        let (status, page) = ask(Method::GET, "/", b"").await;
        assert_eq!(status, StatusCode::OK);
        let page = String::from_utf8(page.to_vec()).unwrap();
        for asset in ["/style.css", "/campus.svg"] {
            assert!(page.contains(asset));
            assert_eq!(ask(Method::GET, asset, b"").await.0, StatusCode::OK, "{asset}");
        }
    }

    #[tokio::test]
    async fn a_download_has_the_digest_the_site_tells() {
        let (_, body) = ask(Method::GET, "/big?mb=2", b"").await;
        let mut hash = Hash::default();
        hash.update(&body);
        let (_, told) = ask(Method::GET, "/big.sha256?mb=2", b"").await;
        assert_eq!(
            (body.len(), hash.hex() + "\n"),
            (2 << 20, String::from_utf8(told.to_vec()).unwrap())
        );
    }

    #[tokio::test]
    async fn an_upload_is_counted_and_hashed() {
        let (_, told) = ask(Method::POST, "/echo", b"abc").await;
        assert!(told.starts_with(b"3 bytes, sha256 ba7816bf"), "{told:?}");
    }

    #[tokio::test]
    async fn nonsense_gets_a_status_that_says_so() {
        for (method, uri, status) in [
            (Method::GET, "/nowhere", 404),
            (Method::GET, "/big?mb=x", 400),
            (Method::GET, "/big?mb=4097", 400),
            (Method::GET, "/echo", 405),
            (Method::DELETE, "/", 405),
        ] {
            assert_eq!(ask(method, uri, b"").await.0, status, "{uri}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_slow_stream_ticks_once_a_second() {
        let start = Instant::now();
        let mut body = streamed(ticks()).into_body();
        for tick in 1..=5 {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), format!("tick {tick}\n"));
        }
        assert_eq!(start.elapsed().as_secs(), 4);
    }
}
