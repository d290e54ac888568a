use super::{at_port, host, is_silent, ms, receive, send};
use crate::emulator::{DropReason, Internet, LinkModel};

#[tokio::test(start_paused = true)]
async fn a_forged_packet_takes_the_forgers_link_and_shows_its_source() {
    let internet = Internet::new(1);
    internet.set_default(LinkModel::new(ms(5)));
    internet.set(host(6), host(2), LinkModel::new(ms(40)));
    let mut target = internet.attach(at_port(2, 2));
    let mut named = internet.attach(at_port(9, 9));
    let start = tokio::time::Instant::now();
    internet.forge(host(6), at_port(9, 9), at_port(2, 2), b"forged");
    let (payload, meta) = receive(&mut *target).await;
    assert_eq!((&payload[..], meta.addr, start.elapsed()), (&b"forged"[..], at_port(9, 9), ms(40)));
    send(&*target, meta.addr, b"to the named");
    assert_eq!(receive(&mut *named).await.0, b"to the named");
    assert_eq!(internet.counters(host(9), host(2)).sent, 0, "the named host sent nothing");
}

#[tokio::test(start_paused = true)]
async fn a_forged_packet_passes_a_nat_only_where_the_source_may() {
    let internet = Internet::new(1);
    internet.nat(host(1), host(100));
    let mut inside = internet.attach(at_port(1, 1));
    let mut server = internet.attach(at_port(2, 2));
    send(&*inside, at_port(2, 2), b"opens the mapping");
    let outside = receive(&mut *server).await.1.addr;
    internet.forge(host(6), at_port(3, 3), outside, b"not asked");
    assert!(is_silent(&mut *inside).await);
    internet.forge(host(6), at_port(2, 2), outside, b"as the server");
    assert_eq!(receive(&mut *inside).await.0, b"as the server");
}

#[tokio::test(start_paused = true)]
async fn a_hosts_packets_are_counted_by_destination() {
    let internet = Internet::new(1);
    let a = internet.attach(at_port(1, 1));
    let _b = internet.attach(at_port(2, 2));
    internet.set(host(1), host(3), LinkModel::new(ms(5)));
    send(&*a, at_port(2, 2), b"12345");
    send(&*a, at_port(2, 2), b"123");
    send(&*a, at_port(7, 7), b"nobody is here");
    tokio::time::sleep(ms(100)).await;
    let sent = internet.sent_by(host(1));
    let figures: Vec<_> = sent.iter().map(|(to, c)| (*to, c.sent, c.sent_bytes)).collect();
    assert_eq!(figures, [(host(2), 2, 8), (host(7), 1, 14)]);
    assert_eq!(sent[1].1.dropped(DropReason::NoReceiver), 1);
}
