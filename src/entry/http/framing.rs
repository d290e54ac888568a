//! How long a message's body is (RFC 9112, §6.3). PURE.
//!
//! This is where request smuggling begins: two readers that disagree about a length. A request that two
//! readers may understand differently is refused. A response is given one length, by which it is read
//! and written anew.

use super::{
    fields::Fields,
    head::{RequestHead, ResponseHead, Version},
};

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// After so many bytes.
    Exactly(u64),
    /// At its last chunk.
    Chunked,
    /// With the connection; only a response.
    UntilClose,
}

/// Why a body's length is not known. Each message completes "The request" or "The server's answer".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadLength {
    #[error("has a Content-Length that is no number: {0:?}")]
    NoNumber(String),
    #[error("has two different Content-Length fields: {0} and {1}")]
    Contradiction(u64, u64),
    #[error("has both Content-Length and Transfer-Encoding; send one of them")]
    Both,
    #[error("has a Transfer-Encoding although it is in HTTP/1.0; send Content-Length")]
    CodedInHttp10,
    #[error("has the transfer coding {0:?}, which this proxy does not know; send chunked alone")]
    Coding(String),
    #[error("has the transfer codings {0:?}, of which chunked must be the last and stand once")]
    Order(String),
}

/// The transfer codings of a message; `identity`, which means nothing, is left out.
fn codings(fields: &Fields) -> Vec<String> {
    let codings = fields.tokens("transfer-encoding").map(str::to_ascii_lowercase);
    codings.filter(|coding| coding != "identity").collect()
}

fn content_length(fields: &Fields) -> Result<Option<u64>, BadLength> {
    let mut length = None;
    for value in fields.all("content-length") {
        let text = String::from_utf8_lossy(value);
        for number in text.split(',').map(|number| number.trim_matches([' ', '\t'])) {
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let parsed = number.parse().ok().filter(|_| digits);
            let found: u64 =
                parsed.ok_or_else(|| BadLength::NoNumber(number.chars().take(40).collect()))?;
            match length {
                Some(before) if before != found => {
                    return Err(BadLength::Contradiction(before, found));
                }
                _ => length = Some(found),
            }
        }
    }
    Ok(length)
}

/// The length of a request's body.
pub(super) fn of_request(head: &RequestHead) -> Result<Length, BadLength> {
    let length = content_length(&head.fields)?;
    if head.fields.get("transfer-encoding").is_none() {
        return Ok(Length::Exactly(length.unwrap_or(0)));
    }
    if length.is_some() {
        return Err(BadLength::Both);
    }
    if head.version == Version::Http10 {
        return Err(BadLength::CodedInHttp10);
    }
    let mut values = head.fields.all("transfer-encoding");
    match (values.next(), values.next()) {
        (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Ok(Length::Chunked),
        (Some(value), _) => Err(BadLength::Coding(String::from_utf8_lossy(value).into_owned())),
        (None, _) => Ok(Length::Exactly(0)),
    }
}

/// The length of a response's body, and its transfer codings beside `chunked`, which stay on it.
pub(super) fn of_response(
    head: &ResponseHead,
    method: &str,
) -> Result<(Length, Vec<String>), BadLength> {
    if method == "HEAD" || matches!(head.status, 100..=199 | 204 | 304) {
        return Ok((Length::Exactly(0), Vec::new()));
    }
    let mut codings = codings(&head.fields);
    match codings.pop() {
        None => {}
        Some(last) if last == "chunked" && !codings.contains(&last) => {
            // It wins over a Content-Length, whatever that says.
            return Ok((Length::Chunked, codings));
        }
        Some(last) => {
            codings.push(last);
            let all = codings.join(", ");
            let known = codings.iter().any(|coding| coding == "chunked");
            return Err(if known { BadLength::Order(all) } else { BadLength::Coding(all) });
        }
    }
    let length = content_length(&head.fields)?;
    Ok((length.map_or(Length::UntilClose, Length::Exactly), codings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::http::head;

    fn request(fields: &str) -> Result<Length, String> {
        let version = if fields.starts_with("V: 1.0") { "1.0" } else { "1.1" };
        let bytes = format!("POST / HTTP/{version}\r\n{fields}\r\n");
        let head = head::request(bytes.as_bytes()).map_err(|error| error.to_string())?;
        of_request(&head).map_err(|error| error.to_string())
    }

    fn response(status: u16, fields: &str) -> Result<(Length, Vec<String>), BadLength> {
        let bytes = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
        of_response(&head::response(bytes.as_bytes()).unwrap(), "GET")
    }

    #[test]
    fn a_request_has_one_length_or_is_refused() {
        for (fields, expected) in [
            ("", Ok(Length::Exactly(0))),
            ("Content-Length: 5\r\n", Ok(Length::Exactly(5))),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Ok(Length::Exactly(5))),
            ("Content-Length: 5, 5\r\n", Ok(Length::Exactly(5))),
            ("Transfer-Encoding: Chunked\r\n", Ok(Length::Chunked)),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Err("two different")),
            ("Content-Length: +5\r\n", Err("no number")),
            ("Content-Length: 0x5\r\n", Err("no number")),
            ("Content-Length: 5,\r\n", Err("no number")),
            ("Content-Length: 99999999999999999999\r\n", Err("no number")),
            ("Content-Length:\r\n", Err("no number")),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err("both")),
            ("Content-Length: 5\r\nTransfer-Encoding: identity\r\n", Err("both")),
            ("V: 1.0\r\nTransfer-Encoding: chunked\r\n", Err("HTTP/1.0")),
            ("Transfer-Encoding: gzip, chunked\r\n", Err("gzip, chunked")),
            ("Transfer-Encoding: xchunked\r\n", Err("xchunked")),
            ("Transfer-Encoding: chunked, chunked\r\n", Err("coding")),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", Err("coding")),
            ("Transfer-Encoding:\r\n", Err("coding")),
            ("Transfer-Encoding: \"chunked\"\r\n", Err("coding")),
            ("Transfer-Encoding: chunked\x0b\r\n", Err("control")),
            ("Transfer-Encoding : chunked\r\n", Err("field name")),
            ("Transfer-Encoding:\r\n chunked\r\n", Err("folded")),
        ] {
            match (request(fields), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{fields}"),
                (Err(error), Err(reason)) => assert!(error.contains(reason), "{fields}: {error}"),
                (found, _) => panic!("{fields}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_response_has_one_length_or_is_refused() {
        let ends = |length| Ok((length, Vec::new()));
        for (fields, expected) in [
            ("", ends(Length::UntilClose)),
            ("Content-Length: 5\r\n", ends(Length::Exactly(5))),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", ends(Length::Chunked)),
            ("Content-Length: x\r\nTransfer-Encoding: chunked\r\n", ends(Length::Chunked)),
            ("Content-Length: 5\r\nTransfer-Encoding: identity\r\n", ends(Length::Exactly(5))),
            (
                "Transfer-Encoding: GZip, chunked\r\n",
                Ok((Length::Chunked, vec!["gzip".to_owned()])),
            ),
            ("Transfer-Encoding: gzip\r\n", Err(BadLength::Coding("gzip".to_owned()))),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
                Err(BadLength::Order("chunked, x".to_owned())),
            ),
            (
                "Transfer-Encoding: chunked, chunked\r\n",
                Err(BadLength::Order("chunked, chunked".to_owned())),
            ),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(BadLength::Contradiction(5, 6))),
            ("Content-Length: -1\r\n", Err(BadLength::NoNumber("-1".to_owned()))),
        ] {
            assert_eq!(response(200, fields), expected, "{fields}");
        }
    }

    #[test]
    fn some_responses_have_no_body_whatever_they_say() {
        let says = "Content-Length: 5\r\n";
        for status in [100, 102, 103, 199, 204, 304] {
            assert_eq!(response(status, says).unwrap().0, Length::Exactly(0), "{status}");
        }
        let head = head::response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap();
        assert_eq!(of_response(&head, "HEAD").unwrap().0, Length::Exactly(0));
    }
}
