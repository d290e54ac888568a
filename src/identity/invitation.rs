//! The one line that invites a node.

use std::{fmt, net::SocketAddr, str::FromStr};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{Fingerprint, NodeName, UnixTime, digest::sha256};
use crate::flow::{Host, Target};

/// The text's prefix, and with it the format's version.
const PREFIX: &str = "ron1:";
/// The same of an invitation with names, which programs of format 1 do not understand.
const NAMED_PREFIX: &str = "ron2:";
/// Most addresses and names in one invitation. The authority's node has a few.
pub const MAX_ADDRESSES: usize = 8;
/// The longest text read: the longest valid one, with 8 names of 253 bytes, is under 3,400 characters.
const MAX_TEXT: usize = 4096;
/// Bytes of the checksum. It finds copying errors; it does not stop attackers.
const CHECKSUM: usize = 4;

/// An invitation: where the authority is, how to recognise it, and the right to one certificate.
///
/// Its text is `ron1:` and, in base64url without padding, the body's length (two bytes, big
/// endian), the body (postcard), and the first 4 bytes of the body's SHA-256. With names it is `ron2:`, and
/// they follow in the body. The text is a secret until it is used or expired.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Where the authority's node listens: with the names 1 to 8.
    pub addresses: Vec<SocketAddr>,
    /// The same by names, which the joiner resolves.
    #[serde(skip)]
    pub names: Vec<Target>,
    /// The authority's node, whose certificate it must show.
    pub authority: NodeName,
    /// The certificate of the authority.
    pub fingerprint: Fingerprint,
    /// The right to one certificate.
    pub token: Token,
    /// The name that the new node gets.
    pub name: NodeName,
    /// When the invitation ends, in seconds since 1970.
    pub expires: u64,
}

/// The one-time token of an invitation: 32 random bytes. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token([u8; 32]);

/// The text is not a usable invitation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    /// Does not begin with `ron1:`.
    #[error(
        "this is no invitation; paste the line that `ronproxy invite` printed, from `ron1:` or `ron2:` on"
    )]
    NotAnInvitation,
    /// Made by another version of this program.
    #[error(
        "the invitation is of format ron{0}, this program reads ron1 and ron2; \
         install the same version as the inviter"
    )]
    Version(String),
    /// Its end is missing.
    #[error("the invitation is cut off; copy the whole line, to its end")]
    Truncated,
    /// A character was changed or added.
    #[error(
        "the invitation was altered on its way; copy the line again, with nothing before or after it"
    )]
    Altered,
    /// Too late.
    #[error("the invitation expired {} ago; ask for a new one", ago(*.0))]
    Expired(u64),
    /// Cannot be written: no address and no name, or more than 8.
    #[error("an invitation has 1 to {MAX_ADDRESSES} addresses, not {0}; set `advertise` in [node]")]
    Addresses(usize),
}

impl Token {
    /// A token of 32 bytes that the caller drew at random.
    #[must_use]
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The SHA-256 under which the authority remembers the token.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Invitation {
    /// The line that the inviter sends.
    ///
    /// # Errors
    /// When there is no address, or more than 8.
    pub fn to_line(&self) -> Result<String, InvitationError> {
        let count = self.addresses.len() + self.names.len();
        if !(1..=MAX_ADDRESSES).contains(&count) {
            return Err(InvitationError::Addresses(count));
        }
        let mut body = postcard::to_stdvec(self).map_err(|_| InvitationError::Altered)?;
        let mut prefix = PREFIX;
        if !self.names.is_empty() {
            prefix = NAMED_PREFIX;
            body.extend(postcard::to_stdvec(&self.names).map_err(|_| InvitationError::Altered)?);
        }
        let length = u16::try_from(body.len()).map_err(|_| InvitationError::Altered)?;
        let checksum = &sha256(&body)[..CHECKSUM];
        let bytes = [&length.to_be_bytes()[..], &body, checksum].concat();
        Ok(format!("{prefix}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Reads a line and checks that it has not expired. White space, as mail programs insert it,
    /// is ignored.
    ///
    /// # Errors
    /// Says whether the line is cut off, altered, of another version, or too late.
    pub fn parse(text: &str, now: UnixTime) -> Result<Self, InvitationError> {
        let invitation: Self = text.parse()?;
        invitation.check_expiry(now)?;
        Ok(invitation)
    }

    /// Checks that the invitation is not over at `now`.
    ///
    /// # Errors
    /// [`InvitationError::Expired`].
    pub fn check_expiry(&self, now: UnixTime) -> Result<(), InvitationError> {
        let late = now.as_secs().checked_sub(self.expires);
        late.map_or(Ok(()), |late| Err(InvitationError::Expired(late)))
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;

    /// Reads a line without looking at its expiry; see [`Invitation::parse`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).take(MAX_TEXT + 1).collect();
        let named = text.strip_prefix(NAMED_PREFIX);
        let Some(encoded) = text.strip_prefix(PREFIX).or(named) else {
            return Err(other_version(&text).unwrap_or(InvitationError::NotAnInvitation));
        };
        if text.len() > MAX_TEXT {
            return Err(InvitationError::Altered);
        }
        let body = unwrap_body(&decode(encoded)?)?;
        let (mut invitation, mut rest) =
            postcard::take_from_bytes::<Self>(&body).map_err(|_| InvitationError::Altered)?;
        if named.is_some() {
            (invitation.names, rest) =
                postcard::take_from_bytes(rest).map_err(|_| InvitationError::Altered)?;
        }
        let count = invitation.addresses.len() + invitation.names.len();
        let nameless = |name: &Target| !matches!(name.host, Host::Name(_)) || name.port == 0;
        if !rest.is_empty()
            || !(1..=MAX_ADDRESSES).contains(&count)
            || invitation.names.iter().any(nameless)
        {
            return Err(InvitationError::Altered);
        }
        Ok(invitation)
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, authority, addresses, names, .. } = self;
        write!(f, "Invitation({name} by {authority} at {addresses:?} {names:?})")
    }
}

fn other_version(text: &str) -> Option<InvitationError> {
    let (version, _) = text.strip_prefix("ron")?.split_once(':')?;
    let digits = (1..=4).contains(&version.len()) && version.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| InvitationError::Version(version.to_owned()))
}

fn decode(text: &str) -> Result<Vec<u8>, InvitationError> {
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return Err(InvitationError::Altered);
    }
    // A cut may leave a last group that is not a whole byte. The groups before it are decoded, so
    // that the length shows the cut.
    let whole = &text[..text.len() / 4 * 4];
    match BASE64_URL_SAFE_NO_PAD.decode(text) {
        Ok(bytes) => Ok(bytes),
        Err(_) => BASE64_URL_SAFE_NO_PAD.decode(whole).map_err(|_| InvitationError::Altered),
    }
}

fn unwrap_body(bytes: &[u8]) -> Result<Vec<u8>, InvitationError> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or(InvitationError::Truncated)?;
    let length = usize::from(u16::from_be_bytes(*length));
    if rest.len() < length + CHECKSUM {
        return Err(InvitationError::Truncated);
    }
    let (body, checksum) = rest.split_at(length);
    if sha256(body)[..CHECKSUM] != *checksum {
        return Err(InvitationError::Altered);
    }
    Ok(body.to_vec())
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::test_support::{NOW, after};

    fn invitation() -> Invitation {
        Invitation {
            addresses: vec![
                "192.0.2.1:4600".parse().unwrap(),
                "[2001:db8::1]:4600".parse().unwrap(),
            ],
            names: Vec::new(),
            authority: "mit".parse().unwrap(),
            fingerprint: Fingerprint::of(b"authority"),
            token: Token::from_random([7; 32]),
            name: "utah".parse().unwrap(),
            expires: NOW.as_secs() + 3600,
        }
    }

    #[test]
    fn an_invitation_reads_back_also_when_mail_folded_it() {
        let line = invitation().to_line().unwrap();
        let (start, end) = line.split_at(70);
        for text in [line.clone(), format!(" {start}\r\n  {end}\n")] {
            assert_eq!(Invitation::parse(&text, NOW), Ok(invitation()));
        }
    }

    fn named(names: Vec<Target>) -> Invitation {
        Invitation { names, ..invitation() }
    }

    #[test]
    fn names_are_told_in_a_format_of_their_own() {
        assert!(invitation().to_line().unwrap().starts_with(PREFIX), "older programs read it");
        let longest = format!("{}.test:65535", vec!["a".repeat(61); 4].join("."));
        for names in
            [vec!["mit.example.org:4600".parse().unwrap()], vec![longest.parse().unwrap(); 6]]
        {
            let line = named(names.clone()).to_line().unwrap();
            assert!(line.starts_with(NAMED_PREFIX) && line.len() < MAX_TEXT, "{}", line.len());
            assert_eq!(Invitation::parse(&line, NOW), Ok(named(names)));
            assert!(Invitation::parse(&line.replace("ron2", "ron1"), NOW).is_err());
        }
        let only = Invitation { addresses: Vec::new(), ..named(vec!["a.test:1".parse().unwrap()]) };
        assert_eq!(Invitation::parse(&only.to_line().unwrap(), NOW), Ok(only));
    }

    #[test]
    fn an_address_in_the_place_of_a_name_is_refused() {
        for bad in
            ["192.0.2.1:1".parse().unwrap(), Target { port: 0, ..("a.test:1".parse().unwrap()) }]
        {
            let line = named(vec![bad]).to_line().unwrap();
            assert_eq!(Invitation::parse(&line, NOW), Err(InvitationError::Altered));
        }
    }

    #[test]
    fn a_cut_invitation_is_called_cut() {
        let line = invitation().to_line().unwrap();
        for end in PREFIX.len()..line.len() {
            assert_eq!(
                Invitation::parse(&line[..end], NOW),
                Err(InvitationError::Truncated),
                "{end}"
            );
        }
    }

    #[test]
    fn an_altered_invitation_is_never_accepted() {
        let line = invitation().to_line().unwrap();
        for at in PREFIX.len()..line.len() {
            let mut altered = line.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert!(Invitation::parse(&altered, NOW).is_err(), "{at}");
        }
        for altered in [format!("{line}!"), format!("{line}AAAA"), line.replace('A', "=")] {
            assert_eq!(
                Invitation::parse(&altered, NOW),
                Err(InvitationError::Altered),
                "{altered}"
            );
        }
    }

    #[test]
    fn other_text_and_other_versions_are_told_apart() {
        let cases = [
            ("", InvitationError::NotAnInvitation),
            ("https://example.org", InvitationError::NotAnInvitation),
            ("ronx:AAAA", InvitationError::NotAnInvitation),
            ("ron3:AAAA", InvitationError::Version("3".into())),
        ];
        for (text, error) in cases {
            assert_eq!(Invitation::parse(text, NOW), Err(error), "{text}");
        }
    }

    #[test]
    fn an_expired_invitation_says_since_when() {
        let line = invitation().to_line().unwrap();
        assert!(Invitation::parse(&line, after(3599)).is_ok());
        let error = Invitation::parse(&line, after(3600 + 7200)).unwrap_err();
        assert_eq!(error.to_string(), "the invitation expired 2 h ago; ask for a new one");
    }

    #[test]
    fn only_one_to_eight_addresses_are_written_or_read() {
        for count in [0, MAX_ADDRESSES + 1] {
            let addresses = vec!["192.0.2.1:1".parse().unwrap(); count];
            let bad = Invitation { addresses, ..invitation() };
            assert_eq!(bad.to_line(), Err(InvitationError::Addresses(count)));
        }
        let most = named(vec!["a.test:1".parse().unwrap(); MAX_ADDRESSES - 1]);
        assert_eq!(most.to_line(), Err(InvitationError::Addresses(MAX_ADDRESSES + 1)));
    }

    #[test]
    fn no_token_shows_in_debug_output() {
        let shown = format!("{:?} {:?}", invitation(), invitation().token);
        assert!(!shown.contains('7') && shown.contains("Token(..)"), "{shown}");
    }

    proptest! {
        #[test]
        fn random_text_never_panics(text in "(ron[12]:)?[ -~é]{0,200}", bytes in any::<Vec<u8>>()) {
            let _ = Invitation::parse(&text, NOW);
            for prefix in [PREFIX, NAMED_PREFIX] {
                let text = format!("{prefix}{}", BASE64_URL_SAFE_NO_PAD.encode(&bytes));
                let _ = Invitation::parse(&text, NOW);
            }
        }
    }
}
