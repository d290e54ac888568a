use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{at_port, host, ms, receive, send};
use crate::emulator::{
    Change, Internet, LinkModel, LossRate, Topology, Triangle, paper_sites, play, triangle,
};

#[tokio::test(start_paused = true)]
async fn a_scenario_changes_the_internet_at_its_times_in_any_order_of_writing() {
    let internet = Internet::new(1);
    let (a, b) = (host(1), host(2));
    let events = vec![
        Change::Heal { a, b }.at(ms(200)),
        Change::CutOneWay { from: a, to: b }.at(ms(100)),
        Change::SetBoth { a, b, model: LinkModel::new(ms(7)) }.at(ms(50)),
    ];
    let start = Instant::now();
    let player = tokio::spawn(play(internet.clone(), events));
    let expected = [(49, 10, true), (51, 7, true), (101, 7, false), (201, 7, true)];
    for (time, delay, up) in expected {
        sleep_until(start + ms(time)).await;
        let model = internet.model(a, b);
        assert_eq!((model.delay, model.up), (ms(delay), up), "at {time} ms");
        assert!(internet.model(b, a).up);
    }
    player.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_scenario_moves_hosts_and_rebinds_nats() {
    let internet = Internet::new(1);
    let events = vec![
        Change::MoveHost { old: host(1), new: host(7) }.at(ms(0)),
        Change::Nat { host: host(7), outside: host(100) }.at(ms(1)),
        Change::RebindNat { host: host(7) }.at(ms(2)),
        Change::Cut { a: host(3), b: host(4) }.at(ms(3)),
        Change::HealOneWay { from: host(3), to: host(4) }.at(ms(4)),
        Change::Set { from: host(5), to: host(6), model: LinkModel::new(ms(9)) }.at(ms(5)),
    ];
    let a = internet.attach(at_port(1, 1));
    let mut b = internet.attach(at_port(2, 2));
    play(internet.clone(), events).await;
    send(&*a, at_port(2, 2), b"hello");
    assert_eq!(receive(&mut *b).await.1.addr.ip(), host(100));
    assert_eq!(a.local_addr().unwrap(), at_port(7, 1));
    assert!(internet.model(host(3), host(4)).up && !internet.model(host(4), host(3)).up);
    assert_eq!(internet.model(host(5), host(6)).delay, ms(9));
}

#[test]
fn the_papers_sites_have_the_papers_round_trips() {
    let sites = paper_sites();
    let direct = rtt(&sites, "mit", "arosnet");
    let via_utah = rtt(&sites, "mit", "utah") + rtt(&sites, "utah", "arosnet");
    assert_eq!((direct, via_utah), (ms(97), ms(68)));
    let loss = model(&sites, "mit", "arosnet").loss.mean();
    assert!((0.02..0.022).contains(&loss.fraction()), "{loss}");
    let internet = sites.build(1);
    for path in sites.paths() {
        assert_eq!(internet.model(path.from, path.to), path.model);
    }
    assert_eq!(sites.paths().len(), 12, "every pair of four sites is described");
}

#[test]
fn the_cable_modem_is_slower_up_than_down() {
    let sites = paper_sites();
    assert!(model(&sites, "mit", "mediaone").rate > model(&sites, "mediaone", "mit").rate);
}

#[test]
fn the_triangle_is_60_ms_direct_and_80_through_the_relay() {
    let sites = triangle();
    assert_eq!(rtt(&sites, "entry", "exit"), ms(60));
    assert_eq!(rtt(&sites, "entry", "relay") + rtt(&sites, "relay", "exit"), ms(80));
    let lossy = LinkModel::default().with_loss(LossRate::from_percent(30.0)).loss;
    let sites = Triangle { direct_loss: lossy, ..Triangle::default() }.topology();
    assert_eq!(model(&sites, "exit", "entry").loss, lossy);
    assert_eq!(model(&sites, "exit", "relay").loss.mean(), LossRate::ZERO);
}

#[test]
fn a_path_described_twice_is_described_once() {
    let sites = Topology::new(["a", "b"]).both("a", "b", LinkModel::new(ms(1))).one_way(
        "a",
        "b",
        LinkModel::new(ms(2)),
    );
    assert_eq!(sites.paths().len(), 2);
    assert_eq!(rtt(&sites, "a", "b"), ms(3));
    assert_eq!(sites.find("c"), None);
    assert_eq!(sites.sites()[1].address, sites.address("b"));
}

fn rtt(sites: &Topology, a: &str, b: &str) -> Duration {
    model(sites, a, b).mean_delay() + model(sites, b, a).mean_delay()
}

fn model(sites: &Topology, from: &str, to: &str) -> LinkModel {
    sites.build(1).model(sites.address(from), sites.address(to))
}
