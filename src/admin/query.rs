//! The questions of `GET /events` and `GET /logs`, as they stand in the request's query. Pure.

use std::time::Duration;

use crate::events::Query;

/// The longest wait for an event: a client gives up after 5 s.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// What is asked of a listing that grows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Part {
    /// What has a greater number.
    pub(super) since: Option<u64>,
    /// At most the last so many.
    pub(super) limit: Option<usize>,
    /// For how long to wait until there is something.
    pub(super) wait: Duration,
}

/// Reads the question; `more` reads what this listing can be asked for besides, and says whether that
/// was it.
///
/// # Errors
/// A sentence that says what to write instead.
pub(super) fn part(
    text: &str,
    besides: &str,
    mut more: impl FnMut(&str, &str) -> Result<bool, String>,
) -> Result<Part, String> {
    let mut part = Part::default();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        let number = || {
            value.parse::<u64>().map_err(|_| format!("{name}={value:?} is no number; write digits"))
        };
        match name.as_ref() {
            "since" => part.since = Some(number()?),
            "limit" => part.limit = Some(usize::try_from(number()?).unwrap_or(usize::MAX)),
            "wait" => part.wait = Duration::from_secs(number()?).min(LONGEST_WAIT),
            other if more(other, &value)? => {}
            other => {
                return Err(format!(
                    "{other:?} means nothing here; ask with since, limit, wait or {besides}"
                ));
            }
        }
    }
    Ok(part)
}

/// Reads the question for events: what is asked for, and for how long to wait for it.
///
/// # Errors
/// A sentence that says what to write instead.
pub(super) fn read(text: &str) -> Result<(Query, Duration), String> {
    let mut classes = Vec::new();
    let Part { since, limit, wait } = part(text, "class", |name, value| {
        let is_class = name == "class";
        if is_class {
            classes = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
        }
        Ok(is_class)
    })?;
    Ok((Query { since, limit, classes }, wait))
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
