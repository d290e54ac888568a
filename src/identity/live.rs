//! How `rustls` asks a node's [`Credentials`] at each handshake.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ClientHello, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use super::Credentials;

/// Shows the certificate in force.
#[derive(Debug)]
pub(super) struct LiveCertificate(pub(super) Credentials);

impl ResolvesServerCert for LiveCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().certified.clone())
    }
}

impl ResolvesClientCert for LiveCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Verifies servers against the revocation list in force.
#[derive(Debug)]
pub(super) struct LiveServers(pub(super) Credentials);

impl ServerCertVerifier for LiveServers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = &self.0.current().servers;
        let verified = verifier.verify_server_cert(end_entity, &[], name, ocsp, now);
        verified.inspect_err(|error| note_date(&self.0, error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.current().servers.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.current().servers.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.current().servers.supported_verify_schemes()
    }
}

/// Verifies clients against the revocation list in force.
#[derive(Debug)]
pub(super) struct LiveClients {
    credentials: Credentials,
    /// The name of the authority, which never changes.
    hints: Vec<DistinguishedName>,
    /// Whether a client without a certificate completes TLS: at the authority, to join.
    joiners: bool,
}

impl LiveClients {
    pub(super) fn new(credentials: &Credentials, joiners: bool) -> Self {
        let hints = credentials.current().clients.root_hint_subjects().to_vec();
        Self { credentials: credentials.clone(), hints, joiners }
    }
}

impl ClientCertVerifier for LiveClients {
    fn client_auth_mandatory(&self) -> bool {
        !self.joiners
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.credentials.current().clients.verify_client_cert(end_entity, &[], now);
        verified.inspect_err(|error| note_date(&self.credentials, error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let current = self.credentials.current();
        current.clients.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let current = self.credentials.current();
        current.clients.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.credentials.current().clients.supported_verify_schemes()
    }
}

/// Counts a certificate that was refused because of its dates. The clock may be wrong.
fn note_date(credentials: &Credentials, error: &Error) {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    if let Error::InvalidCertificate(
        Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
    ) = error
    {
        credentials.count_refused_by_date();
    }
}
