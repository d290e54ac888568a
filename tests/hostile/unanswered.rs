//! Flows to a server that answers no SYN, at an exit that is a real process.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use ronproxy::internals::identity::{Clock, Credentials, NodeDir};
use socket2::{Domain, Socket, Type};

use crate::{
    overlay::Site,
    peer::{Peer, Victim, open_flow},
    processes::{customers, serve_paced, usage},
};

const LANES: usize = 4;
const FLOWS_PER_LANE: usize = 600;

/// A listener whose queue is full: the kernel drops further SYNs. With the connections that fill it.
fn silent_server() -> (TcpListener, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let listener = TcpListener::from(socket);
    let (address, mut held) = (listener.local_addr().unwrap(), Vec::new());
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        held.push(stream);
        assert!(held.len() < 100, "the queue never fills");
    }
    (listener, held)
}

async fn flows_that_wait(peer: &Peer, victim: &Victim, target: &str, end: Instant) -> usize {
    let (mut kept, mut opened) = (Vec::new(), 0);
    for _ in 0..LANES {
        let link = peer.link(victim).await.unwrap();
        let (lane, _) = peer.lane(victim, &link).await.unwrap();
        let mut flows = Vec::new();
        while flows.len() < FLOWS_PER_LANE
            && let Some(flow) = open_flow(&lane, target).await
        {
            flows.push(flow);
        }
        opened += flows.len();
        kept.push((link, lane, flows));
    }
    tokio::time::sleep_until(end.into()).await;
    opened
}

#[test]
fn flows_to_a_server_that_answers_no_syn_leave_others_theirs() {
    let site = Site::new();
    let (hub, leaf) = site.pair(&[]);
    let mallory = Credentials::load(&NodeDir::at(site.join("mallory")), Clock::system()).unwrap();
    let victim = Victim::in_folder(&site.dir("hub"), hub.listen());
    let (silent, _held) = silent_server();
    let target = silent.local_addr().unwrap().to_string();
    let (source, proxy) = (serve_paced(), leaf.proxy());
    let calm = customers(proxy, source, Duration::from_secs(3));
    let lines = || std::fs::read_to_string(site.dir("hub").join("log")).unwrap().lines().count();
    let (before, said, end) = (usage(hub.pid()), lines(), Instant::now() + Duration::from_secs(15));
    let member = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let peer = async { Peer::on_loopback(mallory) };
        runtime.block_on(async {
            let peer = peer.await;
            flows_that_wait(&peer, &victim, &target, end).await
        })
    });
    let attacked = customers(proxy, source, Duration::from_secs(14));
    let opened = member.join().unwrap();
    let (after, said) = (usage(hub.pid()), lines() - said);
    let grown = after.peak.saturating_sub(before.resident);
    let cpu = after.cpu - before.cpu;
    println!(
        "{opened} flows to a server that answers no SYN: +{} KiB at most, {cpu:?} of CPU, {said} log lines; others: \
         {attacked:?}",
        grown / 1024
    );
    assert!(opened > 400, "{opened}");
    assert!(grown < 32 << 20, "{grown}");
    assert!(cpu < Duration::from_secs(10) && said < 100, "{cpu:?}, {said} lines");
    attacked.assert_served(&calm);
}
