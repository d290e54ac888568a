//! The probe message of a link, as it travels in a QUIC DATAGRAM frame.

use serde::{Deserialize, Serialize};

use crate::overlay::loss::LossCounts;

/// One message of the three-way probe: about 15 bytes in postcard.
///
/// Each node numbers the messages of regular exchanges that it sends on the link, whatever their kind,
/// without a gap. So the receiver counts lost messages exactly, and reports the count in each of its own
/// messages. Both ends know the loss of both directions, and no single message is essential.
///
/// The messages of other exchanges have no such number. They are sent because something was silent or
/// lost, so they meet more loss than the link has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// A random number of the sender's monitor. When it changes, the numbering has started again.
    pub epoch: u16,
    /// The number of this message among all that the sender sent on this link in this epoch.
    pub seq: u32,
    /// Its number among those of regular exchanges; `None` in another.
    pub regular: Option<u32>,
    /// How many of the receiver's last messages the sender knows to be lost, at most 100.
    pub heard_lost: u8,
    /// Of how many: at most 100; 0 when none was ever heard.
    pub heard_of: u8,
    /// The sender needs no exchange more often than every 100 s: another node tells it the figures of
    /// the path.
    pub rarely: bool,
    /// The message's place in the exchange.
    pub kind: ProbeKind,
}

/// The place of a message in the three-way exchange (SOSP 2001, §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeKind {
    /// Asks for a reply.
    Request,
    /// Answers a request at once: the requester learns the round-trip time.
    Reply {
        /// The number of the request.
        to: u32,
    },
    /// Answers a reply at once: the replier learns the round-trip time as well.
    Finish {
        /// The number of the reply.
        to: u32,
    },
}

impl Probe {
    /// The receiver's messages that the sender got.
    #[must_use]
    pub fn heard(&self) -> LossCounts {
        LossCounts::new(u32::from(self.heard_lost), u32::from(self.heard_of))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_of_a_probe_are_fixed() {
        let kinds = [
            (ProbeKind::Request, vec![0x00]),
            (ProbeKind::Reply { to: 300 }, vec![0x01, 0xac, 0x02]),
            (ProbeKind::Finish { to: 1 }, vec![0x02, 0x01]),
        ];
        for (kind, tail) in kinds {
            let rarely = kind == ProbeKind::Request;
            let regular = rarely.then_some(129);
            let probe = Probe {
                epoch: 0xbeef,
                seq: 300,
                regular,
                heard_lost: 2,
                heard_of: 100,
                rarely,
                kind,
            };
            let mut bytes = vec![
                0xef, 0xfd, 0x02, // epoch, varint
                0xac, 0x02, // seq, varint
            ];
            bytes.extend_from_slice(if rarely { &[0x01, 0x81, 0x01] } else { &[0x00] });
            bytes.extend([0x02, 0x64, u8::from(rarely)]); // lost, of, rarely
            bytes.extend(tail);
            assert_eq!(postcard::to_stdvec(&probe).unwrap(), bytes);
            assert_eq!(postcard::from_bytes::<Probe>(&bytes).unwrap(), probe);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_sane_probe_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..40)
        ) {
            if let Ok(probe) = postcard::from_bytes::<Probe>(&bytes) {
                let heard = probe.heard();
                prop_assert!(heard.lost() <= heard.of() && heard.of() <= 100);
            }
        }
    }
}
