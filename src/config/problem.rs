//! Errors of a configuration file, with the correction.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// How similar an unknown key must be to a valid one to be suggested (Jaro-Winkler, 0 to 1):
/// `pateince` has 0.97 to `patience`, unrelated keys have less than 0.6.
const LIKENESS: f64 = 0.7;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
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

/// The text of the file at `path`, at most `longest` bytes.
pub(super) fn read(path: &Path, longest: u64) -> Result<String, ConfigError> {
    let unreadable = |why| ConfigError::Unreadable { path: path.to_owned(), why };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(longest + 1).read_to_end(&mut bytes));
    read.map_err(|error| unreadable(advice(&error)))?;
    if bytes.len() as u64 > longest {
        return Err(unreadable(format!("it has more than {longest} bytes; is it the right file?")));
    }
    decode(bytes).map_err(unreadable)
}

fn advice(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "call ronproxy as the user whose node this is",
        io::ErrorKind::IsADirectory => "move this folder away",
        _ => "name the right folder with --dir DIR, or make a node with `ronproxy init`",
    };
    format!("{error}; {advice}")
}

/// UTF-8, with or without the mark that some editors put at the beginning.
fn decode(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("it is in UTF-16; save it as UTF-8".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        format!("line {line} is not in UTF-8; save the file as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Explains what `toml` or a value's own reading found wrong.
pub(super) fn explain(text: &str, error: &toml::de::Error) -> ConfigError {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
    let line = text.lines().nth(before).unwrap_or_default();
    let message =
        match unknown_key(error.message()).or_else(|| twice(text, before, error.message())) {
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

/// Says where the table or key stands first that `toml` found again at line `again`, counted from 0.
fn twice(text: &str, again: usize, message: &str) -> Option<String> {
    if !message.starts_with("duplicate key") {
        return None;
    }
    let lines: Vec<_> = text.lines().map(str::trim).take(again + 1).collect();
    let (second, before) = lines.split_last()?;
    let name = |line: &str| match line.starts_with('[') {
        true => line.split(']').next().map(str::to_owned),
        false => line.split_once('=').map(|(key, _)| key.trim().to_owned()),
    };
    let wanted = name(second)?;
    // A key is looked for in its own table only.
    let table = before.iter().rposition(|line| !second.starts_with('[') && line.starts_with('['));
    let from = table.map_or(0, |header| header + 1);
    let first = before[from..].iter().position(|line| name(line).as_ref() == Some(&wanted))?;
    let shown = if second.starts_with('[') { format!("{wanted}]") } else { wanted };
    Some(format!("`{shown}` is there already, in line {}; keep one of them", from + first + 1))
}
