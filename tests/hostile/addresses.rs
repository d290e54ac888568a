//! A member whose packets claim to come from somewhere else.

use std::{net::SocketAddr, time::Duration};

use tokio::time::sleep;

use crate::{
    meters::Limits,
    peer::open_flow,
    stage::{Stage, is_third_party, third_party},
    words,
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
