//! Quantities as people write them: `60s`, `32kbit`.

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, Visitor},
};

/// A data rate in bits per second, written `500bit`, `32kbit`, `10Mbit` or `1Gbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bitrate(u64);

/// The text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseUnitError {
    /// Not a duration.
    #[error("{0:?} is no duration; write a whole number and ms, s, min or h, as in \"60s\"")]
    Duration(String),
    /// Not a data rate.
    #[error(
        "{0:?} is no data rate; write a whole number and bit, kbit, Mbit or Gbit, as in \"32kbit\""
    )]
    Bitrate(String),
}

impl Bitrate {
    /// A rate of so many bits per second.
    #[must_use]
    pub const fn from_bits_per_second(bits: u64) -> Self {
        Self(bits)
    }

    /// The rate in bits per second.
    #[must_use]
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }
}

impl FromStr for Bitrate {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [("bit", 1), ("kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000)];
        quantity(text, &units).map(Self).ok_or_else(|| ParseUnitError::Bitrate(clip(text)))
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000, "Gbit"), (1_000_000, "Mbit"), (1_000, "kbit")];
        let whole = units.into_iter().find(|(size, _)| self.0 > 0 && self.0.is_multiple_of(*size));
        let (size, unit) = whole.unwrap_or((1, "bit"));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl TryFrom<String> for Bitrate {
    type Error = ParseUnitError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Bitrate> for String {
    fn from(rate: Bitrate) -> Self {
        rate.to_string()
    }
}

/// Reads a duration: a whole number and `ms`, `s`, `min` or `h`.
///
/// # Errors
/// When the text is something else.
pub fn parse_duration(text: &str) -> Result<Duration, ParseUnitError> {
    let units = [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000)];
    let millis = quantity(text, &units).ok_or_else(|| ParseUnitError::Duration(clip(text)))?;
    Ok(Duration::from_millis(millis))
}

/// A duration as [`parse_duration`] reads it, without a unit below the millisecond.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

/// Reads a duration within bounds, for serde.
pub(super) fn duration_within<'de, D: Deserializer<'de>>(
    deserializer: D,
    bounds: &RangeInclusive<Duration>,
) -> Result<Duration, D::Error> {
    let text = deserializer.deserialize_str(DurationText)?;
    let duration = parse_duration(&text).map_err(D::Error::custom)?;
    if bounds.contains(&duration) {
        return Ok(duration);
    }
    let (low, high) = (format_duration(*bounds.start()), format_duration(*bounds.end()));
    let given = format_duration(duration);
    Err(D::Error::custom(format!(
        "{given} is out of bounds; write a duration from {low} to {high}"
    )))
}

/// Says what to write to somebody who leaves out the unit.
struct DurationText;

impl Visitor<'_> for DurationText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with its unit, such as \"250ms\", \"60s\", \"5min\" or \"1h\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, size) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    digits.parse::<u64>().ok()?.checked_mul(*size)
}

fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in
            [("250ms", 250), ("60s", 60_000), ("2min", 120_000), ("1h", 3_600_000), ("5 s", 5000)]
        {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }

    #[test]
    fn rates_read_back_what_they_print() {
        for (text, bits) in [
            ("0bit", 0),
            ("500bit", 500),
            ("32kbit", 32_000),
            ("10Mbit", 10_000_000),
            ("1Gbit", 1_000_000_000),
        ] {
            let rate = Bitrate::from_bits_per_second(bits);
            assert_eq!(text.parse(), Ok(rate));
            assert_eq!(rate.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_an_example() {
        for text in
            ["", "60", "s", "-1s", "1.5s", "60S", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(parse_duration(text).unwrap_err().to_string().contains("\"60s\""), "{text}");
        }
        for text in ["32", "32kb", "32KBIT", "kbit"] {
            assert!(
                text.parse::<Bitrate>().unwrap_err().to_string().contains("\"32kbit\""),
                "{text}"
            );
        }
    }
}
