//! Real handshakes over loopback: who gets through, and as what.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use noq::crypto::rustls::{QuicClientConfig, QuicServerConfig};

use super::{
    test_support::{Overlay, live, real_now},
    *,
};

const ALL: &[&[u8]] = &[ALPN_LINK, ALPN_LANE, ALPN_JOIN, ALPN_RENEW];
const MEMBERS: &[&[u8]] = &[ALPN_LINK, ALPN_LANE];

#[tokio::test]
async fn members_meet_as_themselves() {
    let overlay = Overlay::new();
    let (mit, utah) = (overlay.node("mit", real_now()), overlay.node("utah", real_now()));
    for (alpn, expected) in [
        (ALPN_LINK, Accepted::Link(utah.peer().clone())),
        (ALPN_LANE, Accepted::Lane(utah.peer().clone())),
    ] {
        let met = meet(&mit, MEMBERS, client_crypto(&live(&utah), &[alpn]).unwrap(), "mit").await;
        assert_eq!(met.client, Ok(mit.peer().clone()));
        assert_eq!(met.server, Ok(Ok(expected)));
    }
}

#[tokio::test]
async fn whoever_calls_another_name_is_not_connected() {
    let overlay = Overlay::new();
    let (mit, utah) = (overlay.node("mit", real_now()), overlay.node("utah", real_now()));
    let met =
        meet(&mit, MEMBERS, client_crypto(&live(&utah), &[ALPN_LINK]).unwrap(), "cornell").await;
    assert!(met.client.unwrap_err().contains("NotValidForName"));
}

#[tokio::test]
async fn members_of_another_overlay_are_refused_by_both_ends() {
    let (ours, other) = (Overlay::new(), Overlay::new());
    let (mit, stranger) = (ours.node("mit", real_now()), other.node("utah", real_now()));
    let met = meet(&mit, ALL, client_crypto(&live(&stranger), &[ALPN_LINK]).unwrap(), "mit").await;
    assert!(met.client.is_err() && met.server.is_err());
    // Also when the stranger does not mind to whom it talks.
    let careless = careless(&stranger);
    let met = meet(&mit, ALL, careless, "mit").await;
    assert!(met.server.unwrap_err().contains("UnknownIssuer"));
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_both_ends() {
    let overlay = Overlay::new();
    let old = UnixTime::since_unix_epoch(Duration::from_secs(real_now().as_secs()) - 2 * LIFETIME);
    let (mit, expired) = (overlay.node("mit", real_now()), overlay.node("utah", old));
    let met = meet(&mit, ALL, client_crypto(&live(&expired), &[ALPN_LINK]).unwrap(), "mit").await;
    assert!(met.server.unwrap_err().contains("Expired"));
    let met = meet(&expired, ALL, client_crypto(&live(&mit), &[ALPN_LINK]).unwrap(), "utah").await;
    assert!(met.client.unwrap_err().contains("Expired"));
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_by_both_ends() {
    let overlay = Overlay::new();
    let (mut mit, utah) = (overlay.node("mit", real_now()), overlay.node("utah", real_now()));
    let list = overlay.revoke(utah.name(), real_now()).unwrap();
    assert!(mit.learn_revocations(list.der()).unwrap());
    let met = meet(&mit, ALL, client_crypto(&live(&utah), &[ALPN_LINK]).unwrap(), "mit").await;
    assert!(met.server.unwrap_err().contains("Revoked"));
    let met = meet(&utah, ALL, client_crypto(&live(&mit), &[ALPN_LINK]).unwrap(), "utah").await;
    assert!(met.client.unwrap_err().contains("Revoked"));
}

#[tokio::test]
async fn a_configuration_shows_and_judges_by_what_is_in_force() {
    let overlay = Overlay::new();
    let third = LIFETIME.as_secs() / 3;
    let issued = UnixTime::since_unix_epoch(Duration::from_secs(real_now().as_secs() - third));
    let (mit, utah) = (live(&overlay.node("mit", issued)), live(&overlay.node("utah", issued)));
    // Made once, before anything changes.
    let (server, client) =
        (server_crypto(&mit, MEMBERS).unwrap(), client_crypto(&utah, &[ALPN_LINK]).unwrap());
    for credentials in [&mit, &utah] {
        let request = credentials.identity().signing_request().unwrap();
        credentials.renew(overlay.renew(&request, real_now()).unwrap()).unwrap();
    }
    let met = meet_with(server.clone(), client.clone(), "mit").await;
    assert_eq!(met.client, Ok(mit.peer()));
    assert_eq!(met.server, Ok(Ok(Accepted::Link(utah.peer()))));
    let list = overlay.revoke(&"utah".parse().unwrap(), real_now()).unwrap();
    mit.learn_revocations(list.der()).unwrap();
    let met = meet_with(server, client, "mit").await;
    assert!(met.server.unwrap_err().contains("Revoked"));
}

#[tokio::test]
async fn a_joiner_reaches_the_authority_and_may_only_join() {
    let overlay = Overlay::new();
    let mit = overlay.node("mit", real_now());
    let joiner = join_crypto(overlay.authority.fingerprint(), &Clock::system()).unwrap();
    assert_eq!(meet(&mit, ALL, joiner.clone(), "mit").await.server, Ok(Ok(Accepted::Join)));
    for alpn in [ALPN_LINK, ALPN_LANE] {
        let mut intruder = joiner.clone();
        intruder.alpn_protocols = vec![alpn.to_vec()];
        let met = meet(&mit, ALL, intruder, "mit").await;
        assert_eq!(met.server, Ok(Err(AcceptError::Peer(PeerError::Anonymous))));
    }
}

#[tokio::test]
async fn only_the_authority_admits_joiners_without_a_certificate() {
    let overlay = Overlay::new();
    let mit = overlay.node("mit", real_now());
    let mut joiner = join_crypto(overlay.authority.fingerprint(), &Clock::system()).unwrap();
    assert!(meet(&mit, MEMBERS, joiner.clone(), "mit").await.server.is_err());
    joiner.alpn_protocols = vec![ALPN_LINK.to_vec()];
    assert!(meet(&mit, MEMBERS, joiner, "mit").await.server.is_err());
}

#[tokio::test]
async fn a_joiner_talks_to_the_pinned_authority_only() {
    let (ours, other) = (Overlay::new(), Overlay::new());
    let fake = other.node("mit", real_now());
    let met = meet(
        &fake,
        ALL,
        join_crypto(ours.authority.fingerprint(), &Clock::system()).unwrap(),
        "mit",
    )
    .await;
    assert!(met.client.unwrap_err().contains("UnknownIssuer"));
    // A member that is not the authority's node, which could otherwise take the token.
    let member = ours.node("utah", real_now());
    let met = meet(
        &member,
        ALL,
        join_crypto(ours.authority.fingerprint(), &Clock::system()).unwrap(),
        "mit",
    )
    .await;
    assert!(met.client.unwrap_err().contains("NotValidForName"));
}

/// What both ends of one attempt saw.
struct Met {
    client: Result<Peer, String>,
    server: Result<Result<Accepted, AcceptError>, String>,
}

async fn meet(
    server: &NodeIdentity,
    alpn: &[&[u8]],
    client: rustls::ClientConfig,
    name: &str,
) -> Met {
    meet_with(server_crypto(&live(server), alpn).unwrap(), client, name).await
}

async fn meet_with(server: rustls::ServerConfig, client: rustls::ClientConfig, name: &str) -> Met {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = QuicServerConfig::try_from(server).unwrap();
    let config = noq::ServerConfig::with_crypto(Arc::new(config));
    let listener = noq::Endpoint::server(config, any).unwrap();
    let address = listener.local_addr().unwrap();
    let caller = noq::Endpoint::client(any).unwrap();
    let client = QuicClientConfig::try_from(client).unwrap();
    let client = noq::ClientConfig::new(Arc::new(client));
    let name = server_name(&name.parse().unwrap());
    let connect = async {
        let connection = caller.connect_with(client, address, &name).unwrap().await;
        let connection = connection.map_err(|error| format!("{error:?}"))?;
        let peer = peer_of(&connection).map_err(|error| error.to_string());
        // A TLS 1.3 client is done before the server has judged it: wait for the verdict.
        let _ = connection.closed().await;
        peer
    };
    let accept = async {
        let incoming = listener.accept().await.unwrap();
        let connection = incoming.await.map_err(|error| format!("{error:?}"))?;
        let verdict = accepted(&connection);
        connection.close(0u32.into(), b"");
        Ok(verdict)
    };
    let both = async { tokio::join!(connect, accept) };
    let (client, server) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    Met { client, server }
}

/// A client that shows `identity` and accepts any server.
fn careless(identity: &NodeIdentity) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = client_crypto(&live(identity), &[ALPN_LINK]).unwrap();
    config.dangerous().set_certificate_verifier(Arc::new(AnyServer::new(provider)));
    config
}
