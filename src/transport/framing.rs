//! Messages on streams.

use std::io;

use noq::{ReadToEndError, RecvStream, SendStream, WriteError};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::wire::{self, DecodeError, MAX_MESSAGE};

/// The longest message with its length in front, in bytes: a flow's opening with the longest name, or a refusal. A
/// peer that announces more and sends nothing pins as much for each stream.
const MAX_FRAME: u16 = 2 << 10;

/// Such a message with its length.
pub const LONGEST_FRAME: u64 = 2 + MAX_FRAME as u64;

/// A message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended or failed.
    #[error("the stream failed: {0}")]
    Stream(String),
    /// The message is longer than such a message is.
    #[error("a message of {0} bytes is over the limit of {MAX_FRAME}")]
    TooLong(usize),
    /// The peer did not send such a message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl From<WriteError> for FrameError {
    fn from(error: WriteError) -> Self {
        Self::Stream(error.to_string())
    }
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        Self::Stream(error.to_string())
    }
}

impl From<ReadToEndError> for FrameError {
    fn from(error: ReadToEndError) -> Self {
        Self::Stream(error.to_string())
    }
}

/// Writes one message with its length in front. The stream stays open.
///
/// # Errors
/// When the stream fails, or the message is longer than 2,048 bytes.
pub async fn write_frame<T: Serialize>(
    stream: &mut SendStream,
    message: &T,
) -> Result<(), FrameError> {
    let body = wire::encode(message);
    let length = frame_length(body.len())?;
    let mut frame = Vec::with_capacity(2 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(stream.write_all(&frame).await?)
}

/// Reads one message with its length in front.
///
/// # Errors
/// When the stream ends or fails, or the message is too long or malformed.
pub async fn read_frame<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<T, FrameError> {
    let length = frame_length(stream.read_u16().await?.into())?;
    let mut body = vec![0; usize::from(length)];
    stream.read_exact(&mut body).await?;
    Ok(wire::decode(&body)?)
}

/// The length of a message, if a frame may have it.
fn frame_length(bytes: usize) -> Result<u16, FrameError> {
    let length = u16::try_from(bytes).ok().filter(|length| *length <= MAX_FRAME);
    length.ok_or(FrameError::TooLong(bytes))
}

/// Writes one message as the whole content of a stream.
///
/// # Errors
/// When the stream fails.
pub async fn write_message<T: Serialize>(
    stream: &mut SendStream,
    message: &T,
) -> Result<(), FrameError> {
    stream.write_all(&wire::encode(message)).await?;
    stream.finish().map_err(|error| FrameError::Stream(error.to_string()))
}

/// Reads one message that is the whole content of a stream.
///
/// # Errors
/// When the stream fails, or the message is too long or malformed.
pub async fn read_message<T: DeserializeOwned>(stream: &mut RecvStream) -> Result<T, FrameError> {
    Ok(wire::decode(&stream.read_to_end(MAX_MESSAGE).await?)?)
}
