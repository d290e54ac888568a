//! The questions of `GET /why` and `GET /ping`, as they stand in the request's query. Pure.

use crate::{
    app::Question,
    flow::{Host, Target},
    identity::NodeName,
};

/// The port when a question names none: most of the web.
const DEFAULT_PORT: u16 = 443;

/// The path and query that ask `question`.
#[cfg(feature = "cli")]
#[must_use]
pub(crate) fn ask(dest: &str, options: &[(&str, Option<String>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("dest", dest);
    for (name, value) in options {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    format!("/why?{}", query.finish())
}

/// Reads the question.
///
/// # Errors
/// A sentence that says what to write instead.
pub(super) fn read(query: &str) -> Result<Question, String> {
    let (mut target, mut hint, mut exit, mut user) = (None, None, None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "dest" => target = Some(destination(&value)?),
            "hint" => hint = Some(value.parse().map_err(sentence)?),
            "exit" => exit = Some(value.parse().map_err(sentence)?),
            "user" => user = Some(value.into_owned()),
            other => {
                return Err(format!(
                    "{other:?} means nothing here; ask with dest, hint, exit or user"
                ));
            }
        }
    }
    let target = target.ok_or("name a destination, as in /why?dest=web.mit.edu:443")?;
    Ok(Question { target, hint, exit, user })
}

/// The path and query that ask for a probe of each route to `node`, or of the one via `relay`.
#[cfg(feature = "cli")]
#[must_use]
pub(crate) fn ask_ping(node: &NodeName, relay: Option<&NodeName>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("node", node.as_str());
    query.extend_pairs(relay.map(|relay| ("via", relay.as_str())));
    format!("/ping?{}", query.finish())
}

/// Reads which routes are to be probed: to which node, and via which relay.
///
/// # Errors
/// A sentence that says what to write instead.
pub(super) fn read_ping(query: &str) -> Result<(NodeName, Option<NodeName>), String> {
    let (mut node, mut via) = (None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "node" => node = Some(value.parse().map_err(sentence)?),
            "via" => via = Some(value.parse().map_err(sentence)?),
            other => return Err(format!("{other:?} means nothing here; ask with node or via")),
        }
    }
    Ok((node.ok_or("name a node, as in /ping?node=mit")?, via))
}

/// A destination with or without a port, or the URL of something there.
fn destination(text: &str) -> Result<Target, String> {
    if let Some(target) = of_url(text) {
        return Ok(target);
    }
    let with_port = text.parse::<Target>();
    with_port
        .or_else(|error| match text.parse::<Host>() {
            Ok(host) => Ok(Target { host, port: DEFAULT_PORT }),
            Err(_) => Err(error),
        })
        .map_err(|error| {
            format!("{error}; write it as web.mit.edu, web.mit.edu:80 or [2001:db8::1]:443")
        })
}

/// Where the client of a URL connects to.
fn of_url(text: &str) -> Option<Target> {
    let (scheme, _) = text.split_once("://")?;
    let url: hyper::Uri = text.parse().ok()?;
    let port = url.port_u16().or(match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        "ssh" | "sftp" => Some(22),
        "ftp" => Some(21),
        "git" => Some(9418),
        _ => None,
    })?;
    Target::new(url.host()?, port).ok()
}

/// What is wrong with a value, for the one who wrote it.
pub(super) fn sentence(error: impl std::error::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(dest: &str, options: &[(&str, Option<String>)]) -> Result<Question, String> {
        let path = ask(dest, options);
        read(path.strip_prefix("/why?").unwrap())
    }

    #[test]
    fn a_written_question_reads_back() {
        let hint = ("hint", Some("loss".to_owned()));
        let user = ("user", Some("a&b=c d".to_owned()));
        let question = asked("web.mit.edu:80", &[hint, ("exit", None), user]).unwrap();
        assert_eq!(question.target.to_string(), "web.mit.edu:80");
        assert_eq!(question.hint.unwrap().to_string(), "loss");
        assert_eq!((question.exit, question.user.as_deref()), (None, Some("a&b=c d")));
    }

    #[test]
    fn a_destination_without_a_port_is_the_webs() {
        for (text, target) in [
            ("web.mit.edu", "web.mit.edu:443"),
            ("192.0.2.1", "192.0.2.1:443"),
            ("2001:db8::1", "[2001:db8::1]:443"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("https://web.mit.edu/a?b=c#d", "web.mit.edu:443"),
            ("HTTP://ann:secret@web.mit.edu", "web.mit.edu:80"),
            ("http://[2001:db8::1]:8080/", "[2001:db8::1]:8080"),
            ("ssh://git@web.mit.edu/repo.git", "web.mit.edu:22"),
        ] {
            assert_eq!(asked(text, &[]).unwrap().target.to_string(), target);
        }
    }

    #[test]
    fn a_ping_names_a_node_and_perhaps_a_relay() {
        let name = |text: &str| text.parse::<NodeName>().unwrap();
        let asked = |relay: Option<&NodeName>| {
            let path = ask_ping(&name("mit"), relay);
            read_ping(path.strip_prefix("/ping?").unwrap())
        };
        assert_eq!(asked(None), Ok((name("mit"), None)));
        assert_eq!(asked(Some(&name("utah"))), Ok((name("mit"), Some(name("utah")))));
        for (query, expected) in [("", "name a node"), ("node=A", "name"), ("a=b", "node or via")] {
            assert!(read_ping(query).unwrap_err().contains(expected), "{query}");
        }
    }

    #[test]
    fn nonsense_is_answered_with_what_to_write() {
        for (query, expected) in [
            ("", "name a destination"),
            ("dest=", "write it as"),
            ("dest=a:b:c:99999", "write it as"),
            ("dest=a%00b", "write it as"),
            ("dest=gopher://a/", "write it as"),
            ("dest=a&hint=speed", "hint"),
            ("dest=a&exit=A%20B", "name"),
            ("dest=a&colour=red", "means nothing"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(expected), "{query}: {error}");
        }
    }
}
