//! The question of `GET /events`, as it stands in the request's query. Pure.

use std::time::Duration;

use crate::events::Query;

/// The longest wait for an event: a client gives up after 5 s.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// Reads the question: what is asked for, and for how long to wait for it.
///
/// # Errors
/// A sentence that says what to write instead.
pub(super) fn read(text: &str) -> Result<(Query, Duration), String> {
    let (mut query, mut patience) = (Query::default(), Duration::ZERO);
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        let number = || {
            value.parse::<u64>().map_err(|_| format!("{name}={value:?} is no number; write digits"))
        };
        match name.as_ref() {
            "since" => query.since = Some(number()?),
            "limit" => query.limit = Some(usize::try_from(number()?).unwrap_or(usize::MAX)),
            "wait" => patience = Duration::from_secs(number()?).min(LONGEST_WAIT),
            "class" => {
                let classes = value.split(',').map(str::parse);
                query.classes = classes.collect::<Result<_, _>>()?;
            }
            other => {
                return Err(format!(
                    "{other:?} means nothing here; ask with since, limit, wait or class"
                ));
            }
        }
    }
    Ok((query, patience))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Class;

    #[test]
    fn a_question_is_read_and_its_wait_is_bounded() {
        let (query, patience) = read("since=7&limit=3&wait=99&class=reroutes,overlay").unwrap();
        assert_eq!((query.since, query.limit), (Some(7), Some(3)));
        assert_eq!(query.classes, [Class::Reroutes, Class::Overlay]);
        assert_eq!(patience, LONGEST_WAIT);
        assert_eq!(read("").unwrap(), (Query::default(), Duration::ZERO));
    }

    #[test]
    fn nonsense_is_answered_with_what_to_write() {
        for (text, expected) in
            [("since=x", "digits"), ("class=flow", "write one of overlay"), ("a=b", "since, limit")]
        {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
