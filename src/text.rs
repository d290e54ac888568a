//! Text of peers, clients and servers, made safe for the log and the terminal. PURE.
//!
//! A name from a SOCKS request, a refusal from an exit or the reason with which a peer closes may
//! hold ESC sequences that drive a terminal, line ends that forge a line of the log, or marks that
//! reverse the order of what is shown. All of them become visible escapes such as `\u{1b}` and `\n`.
//! The log (`cli/log.rs`) and the output (`cli/output.rs`) pass everything through here.

use std::fmt::{self, Write};

/// Whether `c` is shown as an escape: a control character, a line separator, or one of the marks
/// that change the direction of what follows (Unicode TR 36, section 2).
#[must_use]
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Shows a value with every unsafe character as an escape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Escaped<T>(pub T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping { inner: f, lines: false }, "{}", self.0)
    }
}

/// As [`Escaped`], but line ends and tabs stay: for our own text of several lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EscapedLines<T>(pub T);

impl<T: fmt::Display> fmt::Display for EscapedLines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping { inner: f, lines: true }, "{}", self.0)
    }
}

/// Escapes what is written through it.
struct Escaping<'a, W: ?Sized> {
    inner: &'a mut W,
    /// Whether line ends and tabs pass.
    lines: bool,
}

impl<W: Write + ?Sized> Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let passes = |c: char| !is_unsafe(c) || (self.lines && matches!(c, '\n' | '\t'));
        let mut rest = text;
        while let Some(at) = rest.find(|c| !passes(c)) {
            let (safe, from) = rest.split_at(at);
            self.inner.write_str(safe)?;
            let mut chars = from.chars();
            if let Some(c) = chars.next() {
                write!(self.inner, "{}", c.escape_default())?;
            }
            rest = chars.as_str();
        }
        self.inner.write_str(rest)
    }
}

/// Escapes what `write` writes to `inner`.
///
/// # Errors
/// When `inner` fails.
pub(crate) fn write_escaped<W: Write + ?Sized>(
    inner: &mut W,
    value: fmt::Arguments<'_>,
) -> fmt::Result {
    Escaping { inner, lines: false }.write_fmt(value)
}

/// `text` with `?` for its unsafe characters, at most `longest` bytes: for a peer's text that is kept.
#[must_use]
pub(crate) fn cleaned(text: &str, longest: usize) -> String {
    let mut kept = String::with_capacity(text.len().min(longest));
    for c in text.chars().map(|c| if is_unsafe(c) { '?' } else { c }) {
        if kept.len() + c.len_utf8() > longest {
            break;
        }
        kept.push(c);
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn characters_that_drive_a_terminal_or_forge_a_line_are_escaped() {
        let text = "a\u{1b}[2J\r\nb\u{9b}31m\u{7f}\u{202e}\t\u{2028}ü";
        let shown = r"a\u{1b}[2J\r\nb\u{9b}31m\u{7f}\u{202e}\t\u{2028}ü";
        assert_eq!(Escaped(text).to_string(), shown);
        assert_eq!(EscapedLines("a\u{1b}\n\tb").to_string(), "a\\u{1b}\n\tb");
    }

    #[test]
    fn a_cleaned_text_is_cut_at_a_character_boundary() {
        assert_eq!(cleaned("a\u{1b}\nb", 9), "a??b");
        assert_eq!(cleaned(&"ä".repeat(9), 5), "ää");
    }

    proptest! {
        #[test]
        fn no_unsafe_character_passes(text in "\\PC*|[\u{0}-\u{ff}\u{2020}-\u{2070}]*") {
            prop_assert!(!Escaped(&text).to_string().contains(is_unsafe));
            let cleaned = cleaned(&text, 20);
            prop_assert!(cleaned.len() <= 20 && !cleaned.contains(is_unsafe));
        }
    }
}
