//! A member whose packets claim to come from somewhere else.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ronproxy::internals::{lab::LabNode, wire::nonce::AddressNonce};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    meters::Limits,
    peer::{Hostile, PORT, open_flow},
    stage::{Stage, is_third_party, third_party},
    support, words,
};

#[test]
fn one_forged_packet_does_not_divert_a_lane_to_a_third_party() {
    let stage = Stage::new(401);
    let traffic = stage.traffic();
    let (received, cost) = stage.attack(async {
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let lane = stage.mallory.lane_to(&stage.lab, &link, "exit").await.unwrap();
        let (mut send, mut recv) = open_flow(&lane, "source.test:80").await.unwrap();
        send.write_all(b"GET 20000000\n").await.unwrap();
        let reader = tokio::spawn(async move {
            let mut got = 0;
            while let Ok(Some(chunk)) = recv.read_chunk(65_536).await {
                got += chunk.len();
            }
            got
        });
        sleep(Duration::from_millis(200)).await;
        stage.mallory.mask(Some(SocketAddr::new(third_party(7), 53)));
        link.probe(&words::probe(1));
        sleep(Duration::from_millis(5)).await;
        stage.mallory.mask(None);
        sleep(Duration::from_secs(25)).await;
        drop((link, lane));
        reader.await.unwrap()
    });
    let sent = traffic.to(is_third_party);
    let bytes: u64 = sent.values().map(|(_, bytes)| bytes).sum();
    println!("one forged packet: {bytes} bytes to a third party, {received} to the forger; {cost}");
    // QUIC's own challenges of the new path, each of a full packet; and a download at the path's rate.
    let limits = Limits { third_party_bytes: 20_000, peak: 32 << 20, ..Limits::default() };
    cost.assert_within(limits);
}

/// What a flow of the entry may miss when the entry's address changes: as long as without an attack.
const PAUSE: Duration = Duration::from_secs(1);

/// Types a key on a flow of the entry each time that its address has changed; returns the pauses.
async fn pauses_of_moves(stage: &Stage, at: &Cell<IpAddr>) -> Vec<Duration> {
    let mut io = support::open_at(stage.node("entry"), "echo.test:7", "exit").await;
    support::type_a_key(&mut *io).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    let mut pauses = Vec::new();
    for number in 0..5 {
        let to = IpAddr::from([192, 0, 2, 77 + number]);
        stage.lab.internet().move_host(at.replace(to), to);
        let began = Instant::now();
        let typed = timeout(Duration::from_secs(60), support::type_a_key(&mut *io)).await;
        assert!(matches!(typed, Ok(Ok(()))), "{typed:?}");
        pauses.push(began.elapsed());
        sleep(Duration::from_secs(20)).await;
    }
    pauses
}

/// The number with which a node tells its processes apart. Every member knows it.
async fn incarnation_of(stage: &Stage, node: &str) -> u64 {
    let (link, theirs) = stage.mallory.peer().link_as(&stage.victim(node), 7).await.unwrap();
    link.conn.close(0u32.into(), b"");
    theirs
}

#[test]
fn members_that_claim_to_be_others_processes_delay_no_change_of_address() {
    let stage = Stage::new(904);
    let pauses = stage.run(async {
        let mut kept = Vec::new();
        // Their names come before those of the nodes.
        for (number, (name, of)) in [(100, ("aaa", "exit")), (101, ("aab", "relay"))] {
            let host = IpAddr::from([203, 0, 113, number]);
            let thief = Hostile::with(&stage.lab, &LabNode::new(name, false, false), host);
            let claimed = incarnation_of(&stage, of).await;
            let link = thief.peer().link_as(&stage.victim("entry"), claimed).await.unwrap();
            kept.push((thief, link));
        }
        sleep(Duration::from_secs(5)).await;
        let at = Cell::new(stage.lab.topology().address("entry"));
        pauses_of_moves(&stage, &at).await
    });
    println!("pauses of address changes beside members that claim others' processes: {pauses:?}");
    assert!(pauses.iter().all(|pause| *pause < PAUSE), "{pauses:?}");
}

#[test]
fn nonces_in_other_members_names_delay_no_change_of_address() {
    let stage = Stage::new(907);
    let pauses = stage.run(async {
        let claimed = [incarnation_of(&stage, "exit").await, incarnation_of(&stage, "relay").await];
        sleep(Duration::from_secs(2)).await;
        let at = Cell::new(stage.lab.topology().address("entry"));
        let flood = async {
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            loop {
                tick.tick().await;
                for asker in claimed {
                    let nonce = AddressNonce { asker, nonce: rand::random() };
                    stage.mallory.datagram((at.get(), PORT).into(), &nonce.encode());
                }
            }
        };
        tokio::select! { pauses = pauses_of_moves(&stage, &at) => pauses, () = flood => unreachable!() }
    });
    println!("pauses of address changes beside forged nonces: {pauses:?}");
    assert!(pauses.iter().all(|pause| *pause < PAUSE), "{pauses:?}");
}
