//! How a joiner, which has no certificate yet, recognises the authority.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};

use super::{
    ALPN_JOIN, ALPN_RENEW, Clock, Fingerprint, Peer, TlsError,
    tls::{owned, provider, roots},
};

/// How a joiner connects to the authority of `fingerprint`, with [`ALPN_JOIN`].
///
/// The server's chain must have the certificate of this fingerprint; under it `webpki` verifies the
/// server's own certificate, its dates, and that it is for the name given when connecting: the
/// [`server_name`](super::server_name) of the invitation's authority node. So no other member of
/// the overlay can pose as the authority and take the token.
///
/// # Errors
/// When `rustls` refuses the configuration.
pub fn join_crypto(fingerprint: Fingerprint, clock: &Clock) -> Result<ClientConfig, TlsError> {
    pinned(ALPN_JOIN, fingerprint, clock, true)
}

/// How a member asks the authority for its next certificate, with [`ALPN_RENEW`]; otherwise as
/// [`join_crypto`].
///
/// # Errors
/// When `rustls` refuses the configuration.
pub fn renew_crypto(fingerprint: Fingerprint, clock: &Clock) -> Result<ClientConfig, TlsError> {
    pinned(ALPN_RENEW, fingerprint, clock, true)
}

/// How to ask the authority for the time, if this machine's clock may be wrong. As
/// [`renew_crypto`], but the dates of the authority's certificate are not checked. Such a
/// connection carries no secret and no certificate.
///
/// # Errors
/// When `rustls` refuses the configuration.
pub fn clock_crypto(fingerprint: Fingerprint, clock: &Clock) -> Result<ClientConfig, TlsError> {
    pinned(ALPN_RENEW, fingerprint, clock, false)
}

fn pinned(
    alpn: &[u8],
    fingerprint: Fingerprint,
    clock: &Clock,
    dates: bool,
) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let verifier = PinnedAuthority { fingerprint, provider: provider.clone(), dates };
    let verifier = Arc::new(verifier);
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(clock.clone()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = owned(&[alpn]);
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct PinnedAuthority {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
    /// Whether the dates of the server's certificate count.
    dates: bool,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = intermediates.iter().find(|c| Fingerprint::of(c) == self.fingerprint);
        let authority = pinned.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let foreign = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let now = match self.dates {
            true => now,
            false => Peer::from_certificate(end_entity).map_err(foreign)?.starts,
        };
        // The joiner has no revocation list yet; it comes with the welcome.
        WebPkiServerVerifier::builder_with_provider(roots(authority)?, self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
