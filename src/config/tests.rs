//! Tests of the configuration file as a whole.

use std::{net::SocketAddr, time::Duration};

use super::*;
use crate::transport::CongestionByHint;

#[test]
fn the_default_file_states_the_defaults() {
    assert_eq!(Config::parse(Config::default_text()).unwrap(), Config::default());
    assert_eq!(Config::parse("").unwrap(), Config::default());
}

#[test]
fn every_example_in_the_default_file_loads() {
    let lines = Config::default_text().lines().map(|line| match line.strip_prefix('#') {
        Some(example) if !example.starts_with([' ', '#']) => example,
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let config = Config::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert!(!config.rules.is_empty() && !config.entry.users.is_empty());
    assert!(config.exit.allow.is_some() && !config.node.advertise.is_empty());
}

#[test]
fn every_key_is_in_the_default_file() {
    for header in [
        "",
        "[node]",
        "[entry]",
        "[[entry.users]]",
        "[exit]",
        "[lane]",
        "[flow]",
        "[probe]",
        "[relay]",
        "[[policy]]",
        "[log]",
        "[[rule]]",
    ] {
        let message = Config::parse(&format!("{header}\nqqqq = 1")).unwrap_err().to_string();
        let (_, keys) = message.split_once("there are ").expect(&message);
        for key in keys.split(", ") {
            let names =
                [format!("{key} ="), format!("[{key}]"), format!("[[{key}]]"), format!(".{key}]]")];
            let text = Config::default_text();
            assert!(
                names.iter().any(|name| text.contains(name)),
                "{header} {key} is not documented"
            );
        }
    }
}

#[test]
fn a_slip_is_shown_with_its_line_and_the_nearest_key() {
    for (text, expected) in [
        (
            "[lane]\n\npateince = '1s'",
            "config.toml:3: unknown key `pateince`; did you mean `patience`?",
        ),
        ("[lanes]", "config.toml:1: unknown key `lanes`; did you mean `lane`?"),
        (
            "[entry]\nlisten_on = 1",
            "config.toml:2: unknown key `listen_on`; did you mean `listen`?",
        ),
        (
            "[exit]\nallow = [{ domains = ['a.org'] }]",
            "config.toml:2: unknown key `domains`; did you mean `domain`?",
        ),
        (
            "[[rule]]\nport = 1\n[[rule]]\nhnit = 'loss'",
            "config.toml:4: unknown key `hnit`; did you mean `hint`?",
        ),
        ("[log]\nx = 1", "config.toml:2: unknown key `x`; there are filter, destinations, format"),
    ] {
        assert_eq!(Config::parse(text).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_wrong_value_is_shown_with_its_line_and_what_would_be_right() {
    for (text, line, why) in [
        ("[node]\nlisten = 4600", 2, "\"0.0.0.0:4600\""),
        ("[node]\nlisten = 'here'", 2, "IP address and a port"),
        ("[entry]\nlisten = 'localhost'", 2, "\"127.0.0.1:1080\""),
        ("[exit]\nallow_private = ['home']", 2, "\"10.0.0.0/8\""),
        ("[lane]\n[node]\n[lane]\n", 3, "`[lane]` is there already, in line 1"),
        (
            "[node]\nconfine = true\n[lane]\n[relay]\nenabled = true\nenabled = false",
            6,
            "`enabled` is there already, in line 5",
        ),
        ("[node]\nadvertise = ['0.0.0.0:4600']", 2, "nobody can reach"),
        ("[node]\nadvertise = ['192.0.2.1:0']", 2, "nobody can reach"),
        ("[node]\nadvertise = ['192.0.2.300:4600']", 2, "mit.example.org:4600"),
        ("[node]\nadvertise = ['mit.example.org']", 2, "mit.example.org:4600"),
        ("[node]\nauthority = ['mit example.org:4600']", 2, "mit.example.org:4600"),
        ("[node]\nauthority = ['192.0.2.1:0']", 2, "nobody can reach"),
        ("[lane]\ncongestion = 'reno'", 2, "`bbr3`"),
        ("[lane]\npatience = '2h'", 2, "from 1s to 1h"),
        ("[lane]\npatience = 60", 2, "with its unit"),
        ("[lane]\nmax_packet = 9000", 2, "from 1200 to 8941"),
        ("[flow]\nhalf_closed_timeout = '0s'", 2, "from 1s to 1day"),
        ("[flow]\nidle_timeout = '30s'", 2, "from 1m to 30days"),
        ("[flow]\nroute_timeout = '1h'", 2, "from 0s to 5m"),
        ("[probe]\nbudget = '1Gbit'", 2, "from 1kbit to 10Mbit"),
        ("[probe]\nbudget = '32kB'", 2, "32kbit"),
        ("[log]\nfilter = 'ronproxy=loud'", 2, "\"loud\" is no log level"),
        ("[log]\nfilter = 'inof'", 2, "error, warn, info, debug, trace"),
        ("[log]\nformat = 'xml'", 2, "`json`"),
        ("\n[entry]\nlisten = '0.0.0.0:1080'", 2, "password"),
        ("[[rule]]\nport = 1\n[[rule]]\nport = 0", 4, "8000-8100"),
        ("[lane]\npatience = ", 2, "string"),
        ("[lane", 1, "]"),
    ] {
        match Config::parse(text).unwrap_err() {
            ConfigError::Wrong { line: at, message, .. } => {
                assert!(message.contains(why), "{text}: {message}");
                assert_eq!(at, line, "{text}: {message}");
            }
            error @ ConfigError::Unreadable { .. } => panic!("{error}"),
        }
    }
}

#[test]
fn a_password_is_not_quoted_in_an_error() {
    for text in [
        "[[entry.users]]\nname = 'ann'\npassword = 271828",
        "[entry]\nusers = [{ name = 'a', password = [271828] }]",
    ] {
        let message = Config::parse(text).unwrap_err().to_string();
        assert!(message.contains("password") && !message.contains("271828"), "{message}");
    }
}

#[test]
fn every_setting_is_read() {
    let config = Config::parse(
        "[node]\nlisten = '[::]:1'\nadvertise = ['192.0.2.1:1']
         authority = ['192.0.2.2:1']
         [lane]\ncongestion = 'cubic'\npatience = '2min'\nmax_packet = 8941
         congestion_by_hint = { throughput = 'bbr3' }
         [flow]\nroute_timeout = '0s'\nhalf_closed_timeout = '5min'\nidle_timeout = '4h'
         [probe]\nbudget = '64kbit'\nshare_with = ['den', 'attic']
         [log]\nfilter = 'debug'",
    )
    .unwrap();
    assert_eq!(config.node.listen, "[::]:1".parse::<SocketAddr>().unwrap());
    assert_eq!(config.node.advertise, ["192.0.2.1:1".parse().unwrap()]);
    assert_eq!(config.node.authority, ["192.0.2.2:1".parse().unwrap()]);
    assert_eq!(
        config.lane,
        Lane {
            congestion: Congestion::Cubic,
            congestion_by_hint: CongestionByHint {
                throughput: Some(Congestion::Bbr3),
                ..CongestionByHint::default()
            },
            patience: Duration::from_secs(120),
            max_packet: 8941,
        }
    );
    let hours = Duration::from_secs(4 * 3600);
    let flow = Flow {
        route_timeout: Duration::ZERO,
        half_closed_timeout: Duration::from_secs(300),
        idle_timeout: hours,
    };
    assert_eq!(config.flow, flow);
    assert_eq!(config.probe.budget.bits_per_second(), 64_000);
    assert_eq!(config.probe.share_with, ["den".parse().unwrap(), "attic".parse().unwrap()]);
    assert_eq!(config.log.filter, "debug");
}

#[test]
fn a_file_is_named_in_its_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let missing = Config::load(&path).unwrap_err().to_string();
    assert!(missing.contains("mine.toml") && missing.contains("ronproxy init"), "{missing}");
    std::fs::write(&path, "[lane]\nx = 1").unwrap();
    let wrong = Config::load(&path).unwrap_err().to_string();
    assert!(wrong.contains("mine.toml:2: "), "{wrong}");
    let _ = std::fs::remove_file(&path);
    let utf16: Vec<u8> = "[lane]".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (bytes, why) in [
        ([&[0xff, 0xfe][..], &utf16].concat(), "UTF-16"),
        (b"[lane]\n# gr\xfc\xdfe\n".to_vec(), "line 2 is not in UTF-8"),
        (vec![b'#'; 2 << 20], "more than 1048576 bytes"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        assert!(error.contains("mine.toml") && error.contains(why), "{error}");
    }
    std::fs::write(&path, "\u{feff}[lane]\npatience = '2h30m'").unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().contains("from 1s to 1h"));
}

#[test]
fn streams_are_accepted_nowhere_and_dialled_unless_told_otherwise() {
    let node = Config::parse("").unwrap().node;
    assert_eq!((node.udp, node.stream_listen, node.stream_dial), (true, None, true));
    assert_eq!(node.told_stream_port(None), None);
    let parse = |text: &str| Config::parse(&format!("[node]\n{text}"));
    let node = parse("stream_listen = \"0.0.0.0:8443\"\nstream_port = 443").unwrap().node;
    assert_eq!(node.told_stream_port(node.stream_listen), Some(443));
    let node = parse("stream_listen = \"0.0.0.0:8443\"").unwrap().node;
    assert_eq!(node.told_stream_port(node.stream_listen), Some(8443));
    for (text, said) in [
        ("stream_port = 443", "`stream_listen`, which is not set"),
        ("stream_listen = \"0.0.0.0:1\"\nstream_port = 0", "from 1 to 65535"),
        ("udp = false\nstream_dial = false", "has no link"),
        ("via_proxy = \"socks5://p:1\"", "is no HTTP proxy"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_proxy_for_streams_is_named_or_that_of_the_environment_or_none() {
    let proxy = |text: &str| Config::parse(&format!("[node]\n{text}")).unwrap().node.via_proxy;
    assert_eq!(proxy(""), ViaProxy::Environment);
    assert_eq!(proxy("via_proxy = \"none\""), ViaProxy::Never);
    let named = proxy("via_proxy = \"http://proxy.site:3128\"");
    assert_eq!(named, ViaProxy::Http("proxy.site:3128".parse().unwrap()));
}
