//! Carries what the program sends into its interface: connections and datagrams to the proxy, questions for names to
//! the name server.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::interval,
};
use tun_rs::AsyncDevice;

use super::{
    datagrams::{Datagrams, Key},
    dns,
    names::{Names, stands_for_a_name},
    packet::{self, Headers, Protocol},
    proxy::{Proxy, Refused, wanted},
    sessions::{self, Ends, Sessions, Verdict},
    space::{Listening, RESOLVER, Space},
};
use crate::{
    accept,
    flow::{Host, Target, reset_on_close},
};

/// The port of name servers.
const DNS: u16 = 53;

/// Questions for names that wait for word whether the node is there.
const MOST_QUESTIONS: usize = 256;

/// How often what is idle is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// After the exit's answer a program's system completes the connection at once, unless the program has given up.
const COMPLETED_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of a connection that wait here in each direction. With 2,048 connections they take 128 MiB at most.
const BUFFER: usize = 32 * 1024;

/// The longest packet.
const PACKET: usize = 65_535;

/// News of a task.
enum News {
    /// The proxy has answered.
    Dialled { port: u16, answer: Result<TcpStream, Refused> },
    /// A connection is over.
    Ended(u16),
    /// Whether the node is there, for a question for a name.
    Asked { packet: Vec<u8>, is_there: bool },
}

/// Serves one namespace.
pub(super) struct Door {
    proxy: Arc<Proxy>,
    tun: Arc<AsyncDevice>,
    v4: Ends,
    v6: Option<Ends>,
    sessions: Sessions,
    names: Names,
    datagrams: Datagrams,
    /// The flows of connections that are not completed yet.
    dialled: HashMap<u16, (TcpStream, Instant)>,
    questions: Arc<Semaphore>,
    /// Two for each connection at most, and one for each question: those are bounded.
    news: mpsc::UnboundedSender<News>,
}

/// Serves the namespace until its interface fails.
///
/// # Errors
/// When the interface fails.
pub(super) async fn serve(space: Space, proxy: Proxy) -> io::Result<()> {
    let (proxy, tun) = (Arc::new(proxy), Arc::new(AsyncDevice::new(space.tun)?));
    let places = Arc::new(Semaphore::new(sessions::MOST));
    for (listener, port) in space.loopback {
        tokio::spawn(forward(TcpListener::from_std(listener)?, port, places.clone()));
    }
    let (v4, listener) = opened(space.v4)?;
    let (v6, listener_v6) = space.v6.map(opened).transpose()?.unzip();
    let (news, mut heard) = mpsc::unbounded_channel();
    let mut door = Door {
        datagrams: Datagrams::new(proxy.clone(), tun.clone()),
        proxy,
        tun: tun.clone(),
        v4,
        v6,
        sessions: Sessions::default(),
        names: Names::default(),
        dialled: HashMap::new(),
        questions: Arc::new(Semaphore::new(MOST_QUESTIONS)),
        news,
    };
    let (mut buffer, mut sweep) = (vec![0; PACKET], interval(SWEEP_EVERY));
    loop {
        tokio::select! {
            length = tun.recv(&mut buffer) => door.on_packet(&mut buffer[..length?]).await,
            Some(news) = heard.recv() => door.on_news(news).await,
            accepted = listener.accept() => door.on_accepted(accepted),
            accepted = accept(listener_v6.as_ref()) => door.on_accepted(accepted),
            _ = sweep.tick() => door.sweep(Instant::now()),
        }
    }
}

fn opened(listening: Listening) -> io::Result<(Ends, TcpListener)> {
    Ok((listening.ends, TcpListener::from_std(listening.listener)?))
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

impl Door {
    async fn on_packet(&mut self, packet: &mut [u8]) {
        let Some(headers) = Headers::read(packet) else {
            return tracing::trace!("a packet that is neither TCP nor UDP");
        };
        match headers.protocol {
            Protocol::Tcp => self.on_tcp(&headers, packet).await,
            Protocol::Udp => self.on_udp(&headers, packet),
        }
    }

    async fn on_tcp(&mut self, headers: &Headers, packet: &mut [u8]) {
        let Some(ends) = self.ends(headers.to) else { return };
        match self.sessions.on_packet(&ends, headers, packet) {
            Verdict::Pass => self.send(packet).await,
            Verdict::Refuse => self.refuse(Refused::Connection, headers, packet).await,
            Verdict::Drop => {}
            Verdict::Ask(port) => match self.target(headers.to) {
                Some(target) => self.dial(port, target),
                None => {
                    self.on_news(News::Dialled { port, answer: Err(Refused::Connection) }).await
                }
            },
        }
    }

    fn ends(&self, to: SocketAddr) -> Option<Ends> {
        if to.is_ipv4() { Some(self.v4) } else { self.v6 }
    }

    fn dial(&self, port: u16, target: Target) {
        let (proxy, news) = (self.proxy.clone(), self.news.clone());
        tokio::spawn(async move {
            let answer = proxy.connect(&target).await;
            let _ = news.send(News::Dialled { port, answer });
        });
    }

    fn on_udp(&mut self, headers: &Headers, packet: &[u8]) {
        let (from, to) = (headers.from, headers.to);
        if to.port() == DNS && (to.ip() == RESOLVER || is_of_a_site(to.ip())) {
            return self.on_question(packet);
        }
        let Some(target) = self.target(to).filter(|_| !is_for_many(to.ip())) else { return };
        let stands = Some(to.ip()).filter(|ip| stands_for_a_name(*ip));
        let key = Key { from, stands };
        self.datagrams.send(Instant::now(), key, wanted(&target), headers.payload(packet));
    }

    /// A question for a name. It is answered only while the node is there, as all other connections are.
    fn on_question(&self, packet: &[u8]) {
        let Ok(place) = self.questions.clone().try_acquire_owned() else { return };
        let (proxy, news, packet) = (self.proxy.clone(), self.news.clone(), packet.to_vec());
        tokio::spawn(async move {
            let is_there = proxy.is_there().await;
            let _ = news.send(News::Asked { packet, is_there });
            drop(place);
        });
    }

    /// Where a program wants to go; `None` if that is no place.
    fn target(&mut self, to: SocketAddr) -> Option<Target> {
        let is_own =
            matches!(to.ip(), IpAddr::V4(ip) if ip.octets()[..3] == RESOLVER.octets()[..3]);
        if to.port() == 0 || is_own {
            return None;
        }
        if !stands_for_a_name(to.ip()) {
            return Some(to.into());
        }
        let name = self.names.name_of(to.ip())?;
        Some(Target { host: Host::Name(name.to_string()), port: to.port() })
    }

    async fn on_news(&mut self, news: News) {
        match news {
            News::Ended(port) => self.sessions.end(port),
            News::Asked { packet, is_there } => self.answer(&packet, is_there).await,
            News::Dialled { port, answer } => {
                let Some(mut opening) = self.sessions.answered(port) else { return };
                let Some(headers) = Headers::read(&opening) else { return };
                match answer {
                    Ok(flow) => {
                        self.dialled.insert(port, (flow, Instant::now()));
                        self.on_tcp_again(&headers, &mut opening).await;
                    }
                    Err(refused) => {
                        self.sessions.end(port);
                        self.refuse(refused, &headers, &opening).await;
                    }
                }
            }
        }
    }

    /// The packet that opens a connection has waited for the exit, and passes now.
    async fn on_tcp_again(&mut self, headers: &Headers, opening: &mut [u8]) {
        if let Some(ends) = self.ends(headers.to)
            && self.sessions.on_packet(&ends, headers, opening) == Verdict::Pass
        {
            self.send(opening).await;
        }
    }

    async fn answer(&mut self, packet: &[u8], is_there: bool) {
        let Some(headers) = Headers::read(packet) else { return };
        let answer = dns::answer(headers.payload(packet), is_there, &mut self.names);
        let answer = answer.and_then(|bytes| packet::datagram(headers.to, headers.from, &bytes));
        if let Some(answer) = answer {
            self.send(&answer).await;
        }
    }

    async fn refuse(&self, refused: Refused, headers: &Headers, packet: &[u8]) {
        let refusal = match refused {
            Refused::Connection => headers.reset(packet),
            Refused::Unreachable(why) => headers.unreachable(packet, why),
        };
        if let Some(refusal) = refusal {
            self.send(&refusal).await;
        }
    }

    /// A connection that the kernel has completed with us.
    fn on_accepted(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let (inside, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return tracing::debug!(%error, "a connection cannot be accepted"),
        };
        let is_ours = from.ip() == self.v4.far || self.v6.is_some_and(|ends| ends.far == from.ip());
        let flow = is_ours.then(|| self.dialled.remove(&from.port())).flatten();
        // Otherwise a program has connected to our listener itself, or was late.
        let Some((outside, _)) = flow else { return reset_on_close(&inside) };
        let news = self.news.clone();
        tokio::spawn(async move {
            carry(inside, outside).await;
            let _ = news.send(News::Ended(from.port()));
        });
    }

    async fn send(&self, packet: &[u8]) {
        if let Err(error) = self.tun.send(packet).await {
            tracing::debug!(%error, "the kernel refused a packet");
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.datagrams.sweep(now);
        let is_late = |since: Instant| now.saturating_duration_since(since) > COMPLETED_WITHIN;
        let late = self.dialled.extract_if(|_, (_, since)| is_late(*since));
        for (port, _) in late {
            self.sessions.end(port);
        }
    }
}

/// Carries bytes until both sides have ended, or one is reset; then the other one is, too.
async fn carry(mut inside: TcpStream, mut outside: TcpStream) {
    let _ = inside.set_nodelay(true);
    let copied = copy_bidirectional_with_sizes(&mut inside, &mut outside, BUFFER, BUFFER).await;
    if copied.is_err() {
        reset_on_close(&inside);
        reset_on_close(&outside);
    }
}

/// Leads connections to a port of the namespace's loopback addresses to that of this machine.
async fn forward(listener: TcpListener, port: u16, places: Arc<Semaphore>) {
    let Ok(inside_at) = listener.local_addr() else { return };
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = accept::or_pause(listener.accept().await, "a port of localhost").await;
        let Some((inside, _)) = accepted else { continue };
        tokio::spawn(async move {
            match TcpStream::connect((inside_at.ip(), port)).await {
                Ok(outside) => carry(inside, outside).await,
                Err(_) => reset_on_close(&inside),
            }
            drop(place);
        });
    }
}

/// Whether the address is that of a site's own name server: nobody else resolves its names, and it is not reached from
/// here. Programs that kept it from before ask ours.
fn is_of_a_site(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether datagrams there are for several machines of the local network.
fn is_for_many(ip: IpAddr) -> bool {
    ip.is_multicast() || ip.is_unspecified() || ip == Ipv4Addr::BROADCAST
}
