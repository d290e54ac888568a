//! Many flows at once: a process that downloads so many files at the same time.

use std::{cell::RefCell, io, net::SocketAddr, rc::Rc, time::Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::LocalSet,
};

/// The first argument of this process.
pub(super) const FLOWS: &str = "flows";

/// Bytes read at once.
const BLOCK: usize = 256 << 10;

/// The longest head of an answer.
const HEAD: usize = 4096;

/// Downloads `/BYTES` from a server in COUNT flows, through a SOCKS5 proxy if there is one; prints the seconds.
pub(super) fn run(arguments: &[String]) {
    let [proxy, server, count, bytes] = arguments else { panic!("{arguments:?}") };
    let proxy: Option<SocketAddr> = proxy.parse().ok();
    let (server, bytes) = (server.parse().unwrap(), bytes.parse().unwrap());
    let block = Rc::new(RefCell::new(vec![0; BLOCK]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (tasks, began) = (LocalSet::new(), Instant::now());
    for _ in 0..count.parse().unwrap() {
        let block = block.clone();
        tasks.spawn_local(async move { download(proxy, server, bytes, &block).await.unwrap() });
    }
    runtime.block_on(tasks);
    println!("{}", began.elapsed().as_secs_f64());
}

async fn download(
    proxy: Option<SocketAddr>,
    server: SocketAddr,
    bytes: usize,
    block: &RefCell<Vec<u8>>,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(proxy.unwrap_or(server)).await?;
    if proxy.is_some() {
        socks(&mut stream, server).await?;
    }
    let request = format!("GET /{bytes} HTTP/1.0\r\nHost: bench\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(head.len() < HEAD, "no answer of HTTP");
        head.push(stream.read_u8().await?);
    }
    let mut left = bytes;
    while left > 0 {
        stream.readable().await?;
        match stream.try_read(&mut block.borrow_mut()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => left -= read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// SOCKS5, with the user `direct` where the proxy wants one (RFC 1928, RFC 1929).
async fn socks(stream: &mut TcpStream, to: SocketAddr) -> io::Result<()> {
    let SocketAddr::V4(to) = to else { panic!("the hosts have IPv4 addresses") };
    stream.write_all(&[5, 2, 0, 2]).await?;
    let mut method = [0; 2];
    stream.read_exact(&mut method).await?;
    if method[1] == 2 {
        stream.write_all(b"\x01\x06direct\x05bench").await?;
        stream.read_exact(&mut [0; 2]).await?;
    }
    let mut request = vec![5, 1, 0, 1];
    request.extend(to.ip().octets());
    request.extend(to.port().to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await?;
    assert_eq!(reply[1], 0, "SOCKS refused: {reply:?}");
    Ok(())
}
