//! The proxy's own responses. PURE.

use hyper::StatusCode;

use super::{
    body::NoHead,
    fields::Fields,
    framing::BadLength,
    head::{BadHead, Version},
    request::BadAddress,
};
use crate::{
    entry::{auth::AuthError, pac},
    flow::{ParseTargetError, Refusal, RefusalKind, Target},
};

/// A response of the proxy itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    fields: Fields,
    body: String,
    /// Whether the connection ends behind it.
    pub(super) closes: bool,
}

/// What went wrong, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    status: StatusCode,
    /// The RFC 9209 error token.
    token: &'static str,
    /// What happened, without a full stop.
    what: String,
    /// Details; may be empty.
    detail: String,
    /// What the user can do.
    advice: &'static str,
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// A person in front of a browser.
    Browser,
    /// A program, or a person in front of a terminal.
    Program,
}

impl Audience {
    /// Browsers name HTML in `Accept`; programs seldom do.
    pub(super) fn of(fields: &Fields) -> Self {
        let html = |token: &str| {
            let kind = token.split(';').next().unwrap_or_default();
            kind.trim().eq_ignore_ascii_case("text/html")
        };
        if fields.tokens("accept").any(html) { Self::Browser } else { Self::Program }
    }
}

impl Answer {
    /// A document of the given media type.
    pub(super) fn document(status: StatusCode, media_type: &str, body: String) -> Self {
        let mut fields = Fields::default();
        fields.push("Content-Type", media_type);
        Self { status: status.as_u16(), fields, body, closes: false }
    }

    /// A PAC file. Pages of others cannot load it as a script, as it may tell what the overlay serves.
    pub(super) fn pac(file: String) -> Self {
        let mut answer = Self::document(StatusCode::OK, pac::CONTENT_TYPE, file);
        answer.fields.push("X-Content-Type-Options", "nosniff");
        answer.fields.push("Cross-Origin-Resource-Policy", "same-origin");
        answer
    }

    /// A short text.
    pub(super) fn plain(status: StatusCode, sentence: &str) -> Self {
        Self::document(status, "text/plain; charset=utf-8", format!("{sentence}\n"))
    }

    /// The answer to TRACE: the request as it arrived, without secrets (RFC 9110, section 9.3.8).
    pub(super) fn trace(request: String) -> Self {
        Self::document(StatusCode::OK, "message/http", request)
    }

    /// The answer to OPTIONS for the proxy itself.
    pub(super) fn options() -> Self {
        let mut answer = Self::document(StatusCode::NO_CONTENT, "text/plain", String::new());
        answer.fields = Fields::default();
        answer.fields.push("Allow", "GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH");
        answer
    }

    /// The demand for a user name and a password.
    pub(super) fn unauthenticated(error: &AuthError) -> Self {
        let status = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
        let mut answer = Self::plain(status, &format!("The proxy cannot let you in: {error}."));
        let challenge = "Basic realm=\"ronproxy\", charset=\"UTF-8\"";
        answer.fields.push("Proxy-Authenticate", challenge);
        // Bytes of a tunnel may follow a CONNECT; they must not be read as HTTP.
        answer.closing()
    }

    /// The same answer, after which the connection is closed.
    pub(super) fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// Its bytes; the body is left out for HEAD.
    pub(super) fn bytes(mut self, method: &str, kept: Kept) -> Vec<u8> {
        if self.status != StatusCode::NO_CONTENT {
            self.fields.push("Content-Length", self.body.len().to_string());
            self.fields.push("Cache-Control", "no-store");
        }
        kept.say(&mut self.fields);
        let reason = StatusCode::from_u16(self.status).ok().and_then(|s| s.canonical_reason());
        let line = format!("HTTP/1.1 {} {}\r\n", self.status, reason.unwrap_or_default());
        let mut bytes = line.into_bytes();
        self.fields.write(&mut bytes);
        if method != "HEAD" {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}

/// The state of the client's connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is kept, as HTTP/1.1 does by itself.
    Open,
    /// It is kept for a client of HTTP/1.0 that asked for it.
    OpenForHttp10,
    /// It is closed.
    Closed,
}

impl Kept {
    /// Whether to keep the connection of a client that speaks this version.
    pub(super) fn of(keep: bool, version: Version) -> Self {
        match (keep, version) {
            (false, _) => Self::Closed,
            (true, Version::Http10) => Self::OpenForHttp10,
            (true, Version::Http11) => Self::Open,
        }
    }

    /// Says so in the response's fields.
    pub(super) fn say(self, fields: &mut Fields) {
        match self {
            Self::Open => {}
            Self::OpenForHttp10 => fields.push("Connection", "keep-alive"),
            Self::Closed => fields.push("Connection", "close"),
        }
    }
}

impl Trouble {
    fn new(
        (status, token): (StatusCode, &'static str),
        what: impl Into<String>,
        detail: impl Into<String>,
        advice: &'static str,
    ) -> Self {
        Self { status, token, what: what.into(), detail: detail.into(), advice }
    }

    /// No flow could be opened to `target`.
    pub(super) fn refused(refusal: &Refusal, target: &Target) -> Self {
        let exit = match &refusal.exit {
            Some(exit) => format!("The exit {exit}"),
            None => "The exit".to_owned(),
        };
        let (status, token, what) = meaning(refusal.kind, &exit, target);
        let cure = refusal.kind.cure();
        Self::new((status, token), what, refusal.detail.clone(), cure)
    }

    /// The connection to the server ended before it had answered.
    pub(super) fn broken(error: &NoHead) -> Self {
        match error {
            NoHead::TooLong => Self::new(
                (StatusCode::BAD_GATEWAY, "http_response_header_section_size"),
                "The server's answer cannot be read",
                error.to_string(),
                "Only the server's operator can change that.",
            ),
            NoHead::Io(_) | NoHead::Cut => Self::terminated(error.to_string()),
        }
    }

    /// The server closed the connection instead of an answer.
    pub(super) fn no_answer() -> Self {
        Self::terminated("the server closed it")
    }

    fn terminated(detail: impl Into<String>) -> Self {
        let kind = (StatusCode::BAD_GATEWAY, "connection_terminated");
        let what = "The connection to the server broke before it answered";
        Self::new(kind, what, detail, "Try again.")
    }

    /// The server's answer is no HTTP.
    pub(super) fn bad_answer(error: &BadHead) -> Self {
        let detail = error.quoted().map(ToString::to_string).unwrap_or_default();
        Self { detail, ..Self::unexpected(&format!("The server's answer {error}")) }
    }

    /// The length of the server's answer is not clear.
    pub(super) fn unclear_answer(error: &BadLength) -> Self {
        Self::unexpected(&format!("The server's answer {error}"))
    }

    /// The server sent something that is not allowed here.
    pub(super) fn unexpected(what: &str) -> Self {
        let kind = (StatusCode::BAD_GATEWAY, "http_protocol_error");
        Self::new(kind, what, "", "Only the server's operator can change that.")
    }

    /// The request itself is wrong.
    pub(super) fn bad_request(what: impl Into<String>) -> Self {
        let kind = (StatusCode::BAD_REQUEST, "http_request_error");
        Self::new(kind, what, "", "Correct the address or the program that asked.")
    }

    pub(super) fn bad_head(error: &BadHead) -> Self {
        let detail = error.quoted().map(ToString::to_string).unwrap_or_default();
        let trouble = Self { detail, ..Self::bad_request(format!("The request {error}")) };
        match error {
            BadHead::TooMany => {
                Self { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, ..trouble }
            }
            BadHead::Version(_) => {
                Self { status: StatusCode::HTTP_VERSION_NOT_SUPPORTED, ..trouble }
            }
            _ => trouble,
        }
    }

    pub(super) fn long_head(error: &NoHead) -> Self {
        let trouble = Self::bad_request(format!("The request cannot be read: {error}"));
        Self { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, ..trouble }
    }

    pub(super) fn bad_length(error: &BadLength) -> Self {
        let trouble = Self::bad_request(format!("The request {error}"));
        match error {
            BadLength::Coding(_) => Self { status: StatusCode::NOT_IMPLEMENTED, ..trouble },
            _ => trouble,
        }
    }

    pub(super) fn bad_address(error: &BadAddress) -> Self {
        match error {
            BadAddress::Form => Self::bad_request(format!("The request is of no use: {error}")),
            BadAddress::Target(error) => Self::bad_target(error),
        }
    }

    /// The request's destination is not valid.
    pub(super) fn bad_target(error: &ParseTargetError) -> Self {
        let trouble = Self::bad_request("The request's destination cannot be used");
        Self { detail: error.to_string(), ..trouble }
    }

    /// What happened, without the destination; and the details.
    pub(super) fn parts(&self) -> (&str, &str) {
        (&self.what, &self.detail)
    }

    /// What happened, as one sentence.
    pub(super) fn sentence(&self) -> String {
        match self.detail.as_str() {
            "" => format!("{}.", self.what),
            detail => format!("{}: {detail}.", self.what),
        }
    }

    /// The response that tells it. `home` is the proxy's own page, `errors` the dashboard's view of failures.
    pub(super) fn answer(&self, audience: Audience, home: &str, errors: Option<&str>) -> Answer {
        let sentence = self.sentence();
        let mut answer = match audience {
            Audience::Program => Answer::plain(self.status, &format!("{sentence} {}", self.advice)),
            Audience::Browser => {
                Answer::document(self.status, "text/html; charset=utf-8", self.page(home, errors))
            }
        };
        let details = quoted(&sentence);
        let value = format!("ronproxy; error={}; details=\"{details}\"", self.token);
        answer.fields.push("Proxy-Status", value);
        answer
    }

    fn page(&self, home: &str, errors: Option<&str>) -> String {
        let detail = match self.detail.as_str() {
            "" => String::new(),
            detail => format!("<p>{}.</p>\n", escaped(detail)),
        };
        let (what, home) = (escaped(&self.what), escaped(home));
        let errors = errors.map_or_else(String::new, |errors| {
            format!(" · <a href=\"{}\">All errors</a>", escaped(errors))
        });
        // The empty address is that of the page itself.
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{what}</title>\n<style>{STYLE}</style></head>\n\
             <body><main>\n<h1>{what}</h1>\n{detail}<p>{}</p>\n\
             <p><a href=\"\">Try again</a> · <a href=\"{home}\">This proxy</a>{errors}</p>\n\
             <footer>ronproxy, {}</footer>\n</main></body></html>\n",
            self.advice,
            self.status.as_u16(),
        )
    }
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;color-scheme:light dark}\
    main{max-width:40rem;margin:10vh auto;padding:0 1rem;overflow-wrap:anywhere}\
    h1{font-size:1.4rem}footer{opacity:.6;font-size:.85rem}";

/// A refusal's status, its error token, and what happened.
fn meaning(kind: RefusalKind, exit: &str, target: &Target) -> (StatusCode, &'static str, String) {
    let Target { host, port } = target;
    match kind {
        RefusalKind::Policy => (
            StatusCode::FORBIDDEN,
            "http_request_denied",
            format!("The policy does not allow {target}"),
        ),
        RefusalKind::NameNotFound => {
            (StatusCode::BAD_GATEWAY, "dns_error", format!("{exit} could not find {host}"))
        }
        RefusalKind::ConnectionRefused => (
            StatusCode::BAD_GATEWAY,
            "connection_refused",
            format!("{host} refused the connection to port {port}"),
        ),
        RefusalKind::Unreachable => (
            StatusCode::BAD_GATEWAY,
            "destination_ip_unroutable",
            format!("{exit} has no route to {host}"),
        ),
        RefusalKind::TimedOut => (
            StatusCode::GATEWAY_TIMEOUT,
            "connection_timeout",
            format!("{host} did not answer in time"),
        ),
        RefusalKind::NoExit => (
            StatusCode::SERVICE_UNAVAILABLE,
            "destination_unavailable",
            format!("No exit serves {host} now"),
        ),
        RefusalKind::NotAnExit => (
            StatusCode::SERVICE_UNAVAILABLE,
            "destination_unavailable",
            "The chosen node is not an exit".to_owned(),
        ),
        RefusalKind::ExitUnreachable => (
            StatusCode::BAD_GATEWAY,
            "destination_unavailable",
            format!("{exit} cannot be reached over the overlay"),
        ),
        RefusalKind::Overloaded => (
            StatusCode::SERVICE_UNAVAILABLE,
            "connection_limit_reached",
            "A limit is reached".to_owned(),
        ),
        RefusalKind::Protocol => {
            (StatusCode::BAD_GATEWAY, "proxy_internal_error", format!("{exit} broke the protocol"))
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

/// `text` as text of an HTML page or the inside of a quoted attribute.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            character if character.is_control() => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(trouble: &Trouble, audience: Audience) -> String {
        let answer = trouble.answer(
            audience,
            "http://127.0.0.1:1080/",
            Some("http://127.0.0.1:1090/#/errors"),
        );
        String::from_utf8(answer.bytes("GET", Kept::Closed)).unwrap()
    }

    fn refused(kind: RefusalKind, detail: &str) -> Trouble {
        let refusal = Refusal::new(kind, detail).at("mit".parse().unwrap());
        Trouble::refused(&refusal, &"a.test:81".parse().unwrap())
    }

    #[test]
    fn every_refusal_has_its_status_and_says_why_once() {
        for (kind, status) in [
            (RefusalKind::Policy, 403),
            (RefusalKind::NameNotFound, 502),
            (RefusalKind::ConnectionRefused, 502),
            (RefusalKind::Unreachable, 502),
            (RefusalKind::TimedOut, 504),
            (RefusalKind::NoExit, 503),
            (RefusalKind::NotAnExit, 503),
            (RefusalKind::ExitUnreachable, 502),
            (RefusalKind::Overloaded, 503),
            (RefusalKind::Protocol, 502),
        ] {
            let text = text(&refused(kind, "because \"é\"\r\nX: y"), Audience::Program);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{kind:?}: {head}");
            assert!(head.contains(r#"because \"?\"??X: y"#), "{head}");
            assert_eq!(body.matches("because").count(), 1, "{body}");
            assert!(body.trim_end().ends_with('.'), "{body}");
        }
    }

    #[test]
    fn a_browser_gets_a_page_whose_text_is_escaped() {
        let trouble = refused(RefusalKind::NameNotFound, "<script>alert('1')</script> & \"x\"");
        let page = text(&trouble, Audience::Browser);
        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nContent-Type: text/html; charset=utf-8\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert!(!body.contains("<script") && !body.contains("alert('"), "{body}");
        assert!(
            body.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;")
        );
        for part in ["<h1>The exit mit could not find a.test</h1>", "<a href=\"\">Try again</a>"] {
            assert!(body.contains(part), "{body}");
        }
        assert!(body.contains("<a href=\"http://127.0.0.1:1080/\">"), "{body}");
        assert!(
            body.contains("<a href=\"http://127.0.0.1:1090/#/errors\">All errors</a>"),
            "{body}"
        );
    }

    #[test]
    fn only_who_accepts_html_gets_a_page() {
        for (accept, audience) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", Audience::Browser),
            ("Text/HTML;q=0.5", Audience::Browser),
            ("*/*", Audience::Program),
            ("application/json", Audience::Program),
            ("", Audience::Program),
        ] {
            let mut fields = Fields::default();
            fields.push("Accept", accept);
            assert_eq!(Audience::of(&fields), audience, "{accept}");
        }
        assert_eq!(Audience::of(&Fields::default()), Audience::Program);
    }

    #[test]
    fn head_and_204_have_no_body() {
        let plain = Answer::plain(StatusCode::OK, "abc").bytes("HEAD", Kept::OpenForHttp10);
        let text = String::from_utf8(plain).unwrap();
        assert!(text.contains("Content-Length: 4\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        assert!(text.contains("Connection: keep-alive\r\n"));
        let options = String::from_utf8(Answer::options().bytes("OPTIONS", Kept::Open)).unwrap();
        assert!(options.starts_with("HTTP/1.1 204 No Content\r\nAllow: "), "{options}");
        assert!(!options.contains("Content-Length"), "{options}");
    }
}
