//! Real processes on loopback: what an attack costs the victim in memory and CPU time, as the kernel
//! counts them, other members in goodput and waiting, and third parties in traffic.
//!
//! A minute: `cargo test --test hostile -- --ignored --nocapture a_minute`.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use ronproxy::internals::identity::{Clock, Credentials, NodeDir};

use crate::{
    dials, node,
    overlay::{Site, json, wait_for},
    peer::{Peer, Victim},
    strangers::Initials,
    third_parties::ThirdParties,
    web,
    worst::{Done, Targets, Worst, rubbish},
};

/// What the server sends each client, in bytes per second: 20 Mbit/s, so that the processor of a busy
/// machine is no limit.
const PACE: usize = 2_500_000;

/// What a process used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Bytes of resident memory now, and at most.
    pub(crate) resident: u64,
    pub(crate) peak: u64,
    pub(crate) cpu: Duration,
}

/// What the process used so far.
pub(crate) fn usage(pid: u32) -> Usage {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        1024 * line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap()
    };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // USER_HZ is 100 on every Linux that we run on.
    let cpu = Duration::from_millis(10 * ticks);
    Usage { resident: bytes("VmRSS:"), peak: bytes("VmHWM:"), cpu }
}

/// A server that sends at its pace to everyone.
pub(crate) fn serve_paced() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let (mut stream, piece) = (stream?, vec![7; PACE / 100]);
                let began = Instant::now();
                for tick in 1.. {
                    stream.write_all(&piece)?;
                    thread::sleep((began + tick * Duration::from_millis(10)) - Instant::now());
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    address
}

/// A server that takes connections and reads nothing.
fn serve_deaf() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    address
}

/// What a member notices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    /// Bytes per second of a download.
    goodput: f64,
    /// The longest that a new flow took, one each second.
    slowest: Duration,
}

impl Served {
    /// Fails if the member is served worse than the aim says, compared with `calm`.
    pub(crate) fn assert_served(&self, calm: &Self) {
        assert!(self.goodput > 0.9 * calm.goodput, "{self:?}, in calm {calm:?}");
        assert!(self.slowest < Duration::from_secs(1), "{self:?}");
    }
}

/// A download and a new flow each second through the proxy.
pub(crate) fn customers(proxy: SocketAddr, source: SocketAddr, for_so_long: Duration) -> Served {
    let end = Instant::now() + for_so_long;
    let download = thread::spawn(move || {
        let mut stream = web::tunnel(proxy, source).unwrap();
        let (began, mut bytes, mut buffer) = (Instant::now(), 0.0, vec![0; 65_536]);
        while Instant::now() < end {
            bytes += f64::from(u32::try_from(stream.read(&mut buffer).unwrap()).unwrap());
        }
        bytes / began.elapsed().as_secs_f64()
    });
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let began = Instant::now();
        drop(web::tunnel(proxy, source).unwrap());
        slowest = slowest.max(began.elapsed());
        thread::sleep((began + Duration::from_secs(1)).saturating_duration_since(Instant::now()));
    }
    Served { goodput: download.join().unwrap(), slowest }
}

/// The longest that a thread waited for a processor until `end`: on a busy machine, times say nothing.
fn watch_machine(end: Instant) -> thread::JoinHandle<Duration> {
    const NAP: Duration = Duration::from_millis(10);
    thread::spawn(move || {
        let mut longest = Duration::ZERO;
        while Instant::now() < end {
            let began = Instant::now();
            thread::sleep(NAP);
            longest = longest.max(began.elapsed().saturating_sub(NAP));
        }
        longest
    })
}

/// Third parties, by how the attack involves them.
struct Involved {
    /// The member's own certified record names them.
    named: ThirdParties,
    /// Only lies name them.
    lied: ThirdParties,
    /// The member sends packets in their name.
    forged: ThirdParties,
    /// A hundred strangers, each in a /24 of its own.
    strangers: ThirdParties,
}

/// A member's worst over real sockets.
fn member_attacks(
    member: Credentials,
    victim: Victim,
    parties: [ThirdParties; 4],
    end: Instant,
) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let [named, lied, forged, own] = parties;
        let peer = Peer::on_loopback(member);
        let (at, datagrams) = (victim.at, ThirdParties::at(std::iter::once([127, 0, 0, 1])));
        let initials = Initials::of_member(peer.credentials(), &victim, 200);
        let worst = Worst {
            peer: &peer,
            victim,
            others: ["leaf", "leaf"],
            named: named.addresses(),
            lied: lied.addresses(),
            targets: Targets {
                source: serve_paced().to_string(),
                deaf: serve_deaf().to_string(),
                datagrams: datagrams.addresses()[0].to_string(),
                nowhere: None,
            },
            send: Box::new(move |number, packet| match number % 4 {
                3 if number % 8 == 3 => forged.send(number, initials.get(number), at),
                3 => forged.send(number, packet, at),
                _ => own.send(number, packet, at),
            }),
            done: Done::default(),
        };
        worst.run(end.into()).await;
        worst.done
    })
}

/// Packets of every kind at 10 Mbit/s from a hundred addresses.
fn strangers_attack(
    victim: SocketAddr,
    (strangers, initials): (&ThirdParties, &Initials),
    end: Instant,
) {
    let began = Instant::now();
    for number in 0u32.. {
        if number.is_multiple_of(6) {
            strangers.send(number.into(), initials.get(number.into()), victim);
        } else {
            strangers.send(number.into(), &rubbish(number.into()), victim);
        }
        let due = began + number * Duration::from_millis(1);
        if due > end {
            return;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// The attack of a member and a hundred strangers for this long, at 10 Mbit/s each.
///
/// Times are judged on a machine that lets no thread wait for longer than `patience`.
fn attack(length: Duration, patience: Duration) {
    let site = Site::new();
    let (hub, leaf) = site.pair(&[]);
    let mallory = Credentials::load(&NodeDir::at(site.join("mallory")), Clock::system()).unwrap();
    let (source, proxy) = (serve_paced(), leaf.proxy());
    let victim = Victim::in_folder(&site.dir("hub"), hub.listen());
    let calm = customers(proxy, source, Duration::from_secs(3));
    let parties = Involved {
        named: ThirdParties::at((1..=64).map(|host| [127, 9, 1, host])),
        lied: ThirdParties::at((1..=8).map(|host| [127, 9, 2, host])),
        forged: ThirdParties::at((1..=8).map(|host| [127, 9, 3, host])),
        strangers: ThirdParties::at((1..=100).map(|prefix| [127, 10, prefix, 1])),
    };
    let (before, end) = (usage(hub.pid()), Instant::now() + length);
    let counts = [&parties.named, &parties.lied, &parties.forged, &parties.strangers];
    let counts = counts.map(|parties| parties.count(end));
    let (at, strangers) = (victim.at, parties.strangers.clone());
    let initials = Initials::of_stranger(&mallory, at, "hub", 200);
    let own = ThirdParties::at(std::iter::once([127, 0, 0, 1]));
    let members = [parties.named.clone(), parties.lied.clone(), parties.forged.clone(), own];
    let member = thread::spawn(move || member_attacks(mallory, victim, members, end));
    let stranger = thread::spawn(move || strangers_attack(at, (&strangers, &initials), end));
    let machine = watch_machine(end);
    let attacked = customers(proxy, source, length);
    let waited = machine.join().unwrap();
    let (done, ()) = (member.join().unwrap(), stranger.join().unwrap());
    let after = usage(hub.pid());
    let (grown, cpu) = (after.peak.saturating_sub(before.resident), after.cpu - before.cpu);
    let log = std::fs::read_to_string(site.dir("hub").join("log")).unwrap();
    let [named, lied, forged, strangers] = counts.map(|count| count.join().unwrap());
    println!(
        "{length:?} of attack on a process: +{} KiB at most, {cpu:?} of CPU, {} log lines, goodput {:.0} %, new flows \
         {:?}; bytes to addresses of the member's record {named}, of lies {lied}, to forged sources {forged}, to \
         strangers {strangers}; {done}; a thread waited for {waited:?}",
        grown / 1024,
        log.lines().count(),
        100.0 * attacked.goodput / calm.goodput,
        attacked.slowest
    );
    let (seconds, sent) = (length.as_secs(), length.as_secs() * 1_250_000);
    assert!(grown < 32 << 20, "{grown}");
    // Less than one core, the traffic of its members included.
    assert!(cpu < length && log.lines().count() < 300, "{cpu:?}");
    assert!(!log.contains(&source.to_string()), "a destination is in the log");
    assert_eq!(lied, 0);
    // Both nodes dial.
    assert!(named <= 2 * 16 * dials::PACKETS * 1_200 / 5 * (seconds + 5), "{named}");
    assert!(forged <= node::most_to_forged(seconds + 1), "{forged} of {}", sent / 4);
    assert_eq!(strangers, 0);
    if waited > patience {
        println!("skipped what depends on time: this machine is too busy");
        return;
    }
    done.assert_much(seconds);
    attacked.assert_served(&calm);
    wait_for("the link", || json(&site.dir("leaf"), &["links"])[0]["up"] == true);
}

#[test]
fn a_real_process_under_attack_stays_small_and_serves_its_members() {
    attack(Duration::from_secs(10), Duration::from_millis(100));
}

#[test]
#[ignore = "it takes a minute, and its figures need a quiet machine"]
fn a_real_process_under_attack_for_a_minute_serves_its_members() {
    attack(Duration::from_secs(60), Duration::MAX);
}
