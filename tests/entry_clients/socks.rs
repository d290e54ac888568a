//! SOCKS by raw bytes.

use std::time::Duration;

use ronproxy::internals::entry::{Config, User};

use crate::support::{KINDS, Proxy, config, echo};

fn socks5_request(command: u8, host: &str, port: u16) -> Vec<u8> {
    let mut bytes = vec![5, command, 0, 3, u8::try_from(host.len()).unwrap()];
    bytes.extend(host.as_bytes());
    bytes.extend(port.to_be_bytes());
    bytes
}

#[tokio::test]
async fn bytes_sent_ahead_of_the_reply_arrive_and_half_close_is_passed_on() {
    use tokio::io::AsyncWriteExt;
    let (proxy, origin) = (Proxy::start().await, echo().await);
    let mut socks5 = proxy.connect().await;
    let mut hello = vec![5, 1, 0];
    hello.extend(socks5_request(1, "origin.test", origin.port()));
    hello.extend(b"early");
    socks5.send(&hello).await;
    socks5.expect(&[5, 0, 5, 0, 0, 1, 127, 0, 0, 1]).await;
    socks5.expect(&proxy.addr.port().to_be_bytes()).await;
    let mut socks4 = proxy.connect().await;
    let port = origin.port().to_be_bytes();
    socks4.send(&[&[4, 1], &port[..], b"\x7f\0\0\x01me\0early"].concat()).await;
    socks4.expect(&[0, 90, 0, 0, 0, 0, 0, 0]).await;
    for mut client in [socks5, socks4] {
        client.send(b" and late").await;
        client.0.shutdown().await.unwrap();
        assert_eq!(client.rest().await, b"early and late");
    }
}

#[tokio::test]
async fn every_refusal_reaches_a_socks_client_as_its_code() {
    let proxy = Proxy::start().await;
    for (kind, code) in KINDS.into_iter().zip([2, 4, 5, 4, 6, 1, 3, 1, 1, 1]) {
        let host = format!("{}.refused.test", kind.name());
        let mut client = proxy.connect().await;
        client.send(&[5, 1, 0]).await;
        client.expect(&[5, 0]).await;
        client.send(&socks5_request(1, &host, 80)).await;
        client.expect(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await;
        assert_eq!(client.rest().await, b"", "{host}");
        let mut client = proxy.connect().await;
        client.send(format!("\x04\x01\0\x50\0\0\0\x01\0{host}\0").as_bytes()).await;
        assert_eq!(client.rest().await, [0, 91, 0, 0, 0, 0, 0, 0], "{host}");
    }
}

#[tokio::test]
async fn bind_is_not_supported() {
    let proxy = Proxy::start().await;
    for command in [2, 9] {
        let mut client = proxy.connect().await;
        client.send(&[5, 1, 0]).await;
        client.expect(&[5, 0]).await;
        client.send(&socks5_request(command, "origin.test", 80)).await;
        assert_eq!(client.rest().await, [5, 7, 0, 1, 0, 0, 0, 0, 0, 0], "command {command}");
    }
    let mut client = proxy.connect().await;
    client.send(b"\x04\x02\0\x50\x7f\0\0\x01\0").await;
    assert_eq!(client.rest().await, [0, 91, 0, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn an_ipv6_destination_is_passed_on_as_it_is() {
    let proxy = Proxy::start().await;
    let mut client = proxy.connect().await;
    // Port 1 on ::1: refused or unreachable, but dialed.
    client.send(&[&[5, 1, 0, 5, 1, 0, 4][..], &[0; 15], &[1, 0, 1]].concat()).await;
    client.expect(&[5, 0, 5]).await;
    assert_eq!(proxy.last_dialed().target.to_string(), "[::1]:1");
}

#[tokio::test]
async fn a_wrong_password_is_answered_with_a_failure() {
    let proxy = Proxy::with_users().await;
    let mut client = proxy.connect().await;
    client.send(b"\x05\x02\x00\x02").await;
    client.expect(&[5, 2]).await;
    client.send(b"\x01\x03ann\x03two").await;
    assert_eq!(client.rest().await, [1, 1]);
    let mut client = proxy.connect().await;
    client.send(b"\x05\x01\x00").await;
    assert_eq!(client.rest().await, [5, 0xff]);
}

#[tokio::test]
async fn a_wrong_option_in_a_user_name_is_refused() {
    let proxy = Proxy::start().await;
    let mut client = proxy.connect().await;
    client.send(b"\x05\x01\x02\x01\x08exit=MIT\x00").await;
    assert_eq!(client.rest().await, [5, 2, 1, 1]);
    let mut client = proxy.connect().await;
    client.send(b"\x04\x01\0\x50\x7f\0\0\x01exit=MIT\0").await;
    assert_eq!(client.rest().await, [0, 91, 0, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn any_user_name_and_password_will_do_where_none_is_needed() {
    let (proxy, origin) = (Proxy::start().await, echo().await);
    let long = [b'x'; 255];
    // Java sends the login name, proxychains a random one, others nothing or Latin-1.
    let credentials: [(&[u8], &[u8]); 7] = [
        (b"ann", b""),
        (b"ann", b"secret"),
        (b"", b""),
        (b"session=7", b"0"),
        (b"J\xf6rg", b"\xff\0"),
        (&long, &long),
        (b"hint=loss", b"x"),
    ];
    for (user, password) in credentials {
        let mut client = proxy.connect().await;
        client.send(&[5, 2, 0, 2]).await;
        client.expect(&[5, 2]).await;
        let length = |part: &[u8]| u8::try_from(part.len()).unwrap();
        let exchange = [&[1, length(user)], user, &[length(password)], password].concat();
        client.send(&exchange).await;
        client.expect(&[1, 0]).await;
        client.send(&socks5_request(1, "origin.test", origin.port())).await;
        client.expect(&[5, 0]).await;
        let hint = proxy.last_dialed().hint.map(|hint| hint.to_string());
        assert_eq!(hint.as_deref(), (user == b"hint=loss").then_some("loss"), "{user:?}");
        assert_eq!(proxy.last_dialed().user, None);
    }
    let port = origin.port().to_be_bytes();
    for user in [&b"ann"[..], b"J\xf6rg", b"a=b", &[b'x'; 256]] {
        let mut client = proxy.connect().await;
        client.send(&[&[4, 1], &port[..], b"\x7f\0\0\x01", user, b"\0"].concat()).await;
        client.expect(&[0, 90]).await;
    }
}

#[tokio::test]
async fn a_configured_user_may_send_the_name_in_latin_1() {
    let user = User { name: "jörg".to_owned(), password: "größe".to_owned() };
    let proxy = Proxy::with(Config { users: vec![user], ..config() }, Duration::ZERO).await;
    for (name, password) in [("jörg".as_bytes(), "größe".as_bytes()), (b"j\xf6rg", b"gr\xf6\xdfe")]
    {
        let mut client = proxy.connect().await;
        let length = |part: &[u8]| u8::try_from(part.len()).unwrap();
        client.send(&[5, 1, 2]).await;
        client.expect(&[5, 2]).await;
        client.send(&[&[1, length(name)], name, &[length(password)], password].concat()).await;
        client.expect(&[1, 0]).await;
    }
}

#[tokio::test]
async fn no_authentication_is_agreed_on_where_no_user_name_is_offered() {
    let proxy = Proxy::start().await;
    for methods in [&[0][..], &[0, 1], &[1, 0, 0x80], &[0xfe, 0]] {
        let mut client = proxy.connect().await;
        let count = u8::try_from(methods.len()).unwrap();
        client.send(&[&[5, count], methods].concat()).await;
        client.expect(&[5, 0]).await;
    }
}
