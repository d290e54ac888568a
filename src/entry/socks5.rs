//! SOCKS5 (RFC 1928) with no authentication or user name and password (RFC 1929).
//!
//! `fast-socks5` does the protocol. The RFC 1929 exchange is our own [`Method`] for it: the
//! library's writes the password into the debug log, and refuses the empty one that curl sends
//! with `socks5h://exit=mit@…`.

use bytes::Bytes;
use fast_socks5::{
    ReplyError, Socks5Command,
    server::{
        AuthMethod, AuthMethodSuccessState, Socks5ServerProtocol, SocksServerError,
        states::{Authenticated, CommandRead},
    },
    util::target_addr::TargetAddr,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tracing::{debug, info};

use super::{
    association::{AssociateError, Association},
    auth::{AuthError, text_of},
    options::Options,
    session::{Borrowed, Session, close},
};
use crate::flow::{Ingress, ParseTargetError, RefusalKind, Target};

/// RFC 1929: the version of the exchange.
const AUTH_VERSION: u8 = 1;
/// RFC 1929: any status but 0 is a failure.
const AUTH_FAILED: u8 = 1;
/// RFC 1928: the methods we speak.
const NO_AUTHENTICATION: u8 = 0;
const USER_PASSWORD: u8 = 2;

type Replying<'a> = Socks5ServerProtocol<Borrowed<'a>, CommandRead>;

/// An authentication method as `fast-socks5` negotiates it.
#[derive(Debug, Clone, Copy)]
enum Method {
    UserPassword,
    None,
}

/// The stream after a method was agreed upon.
struct Negotiated<T> {
    stream: T,
    method: Method,
}

/// Why a SOCKS5 handshake failed. The client has got an answer where the protocol has one.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Protocol(#[from] SocksServerError),
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("version {0} of the user name and password exchange is unknown")]
    AuthVersion(u8),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("{0:?} is not supported, only CONNECT and UDP ASSOCIATE are")]
    Command(Socks5Command),
    #[error(transparent)]
    Target(#[from] ParseTargetError),
    #[error("a name is no source of datagrams; set the client's UDP source to 0.0.0.0")]
    NamedSource,
    #[error(transparent)]
    Associate(#[from] AssociateError),
    #[error("all places of associations are taken; close programs that use UDP through the proxy")]
    AssociationsFull,
}

/// What a client asks for.
enum Asked<'a> {
    Connect(Replying<'a>, Target, Options),
    Associate(Replying<'a>, Association),
}

/// Serves one SOCKS5 client to its end.
pub(super) async fn serve(tcp: TcpStream, session: &Session) {
    let asked = match session.handshake(handshake(&tcp, session)).await {
        Ok(Ok(asked)) => asked,
        Ok(Err(error)) => {
            match &error {
                // A person has to correct the client's settings.
                Failed::Auth(_)
                | Failed::Command(_)
                | Failed::NamedSource
                | Failed::Associate(_)
                | Failed::AssociationsFull => {
                    info!(client = %session.client, %error, "SOCKS5 client refused");
                }
                _ => debug!(client = %session.client, %error, "SOCKS5 handshake failed"),
            }
            return close(tcp).await;
        }
        Err(abandoned) => return debug!(client = %session.client, %abandoned, "SOCKS5 client cut"),
    };
    let (replying, target, options) = match asked {
        Asked::Connect(replying, target, options) => (replying, target, options),
        Asked::Associate(replying, association) => {
            return associate(replying, association, &tcp, session).await;
        }
    };
    let Some(opened) = session.open_for(&tcp, target, options, Ingress::Socks5).await else {
        return;
    };
    match opened {
        Ok(opened) => match replying.reply_success(session.local).await {
            Ok(_) => opened.splice(tcp, Bytes::new()).await,
            Err(error) => opened.span.in_scope(|| debug!(%error, "the client left")),
        },
        Err(refusal) => {
            if replying.reply_error(&reply_to(refusal.kind)).await.is_ok() {
                close(tcp).await;
            }
        }
    }
}

async fn associate(
    replying: Replying<'_>,
    association: Association,
    tcp: &TcpStream,
    session: &Session,
) {
    let Ok(_place) = session.shared.associations.try_acquire() else {
        info!(client = %session.client, error = %Failed::AssociationsFull, "SOCKS5 client refused");
        // The client may have left.
        let _ = replying.reply_error(&ReplyError::GeneralFailure).await;
        return;
    };
    match replying.reply_success(association.bound).await {
        Ok(_) => association.serve(tcp, session).await,
        Err(error) => debug!(client = %session.client, %error, "the client left"),
    }
}

/// A socket for the datagrams of a client that says it sends them from `named`.
async fn bind<'a>(
    replying: Replying<'a>,
    session: &Session,
    named: TargetAddr,
    options: Options,
) -> Result<Asked<'a>, Failed> {
    let TargetAddr::Ip(named) = named else {
        replying.reply_error(&ReplyError::AddressTypeNotSupported).await?;
        return Err(Failed::NamedSource);
    };
    match Association::bind(session, named, options) {
        Ok(association) => Ok(Asked::Associate(replying, association)),
        Err(error) => {
            let reply = match error {
                AssociateError::OtherAddress(_) => ReplyError::ConnectionNotAllowed,
                AssociateError::Socket(_) => ReplyError::GeneralFailure,
            };
            replying.reply_error(&reply).await?;
            Err(error.into())
        }
    }
}

async fn handshake<'a>(tcp: &'a TcpStream, session: &Session) -> Result<Asked<'a>, Failed> {
    let (authenticated, options) = authenticate(tcp, session).await?;
    let (replying, command, target) = authenticated.read_command().await?;
    if command == Socks5Command::UDPAssociate {
        return bind(replying, session, target, options).await;
    }
    if command != Socks5Command::TCPConnect {
        replying.reply_error(&ReplyError::CommandNotSupported).await?;
        return Err(Failed::Command(command));
    }
    let target = match target {
        TargetAddr::Ip(addr) if addr.port() == 0 => Err(ParseTargetError::Port),
        TargetAddr::Ip(addr) => Ok(addr.into()),
        TargetAddr::Domain(name, port) => Target::new(&name, port),
    };
    match target {
        Ok(target) => Ok(Asked::Connect(replying, target, options)),
        Err(error) => {
            replying.reply_error(&ReplyError::HostUnreachable).await?;
            Err(error.into())
        }
    }
}

/// Chooses a method and runs it. A client that offers a user name is asked for it even if none is
/// needed: the name may have options, and the method is chosen before the name is known. Any name
/// is accepted then.
async fn authenticate<'a>(
    tcp: &'a TcpStream,
    session: &Session,
) -> Result<(Socks5ServerProtocol<Borrowed<'a>, Authenticated>, Options), Failed> {
    let auth = &session.shared.auth;
    let methods: &[Method] = if auth.is_required() {
        &[Method::UserPassword]
    } else {
        &[Method::UserPassword, Method::None]
    };
    let start = Socks5ServerProtocol::start(Borrowed(tcp));
    let mut agreed = start.negotiate_auth(methods).await?;
    let options = match agreed.method {
        Method::None => auth.anonymous()?,
        Method::UserPassword => {
            let (user, password) = read_credentials(&mut agreed.stream).await?;
            match auth.check(&user, &password) {
                Ok(options) => {
                    agreed.stream.write_all(&[AUTH_VERSION, 0]).await?;
                    options
                }
                Err(error) => {
                    agreed.stream.write_all(&[AUTH_VERSION, AUTH_FAILED]).await?;
                    return Err(error.into());
                }
            }
        }
    };
    Ok((agreed.finish_auth(), options))
}

/// Reads RFC 1929's request; each part is at most 255 bytes because its length is one byte.
async fn read_credentials(stream: &mut Borrowed<'_>) -> Result<(String, String), Failed> {
    let version = stream.read_u8().await?;
    if version != AUTH_VERSION {
        return Err(Failed::AuthVersion(version));
    }
    let user = read_text(stream).await?;
    let password = read_text(stream).await?;
    Ok((user, password))
}

async fn read_text(stream: &mut Borrowed<'_>) -> Result<String, Failed> {
    let mut text = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut text).await?;
    Ok(text_of(&text))
}

/// The RFC 1928 reply for a refusal. Where RFC 1928 leaves a choice, this is Tor's: "TTL expired"
/// stands for a timeout, and a name that does not resolve is an unreachable host.
fn reply_to(kind: RefusalKind) -> ReplyError {
    match kind {
        RefusalKind::Policy => ReplyError::ConnectionNotAllowed,
        RefusalKind::NameNotFound | RefusalKind::Unreachable => ReplyError::HostUnreachable,
        RefusalKind::ConnectionRefused => ReplyError::ConnectionRefused,
        RefusalKind::TimedOut => ReplyError::TtlExpired,
        // The overlay is the network that is unreachable.
        RefusalKind::ExitUnreachable => ReplyError::NetworkUnreachable,
        RefusalKind::NoExit
        | RefusalKind::NotAnExit
        | RefusalKind::Overloaded
        | RefusalKind::Protocol => ReplyError::GeneralFailure,
    }
}

impl<T> AuthMethod<T> for Method {
    type StartingState = Negotiated<T>;

    fn method_id(self) -> u8 {
        match self {
            Self::UserPassword => USER_PASSWORD,
            Self::None => NO_AUTHENTICATION,
        }
    }

    fn new(self, stream: T) -> Negotiated<T> {
        Negotiated { stream, method: self }
    }
}

impl<T> AuthMethodSuccessState<T> for Negotiated<T> {
    fn into_inner(self) -> T {
        self.stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_reply_code() {
        for (kind, code) in [
            (RefusalKind::Policy, 2),
            (RefusalKind::NameNotFound, 4),
            (RefusalKind::ConnectionRefused, 5),
            (RefusalKind::Unreachable, 4),
            (RefusalKind::TimedOut, 6),
            (RefusalKind::NoExit, 1),
            (RefusalKind::ExitUnreachable, 3),
            (RefusalKind::Overloaded, 1),
            (RefusalKind::Protocol, 1),
            (RefusalKind::NotAnExit, 1),
        ] {
            assert_eq!(reply_to(kind).as_u8(), code, "{kind:?}");
        }
    }
}
