//! Encryption with a passphrase, in the format of `age` (age-encryption.org/v1). Other programs
//! read it too: `age -d FILE | tar -x`.

use std::io::{self, Read as _, Write as _};

use age::{DecryptError, Decryptor, Encryptor, secrecy::SecretString};
use zeroize::Zeroizing;

/// The logarithm of scrypt's work: 2¹⁷ with 128 MiB of memory, the least that OWASP recommends. One
/// guess costs about half a second.
const WORK: u8 = 17;

/// The most work that a file may ask for: 1 GiB of memory. A forged file could ask for any.
const MOST_WORK: u8 = 20;

/// The fewest characters of a passphrase. An attacker who has the file can try passphrases for
/// years.
pub const MIN_PASSPHRASE: usize = 12;

/// The largest content read. An overlay of 256 nodes needs some 20 MB after two years, nearly all of
/// it the audit log.
const MAX_CONTENT: u64 = 256 << 20;

/// A passphrase. Its `Debug` output hides it.
#[derive(Debug, Clone)]
pub struct Passphrase(SecretString);

/// A file cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Too short.
    #[error(
        "a passphrase has at least {MIN_PASSPHRASE} characters; four random words are good ones"
    )]
    Short,
    /// The file is of another kind.
    #[error("this is no backup of ronproxy; name the file that `ronproxy backup` wrote")]
    NotSealed,
    /// The passphrase is wrong.
    #[error("the passphrase does not open this backup; try another")]
    Passphrase,
    /// Altered or cut off.
    #[error("the backup is damaged or cut off; copy it again, or take an older one")]
    Damaged,
    /// Larger than any file that this program writes.
    #[error("the backup is larger than 256 MiB, so ronproxy did not write it")]
    TooLarge,
    /// The system gave no randomness or memory.
    #[error("the backup cannot be encrypted: {0}; try again")]
    Io(io::Error),
}

impl Passphrase {
    /// A passphrase to seal with.
    ///
    /// # Errors
    /// When it is too short.
    pub fn new(text: String) -> Result<Self, SealError> {
        let text = Zeroizing::new(text);
        if text.chars().count() < MIN_PASSPHRASE {
            return Err(SealError::Short);
        }
        Ok(Self(SecretString::from(text.as_str())))
    }

    /// A passphrase to open with, of any length.
    #[must_use]
    pub fn to_open(text: String) -> Self {
        Self(SecretString::from(text))
    }
}

/// Encrypts `content`.
///
/// # Errors
/// When the system gives no randomness.
pub fn seal(content: &[u8], passphrase: &Passphrase) -> Result<Vec<u8>, SealError> {
    let mut recipient = age::scrypt::Recipient::new(passphrase.0.clone());
    recipient.set_work_factor(WORK);
    let failed = |error: &dyn std::fmt::Display| SealError::Io(io::Error::other(error.to_string()));
    let encryptor = Encryptor::with_recipients(std::iter::once(&recipient as _))
        .map_err(|error| failed(&error))?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(SealError::Io)?;
    writer.write_all(content).map_err(SealError::Io)?;
    writer.finish().map_err(SealError::Io)?;
    Ok(sealed)
}

/// Decrypts a sealed file. It returns the content after all of it is authenticated.
///
/// # Errors
/// Says whether the file is of another kind, the passphrase wrong, or the file damaged.
pub fn open(sealed: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let decryptor = Decryptor::new_buffered(sealed).map_err(|error| refusal(&error))?;
    if !decryptor.is_scrypt() {
        return Err(SealError::NotSealed);
    }
    let mut identity = age::scrypt::Identity::new(passphrase.0.clone());
    identity.set_max_work_factor(MOST_WORK);
    let reader =
        decryptor.decrypt(std::iter::once(&identity as _)).map_err(|error| refusal(&error))?;
    let mut content = Zeroizing::new(Vec::with_capacity(sealed.len()));
    reader.take(MAX_CONTENT + 1).read_to_end(&mut content).map_err(|_| SealError::Damaged)?;
    if content.len() as u64 > MAX_CONTENT {
        return Err(SealError::TooLarge);
    }
    Ok(content)
}

fn refusal(error: &DecryptError) -> SealError {
    match error {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => SealError::Passphrase,
        DecryptError::InvalidMac => SealError::Damaged,
        // Not of this format, encrypted for other keys, or with a work factor above the cap.
        _ => SealError::NotSealed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_file_and_its_passphrase_open_it() {
        let passphrase = Passphrase::new("correct horse battery".into()).unwrap();
        let sealed = seal(b"secret", &passphrase).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(*open(&sealed, &passphrase).unwrap(), b"secret");
        let wrong = open(&sealed, &Passphrase::to_open("wrong".into()));
        assert!(matches!(wrong, Err(SealError::Passphrase)), "{wrong:?}");
        let cut = open(&sealed[..sealed.len() - 1], &passphrase);
        assert!(matches!(cut, Err(SealError::Damaged)), "{cut:?}");
        for bytes in [&b"hello"[..], b"", b"age-encryption.org/v1\n-> X25519 x\n"] {
            assert!(open(bytes, &passphrase).is_err());
        }
    }

    #[test]
    fn a_short_passphrase_is_refused_and_none_is_shown() {
        assert!(matches!(Passphrase::new("eleven char".into()), Err(SealError::Short)));
        let shown = format!("{:?}", Passphrase::to_open("secret".into()));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
