//! A feed over a WebSocket (RFC 6455), or as lines of JSON.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{
        CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{Body, Feed, message, whole};

/// How long a reader may take for one message. One that is slower loses the connection; the node keeps one
/// message for it meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest message that a reader may send. None is expected.
const MAX_MESSAGE: usize = 4096;

/// Whether the request asks for a WebSocket.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Sends the feed until its reader goes.
pub(super) fn send(
    mut request: Request<Incoming>,
    feed: Feed,
    place: OwnedSemaphorePermit,
) -> Response<Body> {
    if !is_asked_for(request.headers()) {
        return lines(feed, place);
    }
    let headers = request.headers();
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == KEY_LEN);
    let version = headers.get(SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
    let (Some(key), Some(b"13")) = (key, version) else {
        return message(StatusCode::BAD_REQUEST, "no WebSocket of version 13 is asked for");
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(serve(upgrade, feed, place));
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::try_from(accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    whole(response)
}

/// The key has 16 bytes, in base64.
const KEY_LEN: usize = 24;

async fn serve(upgrade: OnUpgrade, mut feed: Feed, _place: OwnedSemaphorePermit) {
    let Ok(Ok(upgraded)) = timeout(PATIENCE, upgrade).await else { return };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let io = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    loop {
        let next = tokio::select! {
            next = feed.next() => next,
            // Pings are answered by the next message that is read or sent.
            heard = socket.next() => match heard {
                Some(Ok(message)) if !message.is_close() => continue,
                _ => return,
            },
        };
        if !is_sent(&mut socket, next.to_string()).await {
            return;
        }
    }
}

/// Whether the reader took the message in time.
async fn is_sent(socket: &mut WebSocketStream<TokioIo<Upgraded>>, text: String) -> bool {
    timeout(PATIENCE, socket.send(Message::text(text))).await.is_ok_and(|sent| sent.is_ok())
}

/// The feed as lines of JSON. The next one is made when the last one is taken.
fn lines(feed: Feed, place: OwnedSemaphorePermit) -> Response<Body> {
    let lines = stream::unfold((feed, place), async |(mut feed, place)| {
        let line = format!("{}\n", feed.next().await);
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), (feed, place)))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
