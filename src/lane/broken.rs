//! Reports that a destination's connection broke, without the loss of bytes that it sent before.
//!
//! RESET_STREAM would discard bytes in flight, and FIN would make a broken answer look complete. So
//! the exit leaves its own direction open, and stops the direction that it reads. The error code of
//! STOP_SENDING is the number of bytes that it wrote. The entry takes this many, treats the flow as
//! reset, and stops the stream. The exit then knows that all bytes have arrived.

use std::{future::pending, io, time::Duration};

use noq::{SendStream, VarInt};
use tokio::{sync::watch, time::timeout};

use super::inflow::Arriving;

/// The bit of an error code that marks the other bits as the number of bytes before the end. A code
/// has 62 bits, and no flow carries 2^61 bytes.
const BROKEN_AFTER: u64 = 1 << 61;

/// How long an exit waits until the entry has taken the bytes before the end: as long as a flow stays half-closed
/// by default. A client that needs longer to read them loses the rest.
const DELIVERY: Duration = Duration::from_secs(60);

/// The far end's report about the end of its bytes.
pub(super) struct FarEnd(watch::Sender<Option<u64>>);

impl FarEnd {
    /// No report yet.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// The far end stopped this end's stream with `code`.
    pub(super) fn stopped(&self, code: VarInt) {
        if let Some(bytes) = bytes_before(code) {
            self.0.send_replace(Some(bytes));
        }
    }

    /// For [`broke_at`].
    pub(super) fn watch(&self) -> watch::Receiver<Option<u64>> {
        self.0.subscribe()
    }
}

/// Resolves when `taken` bytes are all that come before a broken end.
pub(super) async fn broke_at(end: &mut watch::Receiver<Option<u64>>, taken: u64) -> io::Error {
    if end.wait_for(|end| end.is_some_and(|end| taken >= end)).await.is_err() {
        // There will be no report.
        pending::<()>().await;
    }
    error()
}

/// The error of a flow whose destination broke.
pub(super) fn error() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the destination's connection broke")
}

/// The number of bytes before a broken end, if `code` says one.
pub(super) fn bytes_before(code: VarInt) -> Option<u64> {
    let code = code.into_inner();
    (code & BROKEN_AFTER != 0).then_some(code & !BROKEN_AFTER)
}

/// Reports that `bytes` is the total number of bytes, and waits until the far end has taken them.
/// The caller then resets `send`.
pub(super) async fn tell(send: &mut SendStream, recv: &mut Arriving, bytes: u64) {
    let Ok(code) = VarInt::from_u64(bytes | BROKEN_AFTER) else { return };
    // Fails when the client's bytes were read to their end. Then STOP_SENDING cannot be sent.
    if recv.stop(code).is_ok() {
        // Ends also with the lane. A client that has not taken all bytes by then is reset.
        let _ = timeout(DELIVERY, send.stopped()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_carries_the_number_of_bytes_before_the_end() {
        for bytes in [0, 1, 4, 1 << 40, BROKEN_AFTER - 1] {
            let code = VarInt::from_u64(bytes | BROKEN_AFTER).unwrap();
            assert_eq!(bytes_before(code), Some(bytes));
        }
        for code in [0, 4, 1 << 32, BROKEN_AFTER - 1] {
            assert_eq!(bytes_before(VarInt::from_u64(code).unwrap()), None, "{code}");
        }
    }

    #[tokio::test]
    async fn a_flow_breaks_only_when_all_bytes_before_are_taken() {
        let far_end = FarEnd::new();
        let mut end = far_end.watch();
        let soon = Duration::from_millis(20);
        assert!(timeout(soon, broke_at(&mut end, 9)).await.is_err());
        far_end.stopped(VarInt::from_u32(4));
        assert!(timeout(soon, broke_at(&mut end, 9)).await.is_err(), "an ordinary stop");
        far_end.stopped(VarInt::from_u64(BROKEN_AFTER | 10).unwrap());
        assert!(timeout(soon, broke_at(&mut end, 9)).await.is_err());
        assert!(timeout(soon, broke_at(&mut end, 10)).await.is_ok());
    }
}
