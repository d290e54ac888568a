//! What the entry writes to the log. It needs the process-wide subscriber, so it stands alone.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]

#[path = "entry_clients/support.rs"]
#[expect(dead_code, reason = "shared with the other tests, which use the rest")]
mod support;

use std::{
    io,
    sync::{Arc, Mutex},
};

use support::{Proxy, echo};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_most_talkative_log_names_the_flow_and_no_password() {
    let log = Log::default();
    let writer = log.clone();
    // This also takes the messages of libraries that write through the `log` crate.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let (proxy, origin) = (Proxy::with_users().await, echo().await);
    for password in ["one", "secret-guess"] {
        let mut client = proxy.connect().await;
        let length = char::from(u8::try_from(password.len()).unwrap());
        client.send(format!("\x05\x01\x02\x01\x03ann{length}{password}").as_bytes()).await;
        client.expect(&[5, 2, 1, u8::from(password != "one")]).await;
    }
    let mut client = proxy.connect().await;
    let request = format!(
        "CONNECT {origin} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic YW5uOm9uZQ==\r\n\r\n"
    );
    client.send(request.as_bytes()).await;
    assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    drop(client);
    proxy.shutdown.cancel();
    proxy.running.await.unwrap();

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let span = format!("flow{{target={origin} label=00000000}}");
    assert!(text.contains(&span) && text.contains("flow open"), "{text}");
    assert!(text.contains("fast_socks5"), "the libraries' messages are not captured: {text}");
    for secret in ["secret-guess", "YW5uOm9uZQ", "[115, 101, 99, 114, 101, 116", "[111, 110, 101]"]
    {
        assert!(!text.contains(secret), "{secret} is in the log: {text}");
    }
}
