//! Look-ups of a silent zone at the exit of a real process, whose name server the test is.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use ronproxy::internals::identity::{Clock, Credentials, NodeDir};
use tokio::time::sleep;

use crate::{
    overlay::{Running, Site, json, wait_for},
    peer::{Peer, Victim, open_flow},
    processes::{serve_paced, usage},
};

/// Where the name server is: an address of this machine alone, as the port is fixed.
const NAME_SERVER: &str = "127.9.0.53:53";

/// Flows to names of the silent zone, and how long they go on.
const LOOK_UPS: u32 = 2_000;
const ATTACK: Duration = Duration::from_secs(10);

/// Answers for names in `alive.test` that they are this machine; says nothing of others.
fn serve_names(socket: UdpSocket) {
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut query) {
            let query = &query[..length];
            if !query.windows(12).any(|name| name == b"\x05alive\x04test\0") {
                continue;
            }
            // The question ends with its type and class; of AAAA there are none.
            let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let has = u8::from(query[end - 3] == 1);
            let mut answer = query[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, has, 0, 0, 0, 0]);
            if has == 1 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, asker);
        }
    });
}

/// The hub, in a mount namespace of its own whose resolver asks the test.
fn start_hub(site: &Site) -> Running {
    let (dir, resolv) = (site.hub(), site.dir("resolv.conf"));
    std::fs::write(&resolv, "nameserver 127.9.0.53\n").unwrap();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf; exec \"$@\""]);
    command.arg(&resolv).args([env!("CARGO_BIN_EXE_ronproxy"), "--dir"]).arg(&dir);
    Running::start_command(command, &dir)
}

/// How long a flow to a name takes until it is open.
fn open_by_name(proxy: SocketAddr, name: &str, port: u16) -> Duration {
    let began = Instant::now();
    let mut stream = TcpStream::connect(proxy).unwrap();
    write!(stream, "CONNECT {name}:{port} HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    began.elapsed()
}

/// A member that opens flow after flow to names of a zone that does not answer.
fn attack(member: Credentials, victim: Victim) -> u32 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let peer = Peer::on_loopback(member);
        let link = peer.link(&victim).await.unwrap();
        let (lane, _) = peer.lane(&victim, &link).await.unwrap();
        let (end, mut opened) = (tokio::time::Instant::now() + ATTACK, 0);
        for number in 0..LOOK_UPS {
            let target = format!("n{number}.silent.test:80");
            let Some((send, mut recv)) = open_flow(&lane, &target).await else { break };
            opened += 1;
            // A flow that was refused gives its place to the next one.
            tokio::spawn(async move {
                let _ = recv.read_to_end(1 << 10).await;
                drop(send);
            });
            sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep_until(end).await;
        opened
    })
}

#[test]
fn look_ups_of_a_silent_zone_leave_others_their_names() {
    let Ok(socket) = UdpSocket::bind(NAME_SERVER) else {
        println!("skipped: this test needs root, to be the name server of a process");
        return;
    };
    let unshared = Command::new("unshare").args(["-m", "true"]).status();
    if !unshared.is_ok_and(|status| status.success()) {
        println!("skipped: this test needs root, for a mount namespace");
        return;
    }
    serve_names(socket);
    let site = Site::new();
    let hub = start_hub(&site);
    let dir = site.join("leaf");
    let mallory = site.join("mallory");
    let mallory = Credentials::load(&NodeDir::at(mallory), Clock::system()).unwrap();
    let leaf = Running::start(&dir, &[]);
    wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
    let (source, proxy, before) = (serve_paced(), leaf.proxy(), usage(hub.pid()));
    open_by_name(proxy, "calm.alive.test", source.port());
    let victim = Victim::in_folder(&site.dir("hub"), hub.listen());
    let attack = thread::spawn(move || attack(mallory, victim));
    thread::sleep(Duration::from_secs(2));
    let (mut slowest, mut opened) = (Duration::ZERO, 0);
    while !attack.is_finished() {
        opened += 1;
        let name = format!("n{opened}.alive.test");
        slowest = slowest.max(open_by_name(proxy, &name, source.port()));
        thread::sleep(Duration::from_millis(500));
    }
    let (asked, after) = (attack.join().unwrap(), usage(hub.pid()));
    let (grown, cpu) = (after.peak.saturating_sub(before.resident), after.cpu - before.cpu);
    println!(
        "{asked} look-ups of a silent zone: {opened} names of another member within {slowest:?}; +{} KiB, {cpu:?} of CPU",
        grown / 1024
    );
    assert!(asked >= LOOK_UPS / 2 && opened >= 5, "{asked}, {opened}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(grown < 32 << 20 && cpu < ATTACK / 2, "{grown}, {cpu:?}");
}
