//! What `POST /steer` changes, as it stands in the request's query. Pure.

use super::question::sentence;
use crate::app::Steer;

/// The word that takes steering back.
const AUTO: &str = "auto";

/// Says that what is steered then holds after a restart, too.
const SAVE: &str = "save";

/// The path and query that change `what`: `exit`, `hint`, `avoid`, `pause`, or the last two with `un`.
#[cfg(feature = "cli")]
#[must_use]
pub(crate) fn steer(what: &str, value: &str, save: bool) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair(what, value);
    if save {
        query.append_pair(SAVE, "1");
    }
    format!("/steer?{}", query.finish())
}

/// Reads the changes, and whether they hold after a restart, too.
///
/// # Errors
/// A sentence that says what to write instead.
pub(super) fn read(query: &str) -> Result<(Vec<Steer>, bool), String> {
    let asked = || form_urlencoded::parse(query.as_bytes());
    let save = asked().any(|(what, value)| what == SAVE && value == "1");
    let changes = asked().filter(|(what, _)| what != SAVE).map(|(what, value)| {
        let auto = value == AUTO;
        match what.as_ref() {
            "exit" if auto => Ok(Steer::Exit(None)),
            "exit" => value.parse().map(|exit| Steer::Exit(Some(exit))).map_err(sentence),
            "hint" if auto => Ok(Steer::Hint(None)),
            "hint" => value.parse().map(|hint| Steer::Hint(Some(hint))).map_err(sentence),
            "avoid" => value.parse().map(|relay| Steer::Avoid(relay, true)).map_err(sentence),
            "pause" => Ok(Steer::Pause(value.into_owned(), true)),
            "unpause" => Ok(Steer::Pause(value.into_owned(), false)),
            "unavoid" => value.parse().map(|relay| Steer::Avoid(relay, false)).map_err(sentence),
            other => Err(format!(
                "{other:?} means nothing here; write exit, hint (each also auto), avoid, unavoid, pause, unpause or save=1"
            )),
        }
    });
    let changes: Vec<Steer> = changes.collect::<Result<_, _>>()?;
    match changes.is_empty() {
        true => Err("say what to change, as in /steer?exit=mit".to_owned()),
        false => Ok((changes, save)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_in_order() {
        let (changes, save) = read("exit=mit&hint=auto&avoid=utah&unavoid=nyu").unwrap();
        let name = |text: &str| text.parse().unwrap();
        let expected = [
            Steer::Exit(Some(name("mit"))),
            Steer::Hint(None),
            Steer::Avoid(name("utah"), true),
            Steer::Avoid(name("nyu"), false),
        ];
        assert_eq!((&changes[..], save), (&expected[..], false));
        assert_eq!(steer("hint", "app:x", false), "/steer?hint=app%3Ax");
        assert_eq!(steer("avoid", "utah", true), "/steer?avoid=utah&save=1");
        assert_eq!(read("avoid=utah&save=1").unwrap(), (vec![expected[2].clone()], true));
    }

    #[test]
    fn nonsense_is_answered_with_what_to_write() {
        for (query, expected) in [
            ("", "say what"),
            ("save=1", "say what"),
            ("exit=A%20B", "name"),
            ("hint=speed", "hint"),
            ("a=b", "write exit"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(expected), "{query}: {error}");
        }
    }
}
