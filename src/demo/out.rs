//! The demo's voice: the one place that writes to standard output.

use std::io::{self, Write};

/// Prints a line and says whether somebody still reads.
pub(super) fn say(line: &str) -> bool {
    let mut out = io::stdout().lock();
    // The reader of a closed pipe has seen what it wanted.
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

/// Prints lines and says whether somebody still reads.
pub(super) fn say_all(lines: impl IntoIterator<Item = String>) -> bool {
    lines.into_iter().all(|line| say(&line))
}
