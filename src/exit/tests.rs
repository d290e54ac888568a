//! An exit against real sockets on loopback, and against silence in virtual time.

use std::{future::pending, time::Duration};

use tokio::net::TcpListener;

use super::*;
use crate::flow::BoxFuture;

/// A listening loopback server and its address.
async fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// An exit with this `[exit]` table, to which `names` resolve.
fn exit(table: &str, names: &[(&str, &[&str])]) -> Exit {
    let names = names
        .iter()
        .map(|&(name, ips)| (name.to_owned(), ips.iter().map(|ip| ip.parse().unwrap()).collect()));
    let resolver = StaticResolver::new(names.collect());
    Exit::new(toml::from_str(table).unwrap(), Arc::new(resolver))
}

const LOOPBACK_OPEN: &str = "enabled = true\nallow_private = ['127.0.0.0/8']";

async fn open(
    exit: &Exit,
    entry: &str,
    host: &str,
    port: u16,
) -> Result<(TcpStream, SocketAddr, ExitPermit), Refusal> {
    exit.open(&entry.parse().unwrap(), &[], &Target::new(host, port).unwrap()).await
}

/// A resolver whose name servers are all silent.
#[derive(Debug)]
struct Silent;

impl Resolver for Silent {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(pending())
    }
}

#[tokio::test]
async fn a_node_that_is_no_exit_says_so() {
    let refusal = open(&exit("", &[]), "utah", "8.8.8.8", 53).await.unwrap_err();
    assert_eq!(refusal, Refusal::new(RefusalKind::NotAnExit, "this node is not an exit"));
}

#[tokio::test]
async fn a_name_that_resolves_to_loopback_is_refused() {
    let (_listener, addr) = server().await;
    let exit = exit(
        "enabled = true\nallow = [{ domain = ['a.test'] }]",
        &[("a.test", &["127.0.0.1", "::1"])],
    );
    let refusal = open(&exit, "utah", "a.test", addr.port()).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Policy);
    assert!(refusal.detail.contains("127.0.0.1 (a.test)"), "{}", refusal.detail);
    assert!(refusal.detail.ends_with("the exit's loopback"), "{}", refusal.detail);
    assert_eq!(exit.snapshot().denials, BTreeMap::from([("loopback", 1)]));
}

#[tokio::test]
async fn only_the_admitted_addresses_of_a_name_are_tried() {
    let (_listener, addr) = server().await;
    let exit = exit(LOOPBACK_OPEN, &[("a.test", &["10.0.0.1", "fe80::1", "127.0.0.1"])]);
    let (stream, reached, _permit) = open(&exit, "utah", "A.test.", addr.port()).await.unwrap();
    assert_eq!(reached, addr);
    assert!(stream.nodelay().unwrap());
}

#[tokio::test]
async fn a_mapped_address_connects_over_ipv4_and_obeys_its_rules() {
    let (_listener, addr) = server().await;
    let mapped = "::ffff:127.0.0.1";
    let (_, reached, _permit) =
        open(&exit(LOOPBACK_OPEN, &[]), "utah", mapped, addr.port()).await.unwrap();
    assert_eq!(reached, addr);
    let refusal =
        open(&exit("enabled = true", &[]), "utah", mapped, addr.port()).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Policy);
}

#[tokio::test]
async fn a_peer_cannot_pass_a_deny_rule_by_its_spelling() {
    let exit = exit("enabled = true\ndeny = [{ domain = ['a.test'] }]", &[]);
    for (name, expected) in [
        ("A.TEST", RefusalKind::Policy),
        ("a.test.", RefusalKind::Policy),
        ("127.0.0.1", RefusalKind::Policy),
        ("a b", RefusalKind::Protocol),
    ] {
        let target = Target { host: Host::Name(name.to_owned()), port: 80 };
        let refusal = exit.open(&"utah".parse().unwrap(), &[], &target).await.unwrap_err();
        assert_eq!(refusal.kind, expected, "{name}: {refusal}");
    }
}

/// A resolver that nobody may ask.
#[derive(Debug)]
struct Untouched;

impl Resolver for Untouched {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        panic!("{name} is resolved for a question");
    }
}

#[tokio::test]
async fn a_question_is_answered_by_the_askers_groups_and_resolves_nothing() {
    let table = "enabled = true
        deny = [{ port = [25] }, { cidr = ['9.9.9.0/24'] }]
        allow = [{ group = ['staff'] }, { domain = ['open.test'] }]";
    let exit = Exit::new(toml::from_str(table).unwrap(), Arc::new(Untouched))
        .with_pinned(HashMap::from([("pinned.test".to_owned(), ([127, 0, 0, 1], 1).into())]));
    let (staff, others) = (["staff".to_owned()], []);
    for (groups, target, expected) in [
        (&staff[..], "a.test:80", Ok(Judgement::DependsOnAddress)),
        (&others, "a.test:80", Err("no rule of its allow list matches")),
        (&others, "open.test:80", Ok(Judgement::DependsOnAddress)),
        (&staff, "a.test:25", Err("rule 1 of its deny list matches")),
        (&staff, "8.8.8.8:53", Ok(Judgement::Allowed)),
        (&staff, "9.9.9.9:53", Err("rule 2 of its deny list matches")),
        (&staff, "10.0.0.1:80", Err("that is a private network")),
        (&staff, "pinned.test:80", Ok(Judgement::Allowed)),
        (&others, "pinned.test:80", Err("no rule of its allow list matches")),
    ] {
        let said = exit.would_carry(groups, &target.parse().unwrap(), false).await;
        match (said, expected) {
            (Ok(said), Ok(expected)) => assert_eq!(said, expected, "{target}"),
            (Err(said), Err(expected)) => {
                assert_eq!(said.kind, RefusalKind::Policy, "{target}");
                assert!(said.detail.ends_with(expected), "{target}: {said}");
            }
            (said, _) => panic!("{groups:?} {target}: {said:?}"),
        }
    }
    let served = exit.would_carry(&others, &"wiki.lab:80".parse().unwrap(), true).await;
    assert_eq!(served, Ok(Judgement::Allowed));
    assert!(exit.snapshot().denials.is_empty(), "no flow was denied");
}

#[tokio::test]
async fn a_pinned_name_reaches_loopback_under_the_operators_rules() {
    let (_listener, addr) = server().await;
    let pinned = HashMap::from([("www.mit.edu".to_owned(), addr)]);
    let exit = exit("enabled = true\nallow = [{ domain = ['mit.edu'], port = [80] }]", &[])
        .with_pinned(pinned);
    let (_, reached, _permit) = open(&exit, "utah", "www.mit.edu", 80).await.unwrap();
    assert_eq!(reached, addr);
    for (host, port) in [("www.mit.edu", 443), ("127.0.0.1", 80)] {
        let refusal = open(&exit, "utah", host, port).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Policy, "{host}:{port}");
    }
}

#[tokio::test]
async fn a_closed_port_is_a_refused_connection() {
    let (listener, addr) = server().await;
    drop(listener);
    let exit = exit(LOOPBACK_OPEN, &[]);
    let refusal = open(&exit, "utah", "127.0.0.1", addr.port()).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::ConnectionRefused);
    assert_eq!(exit.snapshot().flows, 0, "a failed flow keeps no place");
}

#[tokio::test]
async fn an_unknown_name_is_not_found() {
    let refusal = open(&exit(LOOPBACK_OPEN, &[]), "utah", "a.test", 80).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NameNotFound);
}

#[tokio::test(start_paused = true)]
async fn silent_name_servers_end_at_the_connect_timeout() {
    let config: Config = toml::from_str("enabled = true\nconnect_timeout = '3s'").unwrap();
    let exit = Exit::new(config, Arc::new(Silent));
    let began = Instant::now();
    let refusal = open(&exit, "utah", "a.test", 80).await.unwrap_err();
    assert_eq!((refusal.kind, began.elapsed()), (RefusalKind::TimedOut, Duration::from_secs(3)));
    assert_eq!(exit.snapshot().flows, 0);
}

#[tokio::test]
async fn a_full_exit_refuses_until_a_flow_ends() {
    let (_listener, addr) = server().await;
    let exit = exit(&format!("{LOOPBACK_OPEN}\nmax_flows = 3\nmax_flows_per_entry = 2"), &[]);
    let connect = |entry| open(&exit, entry, "127.0.0.1", addr.port());
    let first = connect("utah").await.unwrap();
    let _second = connect("utah").await.unwrap();
    assert_eq!(connect("utah").await.unwrap_err().kind, RefusalKind::Overloaded);
    let _other = connect("cmu").await.unwrap();
    assert_eq!(connect("cmu").await.unwrap_err().kind, RefusalKind::Overloaded);
    assert_eq!(exit.snapshot().flows, 3);
    drop(first);
    let _again = connect("utah").await.unwrap();
}

#[tokio::test]
async fn an_open_that_is_given_up_gives_its_place_back() {
    let config: Config = toml::from_str("enabled = true\nmax_flows = 1").unwrap();
    let exit = Exit::new(config, Arc::new(Silent));
    let opening = open(&exit, "utah", "a.test", 80);
    assert!(tokio::time::timeout(Duration::from_millis(20), opening).await.is_err());
    assert_eq!(exit.snapshot().flows, 0);
}

/// Resolves names in `.test` and is silent about all others.
#[derive(Debug)]
struct PartlySilent;

impl Resolver for PartlySilent {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(async move {
            if name.ends_with(".test") { Ok(vec![[127, 0, 0, 1].into()]) } else { pending().await }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_zone_asked_for_by_one_entry_does_not_delay_another() {
    let (_listener, addr) = server().await;
    let exit = Exit::new(toml::from_str(LOOPBACK_OPEN).unwrap(), Arc::new(PartlySilent));
    let mut silent = Vec::new();
    let exit = Arc::new(exit);
    for n in 0..200 {
        let exit = exit.clone();
        silent.push(tokio::spawn(async move {
            open(&exit, "mit", &format!("{n}.silent"), 80).await.map(drop)
        }));
    }
    tokio::task::yield_now().await;
    let began = Instant::now();
    drop(open(&exit, "utah", "a.test", addr.port()).await.unwrap());
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    let mut refused = std::collections::BTreeMap::new();
    for flow in silent {
        *refused.entry(flow.await.unwrap().unwrap_err().kind.name()).or_insert(0) += 1;
    }
    assert_eq!(refused, [("overloaded", 120), ("timed-out", 80)].into());
    drop(open(&exit, "mit", "a.test", addr.port()).await.unwrap());
}

#[tokio::test]
async fn a_served_name_is_judged_by_deny_rules_and_counted_as_a_flow() {
    let table = "enabled = true\nallow = []\nmax_flows_per_entry = 1\n\
                 deny = [{ domain = ['wiki.lab'], group = ['guests'] }]";
    let exit = exit(table, &[]);
    let target = Target::new("wiki.lab", 80).unwrap();
    let admit = |groups: &[&str]| {
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        exit.admit(&"utah".parse().unwrap(), &groups, &target)
    };
    assert_eq!(admit(&["guests"]).unwrap_err().kind, RefusalKind::Policy);
    let held = admit(&["staff"]).unwrap();
    assert_eq!(exit.snapshot().flows, 1);
    assert_eq!(admit(&[]).unwrap_err().kind, RefusalKind::Overloaded);
    drop(held);
    drop(admit(&[]).unwrap());
}
