//! The sections of the file that are not a role's own.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    carrier::HttpProxy,
    flow::{FlowTimes, Host, Target},
    identity::{LIFETIME, NodeName},
    overlay::sharing::MAX_SHARERS,
    quantity::{Bitrate, duration_within, listen_address},
    transport::{Congestion, CongestionByHint, LaneOptions},
};

/// The `[node]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Where the node's one UDP socket listens. Default: `0.0.0.0:4600`.
    #[serde(deserialize_with = "listen_address")]
    pub listen: SocketAddr,
    /// The addresses and names at which others reach this node, at most 8. Default: none, which means that
    /// the node tells the addresses of its interfaces, and others what they see.
    #[serde(deserialize_with = "reachable")]
    pub advertise: Vec<Target>,
    /// Whether the node asks the router of its network, by PCP or NAT-PMP, for a port at which others reach it, while
    /// `advertise` is empty. Default: `true`.
    pub map_port: bool,
    /// Where to look first for the node of the overlay's authority, at most 8 addresses and names. Default: none,
    /// which means where it was last seen.
    #[serde(deserialize_with = "reachable")]
    pub authority: Vec<Target>,
    /// Whether the running node confines itself with Landlock, as far as the kernel can. Default:
    /// `true`.
    pub confine: bool,
    /// Whether links may be over UDP. Default: `true`.
    pub udp: bool,
    /// Where the node accepts streams (TLS on TCP). Default: nowhere.
    #[serde(deserialize_with = "some_listen_address")]
    pub stream_listen: Option<SocketAddr>,
    /// The TCP port at which others reach it, at the node's IP addresses. Default: that of
    /// `stream_listen`.
    #[serde(deserialize_with = "port")]
    pub stream_port: Option<u16>,
    /// Whether the node dials streams where UDP does not pass. Default: `true`.
    pub stream_dial: bool,
    /// The HTTP proxy by which it does. Default: that of the environment.
    #[serde(deserialize_with = "via_proxy")]
    pub via_proxy: ViaProxy,
}

/// The HTTP proxy by which streams are dialled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ViaProxy {
    /// That of `HTTPS_PROXY` or `ALL_PROXY`, unless it is on this machine.
    #[default]
    Environment,
    /// None.
    Never,
    /// This one.
    Http(HttpProxy),
}

impl Node {
    /// Checks what no single field can tell.
    ///
    /// # Errors
    /// When no link could come about.
    pub fn check(&self) -> Result<(), String> {
        if !self.udp && !self.stream_dial && self.stream_listen.is_none() {
            return Err("without UDP and without streams the node has no link; set `udp` or \
                        `stream_dial` to true"
                .to_owned());
        }
        if self.stream_port.is_some() && self.stream_listen.is_none() {
            return Err("`stream_port` says where others reach `stream_listen`, which is not set"
                .to_owned());
        }
        Ok(())
    }

    /// The proxy by which streams are dialled.
    #[must_use]
    pub fn stream_proxy(&self) -> Option<HttpProxy> {
        match &self.via_proxy {
            ViaProxy::Environment => HttpProxy::from_environment(),
            ViaProxy::Never => None,
            ViaProxy::Http(proxy) => Some(proxy.clone()),
        }
    }

    /// The TCP port at which others reach the streams of this node, of which the socket is at
    /// `listen`.
    #[must_use]
    pub fn told_stream_port(&self, listen: Option<SocketAddr>) -> Option<u16> {
        self.stream_port.or(listen.map(|listen| listen.port())).filter(|port| *port != 0)
    }
}

fn some_listen_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    listen_address(deserializer).map(Some)
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    match u16::deserialize(deserializer)? {
        0 => Err(D::Error::custom("nobody can reach port 0; write a port from 1 to 65535")),
        port => Ok(Some(port)),
    }
}

fn via_proxy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ViaProxy, D::Error> {
    match &*String::deserialize(deserializer)? {
        "environment" => Ok(ViaProxy::Environment),
        "none" => Ok(ViaProxy::Never),
        text => text.parse().map(ViaProxy::Http).map_err(D::Error::custom),
    }
}

/// The `[lane]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lane {
    /// The congestion control of lanes. Default: `adaptive`.
    pub congestion: Congestion,
    /// The congestion control of lanes for flows with a certain hint, where it differs.
    pub congestion_by_hint: CongestionByHint,
    /// How long a flow waits for a route before it ends. Default: `10min`, from `1s` to `1h`.
    #[serde(deserialize_with = "patience")]
    pub patience: Duration,
    /// The largest packet tried, in bytes, where the first hop takes it. Default: 8941, from 1200.
    #[serde(deserialize_with = "max_packet")]
    pub max_packet: u16,
}

impl From<Lane> for LaneOptions {
    fn from(lane: Lane) -> Self {
        let Lane { congestion, congestion_by_hint: by_hint, patience, max_packet } = lane;
        Self { congestion, by_hint, patience, max_packet }
    }
}

/// The `[flow]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Flow {
    /// How long a new flow waits while no route to its exit, or no exit, is up. Default: `10s`, up to
    /// `5min`; `0s`: it fails at once.
    #[serde(deserialize_with = "route_timeout")]
    pub route_timeout: Duration,
    /// How long a flow may rest after one side has ended. Default: `60s`, from `1s` to `24h`.
    #[serde(deserialize_with = "half_closed")]
    pub half_closed_timeout: Duration,
    /// How long a flow may rest while both sides are open. Default: `24h`, from `1min` to `720h`.
    #[serde(deserialize_with = "rest")]
    pub idle_timeout: Duration,
}

impl Default for Flow {
    fn default() -> Self {
        let FlowTimes { route, half_closed, idle } = FlowTimes::default();
        Self { route_timeout: route, half_closed_timeout: half_closed, idle_timeout: idle }
    }
}

impl From<Flow> for FlowTimes {
    fn from(flow: Flow) -> Self {
        let Flow { route_timeout: route, half_closed_timeout: half_closed, idle_timeout: idle } =
            flow;
        Self { route, half_closed, idle }
    }
}

fn route_timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration_within(deserializer, &(Duration::ZERO..=Duration::from_secs(300)))
}

fn half_closed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration_within(deserializer, &(Duration::from_secs(1)..=Duration::from_secs(24 * 3600)))
}

fn rest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration_within(deserializer, &(Duration::from_secs(60)..=Duration::from_secs(720 * 3600)))
}

fn max_packet<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let bytes = u16::deserialize(deserializer)?;
    if (1200..=8941).contains(&bytes) {
        return Ok(bytes);
    }
    Err(D::Error::custom(format!("{bytes} is out of bounds; write a size from 1200 to 8941")))
}

/// The `[probe]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// The rate of this node's probes and advertisements together. Default: `32kbit`, from `1kbit`
    /// to `10Mbit`.
    #[serde(deserialize_with = "budget")]
    pub budget: Bitrate,
    /// The other nodes of this site, with which this one shares what it measures of the rest, at most 64. Each
    /// has to name this one, too. Default: none.
    #[serde(deserialize_with = "sharers")]
    pub share_with: Vec<NodeName>,
}

/// The `[relay]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Whether this node forwards packets between other nodes, if its certificate grants it.
    /// Default: `true`.
    pub enabled: bool,
    /// The most that one neighbour may send through this node; `off`, which is `None`: no limit.
    /// Default: `off`.
    #[serde(deserialize_with = "rate_limit")]
    pub rate_limit: Option<Bitrate>,
}

impl Default for Relay {
    fn default() -> Self {
        Self { enabled: true, rate_limit: None }
    }
}

fn rate_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bitrate>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(D::Error::custom)
}

/// The `[authority]` section; it matters at the node that has the overlay's authority.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authority {
    /// How long certificates last that are issued or renewed from now on. Default: `168h`, from
    /// `10s` to `2160h`.
    #[serde(deserialize_with = "certificate_lifetime")]
    pub certificate_lifetime: Duration,
    /// Whether the dashboard, and the API, may invite entries. Default: `false`.
    pub invite_from_dashboard: bool,
}

impl Default for Authority {
    fn default() -> Self {
        Self { certificate_lifetime: LIFETIME, invite_from_dashboard: false }
    }
}

/// A lifetime within bounds: the shortest is for tests, and the longest bounds the use of a stolen
/// key.
fn certificate_lifetime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    const DAY: u64 = 24 * 3600;
    duration_within(deserializer, &(Duration::from_secs(10)..=Duration::from_secs(90 * DAY)))
}

/// The `[dashboard]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dashboard {
    /// Whether the node has a dashboard. Default, which is `None`: if it has an entry.
    pub enabled: Option<bool>,
    /// Where it listens: an address of loopback. Default: `127.0.0.1:1090`. Port 0 lets the system
    /// choose.
    #[serde(deserialize_with = "listen_address")]
    pub listen: SocketAddr,
    /// Who may read `/metrics`. Default: `token`.
    pub metrics: Metrics,
    /// The origins of web pages that may use the API of Clash, with the token, at most 8. Default: none.
    #[serde(deserialize_with = "origins")]
    pub clash_origins: Vec<String>,
}

/// Who may read `/metrics` on the dashboard's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metrics {
    /// Who shows the bearer token.
    #[default]
    Token,
    /// Every user of this machine. They name members and figures, and no destination.
    Open,
}

impl Default for Dashboard {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 1090));
        Self { enabled: None, listen, metrics: Metrics::Token, clash_origins: Vec::new() }
    }
}

impl Dashboard {
    /// Checks what no single field can tell.
    ///
    /// # Errors
    /// When other machines could reach it: a token travels in the clear.
    pub fn check(&self) -> Result<(), String> {
        if self.listen.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(format!(
            "the dashboard would listen on {}, which other machines can reach; listen on 127.0.0.1, \
             and reach it from elsewhere by `ssh -L`",
            self.listen
        ))
    }
}

/// The `[events]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// Whether what happened is kept on disk, too, and is there after a restart. Default: `false`.
    pub on_disk: bool,
}

/// The `[log]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// What is logged, in the notation of `tracing`. Default: `info`.
    #[serde(deserialize_with = "filter")]
    pub filter: String,
    /// Whether the destinations of flows are logged at the level `info` too; otherwise only at
    /// `debug`. Default: `false`.
    pub destinations: bool,
    /// How a line looks. Default: `text`.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; with priorities where systemd's journal reads it.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0; 4], 4600)),
            advertise: Vec::new(),
            map_port: true,
            authority: Vec::new(),
            confine: true,
            udp: true,
            stream_listen: None,
            stream_port: None,
            stream_dial: true,
            via_proxy: ViaProxy::default(),
        }
    }
}

impl Default for Lane {
    fn default() -> Self {
        let LaneOptions { congestion, by_hint, patience, max_packet } = LaneOptions::default();
        Self { congestion, congestion_by_hint: by_hint, patience, max_packet }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self { budget: Bitrate::from_bits_per_second(32_000), share_with: Vec::new() }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), destinations: false, format: LogFormat::Text }
    }
}

/// Origins as browsers write them: scheme, host, and a port if it is not the scheme's own.
fn origins<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    // A person has one dashboard or two.
    const MAX: usize = 8;
    let origins = Vec::<String>::deserialize(deserializer)?;
    if origins.len() > MAX {
        return Err(D::Error::custom(format!("write at most {MAX} origins")));
    }
    let is_origin = |text: &str| {
        let host = text.strip_prefix("http://").or(text.strip_prefix("https://"));
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:[]".contains(c);
        host.is_some_and(|host| !host.is_empty() && host.chars().all(allowed))
    };
    match origins.iter().find(|text| !is_origin(text)) {
        Some(text) => Err(D::Error::custom(format!(
            "{text:?} is no origin; write it as http://127.0.0.1:8080 or https://yacd.example"
        ))),
        None => Ok(origins),
    }
}

/// A patience in bounds.
pub(super) fn patience<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration_within(deserializer, &(Duration::from_secs(1)..=Duration::from_secs(3600)))
}

fn budget<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bitrate, D::Error> {
    let rate = Bitrate::deserialize(deserializer)?;
    if (1_000..=10_000_000).contains(&rate.bits_per_second()) {
        return Ok(rate);
    }
    Err(D::Error::custom(format!("{rate} is out of bounds; write a rate from 1kbit to 10Mbit")))
}

fn sharers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeName>, D::Error> {
    let names = Vec::<NodeName>::deserialize(deserializer)?;
    if names.len() > MAX_SHARERS {
        return Err(D::Error::custom(format!(
            "{} nodes are too many for one site; name at most {MAX_SHARERS}",
            names.len()
        )));
    }
    Ok(names)
}

fn reachable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Target>, D::Error> {
    // As many as an invitation carries.
    const MAX: usize = 8;
    let texts = Vec::<String>::deserialize(deserializer)?;
    if texts.len() > MAX {
        return Err(D::Error::custom(format!(
            "{} addresses are too many; name at most {MAX}",
            texts.len()
        )));
    }
    texts.iter().map(|text| parse_reachable(text).map_err(D::Error::custom)).collect()
}

/// Reads where others reach a node: an address or a DNS name, and a port.
///
/// # Errors
/// Shows the right form.
pub fn parse_reachable(text: &str) -> Result<Target, String> {
    let address =
        text.parse::<SocketAddr>().map(|at| Target { host: Host::Ip(at.ip()), port: at.port() });
    let target = address.or_else(|_| text.parse::<Target>()).ok().filter(is_well_formed);
    match target {
        Some(Target { host: Host::Ip(ip), port }) if ip.is_unspecified() || port == 0 => {
            Err(format!("nobody can reach {text}; name an address and port that others see"))
        }
        Some(target) => Ok(target),
        None => Err(format!(
            "{text:?} is no place to reach; write an address or a DNS name, and a port, such as \
             \"192.0.2.7:4600\", \"[2001:db8::7]:4600\" or \"mit.example.org:4600\""
        )),
    }
}

/// A name that ends with a number is a mistyped address.
fn is_well_formed(target: &Target) -> bool {
    let Host::Name(name) = &target.host else { return true };
    !name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

fn filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    check_log_filter(&text).map_err(D::Error::custom)?;
    Ok(text)
}

/// Checks the filter: levels, and levels of modules, with commas between. Otherwise a word that is
/// no level would count as the name of a module, and everything of it would be logged.
///
/// # Errors
/// Says what is wrong, and the right form.
pub fn check_log_filter(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let right =
        "write a level (error, warn, info, debug, trace, off), or \"info,ronproxy::lane=debug\"";
    let directives = text.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    for directive in directives {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        let known = LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
        if !known && !directive.contains('[') {
            return Err(format!("{level:?} is no log level; {right}"));
        }
    }
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{text:?} is no log filter ({error}); {right}")),
    }
}
