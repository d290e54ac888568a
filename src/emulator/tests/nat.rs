use std::net::SocketAddr;

use noq::AsyncUdpSocket;

use super::{at_port, host, is_silent, ms, receive, send};
use crate::emulator::{DropReason, Internet};

#[tokio::test(start_paused = true)]
async fn a_host_behind_a_nat_gets_answers_at_its_outside_address() {
    let (internet, mut inside, mut server) = home();
    let seen = greet(&*inside, &mut *server).await;
    assert_eq!(seen.ip(), host(100));
    assert_ne!(seen.port(), 1);
    send(&*server, seen, b"answer");
    let (payload, meta) = receive(&mut *inside).await;
    assert_eq!((payload.as_slice(), meta.dst_ip), (&b"answer"[..], Some(host(1))));
    assert_eq!(greet(&*inside, &mut *server).await, seen, "the mapping stays");
    assert_eq!(internet.counters(host(1), host(2)).delivered, 2, "models are the host's own");
}

#[tokio::test(start_paused = true)]
async fn only_those_it_has_sent_to_reach_a_host_behind_a_nat() {
    let (internet, mut inside, mut server) = home();
    let seen = greet(&*inside, &mut *server).await;
    let stranger = internet.attach(at_port(3, 3));
    let other_port = internet.attach(at_port(2, 4));
    for sender in [&stranger, &other_port] {
        send(&**sender, seen, b"to the mapping");
        send(&**sender, at_port(1, 1), b"to the inside address");
    }
    assert!(is_silent(&mut *inside).await);
    let drops = [(3, 100), (3, 1), (2, 100), (2, 1)];
    for (from, to) in drops {
        let counters = internet.counters(host(from), host(to));
        assert_eq!(counters.dropped(DropReason::NatNoMapping), 1, "{from} to {to}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rebound_nat_gives_a_new_port_and_forgets_the_old_one() {
    let (internet, mut inside, mut server) = home();
    let before = greet(&*inside, &mut *server).await;
    internet.rebind_nat(host(1));
    send(&*server, before, b"lost");
    assert!(is_silent(&mut *inside).await);
    let after = greet(&*inside, &mut *server).await;
    assert_eq!(before.ip(), after.ip());
    assert_ne!(before.port(), after.port());
    send(&*server, after, b"answer");
    assert_eq!(receive(&mut *inside).await.0, b"answer");
}

#[tokio::test(start_paused = true)]
async fn neighbours_behind_one_nat_share_its_address_and_talk_directly() {
    let (internet, mut inside, mut server) = home();
    internet.nat(host(5), host(100));
    let mut neighbour = internet.attach(at_port(5, 1));
    let seen = [greet(&*inside, &mut *server).await, greet(&*neighbour, &mut *server).await];
    assert_eq!(seen[0].ip(), seen[1].ip());
    assert_ne!(seen[0].port(), seen[1].port());
    send(&*neighbour, at_port(1, 1), b"directly");
    assert_eq!(receive(&mut *inside).await.1.addr, at_port(5, 1));
    send(&*server, seen[1], b"answer");
    assert_eq!(receive(&mut *neighbour).await.0, b"answer");
}

#[tokio::test(start_paused = true)]
async fn hosts_behind_two_nats_meet_when_both_have_sent() {
    let (internet, mut a, mut server) = home();
    internet.nat(host(5), host(200));
    let mut b = internet.attach(at_port(5, 1));
    let a_seen = greet(&*a, &mut *server).await;
    let b_seen = greet(&*b, &mut *server).await;
    send(&*a, b_seen, b"opens a's side, is dropped at b's");
    send(&*b, a_seen, b"punched");
    assert_eq!(receive(&mut *a).await.1.addr, b_seen);
    send(&*a, b_seen, b"both ways");
    assert_eq!(receive(&mut *b).await.0, b"both ways");
}

#[tokio::test(start_paused = true)]
async fn a_host_taken_out_from_behind_its_nat_is_itself_again() {
    let (internet, inside, mut server) = home();
    greet(&*inside, &mut *server).await;
    internet.remove_nat(host(1));
    assert_eq!(greet(&*inside, &mut *server).await, at_port(1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_moves_behind_its_nat_gets_a_new_mapping() {
    let (internet, mut inside, mut server) = home();
    let before = greet(&*inside, &mut *server).await;
    internet.move_host(host(1), host(7));
    let after = greet(&*inside, &mut *server).await;
    assert_eq!(after.ip(), host(100));
    assert_ne!(before, after);
    send(&*server, after, b"answer");
    assert_eq!(receive(&mut *inside).await.1.dst_ip, Some(host(7)));
}

type Socket = Box<dyn AsyncUdpSocket>;

/// Host 1 behind the NAT 100, and a server at 2.
fn home() -> (Internet, Socket, Socket) {
    let internet = Internet::new(1);
    internet.nat(host(1), host(100));
    let (inside, server) = (internet.attach(at_port(1, 1)), internet.attach(at_port(2, 2)));
    (internet, inside, server)
}

/// The address that the server sees.
async fn greet(inside: &dyn AsyncUdpSocket, server: &mut dyn AsyncUdpSocket) -> SocketAddr {
    send(inside, at_port(2, 2), b"hello");
    let heard = tokio::time::timeout(ms(100), receive(server)).await;
    heard.expect("the server hears the host").1.addr
}
