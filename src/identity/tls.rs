//! TLS 1.3 between nodes: who is let in, and as what.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};

use super::{
    Credentials, NodeIdentity, NodeName, Peer, PeerError,
    live::{LiveCertificate, LiveClients, LiveServers},
    peer::certificates_of,
};

/// The protocol of links between neighbours.
pub const ALPN_LINK: &[u8] = b"ronproxy-link/8";
/// The protocol of lanes between an entry and an exit.
pub const ALPN_LANE: &[u8] = b"ronproxy-lane/4";
/// The protocol of a node that has no certificate yet and asks the authority for one.
pub const ALPN_JOIN: &[u8] = b"ronproxy-join/3";

/// The protocol of a member that asks the authority, over a connection of its own, for its next
/// certificate or for the time.
pub const ALPN_RENEW: &[u8] = b"ronproxy-renew/2";

/// What an accepted connection is. Made by [`accepted`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// A neighbour's link.
    Link(Peer),
    /// An entry's lane.
    Lane(Peer),
    /// A node that wants to join. It has proved nothing yet: its one-time token decides.
    Join,
    /// A member whose certificate may be over. Its signing request decides.
    Renew,
}

/// An accepted connection is not to be served; close it at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// A protocol this node does not speak, or none.
    #[error("the peer speaks another protocol; both nodes need the same ronproxy version")]
    Protocol,
    /// A link or lane without a node's certificate.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

/// A TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// `rustls` refused a key or certificate.
    #[error("TLS cannot be set up: {0}; check node.key and node.crt, or join the overlay again")]
    Rustls(#[from] rustls::Error),
    /// `rustls` refused the authority's certificate or revocation list.
    #[error("certificates cannot be verified: {0}; join the overlay again")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

/// The DNS name in `name`'s certificate, to be named when connecting to it:
/// `NAME.ronproxy.invalid`. `.invalid` never resolves (RFC 2606); overlays are told apart by their
/// authority, so they may use the same names.
#[must_use]
pub fn server_name(name: &NodeName) -> String {
    format!("{name}.ronproxy.invalid")
}

/// What an accepted, established connection is: its protocol and the peer's certificate judged
/// together. The one gate between TLS and the rest of a node.
///
/// # Errors
/// When the connection is not to be served; the caller closes it.
pub fn accepted(connection: &noq::Connection) -> Result<Accepted, AcceptError> {
    let data = connection.handshake_data();
    let data = data.and_then(|data| data.downcast::<noq::crypto::rustls::HandshakeData>().ok());
    let protocol = data.and_then(|data| data.protocol).ok_or(AcceptError::Protocol)?;
    judge(&protocol, certificates_of(connection).as_deref())
}

fn judge(protocol: &[u8], chain: Option<&[CertificateDer<'_>]>) -> Result<Accepted, AcceptError> {
    if protocol == ALPN_JOIN {
        return Ok(Accepted::Join);
    }
    if protocol == ALPN_RENEW {
        return Ok(Accepted::Renew);
    }
    let wrap = match protocol {
        ALPN_LINK => Accepted::Link,
        ALPN_LANE => Accepted::Lane,
        _ => return Err(AcceptError::Protocol),
    };
    let own = chain.and_then(<[_]>::first).ok_or(PeerError::Anonymous)?;
    Ok(wrap(Peer::from_certificate(own)?))
}

/// How this node answers others, for the protocols in `alpn`.
///
/// Certificates are verified under the overlay's authority and the revocation list that is in
/// force at the handshake; the certificate shown is the one in force then. A client
/// without a certificate completes TLS only where [`ALPN_JOIN`] or [`ALPN_RENEW`] is among the protocols, which is
/// at the authority; [`accepted`] then lets it do nothing but join.
///
/// # Errors
/// When `rustls` refuses the identity.
pub fn server_crypto(credentials: &Credentials, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let clients =
        LiveClients::new(credentials, alpn.contains(&ALPN_RENEW) || alpn.contains(&ALPN_JOIN));
    let clock = Arc::new(credentials.clock().clone());
    let mut config = ServerConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(clients))
        .with_cert_resolver(Arc::new(LiveCertificate(credentials.clone())));
    config.alpn_protocols = owned(alpn);
    // A resumed session would skip the certificate, and with it a revocation; 0-RTT can be replayed.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// Who counts as a member when it connects: certified by the authority of `identity`, and not
/// revoked.
pub(super) fn member_as_client(
    identity: &NodeIdentity,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    Ok(WebPkiClientVerifier::builder_with_provider(roots(identity.authority())?, provider())
        .with_crls([identity.revoked().to_crl()])
        .only_check_end_entity_revocation()
        .build()?)
}

/// Who counts as a member when it is connected to.
pub(super) fn member_as_server(
    identity: &NodeIdentity,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    Ok(WebPkiServerVerifier::builder_with_provider(roots(identity.authority())?, provider())
        .with_crls([identity.revoked().to_crl()])
        .only_check_end_entity_revocation()
        .build()?)
}

/// How this node connects to another, whose [`server_name`] is given when connecting.
///
/// # Errors
/// When `rustls` refuses the configuration.
pub fn client_crypto(credentials: &Credentials, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    let clock = Arc::new(credentials.clock().clone());
    let mut config = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(LiveServers(credentials.clone())))
        .with_client_cert_resolver(Arc::new(LiveCertificate(credentials.clone())));
    config.alpn_protocols = owned(alpn);
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The cryptography in use: *ring*, passed wherever `rustls` wants a provider.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A trust store with `authority` alone.
pub(super) fn roots(authority: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned())?;
    Ok(Arc::new(roots))
}

pub(super) fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_support::{NOW, Overlay};

    #[test]
    fn a_connection_is_judged_by_its_protocol_and_certificate_together() {
        let overlay = Overlay::new();
        let node = overlay.node("utah", NOW);
        let peer = node.peer().clone();
        let own = Some(node.chain());
        let authority = Some(&node.chain()[1..]);
        let anonymous = Err(AcceptError::Peer(PeerError::Anonymous));
        let foreign = Err(AcceptError::Peer(PeerError::Foreign));
        for (protocol, chain, expected) in [
            (ALPN_LINK, own, Ok(Accepted::Link(peer.clone()))),
            (ALPN_LANE, own, Ok(Accepted::Lane(peer))),
            (ALPN_JOIN, own, Ok(Accepted::Join)),
            (ALPN_JOIN, None, Ok(Accepted::Join)),
            (ALPN_RENEW, None, Ok(Accepted::Renew)),
            (ALPN_LINK, None, anonymous.clone()),
            (ALPN_LANE, None, anonymous.clone()),
            (ALPN_LANE, Some(&[][..]), anonymous),
            (ALPN_LINK, authority, foreign),
            (b"h3", own, Err(AcceptError::Protocol)),
            (b"", own, Err(AcceptError::Protocol)),
        ] {
            assert_eq!(judge(protocol, chain), expected, "{}", String::from_utf8_lossy(protocol));
        }
    }
}
