//! The preface of an HTTP/2 server, which begins what a listener sends. PURE.

/// Bytes of the head of an HTTP/2 frame (RFC 9113, section 4.1): length, type, flags, stream.
const HEAD: usize = 9;

/// The longest payload of a preface: no setting is sent twice, and there are fewer than this holds.
const MAX_PAYLOAD: usize = 1024;

/// What begins otherwise than an HTTP/2 server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its server begins otherwise than with HTTP/2's settings")]
pub(super) struct NoPreface;

/// How many of the bytes that `came` are the preface: a frame with the server's settings (RFC 9113, sections 3.4 and
/// 6.5). `None` until all of it is there.
pub(super) fn preface_in(came: &[u8]) -> Result<Option<usize>, NoPreface> {
    /// `SETTINGS`, no flags, stream 0.
    const SETTINGS: [u8; 6] = [4, 0, 0, 0, 0, 0];
    let Some((head, rest)) = came.split_first_chunk::<HEAD>() else { return Ok(None) };
    let payload = usize::from(head[1]) << 8 | usize::from(head[2]);
    if head[0] != 0 || head[3..] != SETTINGS || payload > MAX_PAYLOAD {
        return Err(NoPreface);
    }
    Ok((rest.len() >= payload).then_some(HEAD + payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_a_frame_of_settings() {
        let one = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 8];
        assert_eq!(preface_in(&[&one[..], b"more"].concat()), Ok(Some(15)));
        for short in 0..one.len() {
            assert_eq!(preface_in(&one[..short]), Ok(None), "{short}");
        }
        assert_eq!(preface_in(&[0, 0, 0, 4, 0, 0, 0, 0, 0]), Ok(Some(9)));
    }

    #[test]
    fn other_beginnings_are_none() {
        for (at, byte) in [(0, 1), (1, 5), (3, 0), (4, 1), (8, 1)] {
            let mut other = [0, 0, 6, 4, 0, 0, 0, 0, 0];
            other[at] = byte;
            assert_eq!(preface_in(&other), Err(NoPreface), "{at}");
        }
        assert_eq!(preface_in(b"HTTP/1.1 400 Bad Request"), Err(NoPreface));
    }
}
