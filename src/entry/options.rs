//! Options in the proxy user name of an application: `exit=mit,hint=loss`.
//!
//! PURE. The idea is Tor's (proposal 351): every SOCKS and HTTP client can send a user name, so an
//! unmodified application can choose an exit and a hint in it.

use crate::{
    flow::{Hint, ParseHintError},
    identity::{NodeName, ParseNameError},
};

/// The keys of all options.
const KEYS: [&str; 2] = ["exit", "hint"];

/// The options of an application.
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
    /// Reads the user name of a client that needs none. A name without an option means nothing,
    /// because many programs send a login name or a random one. A name with an option must be a
    /// valid list of options, so that a typing error does not lead to another exit.
    pub(super) fn of_name(name: &str) -> Result<Self, OptionsError> {
        let is_option = |pair: &str| {
            let key = pair.split_once('=').map_or("", |(key, _)| key.trim()).to_ascii_lowercase();
            KEYS.iter().any(|known| strsim::damerau_levenshtein(known, &key) <= 1)
        };
        if name.split(',').any(is_option) { Self::parse(name) } else { Ok(Self::default()) }
    }

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
    fn an_unknown_option_is_refused_with_the_reason() {
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

    #[test]
    fn a_name_without_an_option_asks_for_nothing() {
        let long = "x".repeat(255);
        for name in ["", "ann", "=", "a=b", "exit", "session=7,retry", "exit:mit", "ä+ö@ü", &long]
        {
            assert_eq!(Options::of_name(name), Ok(Options::default()), "{name:?}");
        }
        assert_eq!(Options::of_name("exit=mit").unwrap().exit.unwrap().as_str(), "mit");
        for name in [
            "exit=MIT",
            "Exit=mit",
            "hint=fast",
            "ann,exit=mit",
            "exit=mit,x=y",
            "exti=mit",
            "hnt=loss",
        ] {
            assert!(Options::of_name(name).is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(exit=|hint=|[a-z=,:\\PC])*") {
            let _ = Options::parse(&text);
            let _ = Options::of_name(&text);
        }
    }
}
