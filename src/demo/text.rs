//! Text with a tone, and how numbers are written. PURE.

use std::time::Duration;

/// What a piece of text means; the screen gives it a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    Plain,
    /// Background.
    Dim,
    /// In use, well.
    Good,
    /// Worse than usual.
    Warn,
    /// Broken.
    Bad,
    /// What to read first.
    Strong,
}

/// A line: pieces of text, one after the other.
pub(super) type Line = Vec<(String, Tone)>;

/// A line in one tone.
#[must_use]
pub(super) fn line(text: impl Into<String>, tone: Tone) -> Line {
    vec![(text.into(), tone)]
}

/// The line without tones.
#[must_use]
pub(super) fn flat(line: &Line) -> String {
    let text: String = line.iter().map(|(text, _)| text.as_str()).collect();
    text.trim_end().to_owned()
}

/// A round-trip time or a stall: `97 ms`.
#[must_use]
pub(super) fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

/// A rate in few characters: `9.4 Mb/s`.
#[must_use]
pub(super) fn mbits(bits: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let bits = bits as f64;
    format!("{:.1} Mb/s", bits / 1e6)
}

/// An amount of bytes: `812 B`, `14.3 KiB`, `20.0 MiB`.
#[must_use]
pub(super) fn bytes(count: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let amount = count as f64;
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", amount / 1024.0),
        _ => format!("{:.1} MiB", amount / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(millis(Duration::from_micros(97_400)), "97 ms");
        assert_eq!(mbits(9_440_000), "9.4 Mb/s");
        assert_eq!(
            (bytes(812), bytes(14_643), bytes(20 << 20)),
            ("812 B".into(), "14.3 KiB".into(), "20.0 MiB".into())
        );
    }
}
