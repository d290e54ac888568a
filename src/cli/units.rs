//! Quantities as people read and write them.

use std::time::Duration;

pub(super) use crate::quantity::span;

use crate::quantity;

/// Longest time that a command line names: 30 days.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Reads a duration of an option, as in the configuration.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = quantity::parse_duration(text).map_err(|error| error.to_string())?;
    if duration > LONGEST {
        return Err("write at most 30d".to_owned());
    }
    Ok(duration)
}

/// Whether a share in percent is more than nothing, and not all.
pub(super) fn is_part(percent: f64) -> bool {
    percent > 0.0 && percent < 100.0
}

/// A moment, in milliseconds since 1970, as [`date`] and milliseconds.
pub(super) fn date_ms(ms: u64) -> String {
    format!("{}.{:03}", date(ms / 1000), ms % 1000)
}

/// A moment, in seconds since 1970, as date and time of day in UTC.
pub(super) fn date(seconds: u64) -> String {
    let moment = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    moment.map_or_else(
        || "-".to_owned(),
        |at| {
            let month = u8::from(at.month());
            let (hour, minute, second) = at.to_hms();
            format!("{}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02}", at.year(), at.day())
        },
    )
}

/// What a certificate lets a node do.
pub(super) fn roles(roles: crate::identity::Roles) -> String {
    match (roles.exit, roles.relay) {
        (true, true) => "exit+relay",
        (true, false) => "exit",
        (false, true) => "relay",
        (false, false) => "entry",
    }
    .to_owned()
}

/// Words with commas between them.
pub(super) fn words(words: &[String]) -> String {
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

/// A number of bytes.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    match UNITS.into_iter().find(|(_, size)| count >= *size) {
        Some((unit, size)) => format!("{}.{} {unit}", count / size, count % size * 10 / size),
        None => format!("{count} B"),
    }
}

/// A rate in bits per second.
pub(super) fn rate(bits: u64) -> String {
    const UNITS: [(&str, u64); 3] =
        [("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1_000)];
    match UNITS.into_iter().find(|(_, size)| bits >= *size) {
        Some((unit, size)) => format!("{}.{} {unit}", bits / size, bits % size * 10 / size),
        None => format!("{bits} bit/s"),
    }
}

/// Seconds as a time span.
pub(super) fn span_in(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or_else(|_| "-".to_owned(), |of| span(of.as_secs()))
}

/// Milliseconds.
pub(super) fn millis(millis: f64) -> String {
    format!("{millis:.1} ms")
}

/// A share in percent.
pub(super) fn percent(percent: f64) -> String {
    format!("{percent:.1} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_their_two_largest_units() {
        let all = [5, 65, 3_725, 90_061].map(span);
        assert_eq!(all, ["5s", "1m05s", "1h02m", "1d01h"]);
    }

    #[test]
    fn a_moment_shows_as_a_date_in_utc() {
        assert_eq!(date(1_893_456_061), "2030-01-01 00:01:01");
        assert_eq!(date(u64::MAX), "-");
    }

    #[test]
    fn bytes_show_one_decimal() {
        let all = [0, 999, 1_000, 1_550_000, 12_000_000_000].map(bytes);
        assert_eq!(all, ["0 B", "999 B", "1.0 kB", "1.5 MB", "12.0 GB"]);
    }

    #[test]
    fn rates_show_one_decimal() {
        let all = [0, 999, 5_900, 93_400_000].map(rate);
        assert_eq!(all, ["0 bit/s", "999 bit/s", "5.9 kbit/s", "93.4 Mbit/s"]);
    }

    #[test]
    fn options_take_days_and_refuse_what_has_no_unit() {
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        for text in ["", "24", "-1h", "31d", "99999999999999999999d", "18446744073709551615d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
