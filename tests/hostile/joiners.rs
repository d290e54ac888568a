//! Strangers that pose as joiners at the authority, which is a real process.

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use noq::{Connection, Endpoint, EndpointConfig, SendStream, TokioRuntime};
use ronproxy::internals::{
    identity::{Clock, Invitation, join_crypto, server_name},
    transport::{self, Knock, KnockKey},
    underlay::bind_udp,
};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    overlay::{Running, Site, free_udp},
    processes::{customers, serve_paced, usage},
};

/// Where the strangers are, and a joiner: members, which are elsewhere, have places of their own.
const STRANGER: [u8; 4] = [127, 0, 77, 1];
const JOINER: [u8; 4] = [127, 0, 77, 2];

/// What a stranger tries at once.
const ATTEMPTS: usize = 200;

/// How many connections of joiners the authority takes, and what they make it keep.
async fn bother(invitation: &Invitation) -> Vec<(Connection, SendStream)> {
    let socket = bind_udp(SocketAddr::from((STRANGER, 0))).unwrap();
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false);
    let tokio = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, tokio).unwrap();
    let client = join_crypto(invitation.fingerprint, &Clock::system()).unwrap();
    let overlay = KnockKey::of_overlay(&invitation.fingerprint);
    let client = transport::join_client_config(client, Knock::new(overlay)).unwrap();
    let name = server_name(&invitation.authority);
    let mut attempts = JoinSet::new();
    for _ in 0..ATTEMPTS {
        let connecting = endpoint.connect_with(client.clone(), invitation.addresses[0], &name);
        let connecting = connecting.unwrap();
        attempts.spawn(async move {
            let conn = timeout(Duration::from_secs(3), connecting).await.ok()?.ok()?;
            let open = async {
                let (mut send, _recv) = conn.open_bi().await.ok()?;
                // Nearly a whole request, and no end.
                send.write_all(&[7; 3_000]).await.ok()?;
                Some(send)
            };
            let held = timeout(Duration::from_secs(2), open).await.ok()??;
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((conn, held))
        });
    }
    let mut answered = JoinSet::new();
    for (conn, send) in attempts.join_all().await.into_iter().flatten() {
        answered.spawn(still_answered(conn, send));
    }
    answered.join_all().await.into_iter().flatten().collect()
}

/// The connection if the authority still has it. The packet that closed it may have been lost.
async fn still_answered(
    conn: Connection,
    mut send: SendStream,
) -> Option<(Connection, SendStream)> {
    let before = conn.stats().udp_rx.datagrams;
    send.write_all(&[7]).await.ok()?;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if conn.close_reason().is_some() {
            return None;
        }
        if conn.stats().udp_rx.datagrams > before {
            return Some((conn, send));
        }
    }
    None
}

#[test]
fn joiners_without_a_token_are_few_and_small() {
    let site = Site::new();
    let (hub, leaf) = site.pair(&[]);
    let line = site.invite("late");
    let invitation: Invitation = line.parse().unwrap();
    let (source, proxy) = (serve_paced(), leaf.proxy());
    let calm = customers(proxy, source, Duration::from_secs(3));
    let lines = || std::fs::read_to_string(site.dir("hub").join("log")).unwrap().lines().count();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (before, said) = (usage(hub.pid()), lines());
    let member = thread::spawn(move || customers(proxy, source, Duration::from_secs(5)));
    let held = runtime.block_on(bother(&invitation));
    let attacked = member.join().unwrap();
    let (after, said) = (usage(hub.pid()), lines() - said);
    let (grown, cpu) = (after.peak.saturating_sub(before.resident), after.cpu - before.cpu);
    println!(
        "{} of {ATTEMPTS} joiners held at once; +{} KiB at most, {cpu:?} of CPU, {said} log lines; others: {attacked:?}",
        held.len(),
        grown / 1024
    );
    assert!(held.len() <= 16, "{}", held.len());
    assert!(grown < 16 << 20, "{grown}");
    // Two handshakes a second of one prefix, and a member's download.
    assert!(cpu < Duration::from_secs(5) && said < 60, "{cpu:?}, {said} lines");
    attacked.assert_served(&calm);
    // They come from the joiner's own prefix, and it joins nevertheless.
    let listen = SocketAddr::from((JOINER, free_udp().port()));
    site.join_by(&line, "late", &["--listen", &listen.to_string()]);
    drop(held);
}

#[test]
fn without_an_open_invitation_nobody_can_connect_as_a_joiner() {
    let site = Site::new();
    let hub = Running::start(&site.hub(), &[]);
    let line = site.invite("leaf");
    let invitation: Invitation = line.parse().unwrap();
    let listen = free_udp().to_string();
    site.join_by(&line, "leaf", &["--listen", &listen]);
    thread::sleep(Duration::from_secs(2));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let held = runtime.block_on(bother(&invitation));
    assert_eq!(held.len(), 0, "the invitation is used");
    drop(hub);
}
