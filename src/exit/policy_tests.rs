//! Tables of what a policy carries, and the property that keeps private networks closed.

use proptest::prelude::*;

use super::*;
use crate::exit::ranges::denied_ranges;

/// The policy that this `[exit]` table describes.
fn policy(text: &str) -> Policy {
    Policy::new(&toml::from_str(text).unwrap())
}

fn open() -> Policy {
    policy("enabled = true")
}

/// Why `policy` denies `host` at `ip`, for an entry of no group.
fn denial(policy: &Policy, host: &str, ip: &str) -> Option<DenialReason> {
    let result = policy.check_addr(&[], &host.parse().unwrap(), ip.parse().unwrap(), 443);
    result.err().map(|denial| denial.reason)
}

#[test]
fn a_node_that_is_not_enabled_carries_nothing() {
    let policy = policy("allow = [{}]");
    let host = "example.org".parse().unwrap();
    let error = policy.check_name(&[], &host, 80).unwrap_err();
    assert_eq!(error.to_string(), "this node is not an exit");
    assert_eq!(denial(&policy, "example.org", "8.8.8.8"), Some(DenialReason::NotAnExit));
}

#[test]
fn every_special_address_is_denied_under_its_own_reason() {
    use DenialReason::*;
    for (ip, expected) in [
        ("0.0.0.0", Unspecified),
        ("0.1.2.3", Unspecified),
        ("127.0.0.1", Loopback),
        ("127.255.255.255", Loopback),
        ("10.0.0.1", Private),
        ("172.16.0.0", Private),
        ("172.31.255.255", Private),
        ("192.168.1.1", Private),
        ("100.64.0.1", SharedNat),
        ("100.127.255.255", SharedNat),
        ("169.254.1.1", LinkLocal),
        ("169.254.169.254", Metadata),
        ("168.63.129.16", Metadata),
        ("100.100.100.200", Metadata),
        ("192.0.0.8", Reserved),
        ("192.0.2.1", Documentation),
        ("198.51.100.1", Documentation),
        ("203.0.113.1", Documentation),
        ("198.18.0.1", Benchmarking),
        ("198.19.255.255", Benchmarking),
        ("224.0.0.1", Multicast),
        ("239.255.255.255", Multicast),
        ("240.0.0.1", Reserved),
        ("255.255.255.255", Broadcast),
        ("::", Unspecified),
        ("::1", Loopback),
        ("::7f00:1", Reserved),
        ("fd00::1", Private),
        ("fec0::1", Private),
        ("fd00:ec2::254", Metadata),
        ("fe80::1", LinkLocal),
        ("ff02::1", Multicast),
        ("2001:db8::1", Documentation),
        ("3fff::1", Documentation),
        ("2001:2::1", Benchmarking),
        ("2001:20::1", Reserved),
        ("100::1", Reserved),
        ("64:ff9b:1::8.8.8.8", Reserved),
        ("5f00::1", Reserved),
    ] {
        assert_eq!(denial(&open(), ip, ip), Some(expected), "{ip}");
    }
}

#[test]
fn an_ipv6_address_is_judged_by_the_ipv4_address_it_carries() {
    use DenialReason::*;
    for (ip, expected) in [
        ("::ffff:127.0.0.1", Some(Loopback)),
        ("::ffff:169.254.169.254", Some(Metadata)),
        ("::ffff:8.8.8.8", None),
        ("64:ff9b::10.0.0.1", Some(Private)),
        ("64:ff9b::8.8.8.8", None),
        ("2002:7f00:1::1", Some(Loopback)),
        ("2002:0808:0808::1", None),
        // Teredo: server 8.8.8.8, client 192.168.0.1 inverted; then a private server.
        ("2001:0:808:808::3f57:fffe", Some(Private)),
        ("2001:0:a00:1::f7f7:f7f7", Some(Private)),
        ("2001:0:808:808::f7f7:f7f7", None),
    ] {
        assert_eq!(denial(&open(), ip, ip), expected, "{ip}");
    }
}

#[test]
fn public_addresses_next_to_denied_ranges_are_carried() {
    for ip in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2000::1",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "3ffe::1",
    ] {
        assert_eq!(denial(&open(), ip, ip), None, "{ip}");
    }
}

#[test]
fn deny_wins_over_allow_and_the_denial_names_the_rule() {
    let policy = policy(
        r#"
        enabled = true
        allow = [{ domain = ["mit.edu"] }]
        deny = [{ port = [25] }, { domain = ["*.payroll.mit.edu"] }, { cidr = ["18.2.0.0/16"] }]
        "#,
    );
    use DenialReason::*;
    for (host, ip, expected) in [
        ("www.mit.edu", "18.1.0.1", None),
        ("a.payroll.mit.edu", "18.1.0.1", Some(DenyRule(1))),
        ("payroll.mit.edu", "18.1.0.1", None),
        ("www.mit.edu", "18.2.0.1", Some(DenyRule(2))),
        ("www.mit.edu", "::ffff:18.2.0.1", Some(DenyRule(2))),
        ("www.mit.edu", "2002:1202:1::1", Some(DenyRule(2))),
        ("example.org", "18.1.0.1", Some(NotAllowed)),
        ("18.1.0.1", "18.1.0.1", Some(NotAllowed)),
    ] {
        assert_eq!(denial(&policy, host, ip), expected, "{host} at {ip}");
    }
    let error = policy.check_name(&[], &"mit.edu".parse().unwrap(), 25).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the exit does not carry port 25 of mit.edu: rule 1 of its deny list matches"
    );
}

#[test]
fn every_key_of_an_allow_rule_must_match() {
    let policy = policy(
        r#"
        enabled = true
        allow = [{ domain = ["mit.edu"], cidr = ["18.0.0.0/9"], port = [80, "8000-8100"], group = ["research"] }]
        "#,
    );
    let research = ["staff".to_owned(), "research".to_owned()];
    let staff = ["staff".to_owned()];
    let none: &[String] = &[];
    for (groups, host, ip, port, name_passes, addr_passes) in [
        (&research[..], "www.mit.edu", "18.1.1.1", 8050, true, true),
        (&research[..], "www.mit.edu", "18.200.1.1", 80, true, false),
        (&research[..], "www.mit.edu", "18.1.1.1", 443, false, false),
        (&research[..], "www.cmu.edu", "18.1.1.1", 80, false, false),
        (&staff[..], "www.mit.edu", "18.1.1.1", 80, false, false),
        (none, "www.mit.edu", "18.1.1.1", 80, false, false),
    ] {
        let host: Host = host.parse().unwrap();
        let name = policy.check_name(groups, &host, port).is_ok();
        let addr = policy.check_addr(groups, &host, ip.parse().unwrap(), port).is_ok();
        assert_eq!((name, addr), (name_passes, addr_passes), "{groups:?} {host} {ip} {port}");
    }
}

#[test]
fn an_allow_list_by_cidr_lets_names_be_resolved_first() {
    let policy = policy("enabled = true\nallow = [{ cidr = ['18.0.0.0/9'] }]");
    assert!(policy.check_name(&[], &"any.test".parse().unwrap(), 80).is_ok());
    assert_eq!(denial(&policy, "any.test", "18.1.0.1"), None);
    assert_eq!(denial(&policy, "any.test", "64:ff9b::18.1.0.1"), None);
    assert_eq!(denial(&policy, "any.test", "8.8.8.8"), Some(DenialReason::NotAllowed));
    // A 6to4 address is another host than the router whose address it carries.
    assert_eq!(denial(&policy, "any.test", "2002:1201:1::1"), Some(DenialReason::NotAllowed));
}

#[test]
fn an_empty_allow_list_allows_nothing_and_none_allows_the_internet() {
    let closed = policy("enabled = true\nallow = []");
    assert_eq!(denial(&closed, "a.test", "8.8.8.8"), Some(DenialReason::NotAllowed));
    assert_eq!(denial(&open(), "a.test", "8.8.8.8"), None);
}

#[test]
fn allow_private_opens_its_networks_and_no_metadata_service_by_chance() {
    let lan = policy("enabled = true\nallow_private = ['10.1.0.0/16', 'fc00::/7', '0.0.0.0/0']");
    assert_eq!(denial(&lan, "a.test", "10.1.2.3"), None);
    assert_eq!(denial(&lan, "a.test", "::ffff:10.1.2.3"), None);
    assert_eq!(denial(&lan, "a.test", "fd12::1"), None);
    assert_eq!(denial(&lan, "a.test", "fd00:ec2::254"), Some(DenialReason::Metadata));
    assert_eq!(denial(&lan, "a.test", "169.254.169.254"), Some(DenialReason::Metadata));
    let narrow = policy("enabled = true\nallow_private = ['10.1.0.0/16', '169.254.169.254/32']");
    assert_eq!(denial(&narrow, "a.test", "10.2.0.1"), Some(DenialReason::Private));
    assert_eq!(denial(&narrow, "a.test", "169.254.169.254"), None);
    assert_eq!(denial(&narrow, "a.test", "2002:a01:203::1"), Some(DenialReason::Private));
}

#[test]
fn allow_private_does_not_widen_the_allow_list() {
    let policy =
        policy("enabled = true\nallow = [{ port = [22] }]\nallow_private = ['10.0.0.0/8']");
    assert_eq!(denial(&policy, "a.test", "10.1.2.3"), Some(DenialReason::NotAllowed));
}

#[test]
fn every_metric_label_is_distinct() {
    use DenialReason::*;
    let all = [
        NotAnExit,
        DenyRule(0),
        NotAllowed,
        Metadata,
        Unspecified,
        Loopback,
        OwnAddress,
        Private,
        SharedNat,
        LinkLocal,
        Documentation,
        Benchmarking,
        Multicast,
        Broadcast,
        Reserved,
    ];
    let names: std::collections::HashSet<_> = all.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), all.len());
}

/// An address in one of the denied ranges, or one that carries a denied IPv4 address.
fn denied_address() -> impl Strategy<Value = IpAddr> {
    let ranges: Vec<IpNet> = denied_ranges().collect();
    (prop::sample::select(ranges), any::<u128>(), 0..4_u8).prop_map(
        |(net, host, dress)| match net {
            IpNet::V4(net) => {
                let host = u32::try_from(host & u128::from(u32::MAX)).unwrap();
                let v4 = net.network().to_bits() | (host & net.hostmask().to_bits());
                let bits = u128::from(v4);
                let v6 = |bits: u128| IpAddr::V6(bits.into());
                match dress {
                    0 => IpAddr::V4(v4.into()),
                    1 => v6(0xffff << 32 | bits),
                    2 => v6(0x0064_ff9b << 96 | bits),
                    _ => v6(0x2002 << 112 | bits << 80 | 1),
                }
            }
            IpNet::V6(net) => {
                IpAddr::V6((net.network().to_bits() | (host & net.hostmask().to_bits())).into())
            }
        },
    )
}

proptest! {
    #[test]
    fn a_rule_never_opens_a_denied_range_by_itself(ip in denied_address(), port in 1..=u16::MAX) {
        let host: Host = "www.mit.edu".parse().unwrap();
        for allow in [
            "", "allow = [{}]", "allow = [{ domain = ['mit.edu'] }]",
            "allow = [{ cidr = ['0.0.0.0/0', '::/0'] }]",
        ] {
            let policy = policy(&format!("enabled = true\n{allow}"));
            prop_assert!(policy.check_addr(&[], &host, ip, port).is_err(), "{ip} with {allow}");
        }
    }

    #[test]
    fn a_name_denied_before_resolution_is_denied_after_it(
        bits: u128, port in 1..=u16::MAX, named: bool,
    ) {
        let policy = policy(
            "enabled = true\nallow = [{ domain = ['mit.edu'] }, { port = ['1-30000'] }]\n\
             deny = [{ port = ['20000-60000'] }]",
        );
        let ip = IpAddr::V6(bits.into());
        let host = if named { "a.mit.edu".parse().unwrap() } else { Host::Ip(ip) };
        if policy.check_name(&[], &host, port).is_err() {
            prop_assert!(policy.check_addr(&[], &host, ip, port).is_err());
        }
    }
}
