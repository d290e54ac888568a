//! Who may look: links for one use, sessions, and the bearer token. PURE.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};

/// Random bytes of each secret: nobody guesses 256 bits, so wrong guesses are counted and cost nobody a
/// lock-out.
pub(super) const SECRET_BYTES: usize = 32;

/// How long a link works: time to copy it into a browser of this machine.
pub(crate) const LINK_LASTS: Duration = Duration::from_secs(300);

/// Links that wait to be used; the oldest makes room.
const MAX_LINKS: usize = 16;

/// How long a session lasts without a request. A dashboard that is left open asks each second.
const SESSION_RESTS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Sessions at once, one per browser; the one that rested longest makes room.
const MAX_SESSIONS: usize = 64;

/// What is kept of a secret: its SHA-256. It is looked up by that, so the time of a comparison tells nothing.
type Print = [u8; 32];

/// The secrets that open the dashboard. Times are since the start of the node.
pub(crate) struct Access {
    bearer: Print,
    links: VecDeque<(Print, Duration)>,
    /// When each session was used last.
    sessions: HashMap<Print, Duration>,
    wrong: u64,
}

/// A random secret as text.
#[must_use]
pub(super) fn secret(random: [u8; SECRET_BYTES]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(random)
}

fn print(secret: &str) -> Print {
    let mut print = [0; 32];
    print.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    print
}

impl Access {
    /// Access by the bearer token `token`.
    #[must_use]
    pub(crate) fn new(token: &str) -> Self {
        Self { bearer: print(token), links: VecDeque::new(), sessions: HashMap::new(), wrong: 0 }
    }

    /// The secret of a new link.
    pub(crate) fn link(&mut self, now: Duration, random: [u8; SECRET_BYTES]) -> String {
        let secret = secret(random);
        if self.links.len() >= MAX_LINKS {
            self.links.pop_front();
        }
        self.links.push_back((print(&secret), now + LINK_LASTS));
        secret
    }

    /// Uses a link up; returns the secret of the new session.
    pub(crate) fn redeem(
        &mut self,
        now: Duration,
        link: &str,
        random: [u8; SECRET_BYTES],
    ) -> Option<String> {
        let print = print(link);
        let found = self.links.iter().position(|(known, _)| *known == print);
        let usable = found.and_then(|at| self.links.remove(at)).filter(|(_, until)| now < *until);
        if usable.is_none() {
            self.wrong += 1;
            return None;
        }
        let secret = secret(random);
        if self.sessions.len() >= MAX_SESSIONS
            && let Some(idle) = self.sessions.iter().min_by_key(|(_, used)| **used)
        {
            let idle = *idle.0;
            self.sessions.remove(&idle);
        }
        self.sessions.insert(self::print(&secret), now);
        Some(secret)
    }

    /// Whether a session has this secret; then it is used now.
    pub(crate) fn session(&mut self, now: Duration, secret: &str) -> bool {
        let print = print(secret);
        let rested = |used: &Duration| now.saturating_sub(*used) > SESSION_RESTS;
        match self.sessions.get_mut(&print) {
            Some(used) if !rested(used) => {
                *used = now;
                true
            }
            found => {
                if found.is_some() {
                    self.sessions.remove(&print);
                }
                self.wrong += 1;
                false
            }
        }
    }

    /// Whether this is the bearer token.
    pub(crate) fn bearer(&mut self, token: &str) -> bool {
        let right = print(token) == self.bearer;
        self.wrong += u64::from(!right);
        right
    }

    /// How many wrong links, cookies and tokens were shown.
    #[must_use]
    pub(crate) fn wrong(&self) -> u64 {
        self.wrong
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({} sessions)", self.sessions.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_link_works_once_and_for_five_minutes() {
        let mut access = Access::new("t");
        let link = access.link(s(0), [1; 32]);
        let session = access.redeem(s(299), &link, [2; 32]).unwrap();
        assert_eq!(access.redeem(s(299), &link, [3; 32]), None);
        assert!(access.session(s(300), &session));
        let late = access.link(s(0), [4; 32]);
        assert_eq!(access.redeem(s(300), &late, [5; 32]), None);
        assert_eq!(access.wrong(), 2);
    }

    #[test]
    fn a_session_lasts_while_it_is_used_and_a_week_longer() {
        let (mut access, day) = (Access::new("t"), 24 * 3600);
        let link = access.link(s(0), [1; 32]);
        let session = access.redeem(s(0), &link, [2; 32]).unwrap();
        for days in [6, 12, 18] {
            assert!(access.session(s(days * day), &session));
        }
        assert!(!access.session(s(26 * day), &session));
        assert!(!access.session(s(18 * day), &session), "it is gone");
    }

    #[test]
    fn a_million_wrong_tokens_take_no_room_and_lock_nobody_out() {
        let mut access = Access::new("right");
        for n in 0..1_000_000 / 3 {
            let wrong = n.to_string();
            assert!(!access.bearer(&wrong) && !access.session(s(1), &wrong));
            assert!(access.redeem(s(1), &wrong, [0; 32]).is_none());
        }
        assert_eq!((access.links.len(), access.sessions.len()), (0, 0));
        assert_eq!(access.wrong(), 999_999);
        assert!(access.bearer("right"));
    }

    #[test]
    fn old_links_and_sessions_make_room_for_new_ones() {
        let mut access = Access::new("t");
        let random = |n: usize| {
            let mut random = [0; 32];
            random[..8].copy_from_slice(&n.to_be_bytes());
            random
        };
        let sessions: Vec<String> = (0..MAX_SESSIONS + 1)
            .map(|n| {
                let link = access.link(s(n as u64), random(n));
                access.redeem(s(n as u64), &link, random(n + 1000)).unwrap()
            })
            .collect();
        let now = s(MAX_SESSIONS as u64 + 1);
        assert!(!access.session(now, &sessions[0]) && access.session(now, &sessions[1]));
        let links: Vec<String> = (0..MAX_LINKS + 1).map(|n| access.link(now, random(n))).collect();
        assert!(access.redeem(now, &links[0], [0; 32]).is_none());
        assert!(access.redeem(now, &links[1], [0; 32]).is_some());
    }
}
