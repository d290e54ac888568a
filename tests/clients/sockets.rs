//! Clients and servers of plain bytes.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{bytes::Stream, tools::LIMIT};

/// A SOCKS5 tunnel through `proxy` to `target`. A refusal is an error that names the reply code.
pub async fn tunnel(proxy: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let opening = async {
        let SocketAddr::V4(target) = target else { panic!("an IPv4 target") };
        let mut stream = TcpStream::connect(proxy).await?;
        stream.write_all(&[5, 1, 0]).await?;
        let mut method = [0; 2];
        stream.read_exact(&mut method).await?;
        assert_eq!(method, [5, 0]);
        let (ip, port) = (target.ip().octets(), target.port().to_be_bytes());
        stream.write_all(&[&[5, 1, 0, 1][..], &ip, &port].concat()).await?;
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).await?;
        match reply[1] {
            0 => Ok(stream),
            code => Err(io::Error::other(format!("SOCKS reply {code}"))),
        }
    };
    timeout(LIMIT, opening).await.expect("the proxy hangs")
}

/// Sends `word` and reads it back.
pub async fn ask_echo(stream: &mut TcpStream, word: &str) -> io::Result<()> {
    let mut answer = vec![0; word.len()];
    let asking = async {
        stream.write_all(word.as_bytes()).await?;
        stream.read_exact(&mut answer).await
    };
    timeout(LIMIT, asking).await.expect("the echo hangs")?;
    assert_eq!(answer, word.as_bytes());
    Ok(())
}

/// A server that sends back what it gets.
pub async fn echo() -> SocketAddr {
    serve(|mut tcp| async move {
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// A server that accepts and never answers; the count is that of its open connections.
pub async fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let counted = open.clone();
    let address = serve(move |mut tcp| {
        let open = counted.clone();
        async move {
            open.fetch_add(1, Ordering::Relaxed);
            let _ = tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await;
            open.fetch_sub(1, Ordering::Relaxed);
        }
    })
    .await;
    (address, open)
}

/// A server that sends `len` bytes to whoever connects; the count is what it got rid of.
pub async fn source(len: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let gone = Arc::new(AtomicUsize::new(0));
    let counted = gone.clone();
    let address = serve(move |mut tcp| {
        let gone = counted.clone();
        async move {
            for block in Stream::of(len) {
                if tcp.write_all(&block).await.is_err() {
                    return;
                }
                gone.fetch_add(block.len(), Ordering::Relaxed);
            }
        }
    })
    .await;
    (address, gone)
}

async fn serve<F>(handle: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(handle(tcp));
        }
    });
    address
}
