//! The resolver against a name server of our own, on loopback.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::net::UdpSocket;

use super::*;

/// A name server that answers A questions for `*.test` with 192.0.2.1, says of others that they do
/// not exist, and is silent about `*.silent`. It counts questions, and shows the last name.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    names: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (asked, names) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (count, seen) = (asked.clone(), names.clone());
        tokio::spawn(async move {
            let mut buf = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut buf).await {
                count.fetch_add(1, Ordering::Relaxed);
                let (name, end) = question(&buf[..len]);
                seen.lock().unwrap().push(name.clone());
                if !name.ends_with(".silent.") {
                    let _ = socket.send_to(&answer(&buf[..len], &name, end), from).await;
                }
            }
        });
        Self { address, asked, names }
    }

    fn resolver(&self, folder: &Path) -> SystemResolver {
        let servers = folder.join("resolv.conf");
        fs::write(&servers, "nameserver 127.0.0.1\nsearch test example.test\n").unwrap();
        let hosts = folder.join("hosts");
        fs::write(
            &hosts,
            "192.0.2.9 intranet Printer.home # a comment\n2001:db8::9 intranet.\nnonsense here\n",
        )
        .unwrap();
        SystemResolver::of(Files { servers, hosts, port: Some(self.address.port()) })
    }
}

/// The name in a message's question, in lower case, and where the question ends.
fn question(message: &[u8]) -> (String, usize) {
    let (mut name, mut at) = (String::new(), 12);
    while message[at] > 0 {
        let len = usize::from(message[at]);
        name += &String::from_utf8_lossy(&message[at + 1..=at + len]).to_lowercase();
        name.push('.');
        at += 1 + len;
    }
    (name, at + 5)
}

fn answer(message: &[u8], name: &str, end: usize) -> Vec<u8> {
    let is_a = message[end - 4..end] == [0, 1, 0, 1];
    let exists = name.ends_with(".test.");
    let answers = u8::from(exists && is_a);
    let mut reply = message[..2].to_vec();
    reply.extend([0x81, if exists { 0x80 } else { 0x83 }, 0, 1, 0, answers, 0, 0, 0, 0]);
    reply.extend(&message[12..end]);
    if answers > 0 {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    }
    reply
}

#[tokio::test]
async fn names_are_asked_for_once_and_kept() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let resolver = server.resolver(folder.path());
    let expected: IpAddr = "192.0.2.1".parse().unwrap();
    assert_eq!(resolver.resolve("www.test").await.unwrap(), [expected]);
    let asked = server.asked.load(Ordering::Relaxed);
    assert_eq!(resolver.resolve("www.test").await.unwrap(), [expected]);
    assert_eq!(server.asked.load(Ordering::Relaxed), asked);
}

#[tokio::test]
async fn the_search_list_is_never_applied() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let resolver = server.resolver(folder.path());
    for name in ["www", "a.b"] {
        let error = resolver.resolve(name).await.unwrap_err();
        assert!(matches!(error, ResolveError::NotFound { .. }), "{error}");
    }
    let names = server.names.lock().unwrap();
    assert!(names.iter().all(|name| name == "www." || name == "a.b."), "{names:?}");
}

#[tokio::test]
async fn the_hosts_file_goes_first_and_is_read_again_when_it_changes() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let resolver = server.resolver(folder.path());
    let expected: IpAddr = "192.0.2.9".parse().unwrap();
    let both = [expected, "2001:db8::9".parse().unwrap()];
    assert_eq!(resolver.resolve("intranet").await.unwrap(), both);
    assert_eq!(resolver.resolve("printer.home").await.unwrap(), [expected]);
    assert_eq!(server.asked.load(Ordering::Relaxed), 0);
    assert!(SystemResolver::new().resolve("localhost").await.unwrap()[0].is_loopback());
    let changed = resolver.files.changed();
    let later = SystemTime::now() + Duration::from_secs(60);
    let hosts = fs::File::options().write(true).open(folder.path().join("hosts")).unwrap();
    hosts.set_modified(later).unwrap();
    assert_ne!(resolver.files.changed(), changed);
}

#[tokio::test]
async fn silent_names_do_not_delay_others_and_may_be_given_up() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let resolver = Arc::new(server.resolver(folder.path()));
    let silent: Vec<_> = (0..64)
        .map(|n| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.resolve(&format!("{n}.silent")).await })
        })
        .collect();
    let began = std::time::Instant::now();
    while server.names.lock().unwrap().iter().filter(|n| n.ends_with(".silent.")).count() < 64 {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for n in 0..20 {
        let began = std::time::Instant::now();
        resolver.resolve(&format!("{n}.test")).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    for lookup in &silent[..32] {
        lookup.abort();
    }
    for lookup in silent.into_iter().skip(32) {
        let error = lookup.await.unwrap().unwrap_err();
        assert!(matches!(error, ResolveError::TimedOut(_)), "{error}");
    }
}

#[test]
fn the_first_three_name_servers_count() {
    let text = "# a comment\nnameserver 192.0.2.1\nnameserver\n nameserver 2001:db8::1 # two\n\
        search a.test\nnameservers 192.0.2.8\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
    let expected: [IpAddr; 3] =
        ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
    assert_eq!(name_servers(text).collect::<Vec<IpAddr>>(), expected);
}
