//! What the entry writes to the log. One test needs the process-wide subscriber, so they stand alone.

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

/// On this thread, and with it all tasks of a test; not the libraries' `log` messages.
fn on_this_thread(filter: &str, log: &Log) -> tracing::subscriber::DefaultGuard {
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_default(subscriber)
}

#[tokio::test]
async fn at_info_the_log_names_the_flow_and_no_destination() {
    for (filter, named) in [("info", false), ("info,ronproxy::destination=debug", true)] {
        let log = Log::default();
        let _subscriber = on_this_thread(filter, &log);
        let (proxy, origin) = (Proxy::start().await, echo().await);
        for destination in [origin.to_string(), "policy.refused.test:80".to_owned()] {
            let mut client = proxy.connect().await;
            client.send(format!("CONNECT {destination} HTTP/1.1\r\n\r\n").as_bytes()).await;
            assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 "));
        }
        proxy.shutdown.cancel();
        proxy.running.await.unwrap();
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("flow{label=00000000}"), "{text}");
        assert!(text.contains("flow open") && text.contains("flow refused"), "{text}");
        for destination in [&origin.to_string(), "policy.refused.test", "the test says so"] {
            assert_eq!(text.contains(destination), named, "{filter}, {destination}: {text}");
        }
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
    let span = format!("flow{{label=00000000}}:to{{target={origin}}}");
    assert!(text.contains(&span) && text.contains("flow open"), "{text}");
    assert!(text.contains("fast_socks5"), "the libraries' messages are not captured: {text}");
    for secret in ["secret-guess", "YW5uOm9uZQ", "[115, 101, 99, 114, 101, 116", "[111, 110, 101]"]
    {
        assert!(!text.contains(secret), "{secret} is in the log: {text}");
    }
}
