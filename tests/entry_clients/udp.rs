//! UDP ASSOCIATE by raw bytes.

use std::{net::SocketAddr, time::Duration};

use ronproxy::internals::flow::{DatagramDrop, Hint, MAX_DATAGRAM};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

use crate::support::{LIMIT, Proxy, Raw};

/// Asks for an association of a client that names `source`; returns its connection and where to send.
async fn associate(proxy: &Proxy, source: SocketAddr) -> (Raw, SocketAddr) {
    let mut control = ask(proxy, source).await;
    control.expect(&[5, 0, 0, 1, 127, 0, 0, 1]).await;
    let mut port = [0; 2];
    timeout(LIMIT, tokio::io::AsyncReadExt::read_exact(&mut control.0, &mut port))
        .await
        .expect("no hang")
        .unwrap();
    (control, ([127, 0, 0, 1], u16::from_be_bytes(port)).into())
}

async fn ask(proxy: &Proxy, source: SocketAddr) -> Raw {
    let SocketAddr::V4(source) = source else { panic!("these tests use IPv4") };
    let mut control = proxy.connect().await;
    control.send(&[5, 1, 0]).await;
    control.expect(&[5, 0]).await;
    let named = [&source.ip().octets()[..], &source.port().to_be_bytes()].concat();
    control.send(&[&[5, 3, 0, 1], &named[..]].concat()).await;
    control
}

fn anywhere() -> SocketAddr {
    ([0, 0, 0, 0], 0).into()
}

/// A datagram to 9.9.9.9:53.
fn framed(payload: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 1, 9, 9, 9, 9, 0, 53], payload].concat()
}

async fn client() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

/// Sends a datagram, and waits until the same comes back.
async fn echoes(client: &UdpSocket, to: SocketAddr, payload: &[u8]) {
    client.send_to(&framed(payload), to).await.unwrap();
    let mut buffer = [0; 4_096];
    let answer = timeout(LIMIT, client.recv_from(&mut buffer)).await.expect("an answer");
    let (length, from) = answer.unwrap();
    assert_eq!((&buffer[..length], from), (&framed(payload)[..], to));
}

async fn dropped(proxy: &Proxy, reason: DatagramDrop, count: u64) {
    let wait = async {
        while proxy.dialer.drops.of(reason) < count {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let counts = || format!("{reason:?}: {:?}", proxy.dialer.drops.counts());
    timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{}", counts()));
    assert_eq!(proxy.dialer.drops.of(reason), count);
}

#[tokio::test]
async fn datagrams_go_and_come_until_the_connection_ends() {
    let proxy = Proxy::start().await;
    let (control, to) = associate(&proxy, anywhere()).await;
    let client = client().await;
    for payload in [&b"hello"[..], b"", &[7; MAX_DATAGRAM]] {
        echoes(&client, to, payload).await;
    }
    let request = proxy.dialer.associations.lock().unwrap().last().unwrap().clone();
    assert_eq!(request.client, control.0.local_addr().unwrap());
    drop(control);
    // The port is free again.
    let gone = async {
        while UdpSocket::bind(to).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, gone).await.expect("the association ends with its connection");
}

#[tokio::test]
async fn exit_and_hint_in_the_user_name_hold_for_datagrams() {
    let proxy = Proxy::start().await;
    let mut control = proxy.connect().await;
    control.send(&[5, 1, 2]).await;
    control.expect(&[5, 2]).await;
    let user = b"exit=mit,hint=loss";
    control.send(&[&[1, 18], &user[..], &[1, b'x']].concat()).await;
    control.expect(&[1, 0]).await;
    control.send(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    control.expect(&[5, 0, 0, 1]).await;
    let asked = async {
        while proxy.dialer.associations.lock().unwrap().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, asked).await.expect("the association");
    let request = proxy.dialer.associations.lock().unwrap()[0].clone();
    assert_eq!(request.exit.unwrap().as_str(), "mit");
    assert_eq!(request.hint.unwrap(), Hint::Loss);
}

#[tokio::test]
async fn an_association_ends_when_it_is_refused_or_the_entry_stops() {
    let proxy = Proxy::start().await;
    let (mut control, to) = associate(&proxy, anywhere()).await;
    let refused = b"\0\0\0\x03\x0crefused.test\x00\x35";
    // Its socket stays open: the proxy asks for the socket's user.
    let client = client().await;
    client.send_to(refused, to).await.unwrap();
    assert_eq!(control.rest().await, b"");
    let (mut control, _) = associate(&proxy, anywhere()).await;
    proxy.shutdown.cancel();
    assert_eq!(control.rest().await, b"");
    timeout(LIMIT, proxy.running).await.expect("the entry stops").unwrap();
}

#[tokio::test]
async fn only_the_clients_address_is_served() {
    let proxy = Proxy::start().await;
    let (_control, to) = associate(&proxy, anywhere()).await;
    let (first, second) = (client().await, client().await);
    let other = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    other.send_to(&framed(b"x"), to).await.unwrap();
    dropped(&proxy, DatagramDrop::WrongSource, 1).await;
    echoes(&first, to, b"mine").await;
    for _ in 0..10 {
        second.send_to(&framed(b"x"), to).await.unwrap();
    }
    dropped(&proxy, DatagramDrop::WrongSource, 11).await;
    echoes(&first, to, b"still mine").await;
    // A port that the request names is the only one.
    let named = client().await;
    let (_control, to) = associate(&proxy, named.local_addr().unwrap()).await;
    first.send_to(&framed(b"x"), to).await.unwrap();
    dropped(&proxy, DatagramDrop::WrongSource, 12).await;
    echoes(&named, to, b"named").await;
}

#[tokio::test]
async fn a_request_that_names_another_machine_or_a_name_is_refused() {
    let proxy = Proxy::start().await;
    let mut control = ask(&proxy, "192.0.2.1:9".parse().unwrap()).await;
    assert_eq!(control.rest().await, [5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    let mut control = proxy.connect().await;
    control.send(b"\x05\x01\x00").await;
    control.expect(&[5, 0]).await;
    control.send(b"\x05\x03\x00\x03\x06a.test\x00\x35").await;
    assert_eq!(control.rest().await, [5, 8, 0, 1, 0, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn bad_datagrams_are_dropped_for_their_reasons_and_harm_nothing() {
    use DatagramDrop::{AddressType, BadDestination, Fragment, Malformed, TooLarge};
    let proxy = Proxy::start().await;
    let (_control, to) = associate(&proxy, anywhere()).await;
    let client = client().await;
    // Nothing of a client counts as its first datagram before it can be read.
    for _ in 0..30 {
        client.send_to(b"garbage", to).await.unwrap();
    }
    dropped(&proxy, Malformed, 30).await;
    echoes(&client, to, b"hello").await;
    let too_large = framed(&[0; MAX_DATAGRAM + 1]);
    let larger = framed(&[0; 60_000]);
    for (bytes, reason, count) in [
        (&b"\0\0\x01\x01\x09\x09\x09\x09\x00\x35hi"[..], Fragment, 1),
        (b"\0\0\0\x02\x09\x09\x09\x09\x00\x35hi", AddressType, 1),
        (b"\0\0\0\x01\x09\x09\x09\x09\x00\x00hi", BadDestination, 1),
        (b"\0\0\0\x03\x03a b\x00\x35", BadDestination, 2),
        (&too_large, TooLarge, 1),
        (&larger, TooLarge, 2),
        (b"", Malformed, 31),
    ] {
        client.send_to(bytes, to).await.unwrap();
        dropped(&proxy, reason, count).await;
    }
    echoes(&client, to, b"hello again").await;
}

#[tokio::test]
async fn associations_are_bounded_and_their_places_come_back() {
    let proxy = Proxy::start().await;
    let mut held = Vec::new();
    for _ in 0..256 {
        held.push(associate(&proxy, anywhere()).await);
    }
    let mut refused = ask(&proxy, anywhere()).await;
    assert_eq!(refused.rest().await, [5, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
    drop(held.pop());
    let again = async {
        loop {
            let mut control = ask(&proxy, anywhere()).await;
            let mut reply = [0; 2];
            tokio::io::AsyncReadExt::read_exact(&mut control.0, &mut reply).await.unwrap();
            if reply == [5, 0] {
                break;
            }
        }
    };
    timeout(LIMIT, again).await.expect("a place comes back");
}
