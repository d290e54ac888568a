//! What a client writes to the proxy's port: SOCKS and HTTP, over a real connection.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Fuzz, answer};
use crate::{
    entry::{Config, Entry},
    flow::{
        Association, AssociationRequest, BoxFuture, DatagramDrops, DatagramSink, Flow, FlowDialer,
        FlowRequest, Refusal, RefusalKind, Target,
    },
    identity::NodeName,
};

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"CONNECT ",
    b"Host: ",
    b"Content-Length: 0\r\n",
    b"%00",
    b"@",
    b"[::1]",
    b"Transfer-Encoding: chunked\r\n",
    b"Proxy-Authorization: Basic YTpi\r\n",
    b"HTTP/1.1",
    b"\x05\x01\x00",
];

struct RefusesAll;

impl FlowDialer for RefusesAll {
    fn dial(&self, request: FlowRequest) -> BoxFuture<'_, Result<Box<dyn Flow>, Refusal>> {
        let target = request.target.to_string();
        assert!(!target.contains(char::is_control), "{target:?} reaches the log");
        Box::pin(async { Err(Refusal::new(RefusalKind::Policy, "no")) })
    }

    fn associate(
        self: Arc<Self>,
        _: AssociationRequest,
        _: Arc<dyn DatagramSink>,
    ) -> Arc<dyn Association> {
        self
    }

    fn served(&self, _: Option<&NodeName>) -> Vec<String> {
        vec!["a.test".to_owned(), "192.0.2.0/24".to_owned()]
    }

    fn datagram_drops(&self) -> Arc<DatagramDrops> {
        Arc::default()
    }
}

impl DatagramSink for RefusesAll {
    fn deliver(&self, _: &Target, _: &[u8]) {}
    fn refused(&self, _: &Target, _: Refusal) {}
}

impl Association for RefusesAll {
    fn refusal(&self) -> BoxFuture<'_, Refusal> {
        Box::pin(async { Refusal::new(RefusalKind::Policy, "no") })
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 10] = [
        b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00",
        b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50",
        b"\x05\x02\x00\x02\x01\x01a\x01b\x05\x01\x00\x03\x06a.test\x00\x50",
        b"\x05\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb",
        b"\x04\x01\x00\x50\x7f\x00\x00\x01user\x00",
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00a.test\x00",
        b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
        b"GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
        b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /proxy.pac HTTP/1.0\r\n\r\n",
    ];
    texts.map(<[u8]>::to_vec).to_vec()
}

#[test]
fn mutated_client_requests_are_answered_or_closed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let proxy = runtime.block_on(async {
        let config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
        let entry = Entry::bind(config, Arc::new(RefusesAll)).await.unwrap();
        let proxy = entry.local_addr();
        tokio::spawn(entry.run(stop.clone(), Duration::ZERO));
        proxy
    });
    Fuzz::new("client", seeds()).with_words(WORDS).run(|bytes| {
        runtime.block_on(answer(proxy, bytes));
    });
    stop.cancel();
}
