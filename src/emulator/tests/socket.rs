use std::{future::poll_fn, io::IoSliceMut};

use noq::udp::{EcnCodepoint, RecvMeta, Transmit};
use tokio::time::{Instant, sleep, timeout};

use super::{at_port, host, is_silent, ms, receive, send, send_as, transmit};
use crate::emulator::{Counters, DropReason, Internet, LinkModel, LossRate};

#[tokio::test(start_paused = true)]
async fn a_packet_arrives_exactly_after_its_delay_with_its_address_and_ecn() {
    let internet = quiet(ms(30));
    let a = internet.attach(at_port(1, 1));
    let mut b = internet.attach(at_port(2, 2));
    let start = Instant::now();
    send(&*a, at_port(2, 2), b"hello");
    let (payload, meta) = receive(&mut *b).await;
    assert_eq!(start.elapsed(), ms(30));
    assert_eq!(payload, b"hello");
    assert_eq!((meta.addr, meta.dst_ip), (at_port(1, 1), Some(host(2))));
    assert_eq!((meta.stride, meta.ecn), (5, Some(EcnCodepoint::Ect0)));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_sleeps_is_woken_by_a_packet_that_overtakes() {
    let internet = quiet(ms(500));
    internet.set(host(3), host(2), LinkModel::new(ms(20)));
    let [a, c] = [at_port(1, 1), at_port(3, 3)].map(|address| internet.attach(address));
    let mut b = internet.attach(at_port(2, 2));
    let start = Instant::now();
    let reader = tokio::spawn(async move {
        let first = receive(&mut *b).await.1.addr;
        let first_at = start.elapsed();
        let second = receive(&mut *b).await.1.addr;
        [(first, first_at), (second, start.elapsed())]
    });
    sleep(ms(1)).await;
    send(&*a, at_port(2, 2), b"slow");
    sleep(ms(1)).await;
    send(&*c, at_port(2, 2), b"fast");
    let expected = [(at_port(3, 3), ms(22)), (at_port(1, 1), ms(501))];
    assert_eq!(reader.await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_split_into_its_packets_and_read_in_one_call() {
    let internet = quiet(ms(1));
    let a = internet.attach(at_port(1, 1));
    let mut b = internet.attach(at_port(2, 2));
    let batch = Transmit { segment_size: Some(4), ..transmit(at_port(2, 2), b"aaaabbbbcc") };
    send_as(&*a, &batch);
    sleep(ms(5)).await;
    let mut buffers = [[0; 16]; 8];
    let mut slices = buffers.each_mut().map(|buffer| IoSliceMut::new(buffer));
    let mut meta = [RecvMeta::default(); 8];
    let count = poll_fn(|cx| b.poll_recv(cx, &mut slices, &mut meta)).await.unwrap();
    assert_eq!(meta[..count].iter().map(|m| m.len).collect::<Vec<_>>(), [4, 4, 2]);
    assert_eq!(&buffers[2][..2], b"cc");
}

#[tokio::test(start_paused = true)]
async fn a_cut_loses_packets_in_flight_and_later_ones_only() {
    let internet = quiet(ms(30));
    let a = internet.attach(at_port(1, 1));
    let mut b = internet.attach(at_port(2, 2));
    send(&*a, at_port(2, 2), b"arrived");
    sleep(ms(40)).await;
    send(&*a, at_port(2, 2), b"in flight");
    sleep(ms(10)).await;
    internet.cut(host(1), host(2));
    send(&*a, at_port(2, 2), b"afterwards");
    assert_eq!(receive(&mut *b).await.0, b"arrived");
    assert!(is_silent(&mut *b).await);
    let counters = internet.counters(host(1), host(2));
    assert_eq!(counters.dropped(DropReason::CutInFlight), 1);
    assert_eq!(counters.dropped(DropReason::Cut), 1);
    internet.heal(host(1), host(2));
    send(&*a, at_port(2, 2), b"healed");
    assert_eq!(receive(&mut *b).await.0, b"healed");
}

#[tokio::test(start_paused = true)]
async fn a_one_way_cut_leaves_the_other_way_open() {
    let internet = quiet(ms(30));
    let mut a = internet.attach(at_port(1, 1));
    let mut b = internet.attach(at_port(2, 2));
    internet.cut_one_way(host(1), host(2));
    send(&*a, at_port(2, 2), b"lost");
    send(&*b, at_port(1, 1), b"heard");
    assert_eq!(receive(&mut *a).await.0, b"heard");
    assert!(is_silent(&mut *b).await);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_socket_gets_packets_in_flight_but_no_unread_ones() {
    let internet = quiet(ms(30));
    let a = internet.attach(at_port(1, 1));
    let b = internet.attach(at_port(2, 2));
    send(&*a, at_port(2, 2), b"unread");
    sleep(ms(40)).await;
    send(&*a, at_port(2, 2), b"on its way");
    drop(b);
    let mut b = internet.attach(at_port(2, 2));
    assert_eq!(receive(&mut *b).await.0, b"on its way");
    assert!(is_silent(&mut *b).await);
}

#[tokio::test(start_paused = true)]
async fn nobody_hears_a_packet_to_a_socket_that_is_gone() {
    let internet = quiet(ms(30));
    let a = internet.attach(at_port(1, 1));
    let b = internet.attach(at_port(2, 2));
    send(&*a, at_port(2, 2), b"x");
    drop(b);
    sleep(ms(40)).await;
    send(&*a, at_port(2, 2), b"y");
    sleep(ms(40)).await;
    let counters = internet.counters(host(1), host(2));
    assert_eq!(counters.dropped(DropReason::NoReceiver), 2);
    assert_eq!(counters.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_unplugged_socket_is_cut_off_although_its_host_moved() {
    let internet = quiet(ms(1));
    let (mut a, cable) = internet.plug_in(at_port(1, 1));
    let mut b = internet.attach(at_port(2, 2));
    internet.move_host(host(1), host(9));
    cable.pull();
    send(&*a, at_port(2, 2), b"goodbye");
    send(&*b, at_port(9, 1), b"hello?");
    assert!(is_silent(&mut *b).await && is_silent(&mut *a).await);
    drop(a);
    let mut again = internet.attach(at_port(9, 1));
    send(&*b, at_port(9, 1), b"hello");
    assert_eq!(receive(&mut *again).await.0, b"hello");
}

#[tokio::test(start_paused = true)]
async fn an_address_in_use_changes_hands() {
    let internet = quiet(ms(30));
    let mut a = internet.attach(at_port(1, 1));
    let mut old = internet.attach(at_port(2, 2));
    let new = internet.attach(at_port(2, 2));
    send(&*old, at_port(1, 1), b"dumb");
    send(&*new, at_port(1, 1), b"new");
    send(&*a, at_port(2, 2), b"deaf");
    assert_eq!(receive(&mut *a).await.0, b"new");
    assert!(is_silent(&mut *old).await);
    drop(old);
    send(&*new, at_port(1, 1), b"still bound");
    assert_eq!(receive(&mut *a).await.0, b"still bound");
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_asks_for_any_port_gets_a_free_one() {
    let internet = quiet(ms(30));
    let sockets = [0; 3].map(|port| internet.attach(at_port(1, port)));
    let ports = sockets.map(|socket| socket.local_addr().unwrap().port());
    assert_eq!(ports, [49_152, 49_153, 49_154]);
}

#[tokio::test(start_paused = true)]
async fn a_moved_host_sends_from_its_new_address_and_is_deaf_at_the_old_one() {
    let internet = quiet(ms(30));
    internet.set_both(host(1), host(2), LinkModel::new(ms(70)));
    let mut a = internet.attach(at_port(1, 1));
    let mut b = internet.attach(at_port(2, 2));
    send(&*b, at_port(1, 1), b"too late");
    internet.move_host(host(1), host(9));
    send(&*b, at_port(1, 1), b"wrong address");
    let start = Instant::now();
    send(&*a, at_port(2, 2), b"moved");
    assert_eq!(receive(&mut *b).await.1.addr, at_port(9, 1));
    assert_eq!(start.elapsed(), ms(70), "its paths have moved with it");
    send(&*b, at_port(9, 1), b"found");
    assert_eq!(receive(&mut *a).await.0, b"found");
    assert_eq!(a.local_addr().unwrap(), at_port(9, 1));
    let stale = Transmit { src_ip: Some(host(1)), ..transmit(at_port(2, 2), b"stale") };
    send_as(&*a, &stale);
    assert_eq!(internet.counters(host(9), host(2)).dropped(DropReason::StaleSource), 1);
    assert!(is_silent(&mut *a).await && is_silent(&mut *b).await);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_reader_follows_its_host_to_the_new_address() {
    let internet = quiet(ms(30));
    let mut a = internet.attach(at_port(1, 1));
    let b = internet.attach(at_port(2, 2));
    let reader = tokio::spawn(async move { receive(&mut *a).await.0 });
    sleep(ms(1)).await;
    internet.move_host(host(1), host(9));
    send(&*b, at_port(9, 1), b"found");
    assert_eq!(timeout(ms(31), reader).await.unwrap().unwrap(), b"found");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_reads_fills_its_buffer_and_no_more() {
    let internet = quiet(ms(1));
    let a = internet.attach(at_port(1, 1));
    let _b = internet.attach(at_port(2, 2));
    for _ in 0..100 {
        (0..100).for_each(|_| send(&*a, at_port(2, 2), b"x"));
        sleep(ms(2)).await;
    }
    let counters = internet.counters(host(1), host(2));
    assert_eq!(counters.delivered, 4_096);
    assert_eq!(counters.dropped(DropReason::ReceiverFull), 10_000 - 4_096);
}

#[tokio::test(start_paused = true)]
async fn a_sender_on_an_endless_link_is_bounded_in_flight() {
    let internet = quiet(ms(1_000));
    let a = internet.attach(at_port(1, 1));
    let _b = internet.attach(at_port(2, 2));
    (0..70_000).for_each(|_| send(&*a, at_port(2, 2), b"x"));
    let counters = internet.counters(host(1), host(2));
    assert_eq!(counters.in_flight(), 65_536);
    assert_eq!(counters.dropped(DropReason::ReceiverFull), 70_000 - 65_536);
}

#[tokio::test(start_paused = true)]
async fn unlisted_pairs_follow_the_default_and_listed_ones_do_not() {
    let internet = Internet::new(1);
    let listed = LinkModel::new(ms(70));
    internet.set(host(1), host(2), listed);
    let a = internet.attach(at_port(1, 1));
    send(&*a, at_port(3, 3), b"makes the link");
    internet.set_default(LinkModel::new(ms(5)));
    assert_eq!(internet.model(host(1), host(2)), listed);
    assert_eq!(internet.model(host(1), host(3)).delay, ms(5));
    assert_eq!(internet.model(host(8), host(9)).delay, ms(5));
    assert_eq!(internet.model(host(1), host(1)), LinkModel::default());
}

#[test]
fn equal_seeds_give_equal_runs_whatever_other_pairs_do() {
    let alone = run(5, false);
    assert_eq!(alone, run(5, false));
    assert_eq!(alone, run(5, true), "another pair's traffic changes nothing");
    assert_ne!(alone, run(6, false));
}

/// What of a hundred packets arrives on a path with 30 % loss.
fn run(seed: u64, with_company: bool) -> (Vec<u8>, Counters) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(async {
        let internet = Internet::new(seed);
        let lossy = LinkModel::new(ms(3)).with_loss(LossRate::from_percent(30.0));
        internet.set_default(lossy);
        let [a, c] = [at_port(1, 1), at_port(3, 3)].map(|address| internet.attach(address));
        let mut b = internet.attach(at_port(2, 2));
        for n in 0..100 {
            send(&*a, at_port(2, 2), &[n]);
            if with_company {
                send(&*c, at_port(1, 1), &[n]);
            }
            sleep(ms(1)).await;
        }
        let mut heard = Vec::new();
        while let Ok((payload, _)) = timeout(ms(10), receive(&mut *b)).await {
            heard.extend(payload);
        }
        (heard, internet.counters(host(1), host(2)))
    })
}

/// An Internet whose pairs only delay.
fn quiet(delay: std::time::Duration) -> Internet {
    let internet = Internet::new(1);
    internet.set_default(LinkModel::new(delay));
    internet
}
