//! The flow label.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Names one flow at its entry: 32 random bits, unique among the entry's live flows.
///
/// It stands in every log line, event and listing about the flow, and travels in the flow's OPEN
/// header so that the exit's log can be matched with the entry's. It is a name, not a secret.
///
/// In JSON it is the text of eight hexadecimal digits that listings show, on the wire a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowLabel(pub u32);

impl fmt::Display for FlowLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The text is not a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a flow's label is eight hexadecimal digits, as `ronproxy flows` shows it")]
pub struct ParseLabelError;

impl FromStr for FlowLabel {
    type Err = ParseLabelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_label = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = is_label.then(|| u32::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or(ParseLabelError)
    }
}

impl Serialize for FlowLabel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for FlowLabel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.is_human_readable() {
            true => String::deserialize(deserializer)?.parse().map_err(de::Error::custom),
            false => u32::deserialize(deserializer).map(Self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_text_in_json_and_a_number_on_the_wire() {
        let label = FlowLabel(0x0a0b);
        assert_eq!(serde_json::to_value(label).unwrap(), "00000a0b");
        assert_eq!(serde_json::from_str::<FlowLabel>("\"00000a0b\"").unwrap(), label);
        assert_eq!(crate::wire::encode(&label), [0x8b, 0x14]);
        for text in ["", "a0b", "+0000a0b", "0000000g", "000000a0b"] {
            assert_eq!(text.parse::<FlowLabel>(), Err(ParseLabelError), "{text}");
        }
    }
}
