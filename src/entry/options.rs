//! What an application may ask for in its proxy user name: `exit=mit,hint=loss`.
//!
//! PURE. The idea is Tor's (proposal 351): every SOCKS and HTTP client can send a user name, so it
//! is the one place where an unmodified application can choose an exit and a hint.

use crate::{
    flow::{Hint, ParseHintError},
    identity::{NodeName, ParseNameError},
};

/// What an application asked for beside its destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// The exit it named.
    pub(super) exit: Option<NodeName>,
    /// The hint it named.
    pub(super) hint: Option<Hint>,
    /// The configured user it authenticated as; not an option, but known at the same time.
    pub(super) user: Option<String>,
}

/// The text is not a list of options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum OptionsError {
    #[error("{0:?} is not KEY=VALUE; write exit=NODE, hint=HINT, or both with a comma between")]
    NotAPair(String),
    #[error("there is no option {0:?}; the options are exit and hint")]
    UnknownKey(String),
    #[error("the option {0} is given twice")]
    Twice(&'static str),
    #[error(transparent)]
    Exit(#[from] ParseNameError),
    #[error(transparent)]
    Hint(#[from] ParseHintError),
}

impl Options {
    /// Reads `key=value[,key=value]`. The empty text asks for nothing.
    pub(super) fn parse(text: &str) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        if text.is_empty() {
            return Ok(options);
        }
        for pair in text.split(',') {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| OptionsError::NotAPair(shorten(pair)))?;
            match key {
                "exit" => set(&mut options.exit, value.parse()?, "exit")?,
                "hint" => set(&mut options.hint, value.parse()?, "hint")?,
                _ => return Err(OptionsError::UnknownKey(shorten(key))),
            }
        }
        Ok(options)
    }
}

fn set<T>(slot: &mut Option<T>, value: T, key: &'static str) -> Result<(), OptionsError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(OptionsError::Twice(key)),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn options_are_read_in_any_order() {
        for (text, exit, hint) in [
            ("", None, None),
            ("exit=mit", Some("mit"), None),
            ("hint=loss", None, Some("loss")),
            ("exit=utah-2,hint=throughput", Some("utah-2"), Some("throughput")),
            ("hint=app:page-load,exit=mit", Some("mit"), Some("app:page-load")),
        ] {
            let options = Options::parse(text).unwrap();
            assert_eq!(options.exit.as_ref().map(NodeName::as_str), exit, "{text:?}");
            assert_eq!(options.hint.map(|h| h.to_string()).as_deref(), hint, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_option_is_refused_with_the_reason() {
        for (text, reason) in [
            ("mit", "KEY=VALUE"),
            (",", "KEY=VALUE"),
            ("exit=mit,", "KEY=VALUE"),
            ("exti=mit", "the options are exit and hint"),
            ("Exit=mit", "the options are exit and hint"),
            ("exit=", "node name"),
            ("exit=MIT", "node name"),
            ("hint=fast", "latency, loss"),
            ("exit=mit,exit=utah", "twice"),
        ] {
            let error = Options::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(exit=|hint=|[a-z=,:\\PC])*") {
            let _ = Options::parse(&text);
        }
    }
}
