//! Associations of an exit against real sockets on loopback.

use std::{net::UdpSocket as StdSocket, time::Duration};

use tokio::{
    sync::mpsc::{self, Receiver},
    time::timeout,
};

use super::{super::StaticResolver, *};

/// Anything that must happen happens within this time.
const LIMIT: Duration = Duration::from_secs(5);

const LOOPBACK: &str = "enabled = true\nallow_private = ['127.0.0.0/8']";

/// What comes back of an association.
struct Back(mpsc::Sender<Said>);

/// A datagram, or why those to a destination are dropped.
type Said = Result<(Target, Vec<u8>), (Target, RefusalKind)>;

type News = Receiver<Said>;

impl DatagramSink for Back {
    fn deliver(&self, peer: &Target, payload: &[u8]) {
        self.0.try_send(Ok((peer.clone(), payload.to_vec()))).unwrap();
    }

    fn refused(&self, peer: &Target, refusal: Refusal) {
        self.0.try_send(Err((peer.clone(), refusal.kind))).unwrap();
    }
}

/// An exit with this `[exit]` table; the name `a.test` has the address 127.0.0.1, `ten.test` 10.0.0.1.
fn exit(table: &str) -> Arc<Exit> {
    let names = [("a.test", "127.0.0.1"), ("ten.test", "10.0.0.1")];
    let names = names.map(|(name, ip)| (name.to_owned(), vec![ip.parse().unwrap()]));
    let resolver = StaticResolver::new(names.into_iter().collect());
    Arc::new(Exit::new(toml::from_str(table).unwrap(), Arc::new(resolver)))
}

fn begin(exit: &Arc<Exit>, entry: &str) -> Result<OutwardDatagrams, Refusal> {
    Ok(associate(exit, entry)?.0)
}

fn associate(
    exit: &Arc<Exit>,
    entry: &str,
) -> Result<(OutwardDatagrams, News, Arc<DatagramDrops>), Refusal> {
    let (send, news) = mpsc::channel(64);
    let drops = Arc::<DatagramDrops>::default();
    let back = Arc::new(Back(send));
    let opened = exit.associate(&entry.parse().unwrap(), &[], back, drops.clone())?;
    Ok((opened, news, drops))
}

/// A socket that waits for datagrams, and its port.
fn server() -> (StdSocket, u16) {
    let socket = StdSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

async fn next(news: &mut News) -> Said {
    timeout(LIMIT, news.recv()).await.expect("news").unwrap()
}

fn target(host: &str, port: u16) -> Target {
    Target::new(host, port).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_resolved_at_the_exit_and_its_address_answers() {
    let (exit, (server, port)) = (exit(LOOPBACK), server());
    let (association, mut news, _) = associate(&exit, "utah").unwrap();
    association.sink.deliver(&target("a.test", port), b"question");
    let mut buffer = [0; 64];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.port()), (&b"question"[..], association.local.port()));
    server.send_to(b"answer", from).unwrap();
    let answer = (target("127.0.0.1", port), b"answer".to_vec());
    assert_eq!(next(&mut news).await, Ok(answer));
    // The answer may be here before what was sent is counted.
    let counted = async {
        while association.carried.bytes() != (8, 6) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, counted).await.expect("both are counted");
}

#[tokio::test]
async fn private_destinations_are_denied_as_for_connections() {
    let exit = exit("enabled = true");
    let (association, mut news, drops) = associate(&exit, "utah").unwrap();
    let hosts = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "a.test", "ten.test"];
    for (count, host) in (1..).zip(hosts) {
        association.sink.deliver(&target(host, 53), b"x");
        assert_eq!(next(&mut news).await, Err((target(host, 53), RefusalKind::Policy)));
        assert_eq!(drops.of(DatagramDrop::Denied), count);
    }
    assert_eq!(exit.snapshot().denials.values().sum::<u64>(), 6);
    association.sink.deliver(&target("nowhere.test", 53), b"x");
    let refused = next(&mut news).await;
    assert_eq!(refused, Err((target("nowhere.test", 53), RefusalKind::NameNotFound)));
    assert_eq!(drops.counts(), [("denied", 6), ("unresolved", 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_judges_the_destinations_of_an_association_again() {
    let (exit, (server, port)) = (exit(LOOPBACK), server());
    let (association, mut news, drops) = associate(&exit, "utah").unwrap();
    let mut buffer = [0; 64];
    association.sink.deliver(&target("127.0.0.1", port), b"one");
    let (_, from) = server.recv_from(&mut buffer).unwrap();
    exit.reload(&toml::from_str("enabled = true").unwrap());
    // It is denied now, and may not answer any more.
    server.send_to(b"late", from).unwrap();
    association.sink.deliver(&target("127.0.0.1", port), b"two");
    let refused = next(&mut news).await;
    assert_eq!(refused, Err((target("127.0.0.1", port), RefusalKind::Policy)));
    let unsolicited = async {
        while drops.of(DatagramDrop::Unsolicited) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, unsolicited).await.expect("the late answer is dropped");
    exit.reload(&toml::from_str(LOOPBACK).unwrap());
    association.sink.deliver(&target("127.0.0.1", port), b"three");
    let (length, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"three", "an earlier refusal is forgotten, too");
    assert_eq!(drops.counts(), [("denied", 1), ("unsolicited", 1)]);
}

#[tokio::test]
async fn associations_are_bounded_for_each_entry_and_a_reload_moves_the_bound() {
    let table = |limit| format!("{LOOPBACK}\nmax_associations_per_entry = {limit}");
    let exit = exit(&table(2));
    let kind = |begun: Result<OutwardDatagrams, Refusal>| begun.err().map(|refusal| refusal.kind);
    let held = [begin(&exit, "utah").unwrap(), begin(&exit, "utah").unwrap()];
    assert_eq!(kind(begin(&exit, "utah")), Some(RefusalKind::Overloaded));
    let other = begin(&exit, "mit").unwrap();
    assert_eq!(exit.snapshot().flows, 3, "each counts as a flow");
    exit.reload(&toml::from_str(&table(3)).unwrap());
    let third = begin(&exit, "utah").unwrap();
    assert_eq!(kind(begin(&exit, "utah")), Some(RefusalKind::Overloaded));
    exit.reload(&toml::from_str(&table(0)).unwrap());
    let refusal = begin(&exit, "cmu").err().unwrap();
    assert_eq!(refusal.kind, RefusalKind::Policy);
    assert!(refusal.detail.contains("max_associations_per_entry"), "{}", refusal.detail);
    drop((held, other, third));
    assert_eq!(exit.snapshot().flows, 0);
    let held = || -> usize {
        exit.associations.lock().entries.values().map(|share| share.associations).sum()
    };
    let ended = async {
        while held() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, ended).await.expect("every place comes back");
}

/// A resolver that never answers.
#[derive(Debug)]
struct Silent;

impl super::super::Resolver for Silent {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
    ) -> crate::flow::BoxFuture<'a, Result<Vec<std::net::IpAddr>, super::super::ResolveError>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn datagrams_that_wait_for_names_are_bounded_for_each_entry() {
    let config = toml::from_str(LOOPBACK).unwrap();
    let exit = Arc::new(Exit::new(config, Arc::new(Silent)));
    let opened: Vec<_> = (0..100).map(|_| associate(&exit, "utah").unwrap()).collect();
    for (association, ..) in &opened {
        for n in 0..40 {
            let name = target(&format!("n{}.test", n % 10), 53);
            association.sink.deliver(&name, &[0; 1_000]);
        }
    }
    let waiting = || {
        let shares = exit.associations.lock();
        shares.entries.values().map(|share| share.waiting.load(Ordering::Relaxed)).sum::<usize>()
    };
    assert!((WAITING_PER_ENTRY - 1_000..=WAITING_PER_ENTRY).contains(&waiting()), "{}", waiting());
    let full: u64 = opened.iter().map(|(_, _, drops)| drops.of(DatagramDrop::QueueFull)).sum();
    assert_eq!(full, 4_000 - u64::try_from(WAITING_PER_ENTRY / 1_000).unwrap());
    // The look-ups time out.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(waiting(), 0);
    let lost: u64 = opened.iter().map(|(_, _, drops)| drops.of(DatagramDrop::Unresolved)).sum();
    assert!(full + lost <= 4_000 && lost > 0, "{full} {lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_64_kib_is_dropped_and_the_next_one_comes() {
    let (exit, (server, port)) = (exit(LOOPBACK), server());
    let (association, mut news, drops) = associate(&exit, "utah").unwrap();
    association.sink.deliver(&target("127.0.0.1", port), b"question");
    let mut buffer = [0; 64];
    let (_, from) = server.recv_from(&mut buffer).unwrap();
    for length in [65_507, MAX_DATAGRAM + 1, MAX_DATAGRAM] {
        server.send_to(&vec![7; length], from).unwrap();
    }
    let answer = (target("127.0.0.1", port), vec![7; MAX_DATAGRAM]);
    assert_eq!(next(&mut news).await, Ok(answer));
    assert_eq!(drops.counts(), [("too-large", 2)]);
}

#[tokio::test]
async fn a_node_that_is_no_exit_carries_no_datagrams() {
    let refusal = begin(&exit(""), "utah").err().unwrap();
    assert_eq!(refusal.kind, RefusalKind::NotAnExit);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_closes_its_associations_has_no_more_new_destinations() {
    let (associations, utah) = (Associations::new(8), "utah".parse().unwrap());
    let begun = || {
        let now = Instant::now();
        let place = associations.admit(now, &utah).unwrap();
        (0..400).filter(|_| place.new.may_begin(now.into_std())).count()
    };
    assert_eq!(begun() + begun(), 512);
    tokio::time::advance(Duration::from_secs(1)).await;
    let other = associations.admit(Instant::now(), &"mit".parse().unwrap()).unwrap();
    assert!(!associations.lock().entries.contains_key(&utah), "it rests");
    assert_eq!(begun(), 400);
    drop(other);
}
