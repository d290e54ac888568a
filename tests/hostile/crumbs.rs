//! Single bytes that wait at an exit, among what others send.

use std::time::Duration;

use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    time::sleep,
};

use crate::{
    meters::Limits,
    peer::{Windows, open_flow},
    stage::Stage,
    support,
};

/// Flows whose answers wait, as the entry gives them no room.
const FLOWS: usize = 100;

/// Bytes of these flows, one after the other, each in a packet of its own.
const CRUMBS: usize = 1_000;

/// What the upload writes at once.
const PIECE: usize = 16 << 10;

/// Sends as fast as the exit takes it, and counts, up to so many bytes.
async fn send(upload: &mut (impl AsyncWrite + Unpin), sent: &mut usize, most: usize) {
    while *sent < most {
        upload.write_all(support::pattern(*sent, PIECE)).await.unwrap();
        *sent += PIECE;
    }
}

#[test]
fn bytes_before_an_answer_pin_nothing_of_what_others_send() {
    let stage = Stage::new(931);
    let mut uploaded = 0;
    let (mut flows, mut upload, _kept) = stage.run(async {
        let mut upload = support::open_at(stage.node("entry"), "sink.test:80", "exit").await;
        let link = stage.mallory.link_to(&stage.lab, "exit").await;
        let victim = stage.victim("exit");
        let lane = stage.mallory.peer().lane_with(&victim, &link, Windows::None).await.unwrap().0;
        let mut flows = Vec::new();
        while flows.len() < FLOWS {
            flows.push(open_flow(&lane, "sink.test:80").await.unwrap());
        }
        // Until the upload has what it needs.
        send(&mut upload, &mut uploaded, 16 << 20).await;
        (flows, upload, (lane, link))
    });
    let before = uploaded;
    let ((), cost) = stage.attack_alone(async {
        let crumbs = async {
            for n in 0..CRUMBS {
                flows[n % FLOWS].0.write_all(b"x").await.unwrap();
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = crumbs => {}
            () = send(&mut upload, &mut uploaded, usize::MAX) => unreachable!(),
        }
    });
    let uploaded = uploaded - before;
    println!("{uploaded} bytes of another member, and {CRUMBS} crumbs among them: {cost}");
    assert!(uploaded > 20 << 20, "{uploaded}");
    cost.assert_within(Limits { peak: 8 << 20, cores: 2.0, ..Limits::default() });
}
