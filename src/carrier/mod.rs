//! TLS over TCP to a neighbour where UDP does not pass.
//!
//! ```text
//!  dialler                                              listener (`[node] stream_listen`)
//!     │ TCP, perhaps by an HTTP CONNECT proxy              │ a place among its prefix's strangers
//!     │ TLS as any HTTPS client: h2, http/1.1; no          │ a certificate of its own making;
//!     │ certificate, no name                               │ asks for none; says the settings of HTTP/2
//!     │ knock: 32 bytes that this session's keys and the   │ the expected bytes: a stream
//!     │ authority's fingerprint give                       │ any others: an HTTP server answers
//!     │ frames: the packets of the UDP socket ───────────► │ `underlay::Streams`
//! ```
//!
//! A stream carries what a UDP socket would: the QUIC packets of a link, with certificates at both ends
//! as always, and labelled packets. So a stream itself proves nothing and need not: who has knocked is a
//! stranger as on UDP, until a link stands. The knock keeps the difference from an HTTP server from all
//! who do not know the overlay. It is bound to the TLS session, so a recorded one is worth nothing.
//!
//! | file | what |
//! |---|---|
//! | `knock` | the 32 bytes (PURE) |
//! | `strangers` | who may wait at the listener (PURE) |
//! | `tls` | the outer TLS session |
//! | `dial`, `proxy` | opening a stream, directly or by a proxy |
//! | `listen`, `visitor`, `page` | accepting streams, and answering others |
//! | `preface` | what the listener says before it knows who has come (PURE) |
//! | `pump` | moving the bytes |

mod dial;
mod knock;
#[cfg(feature = "proxy")]
mod listen;
#[cfg(feature = "proxy")]
mod page;
mod preface;
mod proxy;
mod pump;
mod socket;
#[cfg(feature = "proxy")]
mod strangers;
mod tls;
#[cfg(feature = "proxy")]
mod visitor;

pub use dial::{DialError, StreamDialler};
#[cfg(feature = "proxy")]
pub use listen::StreamListener;
pub use proxy::{HttpProxy, ParseProxyError};
pub use socket::bind_streams;

/// What is configured about streams.
#[derive(Debug)]
pub struct StreamSettings {
    /// Accepts them.
    pub listener: Option<std::net::TcpListener>,
    /// The TCP port at which others reach them, at the node's IP addresses.
    pub port: Option<u16>,
    /// Whether the node dials them.
    pub dial: bool,
    /// The proxy by which it does.
    pub proxy: Option<HttpProxy>,
    /// Whether links may be over UDP.
    pub udp: bool,
}

impl Default for StreamSettings {
    /// No streams.
    fn default() -> Self {
        Self { listener: None, port: None, dial: false, proxy: None, udp: true }
    }
}
