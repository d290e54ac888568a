//! Which user of this machine owns the far end of a loopback connection. Linux only.
//!
//! The kernel is asked by `sock_diag(7)` about the one socket with the connection's addresses:
//! one message there and one back, whatever the number of sockets. Where a sandbox forbids netlink,
//! the same is read from `/proc/net/tcp` and `tcp6`, line by line. The owner of a UDP socket is read from
//! `/proc/net/udp` and `udp6`, once for each association.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use socket2::{Domain, Protocol, Socket, Type};

/// The system's answer about a connection's far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// A process of the user with this uid holds it.
    Owned(u32),
    /// No process holds it any more. The kernel then shows the uid 0, which is wrong.
    Gone,
}

// From linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h.
const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const ENOENT: i32 = 2;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of a request: the header and the 56 bytes of `struct inet_diag_req_v2`.
const REQUEST: u8 = 72;
/// Length of an answer without attributes: the header and `struct inet_diag_msg`.
const ANSWER: usize = HEADER + 72;

/// A socket to the kernel, kept open: a node whose file descriptors are used up could not open one
/// for the client that waits.
#[derive(Debug, Default)]
pub(super) struct Netlink(Mutex<Option<Socket>>);

impl Netlink {
    /// Opens the socket. Where the system forbids it, each question fails.
    pub(super) fn open() -> Self {
        Self(Mutex::new(connect().ok()))
    }

    /// Asks for the socket whose own address is `client` and whose peer is `proxy`.
    ///
    /// It takes microseconds and does not wait: the kernel answers within the request.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub(super) fn ask(&self, client: SocketAddr, proxy: SocketAddr) -> io::Result<Answer> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // After an error the socket is not kept: an answer that comes late is to another question.
        let mut socket = kept.take().map_or_else(connect, Ok)?;
        socket.write_all(&request(client, proxy))?;
        let mut answer = [0; 512];
        let length = socket.read(&mut answer)?;
        *kept = Some(socket);
        drop(kept);
        parse(&answer[..length], client, proxy)
    }
}

/// An unconnected netlink socket sends to the kernel.
fn connect() -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    Socket::new(Domain::from(AF_NETLINK), kind, Some(Protocol::from(NETLINK_SOCK_DIAG)))
}

fn request(client: SocketAddr, proxy: SocketAddr) -> [u8; REQUEST as usize] {
    let mut bytes = [0; REQUEST as usize];
    let mut rest = &mut bytes[..];
    let mut put = |part: &[u8]| {
        // The parts are as long as the array: the test of the bytes would fail otherwise.
        let _ = rest.write_all(part);
    };
    let (client, proxy) = (canonical(client), canonical(proxy));
    put(&u32::from(REQUEST).to_ne_bytes());
    put(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(&NLM_F_REQUEST.to_ne_bytes());
    put(&[0; 8]);
    put(&[if client.is_ipv4() { AF_INET } else { AF_INET6 }, IPPROTO_TCP, 0, 0]);
    // The socket in any state.
    put(&u32::MAX.to_ne_bytes());
    put(&client.port().to_be_bytes());
    put(&proxy.port().to_be_bytes());
    put(&words(client.ip()));
    put(&words(proxy.ip()));
    // Any interface; no cookie, as the socket is not known yet.
    put(&[0; 4]);
    put(&[0xff; 8]);
    bytes
}

/// An address in the four words of `struct inet_diag_sockid`.
fn words(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut words = [0; 16];
            words[..4].copy_from_slice(&ip.octets());
            words
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn parse(bytes: &[u8], client: SocketAddr, proxy: SocketAddr) -> io::Result<Answer> {
    let garbled = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is garbled");
    let kind = u16::from_ne_bytes(field(bytes, 4).ok_or_else(garbled)?);
    if kind == NLMSG_ERROR {
        let code = i32::from_ne_bytes(field(bytes, HEADER).ok_or_else(garbled)?);
        return match -code {
            ENOENT => Ok(Answer::Gone),
            code => Err(io::Error::from_raw_os_error(code)),
        };
    }
    if kind != SOCK_DIAG_BY_FAMILY || bytes.len() < ANSWER {
        return Err(garbled());
    }
    let at = |offset: usize| {
        SocketAddr::new(
            ip_at(bytes, bytes[HEADER], HEADER + 8 + 16 * offset),
            u16::from_be_bytes([bytes[HEADER + 4 + 2 * offset], bytes[HEADER + 5 + 2 * offset]]),
        )
    };
    // Without a connection the kernel may answer with a listener on the client's port.
    if canonical(at(0)) != canonical(client) || canonical(at(1)) != canonical(proxy) {
        return Ok(Answer::Gone);
    }
    let uid = u32::from_ne_bytes(field(bytes, ANSWER - 8).ok_or_else(garbled)?);
    let inode = u32::from_ne_bytes(field(bytes, ANSWER - 4).ok_or_else(garbled)?);
    Ok(owned(uid, inode.into()))
}

/// Without an inode no process has the socket, and its uid is not valid.
fn owned(uid: u32, inode: u64) -> Answer {
    if inode == 0 { Answer::Gone } else { Answer::Owned(uid) }
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}

fn ip_at(bytes: &[u8], family: u8, offset: usize) -> IpAddr {
    let octets: [u8; 16] = field(bytes, offset).unwrap_or_default();
    match octets {
        [a, b, c, d, ..] if family == AF_INET => Ipv4Addr::new(a, b, c, d).into(),
        octets => Ipv6Addr::from(octets).into(),
    }
}

/// Reads the same from `/proc/net`. It takes time with the number of the machine's sockets, so the
/// caller runs it where it may block.
///
/// # Errors
/// When neither file can be read.
pub(super) fn by_proc(client: SocketAddr, proxy: SocketAddr) -> io::Result<Answer> {
    let (client, proxy) = (canonical(client), canonical(proxy));
    let mut found = None;
    read_lines(["/proc/net/tcp", "/proc/net/tcp6"], |line| {
        found = found.or_else(|| owner_in(line, client, proxy));
        found.is_none()
    })?;
    Ok(found.unwrap_or(Answer::Gone))
}

/// Who owns the UDP socket that sends from `client` to `proxy`. If sockets of several users share the
/// port, the system does not tell which one sent, and the answer is `Gone`.
///
/// # Errors
/// When neither file can be read.
pub(super) fn datagrams_by_proc(client: SocketAddr, proxy: SocketAddr) -> io::Result<Answer> {
    let (client, proxy) = (canonical(client), canonical(proxy));
    let mut owners = Vec::new();
    read_lines(["/proc/net/udp", "/proc/net/udp6"], |line| {
        owners.extend(datagram_owner_in(line, client, proxy));
        true
    })?;
    owners.dedup();
    Ok(if let [owner] = owners[..] { owner } else { Answer::Gone })
}

/// Reads the lines of these files until `each` returns false.
fn read_lines(names: [&str; 2], mut each: impl FnMut(&str) -> bool) -> io::Result<()> {
    let mut readable = false;
    let mut unreadable = None;
    for name in names {
        match std::fs::File::open(name) {
            Ok(file) => {
                readable = true;
                for line in BufReader::new(file).lines() {
                    if !each(&line?) {
                        return Ok(());
                    }
                }
            }
            // A system without IPv6 lacks the second one.
            Err(error) => unreadable = Some(error),
        }
    }
    match unreadable {
        Some(error) if !readable => Err(error),
        _ => Ok(()),
    }
}

/// What a line of `/proc/net/tcp` says, if it is about this socket.
fn owner_in(line: &str, client: SocketAddr, proxy: SocketAddr) -> Option<Answer> {
    let (own, peer, owner) = socket_in(line)?;
    (own == client && peer == proxy).then_some(owner)
}

/// What a line of `/proc/net/udp` says, if it is about a socket that may send from `client` to `proxy`:
/// one on that port, of that address or of any, with that peer or without one.
fn datagram_owner_in(line: &str, client: SocketAddr, proxy: SocketAddr) -> Option<Answer> {
    let (own, peer, owner) = socket_in(line)?;
    let may_send = own.port() == client.port()
        && (own.ip() == client.ip() || own.ip().is_unspecified())
        && (peer == proxy || peer.port() == 0);
    may_send.then_some(owner)
}

/// The addresses of a line's socket, and its owner.
fn socket_in(line: &str) -> Option<(SocketAddr, SocketAddr, Answer)> {
    let mut fields = line.split_ascii_whitespace();
    let own = hex_address(fields.nth(1)?)?;
    let peer = hex_address(fields.next()?)?;
    let uid = fields.nth(4)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some((canonical(own), canonical(peer), owned(uid, inode)))
}

/// `0100007F:1F90`: the address in words of the machine's byte order, the port as a number.
fn hex_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = [0; 16];
    let words = ip.len() / 8;
    for word in 0..words.min(4) {
        let value = u32::from_str_radix(ip.get(8 * word..8 * word + 8)?, 16).ok()?;
        octets[4 * word..4 * word + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let family = if words == 1 { AF_INET } else { AF_INET6 };
    Some(SocketAddr::new(ip_at(&octets, family, 0), port))
}

/// The address, with an IPv4-mapped one as IPv4, and without a scope.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Asks in both ways, which must agree.
    fn asked(client: SocketAddr, proxy: SocketAddr) -> Answer {
        let by_proc = by_proc(client, proxy).unwrap();
        match Netlink::open().ask(client, proxy) {
            Ok(answer) => assert_eq!(answer, by_proc),
            Err(error) => println!("skipped netlink, which this system forbids: {error}"),
        }
        by_proc
    }

    fn own_uid() -> u32 {
        use std::os::unix::fs::MetadataExt as _;
        tempfile::tempfile().unwrap().metadata().unwrap().uid()
    }

    #[test]
    fn the_owner_of_a_connection_is_found_in_both_families() {
        for (listen, connect) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
            ("127.0.0.1:0", "::ffff:127.0.0.1"),
            ("[::]:0", "::ffff:127.0.0.1"),
        ] {
            let Ok(listener) = TcpListener::bind(listen) else {
                println!("skipped {listen}: this machine has no IPv6");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let client = TcpStream::connect((connect, port)).unwrap();
            let (server, from) = listener.accept().unwrap();
            let answer = asked(from, server.local_addr().unwrap());
            assert_eq!(answer, Answer::Owned(own_uid()), "{listen}");
            drop(client);
        }
    }

    #[test]
    fn a_closed_client_is_nobody_and_never_root() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, from) = listener.accept().unwrap();
        drop(client);
        assert_eq!(asked(from, server.local_addr().unwrap()), Answer::Gone);
    }

    #[test]
    fn a_listener_on_the_clients_port_is_not_the_client() {
        let bystander = TcpListener::bind("127.0.0.1:0").unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        assert_eq!(asked(bystander.local_addr().unwrap(), nowhere), Answer::Gone);
    }

    #[test]
    fn the_owner_of_a_udp_socket_is_found_and_no_other_is() {
        use std::net::UdpSocket;
        let proxy = UdpSocket::bind("127.0.0.1:0").unwrap();
        let proxy = proxy.local_addr().unwrap();
        for bind in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let Ok(client) = UdpSocket::bind(bind) else {
                println!("skipped {bind}: this machine has no IPv6");
                continue;
            };
            let from = ([127, 0, 0, 1], client.local_addr().unwrap().port()).into();
            let owned = Answer::Owned(own_uid());
            assert_eq!(datagrams_by_proc(from, proxy).unwrap(), owned, "{bind}");
            if client.connect(proxy).is_ok() {
                assert_eq!(datagrams_by_proc(from, proxy).unwrap(), owned, "{bind}");
                let other = ([127, 0, 0, 1], 9).into();
                assert_eq!(datagrams_by_proc(from, other).unwrap(), Answer::Gone, "{bind}");
            }
            drop(client);
            assert_eq!(datagrams_by_proc(from, proxy).unwrap(), Answer::Gone, "{bind}");
        }
    }

    #[test]
    fn a_line_of_proc_is_read_as_the_kernel_writes_it() {
        let line = "   1: 0100007F:9C40 0100007F:0438 01 00000000:00000000 00:00000000 00000000  \
                    1000        0 31337 1 0000000000000000 20 4 30 10 -1";
        let line = if cfg!(target_endian = "little") {
            line.to_owned()
        } else {
            line.replace("0100007F", "7F000001")
        };
        let (client, proxy) =
            ("127.0.0.1:40000".parse().unwrap(), "127.0.0.1:1080".parse().unwrap());
        assert_eq!(owner_in(&line, client, proxy), Some(Answer::Owned(1000)));
        assert_eq!(owner_in(&line, proxy, client), None);
        assert_eq!(owner_in("  sl  local_address rem_address", client, proxy), None);
        let orphan = line.replace(" 1000 ", " 0 ").replace("31337", "0");
        assert_eq!(owner_in(&orphan, client, proxy), Some(Answer::Gone));
    }

    #[test]
    fn a_request_is_as_long_as_it_says_and_ends_with_no_cookie() {
        let at = SocketAddr::from(([127, 0, 0, 1], 9));
        let bytes = request(at, at);
        assert_eq!(u32::from_ne_bytes(field(&bytes, 0).unwrap()) as usize, bytes.len());
        assert_eq!(bytes[64..], [0xff; 8]);
    }

    #[test]
    fn a_garbled_answer_is_an_error() {
        let at = SocketAddr::from(([127, 0, 0, 1], 9));
        for bytes in [&[][..], &[0; HEADER], &[0xff; ANSWER - 1], &[7; ANSWER]] {
            assert!(parse(bytes, at, at).is_err(), "{bytes:?}");
        }
    }
}
