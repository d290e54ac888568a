//! The `[exit]` table of the configuration file.

use std::{ops::RangeInclusive, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::Rule;
use crate::quantity::{MemorySize, duration_within, format_duration, networks};

/// What this node does for others as an exit.
///
/// ```toml
/// [exit]
/// enabled = true
/// allow = [
///     { domain = ["mit.edu"], port = [80, 443] },
///     { cidr = ["18.0.0.0/9"], port = [22, "8000-8100"], group = ["research"] },
/// ]
/// deny = [{ domain = ["payroll.mit.edu"] }]
/// ```
///
/// A flow is carried when no `deny` rule matches, its address is public (or in `allow_private`),
/// and an `allow` rule matches. A rule in `allow` never opens a private range by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether this node opens connections for other nodes at all. Default: `false`.
    pub enabled: bool,
    /// The rules of which one must match. Default: absent, which allows every public destination
    /// to every node of the overlay; an empty list allows nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Rule>>,
    /// The rules of which none may match; they win over `allow`. Default: none.
    ///
    /// A `domain` here stops that name only: to close its servers to someone who asks for their
    /// address, deny the `cidr` as well.
    pub deny: Vec<Rule>,
    /// Networks that are exempt from the built-in list of private and special addresses.
    /// Default: none.
    ///
    /// A cloud metadata address is exempt only when it is listed itself, as a /32 or /128.
    #[serde(deserialize_with = "networks")]
    pub allow_private: Vec<IpNet>,
    /// The longest a flow waits for its name and its connection together. Default: `"10s"`;
    /// from `"1s"` to `"120s"`.
    #[serde(serialize_with = "write_duration", deserialize_with = "connect_timeout")]
    pub connect_timeout: Duration,
    /// The most flows that are open or being opened at once. Default: 4096; from 1 to 65536.
    ///
    /// Each holds one file descriptor. The last eighth is for entries that have less than a 64th of them.
    #[serde(deserialize_with = "flow_limit")]
    pub max_flows: usize,
    /// The same, for flows of one entry. Default: 2048, so that one entry cannot take them all;
    /// from 1 to 65536.
    #[serde(deserialize_with = "flow_limit")]
    pub max_flows_per_entry: usize,
    /// The most associations (UDP) of one entry at once. Default: 256; from 0, which carries no
    /// datagrams, to 65536.
    ///
    /// Each holds one file descriptor and counts as a flow.
    #[serde(deserialize_with = "association_limit")]
    pub max_associations_per_entry: usize,
    /// The most memory that the flows of one entry may pin: bytes that destinations do not take, and
    /// bytes that the entry does not confirm. Default: `"32MB"`; from `"4MB"` to `"64GB"`.
    #[serde(deserialize_with = "memory")]
    pub memory_per_entry: MemorySize,
    /// The same for all entries together. Default: `"512MB"`.
    #[serde(deserialize_with = "memory")]
    pub memory: MemorySize,
}

/// With less no lane works. More is probably a typing error.
const MEMORY: RangeInclusive<MemorySize> = MemorySize::megabytes(4)..=MemorySize::megabytes(64_000);

fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MemorySize, D::Error> {
    let size = MemorySize::deserialize(deserializer)?;
    if MEMORY.contains(&size) {
        return Ok(size);
    }
    let (low, high) = (MEMORY.start(), MEMORY.end());
    Err(D::Error::custom(format!("{size} is out of bounds; write from \"{low}\" to \"{high}\"")))
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: false,
            allow: None,
            deny: Vec::new(),
            allow_private: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            max_flows: 4096,
            max_flows_per_entry: 2048,
            max_associations_per_entry: 256,
            memory_per_entry: MemorySize::megabytes(32),
            memory: MemorySize::megabytes(512),
        }
    }
}

fn flow_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        limit @ 1..=65_536 => Ok(limit),
        _ => Err(D::Error::custom("the limit must be from 1 to 65536 flows")),
    }
}

fn association_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        limit @ 0..=65_536 => Ok(limit),
        _ => Err(D::Error::custom("the limit must be from 0 to 65536 associations")),
    }
}

fn connect_timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration_within(deserializer, &(Duration::from_secs(1)..=Duration::from_secs(120)))
}

fn write_duration<S: Serializer>(wait: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_duration(*wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_off_until_configured() {
        let config: Config = toml::from_str("").unwrap();
        assert_eq!(config, Config::default());
        assert!(!config.enabled);
    }

    #[test]
    fn a_full_table_reads_back_what_it_writes() {
        let text = r#"
            enabled = true
            allow_private = ["10.1.0.0/16", "fd12::/16"]
            connect_timeout = "2500ms"
            max_flows = 10
            max_flows_per_entry = 5
            max_associations_per_entry = 0
            memory_per_entry = "64MB"
            memory = "1GB"
            allow = [
                { domain = ["mit.edu", "*.csail.mit.edu"], port = [80, "8000-8100"] },
                { cidr = ["18.0.0.0/9"], group = ["research"] },
            ]
            deny = [{ port = ["25"] }]
        "#;
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.connect_timeout, Duration::from_millis(2500));
        assert_eq!(
            (config.memory_per_entry.bytes(), config.memory.bytes()),
            (64_000_000, 1_000_000_000)
        );
        assert_eq!(config.allow.as_ref().map(Vec::len), Some(2));
        let written = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&written).unwrap(), config, "{written}");
    }

    #[test]
    fn misspelt_empty_and_excessive_values_are_refused() {
        for text in [
            "enable = true",
            "allow = [{ domains = ['mit.edu'] }]",
            "allow = [{ domain = [] }]",
            "allow = [{ domain = ['10.0.0.1'] }]",
            "allow = [{ domain = 'mit.edu' }]",
            "allow = [{ port = [0] }]",
            "allow = [{ port = [65536] }]",
            "allow = [{ port = [-1] }]",
            "allow = [{ port = ['90-80'] }]",
            "allow = [{ cidr = ['10.0.0.0/33'] }]",
            "deny = [{ group = [] }]",
            "connect_timeout = '0s'",
            "connect_timeout = '121s'",
            "connect_timeout = '10'",
            "connect_timeout = 10",
            "max_flows = 0",
            "max_flows_per_entry = 65537",
            "memory_per_entry = '3MB'",
            "memory_per_entry = 32",
            "memory = '65GB'",
            "memory = '512 megabytes'",
        ] {
            assert!(toml::from_str::<Config>(text).is_err(), "{text} was accepted");
        }
    }
}
