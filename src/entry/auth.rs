//! Who may use the proxy, and what their user name asks for.

use std::{fmt, sync::Arc};

use super::{
    config::User,
    options::{Options, OptionsError},
};
use crate::live::Live;

/// Decides over user names and passwords, for every protocol alike.
pub(super) struct Authenticator {
    users: Arc<Live<Vec<User>>>,
}

/// Why a user name and password were refused. Never holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AuthError {
    #[error("the proxy asks for a user name and a password, and the client sent none")]
    Missing,
    #[error("the user name or the password is wrong")]
    Wrong,
    #[error("the user name's options are not valid: {0}")]
    Options(#[from] OptionsError),
}

impl Authenticator {
    pub(super) fn new(users: Vec<User>) -> Self {
        Self { users: Arc::new(Live::new(users)) }
    }

    /// The users, to be replaced while the entry runs.
    pub(super) fn users(&self) -> Arc<Live<Vec<User>>> {
        self.users.clone()
    }

    /// Whether a client must name itself.
    pub(super) fn is_required(&self) -> bool {
        !self.users.get().is_empty()
    }

    /// What a client that sent no user name gets.
    pub(super) fn anonymous(&self) -> Result<Options, AuthError> {
        if self.is_required() { Err(AuthError::Missing) } else { Ok(Options::default()) }
    }

    /// Checks `user`: `name` or `name+options`. Without configured users every name and password is
    /// accepted, and the name may be `options`.
    pub(super) fn check(&self, user: &str, password: &str) -> Result<Options, AuthError> {
        if !self.is_required() {
            return Ok(Options::of_name(user)?);
        }
        let (name, options) = user.split_once('+').unwrap_or((user, ""));
        // Every user is compared, so that the time taken does not tell which names exist.
        let known = self.users.get().iter().fold(false, |known, candidate| {
            known
                | (same(candidate.name.as_bytes(), name.as_bytes())
                    & same(candidate.password.as_bytes(), password.as_bytes()))
        });
        if !known {
            return Err(AuthError::Wrong);
        }
        Ok(Options { user: Some(name.to_owned()), ..Options::parse(options)? })
    }
}

/// The text of a user name or password: UTF-8, or else Latin-1, which some clients still send. Every
/// byte string has one.
pub(super) fn text_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

/// Equality whose duration depends on the lengths only, not on where the first difference is.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && std::hint::black_box(left.iter().zip(right).fold(0, |acc, (l, r)| acc | (l ^ r))) == 0
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("users", &self.users.get().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_users() -> Authenticator {
        let user = |name: &str, password: &str| User {
            name: name.to_owned(),
            password: password.to_owned(),
        };
        Authenticator::new(vec![user("ann", "one"), user("bob", "two")])
    }

    #[test]
    fn a_user_needs_exactly_their_own_password() {
        let auth = with_users();
        for (user, password, accepted) in [
            ("ann", "one", true),
            ("bob", "two", true),
            ("ann", "two", false),
            ("ann", "", false),
            ("ann", "one ", false),
            ("", "", false),
            ("eve", "one", false),
            ("ann+exit=mit,hint=loss", "one", true),
            ("ann+exit=mit", "two", false),
            ("ann+exti=mit", "one", false),
            ("exit=mit", "one", false),
        ] {
            assert_eq!(auth.check(user, password).is_ok(), accepted, "{user}:{password}");
        }
        assert_eq!(auth.anonymous(), Err(AuthError::Missing));
    }

    #[test]
    fn without_users_any_name_and_password_is_accepted() {
        let auth = Authenticator::new(Vec::new());
        assert_eq!(auth.check("exit=mit", "x").unwrap().exit.unwrap().as_str(), "mit");
        assert_eq!(auth.check("", "x"), Ok(Options::default()));
        assert_eq!(auth.check("ann", ""), Ok(Options::default()));
        assert!(matches!(auth.check("exit=A", "x"), Err(AuthError::Options(_))));
        assert_eq!(auth.anonymous(), Ok(Options::default()));
    }

    #[test]
    fn a_name_in_latin_1_is_the_same_name() {
        assert_eq!(text_of("Jörg".as_bytes()), "Jörg");
        assert_eq!(text_of(b"J\xf6rg"), "Jörg");
        assert_eq!(text_of(&[0, 0xff]), "\0ÿ");
    }
}
