//! PURE: message types and codecs.
//!
//! Four places carry our bytes, all described in `docs/protocol.md`:
//!
//! - the 11-byte header in front of a labelled packet ([`label`]), and a nonce that is sent to a new
//!   address ([`nonce`]), and the pieces of a packet that may be too long for the path ([`piece`]);
//! - the same packets on a stream, each with its length in front ([`frame`]);
//! - requests, replies and notices on a link ([`link`]);
//! - the OPEN header of a flow and the notices inside a lane ([`lane`]), and the datagrams of flows
//!   ([`datagram`]).
//!
//! [`reach`] tells how lists of addresses name the port of streams.
//!
//! Messages are [postcard](https://postcard.jamesmunns.com/wire-format) structures. What a peer
//! sends is decoded with a cap on its size and never panics.

pub mod datagram;
pub mod frame;
pub mod label;
pub mod lane;
pub mod link;
pub mod nonce;
pub mod piece;
pub mod reach;

use serde::{Serialize, de::DeserializeOwned};

/// Largest message on a link or in a flow's header, in bytes.
///
/// An advertisement with 256 links takes about 20 KiB; nothing legitimate comes near the cap.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// A peer's message is not what the protocol says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("message of {0} bytes is over the limit of {MAX_MESSAGE}")]
    TooLong(usize),
    /// Truncated, or not the expected structure.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// Bytes follow the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// Encodes a message.
///
/// # Panics
/// Never for the types of this crate: they are plain data, which postcard always encodes.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("plain data always encodes")
}

/// Decodes exactly one message.
///
/// # Errors
/// When `bytes` is over the cap, truncated, malformed, or longer than the message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(DecodeError::TooLong(bytes.len()));
    }
    let (message, rest) =
        postcard::take_from_bytes(bytes).map_err(|e| DecodeError::Malformed(e.to_string()))?;
    if rest.is_empty() { Ok(message) } else { Err(DecodeError::Trailing(rest.len())) }
}
