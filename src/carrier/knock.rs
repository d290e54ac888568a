//! The bytes with which a dialler shows that it knows the overlay. PURE.

use ring::hmac;

use crate::identity::Fingerprint;

/// Bytes of a knock.
pub(super) const KNOCK_LEN: usize = 32;

/// The exporter's label of the session's part (RFC 8446, section 7.5).
pub(super) const EXPORTER_LABEL: &[u8] = b"EXPORTER-ronproxy-stream-knock";

/// What separates this use of the fingerprint from others.
const PURPOSE: &[u8] = b"ronproxy knock 1";

/// The key of an overlay's knocks. Members and invited nodes know the fingerprint that it comes from.
#[derive(Debug, Clone)]
pub(super) struct KnockKey(hmac::Key);

impl KnockKey {
    /// The key of the overlay with this authority.
    pub(super) fn of(authority: Fingerprint) -> Self {
        let purpose = hmac::Key::new(hmac::HMAC_SHA256, PURPOSE);
        let key = hmac::sign(&purpose, authority.bytes());
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()))
    }

    /// The knock of the session with these exported bytes.
    pub(super) fn knock(&self, session: &[u8; KNOCK_LEN]) -> [u8; KNOCK_LEN] {
        let mut knock = [0; KNOCK_LEN];
        knock.copy_from_slice(hmac::sign(&self.0, session).as_ref());
        knock
    }
}

/// Whether what came so far is the knock.
#[cfg(any(test, feature = "proxy"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged {
    /// All of it is there.
    Knock,
    /// Its beginning.
    Beginning,
    /// Something else.
    Other,
}

/// Compares what came with the knock that is due. A knock is good for one session, so how long this takes
/// tells nobody anything of use.
#[cfg(any(test, feature = "proxy"))]
pub(super) fn judge(due: &[u8; KNOCK_LEN], came: &[u8]) -> Judged {
    match came.get(..KNOCK_LEN) {
        Some(whole) if whole == due => Judged::Knock,
        None if due.starts_with(came) => Judged::Beginning,
        _ => Judged::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_knock_is_of_one_session_and_one_overlay() {
        let key = KnockKey::of(Fingerprint::of(b"a"));
        let knock = key.knock(&[1; 32]);
        assert_eq!(knock[..8], [0x13, 0x28, 0x2f, 0x22, 0x73, 0xaa, 0xa4, 0x17]);
        assert_eq!(knock, KnockKey::of(Fingerprint::of(b"a")).knock(&[1; 32]));
        assert_ne!(knock, key.knock(&[2; 32]));
        assert_ne!(knock, KnockKey::of(Fingerprint::of(b"b")).knock(&[1; 32]));
    }

    #[test]
    fn a_knock_is_told_from_other_bytes_at_the_first_that_differs() {
        let due = [7; KNOCK_LEN];
        assert_eq!(judge(&due, &[7; 40]), Judged::Knock);
        assert_eq!(judge(&due, &[7; 31]), Judged::Beginning);
        assert_eq!(judge(&due, &[]), Judged::Beginning);
        for other in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PRI * HTTP/2.0",
            &[7, 7, 8],
            &[&[7; 31][..], &[8]].concat(),
        ] {
            assert_eq!(judge(&due, other), Judged::Other);
        }
    }
}
