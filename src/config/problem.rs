//! What is wrong with a configuration file, said so that it can be mended.

use std::{
    io,
    path::{Path, PathBuf},
};

/// How like a valid key an unknown one must be to be taken for a slip (Jaro-Winkler, 0 to 1):
/// `pateince` is 0.97 to `patience`, unrelated keys stay below 0.6.
const LIKENESS: f64 = 0.7;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; name the right folder with --dir DIR, or make a node with `ronproxy init`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A value is wrong.
    #[error("{}:{line}: {message}", file.display())]
    Wrong {
        /// The file; `config.toml` when only the text is known.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, and what would be right.
        message: String,
    },
}

impl ConfigError {
    pub(super) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Wrong { line, message, .. } => {
                Self::Wrong { file: path.to_owned(), line, message }
            }
            error @ Self::Unreadable { .. } => error,
        }
    }

    fn wrong(line: usize, message: String) -> Self {
        Self::Wrong { file: "config.toml".into(), line, message }
    }
}

/// Explains what `toml` or a value's own reading found wrong.
pub(super) fn explain(text: &str, error: &toml::de::Error) -> ConfigError {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
    let line = text.lines().nth(before).unwrap_or_default();
    let message = match unknown_key(error.message()) {
        Some(message) => message,
        // The message may quote the value.
        None if line.contains("password") => "the password is not text in quotes".to_owned(),
        None => error.message().replace('\n', "; "),
    };
    ConfigError::wrong(before + 1, message)
}

/// An error about a section as a whole, at the line of its header.
pub(super) fn in_section(text: &str, section: &str, message: String) -> ConfigError {
    let header = |line: &str| {
        let line = line.trim_start().trim_start_matches('[');
        line.strip_prefix(section).is_some_and(|rest| rest.starts_with([']', '.', ' ', '=']))
    };
    let line = text.lines().position(header).unwrap_or_default();
    ConfigError::wrong(line + 1, message)
}

/// Turns serde's "unknown field `a`, expected one of `b`, `c`" into advice.
fn unknown_key(message: &str) -> Option<String> {
    let (unknown, expected) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let likeness = |key: &str| strsim::jaro_winkler(unknown, key);
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let advice = match nearest {
        Some(key) if likeness(key) >= LIKENESS => format!("did you mean `{key}`?"),
        _ => format!("there are {}", known.join(", ")),
    };
    Some(format!("unknown key `{unknown}`; {advice}"))
}
