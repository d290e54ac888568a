//! Accepting connections, also when the system is short of something.

use std::{io, time::Duration};

use tokio::time::sleep;

/// After a failed accept, usually for want of file descriptors, so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// What a listener accepted; `None` after a failure of the socket, which `socket` names, is logged and a pause is over.
pub(crate) async fn or_pause<T>(accepted: io::Result<T>, socket: &str) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "{socket} failed");
            sleep(PAUSE).await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failed_accept_is_followed_by_a_pause() {
        let began = tokio::time::Instant::now();
        assert_eq!(or_pause(Ok(7), "a socket").await, Some(7));
        assert_eq!(began.elapsed(), Duration::ZERO);
        let failed = Err::<u8, _>(io::Error::other("too many open files"));
        assert_eq!((or_pause(failed, "a socket").await, began.elapsed()), (None, PAUSE));
    }
}
