//! The commands' side: one request per connection.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, time::timeout};

/// The largest answer read: 10,000 flows at 400 bytes are 4 MB.
const MAX_ANSWER: usize = 16 << 20;

/// A running node answers within milliseconds, a check of its network within 5 s; one that does not for so
/// long is stopped or hangs.
const TIMEOUT: Duration = Duration::from_secs(6);

/// Asks the node that runs in a folder.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// The node did not answer.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(feature = "cli"), expect(unreachable_pub, reason = "the command line names it"))]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error("no node is running in this folder; start it with `ronproxy run`")]
    NotRunning,
    /// The operating system refused.
    #[error("cannot ask the node at {}: {source}; is it another user's?", socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It took too long.
    #[error("the node does not answer; look at its log, or stop it and start it again")]
    Silent,
    /// The node broke off.
    #[error("the node broke off its answer ({0}); look at its log, and ask again")]
    Broken(String),
    /// The answer is not what this program understands.
    #[error("the node's answer is unreadable ({0}); restart it, so that it has this version")]
    Unreadable(String),
    /// The node answered with an error.
    #[error("the node refused: {0}")]
    Refused(String),
}

impl Client {
    /// A client of the node that serves `socket`.
    #[must_use]
    pub(crate) fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Asks for a listing, for example `/status`.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] when no node runs, or when its answer makes no sense.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path).await
    }

    /// Asks for a deed, for example `/stop`.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    #[cfg(feature = "cli")]
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::POST, path).await
    }

    /// The same with a text that the deed needs.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    #[cfg(feature = "cli")]
    pub(crate) async fn post_text<T: DeserializeOwned>(
        &self,
        path: &str,
        text: String,
    ) -> Result<T, ClientError> {
        self.ask_with(Method::POST, path, text).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        self.ask_with(method, path, String::new()).await
    }

    async fn ask_with<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        text: String,
    ) -> Result<T, ClientError> {
        let exchange = timeout(TIMEOUT, self.exchange(method, path, text)).await;
        let (status, body) = exchange.map_err(|_| ClientError::Silent)??;
        if status != StatusCode::OK {
            return Err(ClientError::Refused(String::from_utf8_lossy(&body).trim().to_owned()));
        }
        serde_json::from_slice(&body).map_err(|error| ClientError::Unreadable(error.to_string()))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        text: String,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let broken = |error: &dyn std::fmt::Display| ClientError::Broken(error.to_string());
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unconnected(e))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(HOST, "ronproxy");
        let request = request.body(Full::<Bytes>::from(text)).map_err(|e| broken(&e))?;
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        connection.abort();
        Ok((status, body.map_err(|e| broken(&e))?.to_bytes()))
    }

    fn unconnected(&self, source: io::Error) -> ClientError {
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning,
            _ => ClientError::Io { socket: self.socket.clone(), source },
        }
    }
}
