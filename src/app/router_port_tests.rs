//! A router that speaks PCP or NAT-PMP, or neither, on loopback.

use std::sync::Arc;

use tokio::net::UdpSocket;

use super::*;

/// The address of the Internet that the router says it has.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// The port that it opens, whatever it is asked for.
const PORT: u16 = 40_001;

/// What a router understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Pcp,
    NatPmp,
    /// PCP, for a moment only.
    ShortPcp,
    /// NAT-PMP, but for its own address.
    NoAddress,
    /// Refuses by either protocol: not authorized.
    Refusals,
    Nonsense,
}

/// A router at an address of its own, since the port is that of the protocol.
struct Router {
    at: Ipv4Addr,
    /// The lifetimes of the ports that it was asked for, in seconds; 0 closes one.
    asked: Arc<Mutex<Vec<u32>>>,
    serving: JoinHandle<()>,
}

impl Router {
    async fn start(last: u8, speaks: Speaks, outside: Ipv4Addr) -> Self {
        let at = Ipv4Addr::new(127, 53, 51, last);
        let socket = UdpSocket::bind((at, crab_nat::GATEWAY_PORT)).await.unwrap();
        let asked = Arc::<Mutex<Vec<u32>>>::default();
        let log = asked.clone();
        let serving = tokio::spawn(async move {
            let mut request = [0; 1100];
            loop {
                let (len, from) = socket.recv_from(&mut request).await.unwrap();
                let (answer, lifetime) = answer(speaks, &request[..len], outside);
                log.lock().unwrap().extend(lifetime);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self { at, asked, serving }
    }

    async fn stop(self) {
        self.serving.abort();
        // It ends as it was told to.
        let _ = self.serving.await;
    }

    /// Waits until it was asked for these lifetimes.
    async fn was_asked(&self, lifetimes: &[u32]) {
        let asked = || self.asked.lock().unwrap().clone();
        for _ in 0..500 {
            if asked() == lifetimes {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", asked());
    }
}

/// What a router answers (RFC 6887, §7.2 and §11.1; RFC 6886, §3.2 to §3.5), and the lifetime of a port that it was asked for.
fn answer(speaks: Speaks, request: &[u8], outside: Ipv4Addr) -> (Vec<u8>, Option<u32>) {
    let lifetime = |at: usize| u32::from_be_bytes(request[at..at + 4].try_into().unwrap());
    let (version, refuses) = (request[0], speaks == Speaks::Refusals);
    match (speaks, version, request[1]) {
        (Speaks::Nonsense, ..) => (vec![0xff; 61], None),
        (Speaks::Pcp | Speaks::ShortPcp | Speaks::Refusals, 2, _) => {
            let mut answer = vec![2, 0x80 | 1, 0, if refuses { 2 } else { 0 }];
            let short = speaks == Speaks::ShortPcp;
            answer.extend(if short { [0; 4] } else { request[4..8].try_into().unwrap() });
            answer.extend([0; 16]);
            // The nonce, the protocol and the inner port come back.
            answer.extend(&request[24..42]);
            answer.extend(PORT.to_be_bytes());
            answer.extend(outside.to_ipv6_mapped().octets());
            (answer, Some(lifetime(4)).filter(|_| !refuses))
        }
        // PCP's request, and the answer of a router that knows NAT-PMP only (RFC 6887, §9).
        (Speaks::NatPmp | Speaks::NoAddress, 2, _) => (vec![0, 0x81, 0, 1, 0, 0, 0, 0], None),
        (Speaks::NoAddress, 0, 0) => (vec![0, 0x80, 0, 3, 0, 0, 0, 9, 0, 0, 0, 0], None),
        (_, 0, 0) => ([&[0, 0x80, 0, 0, 0, 0, 0, 9][..], &outside.octets()].concat(), None),
        (_, 0, 1) => {
            let mut answer = vec![0, 0x81, 0, if refuses { 2 } else { 0 }, 0, 0, 0, 9];
            answer.extend(&request[4..6]);
            let port = if lifetime(8) == 0 { 0 } else { PORT };
            answer.extend(port.to_be_bytes());
            answer.extend(&request[8..12]);
            (answer, Some(lifetime(8)).filter(|_| !refuses))
        }
        _ => (vec![0, 0x80 | request[1], 0, 1, 0, 0, 0, 0], None),
    }
}

/// A keeper that asks once, so that a router that is slow sees each request once.
fn keeper(listen: &str, way: fn() -> Option<Way>, told: watch::Sender<RouterPort>) -> Keeper {
    let patience = TimeoutConfig { initial_timeout: Duration::from_secs(9), ..PATIENCE };
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"a node's");
    Keeper { listen: listen.parse().unwrap(), key, patience, way, told, open: None, failed: None }
}

/// A keeper behind the router at 127.53.51.`LAST`.
struct Kept {
    told: watch::Receiver<RouterPort>,
    moves: watch::Sender<()>,
    advertise: watch::Sender<Vec<Target>>,
    shutdown: CancellationToken,
}

impl Kept {
    fn start<const LAST: u8>() -> Self {
        let (told, moves) = (watch::Sender::default(), watch::Sender::default());
        let (advertise, shutdown) = (watch::Sender::default(), CancellationToken::new());
        let kept = Self {
            told: told.subscribe(),
            moves: moves.clone(),
            advertise: advertise.clone(),
            shutdown: shutdown.clone(),
        };
        let way = || {
            let router = Ipv4Addr::new(127, 53, 51, LAST);
            Some(Way { router, ours: Ipv4Addr::LOCALHOST.into() })
        };
        let news = News { moves: moves.subscribe(), advertise: advertise.subscribe() };
        tokio::spawn(keeper("[::]:4600", way, told).run(news, shutdown));
        kept
    }

    /// What is told, once it is this or that.
    async fn told(&mut self, is: fn(&RouterPort) -> bool) -> RouterPort {
        timeout(Duration::from_secs(20), self.told.wait_for(is)).await.unwrap().unwrap().clone()
    }

    async fn open(&mut self) -> SocketAddr {
        self.told(|told| told.address().is_some()).await.address().unwrap()
    }

    async fn refused(&mut self) -> String {
        self.told(|told| told.problem().is_some()).await.problem().unwrap()
    }
}

/// In seconds.
const LIFE: u32 = 20 * 60;

/// The router at 127.53.51.`LAST` is asked at first, after a move once more, and when the node stops to close the port.
async fn opens_and_closes<const LAST: u8>(speaks: Speaks) {
    let router = Router::start(LAST, speaks, OUTSIDE).await;
    let mut kept = Kept::start::<LAST>();
    assert_eq!(kept.open().await, SocketAddr::new(OUTSIDE.into(), PORT));
    kept.moves.send_replace(());
    router.was_asked(&[LIFE, LIFE]).await;
    kept.shutdown.cancel();
    router.was_asked(&[LIFE, LIFE, 0]).await;
}

#[tokio::test]
async fn a_port_is_opened_by_pcp_and_closed_when_the_node_stops() {
    opens_and_closes::<1>(Speaks::Pcp).await;
}

#[tokio::test]
async fn a_port_is_opened_by_nat_pmp_where_the_router_knows_no_pcp() {
    opens_and_closes::<2>(Speaks::NatPmp).await;
}

#[tokio::test]
async fn no_port_is_kept_open_for_a_node_that_advertises_addresses() {
    let router = Router::start(3, Speaks::Pcp, OUTSIDE).await;
    let mut kept = Kept::start::<3>();
    kept.open().await;
    kept.advertise.send_replace(vec!["192.0.2.1:4600".parse().unwrap()]);
    kept.told(|told| *told == RouterPort::NotAsked).await;
    router.was_asked(&[LIFE, 0]).await;
    kept.advertise.send_replace(Vec::new());
    kept.open().await;
}

#[tokio::test]
async fn a_router_that_refuses_or_talks_nonsense_is_said_to() {
    let _refusing = Router::start(4, Speaks::Refusals, OUTSIDE).await;
    let why = Kept::start::<4>().refused().await;
    assert!(why.starts_with("127.53.51.4: PCP: ") && why.contains("Not authorized"), "{why}");
    let _broken = Router::start(5, Speaks::Nonsense, OUTSIDE).await;
    let why = Kept::start::<5>().refused().await;
    assert!(why.contains("NAT-PMP: Invalid response"), "{why}");
    // Nobody is at the next address.
    let why = Kept::start::<6>().refused().await;
    assert!(why.contains("PCP: UDP socket error"), "{why}");
}

#[tokio::test]
async fn a_port_of_a_router_without_the_internet_is_given_back() {
    let starts = [Kept::start::<7>, Kept::start::<8>, Kept::start::<9>, Kept::start::<10>];
    let all = [[100, 64, 0, 9], [192, 168, 0, 9], [0, 0, 0, 0], [224, 0, 0, 1]];
    for (last, (start, outside)) in (7..).zip(starts.into_iter().zip(all)) {
        let router = Router::start(last, Speaks::NatPmp, outside.into()).await;
        let why = start().refused().await;
        assert!(why.contains("not of the Internet"), "{why}");
        assert!(why.contains(&router.at.to_string()), "{why}");
        router.was_asked(&[LIFE, 0]).await;
    }
    let router = Router::start(11, Speaks::ShortPcp, OUTSIDE).await;
    let why = Kept::start::<11>().refused().await;
    assert!(why.contains("opens one for 0 s only"), "{why}");
    router.was_asked(&[LIFE, 0]).await;
}

#[tokio::test]
async fn a_port_that_is_open_is_told_until_its_time_is_over() {
    let way = || Some(Way { router: [127, 53, 51, 12].into(), ours: Ipv4Addr::LOCALHOST.into() });
    let router = Router::start(12, Speaks::Pcp, OUTSIDE).await;
    let mut keeper = keeper("0.0.0.0:4600", way, watch::Sender::default());
    assert_eq!(keeper.look(true).await, PAUSES.1);
    // It does not answer any more.
    router.stop().await;
    assert_eq!(keeper.look(true).await, PAUSES.0);
    assert_eq!(keeper.told.borrow().address(), Some(SocketAddr::new(OUTSIDE.into(), PORT)));
    for pause in [2, 4, 8, 10, 10] {
        assert_eq!(keeper.look(true).await, pause * PAUSES.0);
    }
    let _router = Router::start(12, Speaks::Pcp, OUTSIDE).await;
    assert_eq!(keeper.look(true).await, PAUSES.1);
}

#[tokio::test]
async fn a_port_without_the_routers_address_is_not_told_and_closed_at_the_end() {
    let router = Router::start(14, Speaks::NoAddress, OUTSIDE).await;
    let mut kept = Kept::start::<14>();
    let why = kept.refused().await;
    assert!(why.contains("does not say its own address"), "{why}");
    kept.shutdown.cancel();
    router.was_asked(&[LIFE, 0]).await;
}

#[test]
fn a_router_knows_the_node_again_and_no_other_router_does() {
    let way = |router: [u8; 4]| Way { router: router.into(), ours: Ipv4Addr::LOCALHOST.into() };
    let node = || keeper("0.0.0.0:4600", || None, watch::Sender::default());
    assert_eq!(node().nonce(way([10, 0, 0, 1])), node().nonce(way([10, 0, 0, 1])));
    assert_ne!(node().nonce(way([10, 0, 0, 1])), node().nonce(way([10, 0, 0, 2])));
}

#[tokio::test]
async fn a_node_that_listens_at_another_address_asks_for_nothing() {
    let way = || Some(Way { router: [127, 53, 51, 13].into(), ours: Ipv4Addr::LOCALHOST.into() });
    for (listen, asks) in
        [("127.0.0.2:4600", false), ("[::1]:4600", false), ("127.0.0.1:4600", true)]
    {
        let mut keeper = keeper(listen, way, watch::Sender::default());
        keeper.look(true).await;
        assert_eq!(*keeper.told.borrow() != RouterPort::NotAsked, asks, "{listen}");
    }
}
