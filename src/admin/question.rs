//! The question of `GET /why`, as it stands in the request's query. Pure.

use crate::{
    app::Question,
    flow::{Host, Target},
};

/// The port when a question names none: most of the web.
const DEFAULT_PORT: u16 = 443;

/// The path and query that ask `question`.
#[must_use]
pub fn ask(dest: &str, options: &[(&str, Option<String>)]) -> String {
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

/// A destination with or without a port.
fn destination(text: &str) -> Result<Target, String> {
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

fn sentence(error: impl std::error::Error) -> String {
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
    fn what_is_asked_is_what_is_read() {
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
        ] {
            assert_eq!(asked(text, &[]).unwrap().target.to_string(), target);
        }
    }

    #[test]
    fn nonsense_is_answered_with_what_to_write() {
        for (query, expected) in [
            ("", "name a destination"),
            ("dest=", "write it as"),
            ("dest=a:b:c:99999", "write it as"),
            ("dest=a%00b", "write it as"),
            ("dest=a&hint=speed", "hint"),
            ("dest=a&exit=A%20B", "name"),
            ("dest=a&colour=red", "means nothing"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(expected), "{query}: {error}");
        }
    }
}
