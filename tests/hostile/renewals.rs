//! Members and others that ask for certificates without end. What counts is how often the signer is
//! asked, and how long others wait for their certificates meanwhile.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use noq::{Endpoint, EndpointConfig, TokioRuntime};
use ronproxy::internals::{
    app::{self, Way},
    identity::{Clock, Credentials, DeskRequest, JoinReply, NodeDir, NodeKey},
    wire::link::Request,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    meters::Limits,
    overlay::{Running, Site, free_udp, wait_for},
    peer::{Hostile, HostileLink, PORT, Peer, Victim},
    processes::usage,
    stage::Stage,
    words,
};

/// How long each attack lasts.
const LASTS: Duration = Duration::from_secs(60);

/// How often an honest node asks at most (`app/renewal.rs`).
const EVERY: Duration = Duration::from_secs(5);

/// The most that others may wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the joiner is.
const JOINER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));

/// The usual overlay, whose authority is at the exit.
fn stage(seed: u64) -> Stage {
    Stage::with_authority(1, seed)
}

fn own_request(stage: &Stage, name: &str) -> Vec<u8> {
    let credentials = stage.lab.credentials(name).unwrap();
    credentials.identity().signing_request().unwrap()
}

/// A request for a key that the authority does not know.
fn new_key() -> Vec<u8> {
    NodeKey::generate().unwrap().signing_request().unwrap()
}

/// What others wait for at most.
#[derive(Debug)]
struct Waited {
    renewal: Duration,
    join: Duration,
}

/// A member that renews, and nodes that join, until `end`.
async fn others(stage: &Stage, end: Instant) -> Waited {
    let (entry, signing_request) = (stage.node("entry"), own_request(stage, "entry"));
    let request = Request::RenewCertificate { signing_request, passed_on: false };
    let is_direct = entry.link_facts().iter().any(|link| link.up && link.peer.as_str() == "exit");
    let over = if is_direct { "exit" } else { "relay" }.parse().unwrap();
    let renewals = async {
        let mut longest = Duration::ZERO;
        while Instant::now() < end {
            let began = Instant::now();
            entry.mesh().links().request(&over, &request).await.unwrap();
            longest = longest.max(began.elapsed());
            sleep_until(began + EVERY).await;
        }
        longest
    };
    let joins = async {
        let (socket, _cable) = stage.lab.internet().plug_in(SocketAddr::new(JOINER, PORT));
        let mut config = EndpointConfig::default();
        config.grease_quic_bit(false);
        let tokio = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, tokio).unwrap();
        let mut longest = Duration::ZERO;
        while Instant::now() < end {
            let invitation = stage.lab.invite(&format!("n{}", rand::random::<u64>())).unwrap();
            // The authority looks for open invitations once a second.
            sleep(Duration::from_secs(1)).await;
            let began = Instant::now();
            let (key, clock) = (NodeKey::generate().unwrap(), stage.lab.clock());
            app::join(
                &Way { endpoint: endpoint.clone(), streams: None },
                &invitation,
                &key,
                Vec::new(),
                clock,
            )
            .await
            .unwrap();
            longest = longest.max(began.elapsed());
            sleep_until(began + EVERY).await;
        }
        longest
    };
    let (renewal, join) = tokio::join!(renewals, joins);
    Waited { renewal, join }
}

/// Runs an attack that ends at the given time, and says what others waited for and how often the signer
/// was asked for certificates because of it.
fn attack(stage: &Stage, what: &str, attack: impl AsyncFnOnce(Instant) -> u64) -> u64 {
    // Each second somebody may ask whether an invitation is open; and others ask for their own.
    let honest = LASTS.as_secs() + 2 * (LASTS.as_secs() / EVERY.as_secs() + 1);
    let before = stage.lab.questions();
    let ((said, waited), cost) = stage.attack_alone(async {
        let end = Instant::now() + LASTS;
        tokio::join!(attack(end), others(stage, end))
    });
    let questions = (stage.lab.questions() - before).saturating_sub(honest);
    println!("{what}: {said} requests, {questions} questions to the signer, {waited:?}; {cost}");
    assert!(said > 100, "{said} requests");
    assert!(waited.renewal < PATIENCE && waited.join < PATIENCE, "{waited:?}");
    // Most of the memory is the attacker's, which has up to 20 endpoints.
    cost.assert_within(Limits { peak: 24 << 20, ..Limits::default() });
    questions
}

/// Says the same to a node again and again, as fast as it is taken, 16 at a time.
async fn ask_without_end(
    peer: &Peer,
    victim: &Victim,
    end: Instant,
    say: impl Fn() -> Vec<u8>,
) -> u64 {
    let said = Cell::new(0);
    let ask = async |link: &HostileLink| {
        while Instant::now() < end && link.ended().is_none() {
            let _ = link.request(&say()).await;
            said.set(said.get() + 1);
        }
    };
    while Instant::now() < end {
        let Some(link) = peer.link(victim).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        futures_util::future::join_all((0..16).map(|_| ask(&link))).await;
    }
    said.get()
}

/// The same to a node of the lab, by mallory.
async fn mallory_asks(stage: &Stage, victim: &str, end: Instant, say: impl Fn() -> Vec<u8>) -> u64 {
    ask_without_end(stage.mallory.peer(), &stage.victim(victim), end, say).await
}

#[test]
fn a_member_that_renews_without_end_makes_the_signer_work_little() {
    let stage = stage(1101);
    let own = stage.mallory.credentials().identity().signing_request().unwrap();
    let questions = attack(&stage, "a member's own renewal over its link", async |end| {
        mallory_asks(&stage, "exit", end, || words::renew_certificate(&own, false)).await
    });
    assert!(questions <= 2, "{questions}");
    let questions = attack(&stage, "other keys as its own", async |end| {
        mallory_asks(&stage, "exit", end, || words::renew_certificate(&new_key(), false)).await
    });
    assert_eq!(questions, 0);
}

#[test]
fn renewals_that_a_member_passes_on_for_many_delay_nobody() {
    let stage = stage(1102);
    let questions = attack(&stage, "renewals passed on for many", async |end| {
        mallory_asks(&stage, "exit", end, || words::renew_certificate(&new_key(), true)).await
    });
    // 64 at once, and 16 a second.
    assert!(questions <= 64 + 16 * LASTS.as_secs(), "{questions}");
    let others = own_request(&stage, "relay");
    let questions = attack(&stage, "a copied request", async |end| {
        mallory_asks(&stage, "exit", end, || words::renew_certificate(&others, true)).await
    });
    assert!(questions <= 2, "{questions}");
}

#[test]
fn a_member_behind_a_relay_leaves_others_there_their_renewals() {
    let stage = stage(1103);
    let at = |name| stage.lab.topology().address(name);
    stage.lab.internet().cut(at("entry"), at("exit"));
    stage.run(async { sleep(Duration::from_secs(30)).await });
    let own = stage.mallory.credentials().identity().signing_request().unwrap();
    let questions = attack(&stage, "a member's own renewal by way of a relay", async |end| {
        mallory_asks(&stage, "relay", end, || words::renew_certificate(&own, false)).await
    });
    assert!(questions <= 2, "{questions}");
}

/// From 20 prefixes: its own request, a copied one, and one for a key that nobody knows.
#[test]
fn renewals_outside_of_links_from_many_addresses_delay_nobody() {
    let stage = stage(1104);
    let requests = [
        stage.mallory.credentials().identity().signing_request().unwrap(),
        own_request(&stage, "entry"),
        new_key(),
    ];
    let questions = attack(&stage, "renewals from 20 prefixes", async |end| {
        let ask = async |prefix: u8| {
            let host = IpAddr::from([198, 18, prefix, 1]);
            let peer = Hostile::at(&stage.lab, stage.mallory.credentials().clone(), host);
            let mut said = 0;
            for request in requests.iter().cycle() {
                if Instant::now() >= end {
                    break;
                }
                let request = DeskRequest::Renew(request.clone());
                let reply = peer.ask_desk(&stage.lab, "exit", &request).await;
                assert!(!matches!(reply, Some(JoinReply::Welcome(_))));
                said += 1;
            }
            said
        };
        futures_util::future::join_all((0..20).map(ask)).await.into_iter().sum()
    });
    // Handshakes of addresses that proved themselves, 32 at once of each prefix and two a second, and of
    // those that did not, 16 at once of all strangers and eight a second; a third of them for the
    // unknown key.
    let most = (20 * (32 + 2 * LASTS.as_secs()) + 16 + 8 * LASTS.as_secs()) / 3;
    assert!(questions <= most + 2, "{questions} where {most} are the most");
}

/// The signer's worker of the node in `dir`.
fn worker_of(dir: &Path) -> Option<u32> {
    let mut pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let has = |word: &[u8]| words.split(|byte| *byte == 0).any(|other| other == word);
        has(b"--worker") && has(dir.as_os_str().as_bytes())
    })
}

/// Passes new keys on over links, 16 at a time, and says how many.
fn pass_on_without_end(victim: &Victim, mallory: &Credentials, end: Instant) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let member = Peer::on_loopback(mallory.clone());
        ask_without_end(&member, victim, end, || words::renew_certificate(&new_key(), true)).await
    })
}

#[test]
fn a_flood_of_renewals_costs_a_real_signer_with_a_large_record_little() {
    const SECONDS: u64 = 10;
    let site = Site::new();
    let dir = site.hub();
    let hub = Running::start(&dir, &[]);
    let mallory = Credentials::load(&NodeDir::at(site.join("mallory")), Clock::system()).unwrap();
    let issued = dir.join("authority/issued");
    let record = issued.join(format!("{}.json", mallory.peer().serial));
    for number in 0..1000 {
        std::fs::copy(&record, issued.join(format!("40{number:030x}.json"))).unwrap();
    }
    let line = site.invite("leaf");
    let mut worker = None;
    wait_for("the worker", || {
        worker = worker_of(&dir);
        worker.is_some()
    });
    let (worker, victim) = (worker.unwrap(), Victim::in_folder(&dir, hub.listen()));
    // The record is read again in the first two seconds after it has changed.
    std::thread::sleep(Duration::from_secs(3));
    let before = usage(worker).cpu;
    let attack = std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(SECONDS);
        pass_on_without_end(&victim, &mallory, end)
    });
    std::thread::sleep(Duration::from_secs(SECONDS / 2));
    let began = std::time::Instant::now();
    site.join_by(&line, "leaf", &["--listen", &free_udp().to_string()]);
    let joined = began.elapsed();
    let said = attack.join().unwrap();
    let cpu = usage(worker).cpu - before;
    println!(
        "{said} renewals passed on in {SECONDS} s: {cpu:?} of CPU of the signer's worker with 1,000 \
         certificates on record; `join` took {joined:?}"
    );
    assert!(cpu < Duration::from_secs(1), "{cpu:?}");
    // The command itself takes a part of it.
    assert!(joined < Duration::from_secs(2), "{joined:?}");
}
