use std::{net::SocketAddr, sync::Arc, time::Duration};

use noq::{ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use rustls::{RootCertStore, pki_types::PrivateKeyDer};
use tokio::time::Instant;

use super::{at_port, host, ms};
use crate::emulator::{Bitrate, DropReason, Internet, LinkModel, LossRate, Queue};

const FIVE_MIB: usize = 5 << 20;

#[tokio::test(start_paused = true)]
async fn five_mebibytes_cross_60_ms_and_1_percent_loss_in_virtual_time() {
    let model = LinkModel::new(ms(30))
        .with_loss(LossRate::from_percent(1.0))
        .with_rate(Bitrate::mbit(100), Queue::Time(ms(50)));
    let (internet, client, server) = connected(model).await;
    let elapsed = transfer(&client, &server, FIVE_MIB).await;
    // 100 Mbit/s needs 0.42 s; Cubic's average at 1 % and 60 ms is some 2.5 Mbit/s: 17 s.
    assert!((ms(450)..ms(60_000)).contains(&elapsed), "{elapsed:?}");
    let counters = internet.counters(host(1), host(2));
    let share = counters.dropped(DropReason::Chance) as f64 / counters.sent as f64;
    assert!((0.005..0.02).contains(&share), "{share}");
}

#[tokio::test(start_paused = true)]
async fn a_quic_round_trip_takes_exactly_two_delays() {
    let (_internet, client, _server) = connected(LinkModel::new(ms(30))).await;
    let rtt = client.rtt(noq::PathId::ZERO).unwrap();
    assert_eq!(rtt, ms(60));
}

#[tokio::test(start_paused = true)]
async fn mtu_discovery_finds_the_paths_mtu() {
    let model = LinkModel { mtu: 1_350, ..LinkModel::new(ms(10)) };
    let (_internet, client, server) = connected(model).await;
    transfer(&client, &server, FIVE_MIB).await;
    let mtu = client.path_stats(noq::PathId::ZERO).unwrap().current_mtu;
    assert!((1_320..=1_350).contains(&mtu), "{mtu}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_survives_a_nat_that_rebinds() {
    let (internet, client, server) = connected(LinkModel::new(ms(10))).await;
    internet.nat(host(1), host(100));
    transfer(&client, &server, 100_000).await;
    internet.rebind_nat(host(1));
    transfer(&client, &server, 100_000).await;
    assert_eq!(internet.counters(host(1), host(2)).dropped_in_all(), 0);
}

/// Sends so many bytes on a stream; says how long it took until the last was read.
async fn transfer(client: &Connection, server: &Connection, len: usize) -> Duration {
    let start = Instant::now();
    let (mut stream, server) = (client.open_uni().await.unwrap(), server.clone());
    let reader = tokio::spawn(async move {
        server.accept_uni().await.unwrap().read_to_end(len).await.unwrap().len()
    });
    stream.write_all(&vec![7; len]).await.unwrap();
    stream.finish().unwrap();
    assert_eq!(reader.await.unwrap(), len);
    start.elapsed()
}

/// A client at host 1 and a server at host 2, connected over this model both ways.
async fn connected(model: LinkModel) -> (Internet, Connection, Connection) {
    let internet = Internet::new(1);
    internet.set_both(host(1), host(2), model);
    let key = rcgen::generate_simple_self_signed(["server".to_owned()]).unwrap();
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let certificate = key.cert.der().clone();
    let config = ServerConfig::with_single_cert(vec![certificate.clone()], private).unwrap();
    let server = endpoint(&internet, at_port(2, 2), Some(config));
    let client = endpoint(&internet, at_port(1, 1), None);
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    let connecting = client.connect_with(config, at_port(2, 2), "server").unwrap();
    let accepting = async { server.accept().await.unwrap().await.unwrap() };
    let (client, server) = tokio::join!(connecting, accepting);
    (internet, client.unwrap(), server)
}

fn endpoint(internet: &Internet, address: SocketAddr, config: Option<ServerConfig>) -> Endpoint {
    let socket = internet.attach(address);
    let runtime = Arc::new(TokioRuntime);
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), config, socket, runtime).unwrap()
}
