//! A small web server, and clients written by hand.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use super::overlay::PATIENCE;

pub const PAGE: &str = "hello from behind the exit\n";

/// Serves the page on loopback, to everyone, until the test's process ends.
pub fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that goes away is no concern of the server.
            thread::spawn(move || answer(stream?));
        }
    });
    address
}

fn answer(stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close", PAGE.len());
    write!(reader.get_mut(), "{head}\r\n\r\n{PAGE}")
}

/// A SOCKS5 tunnel (RFC 1928) through `proxy` to `target`.
pub fn tunnel(proxy: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(target) = target else { panic!("an IPv4 target") };
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[5, 1, 0])?;
    let mut method = [0; 2];
    stream.read_exact(&mut method)?;
    assert_eq!(method, [5, 0]);
    let request = [&[5, 1, 0, 1][..], &target.ip().octets(), &target.port().to_be_bytes()].concat();
    stream.write_all(&request)?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    match reply[1] {
        0 => Ok(stream),
        code => Err(io::Error::other(format!("SOCKS reply {code}"))),
    }
}

/// Fetches the page over an open connection.
pub fn page_over(stream: &mut TcpStream, target: SocketAddr) -> io::Result<String> {
    write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| io::Error::other(format!("no answer: {answer:?}")))
}

/// Fetches the page through `proxy`.
pub fn fetch(proxy: SocketAddr, target: SocketAddr) -> io::Result<String> {
    page_over(&mut tunnel(proxy, target)?, target)
}
