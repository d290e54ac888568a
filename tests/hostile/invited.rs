//! Joiners, while others send first packets from every prefix to the authority.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use noq::{Endpoint, EndpointConfig, TokioRuntime};
use ronproxy::internals::{
    app::{self, Way},
    identity::{Invitation, NodeKey},
    transport,
};
use tokio::time::{Instant, sleep};

use crate::{
    meters::Limits,
    peer::repeat,
    stage::Stage,
    stall::Staller,
    strangers::{Initials, stranger},
};

/// Where the joiner is.
const JOINER: [u8; 4] = [203, 0, 113, 200];

/// An overlay whose exit has the authority.
fn stage(seed: u64) -> Stage {
    Stage::with_authority(1, seed)
}

/// How long each of these takes to join.
async fn join(stage: &Stage, invitations: &[Invitation]) -> Vec<Duration> {
    let socket = stage.lab.internet().attach(SocketAddr::from((JOINER, 4600)));
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false);
    let tokio = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, tokio).unwrap();
    let way = Way { endpoint, streams: None };
    let mut took = Vec::new();
    for invitation in invitations {
        sleep(Duration::from_secs(3)).await;
        let (began, key) = (Instant::now(), NodeKey::generate().unwrap());
        app::join(&way, invitation, &key, Vec::new(), stage.lab.clock()).await.unwrap();
        took.push(began.elapsed());
    }
    took
}

/// The source of a first packet: another IPv4 /24 or IPv6 /64 each time, and sometimes the joiner's own.
fn source(n: u64) -> SocketAddr {
    let [a, b, ..] = n.to_le_bytes();
    match n % 3 {
        0 => SocketAddr::from(([60 + a % 60, b, a, 9], 7_000)),
        1 => {
            let v6 = (0x2001_0db8 << 96) | (u128::from(n) << 64) | 1;
            SocketAddr::new(Ipv6Addr::from_bits(v6).into(), 7_000)
        }
        _ => SocketAddr::new(IpAddr::from([203, 0, 113, 100 + a % 100]), 7_000),
    }
}

/// A member forges 1,000 first packets a second, and a hundred strangers that know the overlay, in as many
/// prefixes, prove their addresses and leave a handshake half done each second.
#[test]
fn a_joiner_is_let_in_while_first_packets_come_from_all_prefixes() {
    let stage = stage(321);
    let invitations: Vec<_> =
        (0..5).map(|n| stage.lab.invite(&format!("late{n}")).unwrap()).collect();
    let client = transport::link_client_config(stage.mallory.credentials()).unwrap();
    let exit = stage.at("exit");
    let initials = Initials::of_member(stage.mallory.credentials(), &stage.victim("exit"), 500);
    let traffic = stage.traffic();
    let (took, cost) = stage.attack(async {
        let end = Instant::now() + Duration::from_secs(60);
        let forged = repeat(end, Duration::from_millis(1), |n| {
            stage.mallory.datagram_from(source(n), exit, initials.get(n));
        });
        let stallers = join_all((0..100).map(|n| {
            let at = stranger(n * 256);
            let staller = Staller::new(stage.lab.internet(), at, client.clone(), (exit, "exit"), 1);
            staller.run(end, Duration::from_secs(1))
        }));
        tokio::select! {
            took = join(&stage, &invitations) => took,
            _ = async { tokio::join!(forged, stallers) } => unreachable!("the joins are over"),
        }
    });
    let forged =
        traffic.to(|at| matches!(at, IpAddr::V4(at) if (60..120).contains(&at.octets()[0])));
    let bytes: u64 = forged.values().map(|(_, bytes)| bytes).sum();
    println!("joined after {took:?}; {bytes} bytes to forged sources elsewhere; {cost}");
    println!("{:?}", stage.node("exit").status().handshakes);
    assert_eq!(took.len(), 5);
    assert!(took.iter().all(|took| *took < Duration::from_secs(3)), "{took:?}");
    cost.assert_within(Limits { peak: 32 << 20, cores: 1.0, ..Limits::default() });
}
