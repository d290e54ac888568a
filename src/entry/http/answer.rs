//! The proxy's own responses. PURE.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    Response, StatusCode,
    body::Incoming,
    header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, PROXY_AUTHENTICATE},
};

use crate::{
    entry::auth::AuthError,
    flow::{Refusal, RefusalKind},
};

/// A response: the origin's, streamed, or one of our own.
pub(super) type Answer = Response<Either<Incoming, Full<Bytes>>>;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// A short text.
pub(super) fn plain(status: StatusCode, sentence: &str) -> Answer {
    document(status, "text/plain; charset=utf-8", format!("{sentence}\n"))
}

/// A document of the given media type.
pub(super) fn document(status: StatusCode, media_type: &'static str, text: String) -> Answer {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The answer to a CONNECT that succeeded.
pub(super) fn connected() -> Answer {
    Response::new(Either::Right(Full::default()))
}

/// The same answer, after which the connection is closed.
pub(super) fn closing(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// The demand for a user name and a password.
pub(super) fn unauthenticated(error: &AuthError) -> Answer {
    let status = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
    let mut answer = plain(status, &format!("The proxy cannot let you in: {error}."));
    let challenge = HeaderValue::from_static("Basic realm=\"ronproxy\", charset=\"UTF-8\"");
    answer.headers_mut().insert(PROXY_AUTHENTICATE, challenge);
    // Bytes of a tunnel may follow a CONNECT; they must not be read as HTTP.
    closing(answer)
}

/// The answer when no flow could be opened.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let (status, token, sentence) = meaning(refusal.kind);
    failed(status, token, &format!("{sentence}: {}", refusal.detail))
}

/// The answer when the origin's connection broke or its response was no HTTP.
pub(super) fn broken(error: &hyper::Error) -> Answer {
    let (token, sentence) = if error.is_parse() {
        ("http_protocol_error", "The server's answer is not valid HTTP")
    } else {
        ("connection_terminated", "The connection to the server broke before it answered")
    };
    failed(StatusCode::BAD_GATEWAY, token, &format!("{sentence}: {error}"))
}

fn failed(status: StatusCode, token: &'static str, sentence: &str) -> Answer {
    let mut answer = plain(status, sentence);
    let value = format!("ronproxy; error={token}; details=\"{}\"", quoted(sentence));
    if let Ok(value) = HeaderValue::try_from(value) {
        answer.headers_mut().insert(PROXY_STATUS, value);
    }
    answer
}

/// A refusal's status, its RFC 9209 error token, and how the sentence about it starts.
fn meaning(kind: RefusalKind) -> (StatusCode, &'static str, &'static str) {
    match kind {
        RefusalKind::Policy => (
            StatusCode::FORBIDDEN,
            "http_request_denied",
            "The overlay's policy does not allow this destination",
        ),
        RefusalKind::NameNotFound => {
            (StatusCode::BAD_GATEWAY, "dns_error", "The exit could not resolve this name")
        }
        RefusalKind::ConnectionRefused => {
            (StatusCode::BAD_GATEWAY, "connection_refused", "The server refused the connection")
        }
        RefusalKind::Unreachable => (
            StatusCode::BAD_GATEWAY,
            "destination_ip_unroutable",
            "The exit has no route to the server",
        ),
        RefusalKind::TimedOut => {
            (StatusCode::GATEWAY_TIMEOUT, "connection_timeout", "No answer came in time")
        }
        RefusalKind::NoExit => (
            StatusCode::SERVICE_UNAVAILABLE,
            "destination_unavailable",
            "No exit serves this destination now",
        ),
        RefusalKind::ExitUnreachable => (
            StatusCode::BAD_GATEWAY,
            "destination_unavailable",
            "The exit cannot be reached over the overlay",
        ),
        RefusalKind::Overloaded => (
            StatusCode::SERVICE_UNAVAILABLE,
            "connection_limit_reached",
            "A limit is reached, try again later",
        ),
        RefusalKind::NotAnExit => (
            StatusCode::SERVICE_UNAVAILABLE,
            "destination_unavailable",
            "The chosen node is not an exit",
        ),
        RefusalKind::Protocol => {
            (StatusCode::BAD_GATEWAY, "proxy_internal_error", "The exit broke the protocol")
        }
    }
}

/// `text` as the inside of a structured-field string (RFC 9651): printable ASCII only.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            _ => quoted.push('?'),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_status_and_says_why() {
        for (kind, status) in [
            (RefusalKind::Policy, 403),
            (RefusalKind::NameNotFound, 502),
            (RefusalKind::ConnectionRefused, 502),
            (RefusalKind::Unreachable, 502),
            (RefusalKind::TimedOut, 504),
            (RefusalKind::NoExit, 503),
            (RefusalKind::ExitUnreachable, 502),
            (RefusalKind::Overloaded, 503),
            (RefusalKind::Protocol, 502),
            (RefusalKind::NotAnExit, 503),
        ] {
            let answer = refused(&Refusal::new(kind, "because \"é\"\r\nX: y"));
            assert_eq!(answer.status(), status, "{kind:?}");
            let header = answer.headers()[PROXY_STATUS].to_str().unwrap();
            assert!(header.contains(r#"because \"?\"??X: y"#), "{header}");
        }
    }
}
