//! Members that never end their introduction, and packets of other versions of QUIC.

use std::time::Duration;

use futures_util::future::join_all;
use noq::{TransportConfig, VarInt};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    meters::Limits,
    peer::HostileLink,
    stage::{Stage, is_third_party, third_party},
};

/// How long the attacker tries.
const ATTACK: Duration = Duration::from_secs(30);

/// Introduces itself as often as it can, takes no revocation list, and fills what it may.
async fn introduce(stage: &Stage) -> (usize, Vec<HostileLink>) {
    let (mut made, mut kept) = (0, Vec::<HostileLink>::new());
    let began = Instant::now();
    while began.elapsed() < ATTACK {
        let mut transport = TransportConfig::default();
        transport.max_concurrent_uni_streams(VarInt::from_u32(0));
        transport.keep_alive_interval(Some(Duration::from_secs(5)));
        let link = stage.mallory.peer().stale_link(&stage.victim("exit"), transport).await;
        let Some(link) = link else { continue };
        for _ in 0..4 {
            let opened = timeout(Duration::from_millis(200), link.conn.open_uni()).await;
            let Ok(Ok(mut stream)) = opened else { continue };
            let _ = timeout(Duration::from_millis(200), stream.write_all(&[7; 48_000])).await;
        }
        made += 1;
        // What has ended is no more than the test's own memory.
        kept.retain(|link| link.ended().is_none());
        kept.push(link);
    }
    (made, kept)
}

#[test]
fn a_member_that_never_ends_its_introductions_holds_few_of_them() {
    let stage = Stage::new(911);
    let ((made, stand, after), cost) = stage.attack(async {
        let links = join_all((0..8).map(|_| introduce(&stage))).await;
        let made: usize = links.iter().map(|(made, _)| made).sum();
        let kept: Vec<_> = links.into_iter().flat_map(|(_, kept)| kept).collect();
        let standing = || kept.iter().filter(|link| link.ended().is_none()).count();
        let stand = standing();
        sleep(Duration::from_secs(15)).await;
        (made, stand, standing())
    });
    println!("{made} introductions begun, {stand} stood, {after} after 15 s: {cost}");
    assert!(made > 16, "the attack did not happen: {made}");
    assert!(stand <= 20 && after == 0, "{stand} stood, {after} later");
    cost.assert_within(Limits { peak: 16 << 20, cores: 1.0, ..Limits::default() });
}

#[test]
fn packets_of_another_version_of_quic_are_not_answered() {
    let stage = Stage::new(908);
    let traffic = stage.traffic();
    let (forged, to) = ((third_party(9), 53).into(), stage.at("exit"));
    let other_version = [0xc0, 0x1a, 0x2b, 0x3c, 0x4d, 0, 0];
    let padded = [&other_version[..], &[0; 1_300]].concat();
    let ((), cost) = stage.attack_alone(async {
        for number in 0..10_000 {
            let packet = if number % 2 == 0 { &other_version[..] } else { &padded };
            stage.mallory.datagram_from(forged, to, packet);
            sleep(Duration::from_micros(100)).await;
        }
        sleep(Duration::from_secs(1)).await;
    });
    let answers = traffic.to(is_third_party);
    assert!(answers.is_empty(), "{answers:?}; {cost}");
    let dropped = stage.node("exit").status().dropped;
    assert!(
        dropped.iter().any(|(why, count)| *why == "unclassified" && *count >= 10_000),
        "{dropped:?}"
    );
}
