//! The first requests on a connection, before it is a link.

use std::net::SocketAddr;

use noq::Connection;
use tokio::time::timeout;

use super::{
    Link, LinkError,
    connection::{REQUEST_TIMEOUT, remote_address, request_on},
};
use crate::{
    text::cleaned,
    transport::{FrameError, read_message, write_message},
    underlay::Carrier,
    wire::link::{Hello, LinkRefusal, Reply, Request},
};

/// The longest shown version of a neighbour's program, in bytes. "12.34.56-rc.1" has 13.
const MAX_VERSION: usize = 32;

/// What the neighbour wants with a connection that it dialled.
#[derive(Debug)]
pub enum Introduction {
    /// It is to be the link.
    Link {
        /// What the neighbour says of itself.
        theirs: Hello,
        /// What it was told of us.
        ours: Hello,
    },
    /// It is to be measured beside the link. An introduction may follow.
    Trial,
}

impl Link {
    /// Sends our Hello on a connection that we dialled, with the neighbour's address as we see it.
    ///
    /// # Errors
    /// When the neighbour does not answer as the protocol says.
    pub async fn introduce(conn: &Connection, hello: Hello) -> Result<Hello, LinkError> {
        let hello = Hello { seen: seen_at(conn), ..hello };
        match request_on(conn, &Request::Hello(hello)).await? {
            Reply::Hello(theirs) => Ok(bounded(theirs)),
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(LinkRefusal::Unexpected.into()),
        }
    }

    /// Asks the neighbour to let us measure a connection that we dialled.
    ///
    /// # Errors
    /// When the neighbour does not answer as the protocol says.
    pub async fn propose_trial(conn: &Connection) -> Result<(), LinkError> {
        match request_on(conn, &Request::Trial).await? {
            Reply::Trial => Ok(()),
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(LinkRefusal::Unexpected.into()),
        }
    }

    /// Waits for the neighbour's first request on a connection that it dialled, and answers.
    ///
    /// # Errors
    /// When the neighbour breaks the protocol, or takes over 5 s.
    pub async fn await_introduction(
        conn: &Connection,
        hello: impl Fn() -> Hello,
    ) -> Result<Introduction, LinkError> {
        let exchange = Self::introduced(conn, hello);
        timeout(REQUEST_TIMEOUT, exchange).await.map_err(|_| LinkError::TimedOut)?
    }

    /// The same, however long the neighbour takes.
    ///
    /// # Errors
    /// When the neighbour breaks the protocol.
    pub async fn introduced(
        conn: &Connection,
        hello: impl Fn() -> Hello,
    ) -> Result<Introduction, LinkError> {
        let stream = conn.accept_bi().await;
        let (mut send, mut recv) = stream.map_err(|e| FrameError::Stream(e.to_string()))?;
        match read_message(&mut recv).await? {
            Request::Hello(theirs) => {
                let ours = hello();
                let told = Hello { seen: seen_at(conn), ..ours.clone() };
                write_message(&mut send, &Reply::Hello(told)).await?;
                Ok(Introduction::Link { theirs: bounded(theirs), ours })
            }
            Request::Trial => {
                write_message(&mut send, &Reply::Trial).await?;
                Ok(Introduction::Trial)
            }
            _ => Err(LinkRefusal::Unexpected.into()),
        }
    }
}

fn bounded(mut hello: Hello) -> Hello {
    hello.version = cleaned(&hello.version, MAX_VERSION);
    hello
}

/// Where this node sees the connection's peer, for the peer to tell others. Its end of a TCP connection is
/// of no use to them.
fn seen_at(conn: &Connection) -> Option<SocketAddr> {
    remote_address(conn).filter(|address| Carrier::of(*address) == Carrier::Udp)
}
