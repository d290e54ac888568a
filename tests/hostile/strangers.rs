//! Senders without a certificate.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use noq_proto::{ClientConfig, ConnectionId};
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use ronproxy::internals::{
    identity::{Credentials, server_name},
    lab::LabNode,
    transport,
};
use tokio::time::{Instant, sleep};

use crate::{
    meters::Limits,
    peer::{Hostile, Victim, members_client, repeat},
    stage::{MALLORY, Stage, is_third_party, third_party},
    stall::Staller,
    support,
};

/// First packets of QUIC connections that nobody goes on with.
pub(crate) struct Initials(Vec<Vec<u8>>);

impl Initials {
    /// So many different ones to a node, of somebody who does not know its overlay: the certificate comes
    /// later in the handshake.
    pub(crate) fn of_stranger(by: &Credentials, to: SocketAddr, name: &str, count: usize) -> Self {
        let mut client = transport::link_client_config(by).unwrap();
        let any = || ConnectionId::new(&rand::random::<[u8; 20]>());
        client.initial_dst_cid_provider(Arc::new(any));
        Self::of(client, to, name, count)
    }

    /// So many different ones, of somebody who knows the overlay and does not show who it is.
    pub(crate) fn nameless(by: &Credentials, to: &Victim, count: usize) -> Self {
        let client = transport::link_client_config(by).unwrap();
        Self::of(client, to.at, to.name.as_str(), count)
    }

    /// So many different ones, of a member.
    pub(crate) fn of_member(by: &Credentials, to: &Victim, count: usize) -> Self {
        Self::of(members_client(by, to), to.at, to.name.as_str(), count)
    }

    fn of(client: ClientConfig, to: SocketAddr, name: &str, count: usize) -> Self {
        let name = server_name(&name.parse().unwrap());
        let config = Arc::new(noq_proto::EndpointConfig::default());
        let initial = |_| {
            let mut endpoint = noq_proto::Endpoint::new(config.clone(), None, false);
            let now = Instant::now().into_std();
            let (_, mut connection) = endpoint.connect(now, client.clone(), to, &name).unwrap();
            let mut packet = Vec::new();
            let _ = connection.poll_transmit(now, NonZeroUsize::MIN, &mut packet).unwrap();
            packet
        };
        Self((0..count).map(initial).collect())
    }

    /// One of them.
    pub(crate) fn get(&self, number: u64) -> &[u8] {
        &self.0[usize::try_from(number).unwrap() % self.0.len()]
    }
}

/// Bytes of a request to prove an address (Retry), at most.
pub(crate) const ANSWER: u64 = 160;

/// Where the strangers are: addresses of a test network (RFC 2544).
pub(crate) fn stranger(number: u64) -> SocketAddr {
    let [.., high, low] = u16::try_from(number % 65_536).unwrap().to_be_bytes();
    SocketAddr::new(IpAddr::from([198, 18, high, low]), 7_000)
}

#[test]
fn first_packets_from_one_address_do_not_delay_a_members_new_lane() {
    let stage = Stage::new(301);
    let traffic = stage.traffic();
    let (opened, cost) = stage.attack(async {
        let initials = Initials::nameless(stage.mallory.credentials(), &stage.victim("exit"), 500);
        let end = Instant::now() + Duration::from_secs(15);
        let attack = repeat(end, Duration::from_millis(1), |n| {
            stage.mallory.datagram_from(stranger(1), stage.at("exit"), initials.get(n));
            stage.mallory.datagram_from(stranger(1), stage.at("exit"), initials.get(n + 250));
        });
        let member = async {
            sleep(Duration::from_secs(5)).await;
            let start = Instant::now();
            support::fetch(stage.node("entry"), 10_000).await;
            start.elapsed()
        };
        tokio::join!(attack, member).1
    });
    let (packets, bytes) = traffic.to_host(stranger(1).ip());
    println!("19 Mbit/s of first packets: a lane after {opened:?}; {cost}; {packets} packets back");
    assert!(opened < Duration::from_secs(1), "{opened:?}");
    assert!(bytes < 20_000, "{bytes} bytes reflected");
    cost.assert_within(Limits { peak: 32 << 20, log_lines: 40, ..Limits::default() });
}

#[test]
fn a_stranger_that_leaves_handshakes_half_done_does_not_delay_members() {
    let stage = Stage::new(305);
    let (opened, cost) = stage.attack(async {
        let client = transport::link_client_config(stage.mallory.credentials()).unwrap();
        let victim = (stage.at("exit"), "exit");
        let staller = Staller::new(stage.lab.internet(), stranger(1), client, victim, 200);
        let attack =
            staller.run(Instant::now() + Duration::from_secs(15), Duration::from_millis(2));
        let member = async {
            sleep(Duration::from_millis(2_500)).await;
            let start = Instant::now();
            support::fetch(stage.node("entry"), 10_000).await;
            start.elapsed()
        };
        tokio::join!(attack, member).1
    });
    println!("500 half-done handshakes a second: a lane after {opened:?}; {cost}");
    assert!(opened < Duration::from_secs(1), "{opened:?}");
    cost.assert_within(Limits { peak: 32 << 20, log_lines: 40, ..Limits::default() });
}

#[test]
fn first_packets_from_many_addresses_do_not_keep_a_member_out() {
    let mut stage = Stage::new(302);
    stage.lab.crash("entry");
    let (exit, victim) = (stage.at("exit"), stage.victim("exit"));
    let (linked, cost) = stage.attack_mut(async |lab, mallory| {
        let initials = Initials::nameless(mallory.credentials(), &victim, 500);
        let end = Instant::now() + Duration::from_secs(15);
        let internet = lab.internet().clone();
        let attack = tokio::spawn(async move {
            repeat(end, Duration::from_millis(1), |n| {
                internet.forge(MALLORY, stranger(n % 1000), exit, initials.get(n));
            })
            .await;
        });
        sleep(Duration::from_secs(5)).await;
        let start = Instant::now();
        lab.restart("entry").await.unwrap();
        support::wait_for("the links", Duration::from_secs(10), || lab.is_meshed()).await;
        let linked = start.elapsed();
        attack.await.unwrap();
        linked
    });
    println!("first packets from 1,000 addresses: a member is back after {linked:?}; {cost}");
    assert!(linked < Duration::from_secs(3), "{linked:?}");
    cost.assert_within(Limits { peak: 32 << 20, ..Limits::default() });
}

/// The member has linked once from each of 20 addresses, and proves each. The exit cannot dial the honest
/// one.
#[test]
fn half_done_handshakes_from_many_addresses_keep_no_other_member_out() {
    let stage = Stage::new(307);
    let at = |n: u8| IpAddr::from([203, 0, 113, 100 + n]);
    let credentials = stage.mallory.credentials().clone();
    let plain = stage.run(async {
        let plain = LabNode::new("plain", false, false);
        let plain = Hostile::with(&stage.lab, &plain, IpAddr::from([192, 0, 2, 77]));
        drop(plain.link_to(&stage.lab, "exit").await);
        for n in 0..20 {
            let mallory = Hostile::at(&stage.lab, credentials.clone(), at(n));
            drop(mallory.link_to(&stage.lab, "exit").await);
            sleep(Duration::from_secs(5)).await;
        }
        plain
    });
    let client = members_client(&credentials, &stage.victim("exit"));
    let (dialled, cost) = stage.attack_alone(async {
        let end = Instant::now() + Duration::from_secs(20);
        let attack = join_all((0..20).map(|n| {
            let (from, victim) = (SocketAddr::new(at(n), 7_000), (stage.at("exit"), "exit"));
            let staller = Staller::new(stage.lab.internet(), from, client.clone(), victim, 30);
            staller.run(end, Duration::from_millis(100))
        }));
        tokio::join!(attack, links_again(&stage, &plain)).1
    });
    println!("200 half-done handshakes a second of 20 addresses: linked after {dialled:?}; {cost}");
    println!("{:?}", stage.node("exit").status().handshakes);
    assert!(dialled < Duration::from_secs(2), "{dialled:?}");
    cost.assert_within(Limits { peak: 32 << 20, log_lines: 40, ..Limits::default() });
}

/// A stranger sends first packets from the /24 of a member whose address is not known yet, at random
/// times: the same packets in lockstep with a refilling bucket would always, or never, come first.
#[test]
fn first_packets_in_the_prefix_of_a_moved_member_do_not_keep_it_out() {
    let stage = Stage::new(308);
    let initials =
        Initials::of_stranger(stage.mallory.credentials(), stage.at("exit"), "exit", 300);
    let (linked, cost) = stage.attack_alone(async {
        let moved = LabNode::new("plain", false, false);
        let moved = Hostile::with(&stage.lab, &moved, IpAddr::from([203, 0, 200, 77]));
        let mut chance = Pcg64Mcg::seed_from_u64(308);
        let attack = async {
            for n in 0.. {
                sleep(Duration::from_micros(chance.random_range(0..20_000))).await;
                let source = IpAddr::from([203, 0, 200, (n % 60_u64).to_le_bytes()[0]]);
                let source = SocketAddr::new(source, 9_000);
                stage.mallory.datagram_from(source, stage.at("exit"), initials.get(n));
            }
        };
        let member = async {
            sleep(Duration::from_secs(25)).await;
            let start = Instant::now();
            while moved.try_link_to(&stage.lab, "exit").await.is_none() {
                assert!(start.elapsed() < Duration::from_secs(10), "the member stays out");
            }
            start.elapsed()
        };
        tokio::select! { linked = member => linked, () = attack => unreachable!() }
    });
    println!("100 first packets a second from its prefix: linked after {linked:?}; {cost}");
    assert!(linked < Duration::from_secs(3), "{linked:?}");
    cost.assert_within(Limits { peak: 32 << 20, log_lines: 40, ..Limits::default() });
}

/// The longest that one of five dials of the exit took, two seconds apart.
async fn links_again(stage: &Stage, member: &Hostile) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        sleep(Duration::from_secs(2)).await;
        let start = Instant::now();
        while member.try_link_to(&stage.lab, "exit").await.is_none() {
            assert!(start.elapsed() < Duration::from_secs(10), "the member stays out");
        }
        longest = longest.max(start.elapsed());
    }
    longest
}

/// A member dials the exit again while somebody who saw its first packets sends them again, from its address and
/// other ports. The exit cannot dial this member itself.
#[test]
fn first_packets_in_a_members_name_do_not_keep_it_out() {
    let stage = Stage::new(306);
    let (dialled, cost) = stage.attack(async {
        drop(stage.mallory.link_to(&stage.lab, "exit").await);
        let initials = Initials::of_member(stage.mallory.credentials(), &stage.victim("exit"), 500);
        let forger = stage.lab.topology().address("entry");
        let end = Instant::now() + Duration::from_secs(20);
        let attack = repeat(end, Duration::from_millis(1), |n| {
            let port = 10_000 + u16::try_from(n % 20_000).unwrap();
            let source = SocketAddr::new(MALLORY, port);
            stage.lab.internet().forge(forger, source, stage.at("exit"), initials.get(n));
        });
        tokio::join!(attack, links_again(&stage, &stage.mallory)).1
    });
    println!("9.6 Mbit/s of first packets in its name: linked after {dialled:?} at most; {cost}");
    assert!(dialled < Duration::from_secs(4), "{dialled:?}");
    cost.assert_within(Limits { peak: 32 << 20, log_lines: 40, ..Limits::default() });
}

/// A laptop was at a cafe and is at home now, where the exit cannot dial it. Somebody at the cafe, with a
/// certificate of another overlay, leaves handshakes half done.
#[test]
fn a_stranger_where_a_member_lately_was_does_not_keep_it_out_elsewhere() {
    let (stage, other) = (Stage::new(309), Stage::new(310));
    let (dialled, cost) = stage.attack(async {
        let member = stage.lab.certify(&LabNode::new("laptop", false, false)).unwrap();
        let (cafe, home) = (IpAddr::from([203, 0, 113, 90]), IpAddr::from([192, 0, 2, 78]));
        for at in [cafe, home] {
            let link =
                Hostile::at(&stage.lab, member.clone(), at).link_to(&stage.lab, "exit").await;
            // Long enough to be noted.
            sleep(Duration::from_secs(7)).await;
            drop(link);
        }
        let member = Hostile::at(&stage.lab, member, home);
        let client = transport::link_client_config(other.mallory.credentials()).unwrap();
        let (from, exit) = (SocketAddr::new(cafe, 7_000), stage.at("exit"));
        let staller = Staller::new(stage.lab.internet(), from, client, (exit, "exit"), 200);
        let attack =
            staller.run(Instant::now() + Duration::from_secs(60), Duration::from_millis(10));
        tokio::select! {
            dialled = links_again(&stage, &member) => dialled,
            () = attack => unreachable!(),
        }
    });
    println!("100 half-done handshakes a second there: linked after {dialled:?} at most; {cost}");
    assert!(dialled < Duration::from_secs(3), "{dialled:?}");
    cost.assert_within(Limits { peak: 32 << 20, log_lines: 60, cores: 1.0, ..Limits::default() });
}

#[test]
fn a_packet_from_a_virtual_address_is_dropped_and_counted() {
    let stage = Stage::new(303);
    let dropped = || {
        let dropped = stage.node("exit").status().dropped;
        dropped.iter().find(|(reason, _)| *reason == "virtual-source").unwrap().1
    };
    let initials = Initials::nameless(stage.mallory.credentials(), &stage.victim("exit"), 1);
    let ((), cost) = stage.attack(async {
        for slot in 0..100u16 {
            let source = SocketAddr::new([0xfd72, 0x6f6e, 0, 0, 0, 0, 0, slot].into(), 1);
            stage.mallory.datagram_from(source, stage.at("exit"), initials.get(0));
        }
        sleep(Duration::from_secs(1)).await;
    });
    println!("packets from virtual addresses: {cost}");
    assert_eq!(dropped(), 100);
    cost.assert_within(Limits::default());
}

/// QUIC answers a packet of a connection that it does not know by a stateless reset, if the packet's
/// connection number could be one of its own. Strangers know none.
#[test]
fn packets_of_unknown_connections_are_not_answered() {
    let stage = Stage::new(311);
    let traffic = stage.traffic();
    let mut rng = Pcg64Mcg::seed_from_u64(311);
    let (sent, cost) = stage.attack(async {
        let mut sent = 0u64;
        repeat(Instant::now() + Duration::from_secs(10), Duration::from_millis(1), |_| {
            let mut packet = [0; 200];
            rng.fill(&mut packet[..]);
            packet[0] = 0x40 | packet[0] & 0x3f;
            let source = SocketAddr::new(third_party(9), 53);
            stage.mallory.datagram_from(source, stage.at("exit"), &packet);
            sent += 1;
        })
        .await;
        sent
    });
    let (packets, _) = traffic.to_host(third_party(9));
    println!("{sent} packets of unknown connections: {packets} answers; {cost}");
    assert!(sent > 5_000 && packets == 0, "{sent}, {packets}");
    cost.assert_within(Limits::default());
}

#[test]
fn a_forged_source_gets_less_than_was_sent_in_its_name() {
    let stage = Stage::new(304);
    let traffic = stage.traffic();
    let initials = Initials::of_member(stage.mallory.credentials(), &stage.victim("exit"), 500);
    let (sent, cost) = stage.attack(async {
        // The exit knows the member from then on.
        drop(stage.mallory.link_to(&stage.lab, "exit").await);
        let source = SocketAddr::new(third_party(9), 53);
        let end = Instant::now() + Duration::from_secs(10);
        repeat(end, Duration::from_millis(2), |n| {
            stage.mallory.datagram_from(source, stage.at("exit"), initials.get(n));
        })
        .await;
        sleep(Duration::from_secs(10)).await;
        5_000 * 1_200
    });
    let back: u64 = traffic.to(is_third_party).values().map(|(_, bytes)| bytes).sum();
    println!("a third party gets {back} bytes for {sent} sent in its name: {cost}");
    // 16 answers at once, and one in five seconds.
    let most = (16 + 20 / 5) * ANSWER;
    cost.assert_within(Limits { peak: 32 << 20, third_party_bytes: most, ..Limits::default() });
}

#[test]
fn a_stranger_to_the_overlay_gets_no_answer() {
    let stage = Stage::new(312);
    let traffic = stage.traffic();
    let (by, exit) = (stage.mallory.credentials(), stage.at("exit"));
    let initials = Initials::of_stranger(by, exit, "exit", 500);
    let entry = SocketAddr::new(stage.lab.topology().address("entry"), 9_000);
    let (handshakes, cost) = stage.attack(async {
        let end = Instant::now() + Duration::from_secs(10);
        repeat(end, Duration::from_millis(2), |n| {
            let sources = [stranger(n % 1_000 * 256), SocketAddr::new(third_party(9), 53), entry];
            for source in sources {
                stage.mallory.datagram_from(source, exit, initials.get(n));
            }
        })
        .await;
        stage.node("exit").status().handshakes
    });
    let strangers = traffic.to(|at| matches!(at, IpAddr::V4(at) if at.octets()[..2] == [198, 18]));
    println!("{handshakes:?}; {} strangers got answers; {cost}", strangers.len());
    assert_eq!(strangers.len(), 0);
    let unknown = handshakes.iter().find(|(what, _)| what == "unknown");
    assert!(unknown.is_some_and(|(_, count)| *count > 4_000), "{handshakes:?}");
    cost.assert_within(Limits { peak: 32 << 20, ..Limits::default() });
}

/// A member forges 1,000 first packets a second, from all prefixes, while another one comes to an address where it
/// never was.
#[test]
fn a_member_that_forges_addresses_delays_no_other_that_moves() {
    let stage = Stage::with_authority(1, 313);
    let plain = stage.lab.certify(&LabNode::new("plain", false, false)).unwrap();
    let (linked, cost) = stage.attack(async {
        let known = Hostile::at(&stage.lab, plain.clone(), IpAddr::from([203, 0, 113, 80]));
        drop(known.link_to(&stage.lab, "exit").await);
        drop(stage.mallory.link_to(&stage.lab, "exit").await);
        let (by, victim) = (stage.mallory.credentials(), stage.victim("exit"));
        let [own, nameless] =
            [Initials::of_member, Initials::nameless].map(|of| of(by, &victim, 250));
        let attack =
            repeat(Instant::now() + Duration::from_secs(60), Duration::from_millis(1), |n| {
                let initials = if n % 2 == 0 { &own } else { &nameless };
                stage.mallory.datagram_from(stranger(n * 77), stage.at("exit"), initials.get(n));
            });
        let moves = async {
            sleep(Duration::from_secs(20)).await;
            let mut longest = Duration::ZERO;
            for n in 0..5 {
                let moved = IpAddr::from([203, 0, 113, 90 + n]);
                let moved = Hostile::at(&stage.lab, plain.clone(), moved);
                let start = Instant::now();
                assert!(moved.try_link_to(&stage.lab, "exit").await.is_some(), "it stays out");
                longest = longest.max(start.elapsed());
            }
            longest
        };
        tokio::select! { longest = moves => longest, () = attack => unreachable!() }
    });
    println!("1,000 forged first packets a second: linked after {linked:?} at most; {cost}");
    assert!(linked < Duration::from_secs(1), "{linked:?}");
    cost.assert_within(Limits { peak: 32 << 20, log_lines: 60, ..Limits::default() });
}

/// Both were linked from there, as behind one NAT. One of them leaves handshakes half done.
#[test]
fn a_member_behind_the_same_address_keeps_no_other_out() {
    let stage = Stage::new(314);
    let shared = IpAddr::from([203, 0, 113, 80]);
    let (dialled, cost) = stage.attack(async {
        let mallory = stage.mallory.credentials().clone();
        let client = members_client(&mallory, &stage.victim("exit"));
        let before = Hostile::at(&stage.lab, mallory, shared);
        drop(before.link_to(&stage.lab, "exit").await);
        sleep(Duration::from_secs(7)).await;
        drop(before);
        let plain = Hostile::with(&stage.lab, &LabNode::new("plain", false, false), shared);
        let (from, victim) = (SocketAddr::new(shared, 7_000), (stage.at("exit"), "exit"));
        let staller = Staller::new(stage.lab.internet(), from, client, victim, 200);
        let attack =
            staller.run(Instant::now() + Duration::from_secs(60), Duration::from_millis(10));
        tokio::select! {
            dialled = links_again(&stage, &plain) => dialled,
            () = attack => unreachable!(),
        }
    });
    println!("100 half-done handshakes a second beside it: linked after {dialled:?}; {cost}");
    assert!(dialled < Duration::from_secs(1), "{dialled:?}");
    cost.assert_within(Limits { peak: 32 << 20, log_lines: 60, ..Limits::default() });
}

#[test]
fn a_node_that_starts_again_knows_where_absent_members_were() {
    let mut stage = Stage::new(309);
    let (entry, exit) = (stage.at("entry").ip(), stage.at("exit"));
    let absent = stage.lab.credentials("entry").unwrap();
    let initials = Initials::of_member(absent, &stage.victim("exit"), 1);
    let (handshakes, cost) = stage.attack_mut(async |lab, mallory| {
        lab.crash("entry");
        lab.crash("relay");
        lab.restart_with_members("exit").await.unwrap();
        mallory.datagram_from(SocketAddr::new(entry, 9_000), exit, initials.get(0));
        sleep(Duration::from_secs(1)).await;
        lab.node("exit").unwrap().status().handshakes
    });
    println!("{handshakes:?}; {cost}");
    assert_eq!(handshakes, [("member".into(), 1)]);
}
