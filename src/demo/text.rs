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

/// The line in rows of at most `width` characters, its last piece broken at spaces; what does not fit
/// stands below the beginning of that piece.
#[must_use]
pub(super) fn folded(mut line: Line, width: usize) -> Vec<Line> {
    let Some((text, tone)) = line.pop() else { return vec![line] };
    let before: usize = line.iter().map(|(text, _)| text.chars().count()).sum();
    let mut rows = vec![String::new()];
    for word in text.split(' ') {
        let used = rows.last().map_or(0, |row| row.chars().count());
        match rows.last_mut() {
            Some(row) if used == 0 || before + used + 1 + word.chars().count() <= width => {
                row.push_str(if used == 0 { "" } else { " " });
                row.push_str(word);
            }
            _ => rows.push(word.to_owned()),
        }
    }
    let mut folded: Vec<Line> =
        rows.into_iter().map(|row| vec![(" ".repeat(before), tone), (row, tone)]).collect();
    if let Some(first) = folded.first_mut() {
        line.extend(first.pop());
        *first = line;
    }
    folded
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
    fn a_long_line_goes_on_below_its_last_piece() {
        let long = vec![("0:01 ".to_owned(), Tone::Dim), ("lane 1 REROUTED: a".into(), Tone::Good)];
        let rows: Vec<String> = folded(long.clone(), 16).iter().map(flat).collect();
        assert_eq!(rows, ["0:01 lane 1", "     REROUTED: a"]);
        assert_eq!(folded(long.clone(), 80), [long]);
        assert_eq!(folded(line("unbreakable", Tone::Plain), 4).len(), 1);
    }

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
