//! The outer TLS session, which looks like that of HTTPS.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, ProtocolVersion, client::Resumption, crypto::CryptoProvider,
    pki_types::ServerName,
};

use super::knock::{EXPORTER_LABEL, KNOCK_LEN};
use crate::identity::AnyServer;

/// What browsers offer and web servers take.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How streams are dialled: as an HTTPS client without a certificate. The server's certificate proves
/// nothing and need not: the links inside verify each other.
pub(super) fn client() -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer::new(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn();
    // A resumed session would tell an observer that two streams are of one node.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The name to connect by: none, as for `https://192.0.2.1/`.
pub(super) fn server_name(address: SocketAddr) -> ServerName<'static> {
    ServerName::IpAddress(address.ip().to_canonical().into())
}

/// The exported bytes of a session, for its knock; `None` if it is not TLS 1.3.
pub(super) fn session_of<Data>(
    connection: &rustls::ConnectionCommon<Data>,
) -> Option<[u8; KNOCK_LEN]> {
    if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return None;
    }
    connection.export_keying_material([0; KNOCK_LEN], EXPORTER_LABEL, None).ok()
}

/// Whether HTTP/2 was agreed.
pub(super) fn speaks_h2<Data>(connection: &rustls::ConnectionCommon<Data>) -> bool {
    connection.alpn_protocol() == Some(ALPN[0])
}

fn alpn() -> Vec<Vec<u8>> {
    ALPN.iter().map(|protocol| protocol.to_vec()).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(feature = "proxy")]
pub(super) use server::server;

#[cfg(feature = "proxy")]
mod server {
    use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
    use rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    };

    use super::{alpn, provider};

    /// How streams are accepted: as a web server with a certificate that it made for itself, of the kind
    /// that distributions make for machines without a name.
    pub(in crate::carrier) fn server()
    -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(["localhost".to_owned()])?;
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, "localhost");
        let now = time::OffsetDateTime::now_utc();
        (params.not_before, params.not_after) =
            (now - time::Duration::days(1), now + time::Duration::days(3650));
        let certificate = params.self_signed(&key)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = alpn();
        Ok(config)
    }
}
