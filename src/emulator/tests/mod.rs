//! Tests of the emulator; helpers shared by them stand below.

mod forged;
mod link;
mod nat;
mod quic;
mod scenario;
mod socket;
mod weather;

use std::{
    future::poll_fn,
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
    task::{Context, Waker},
    time::Duration,
};

use noq::{
    AsyncUdpSocket,
    udp::{EcnCodepoint, RecvMeta, Transmit},
};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn host(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

fn at_port(number: u8, port: u16) -> SocketAddr {
    SocketAddr::new(host(number), port)
}

fn transmit(to: SocketAddr, contents: &[u8]) -> Transmit<'_> {
    let ecn = Some(EcnCodepoint::Ect0);
    Transmit { destination: to, ecn, contents, segment_size: None, src_ip: None }
}

fn send(socket: &dyn AsyncUdpSocket, to: SocketAddr, contents: &[u8]) {
    send_as(socket, &transmit(to, contents));
}

fn send_as(socket: &dyn AsyncUdpSocket, transmit: &Transmit<'_>) {
    let mut context = Context::from_waker(Waker::noop());
    assert!(socket.create_sender().as_mut().poll_send(transmit, &mut context).is_ready());
}

/// The next datagram and where it comes from.
async fn receive(socket: &mut dyn AsyncUdpSocket) -> (Vec<u8>, RecvMeta) {
    let mut buffer = [0; 2_048];
    let mut meta = [RecvMeta::default()];
    let count = poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
    assert_eq!(count.await.unwrap(), 1);
    (buffer[..meta[0].len].to_vec(), meta[0])
}

/// Whether nothing arrives for ten virtual minutes.
async fn is_silent(socket: &mut dyn AsyncUdpSocket) -> bool {
    tokio::time::timeout(ms(600_000), receive(socket)).await.is_err()
}
