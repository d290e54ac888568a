//! Asks the running node's local proxy, as any SOCKS5 client does.

use std::{net::SocketAddr, time::Duration};

use fast_socks5::{
    AuthenticationMethod, ReplyError, Socks5Command, SocksError,
    client::{Config, Socks5Stream},
    util::target_addr::TargetAddr,
};
use tokio::{net::TcpStream, time::timeout};

use super::packet::Unreachable;
use crate::flow::{Host, Target};

/// How long the proxy may take to answer. It waits for routes and exits for less; this only ends what hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long it may take to greet. Programs ask a name server again after 5 s.
const GREETING: Duration = Duration::from_secs(4);

/// The running node's local proxy, and what is asked of it.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The user name, with options, and the password.
    pub(crate) user: Option<(String, String)>,
}

/// Why a connection cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The destination refuses it.
    Connection,
    Unreachable(Unreachable),
}

impl Proxy {
    /// Opens a flow.
    pub(super) async fn connect(&self, target: &Target) -> Result<TcpStream, Refused> {
        let asked = timeout(PATIENCE, self.ask(Socks5Command::TCPConnect, wanted(target))).await;
        match asked {
            Ok(Ok((stream, _))) => Ok(stream.get_socket()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the proxy opened no flow");
                Err(refused(&error))
            }
            Err(_) => Err(Refused::Unreachable(Unreachable::Host)),
        }
    }

    /// Begins an association: where to send its datagrams. It lasts as long as the connection.
    pub(super) async fn associate(&self) -> Result<(TcpStream, SocketAddr), SocksError> {
        let any = TargetAddr::Ip(SocketAddr::from(([0; 4], 0)));
        let (stream, at) = self.ask(Socks5Command::UDPAssociate, any).await?;
        match at {
            TargetAddr::Ip(at) => Ok((stream.get_socket(), at)),
            TargetAddr::Domain(..) => Err(ReplyError::AddressTypeNotSupported.into()),
        }
    }

    /// Whether the proxy answers. A connection without a greeting would count as one of an unknown user.
    pub(super) async fn is_there(&self) -> bool {
        let greet = async {
            let tcp = TcpStream::connect(self.address).await?;
            Socks5Stream::use_stream(tcp, self.method(), Config::default()).await
        };
        matches!(timeout(GREETING, greet).await, Ok(Ok(_)))
    }

    fn method(&self) -> Option<AuthenticationMethod> {
        let user = self.user.clone();
        user.map(|(username, password)| AuthenticationMethod::Password { username, password })
    }

    async fn ask(
        &self,
        command: Socks5Command,
        target: TargetAddr,
    ) -> Result<(Socks5Stream<TcpStream>, TargetAddr), SocksError> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let mut stream = Socks5Stream::use_stream(tcp, self.method(), Config::default()).await?;
        let bound = stream.request(command, target).await?;
        Ok((stream, bound))
    }
}

/// The target as the SOCKS library has it.
pub(super) fn wanted(target: &Target) -> TargetAddr {
    match &target.host {
        Host::Ip(ip) => TargetAddr::Ip(SocketAddr::new(*ip, target.port)),
        Host::Name(name) => TargetAddr::Domain(name.clone(), target.port),
    }
}

fn refused(error: &SocksError) -> Refused {
    match error {
        SocksError::ReplyError(ReplyError::ConnectionRefused) => Refused::Connection,
        SocksError::ReplyError(ReplyError::NetworkUnreachable) | SocksError::Io(_) => {
            Refused::Unreachable(Unreachable::Network)
        }
        SocksError::ReplyError(ReplyError::ConnectionNotAllowed) => {
            Refused::Unreachable(Unreachable::Forbidden)
        }
        _ => Refused::Unreachable(Unreachable::Host),
    }
}
