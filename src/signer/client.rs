//! The authority's interface for the rest of the program.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Answer, Clerk, InviteRefusal, NewInvitation, Question,
    child::{ChildProcess, KEEPER_TIMEOUT, Started},
    message::{Asked, PATIENCE},
    openness::{Next, Openness, TokenHash},
};
use crate::identity::{
    Actor, Certified, Clock, JoinRefusal, JoinRequest, NodeName, Renewed, Token, UnixTime, Welcome,
};

/// The authority as the node sees it: a process of its own, or, in a program that embeds a whole
/// overlay, an object in this one.
#[derive(Clone)]
pub struct AuthorityClient(Arc<Inner>);

struct Inner {
    way: Way,
    /// Questions so far.
    asked: AtomicU64,
    openness: Mutex<Openness>,
    /// Told when the question about invitations is over.
    heard: Notify,
}

enum Way {
    Here(Box<Mutex<Clerk>>, Clock),
    Process(ChildProcess),
}

impl AuthorityClient {
    /// An authority in this process, for the lab and for tests; it dates by `clock`.
    #[must_use]
    pub fn here(clerk: Clerk, clock: Clock) -> Self {
        Self::new(Way::Here(Box::new(Mutex::new(clerk)), clock))
    }

    /// Asks the signer, and its spare when it has ended. They end with this value.
    #[must_use]
    pub fn process(signer: Started) -> Self {
        Self::new(Way::Process(ChildProcess::with_spare(signer, KEEPER_TIMEOUT)))
    }

    fn new(way: Way) -> Self {
        let (openness, heard) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { way, asked: AtomicU64::new(0), openness, heard }))
    }

    /// How many questions were put so far.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Redeems an invitation for a joiner. The welcome names no members yet.
    ///
    /// # Errors
    /// What the joiner is told; [`JoinRefusal::Unavailable`] when the signer does not answer.
    pub async fn join(&self, request: JoinRequest, by: Actor) -> Result<Welcome, JoinRefusal> {
        match self.ask(Question::Join(request, by)).await? {
            Answer::Welcome(welcome) => Ok(welcome),
            other => Err(unexpected(&other)),
        }
    }

    /// The next certificate for the key of a signing request: PKCS#10, DER.
    ///
    /// # Errors
    /// What the node is told; [`JoinRefusal::Unavailable`] when the signer does not answer.
    pub async fn renew(&self, request: Vec<u8>, by: Actor) -> Result<Renewed, JoinRefusal> {
        match self.ask(Question::Renew(request, by)).await? {
            Answer::Renewed(renewed) => Ok(renewed),
            other => Err(unexpected(&other)),
        }
    }

    /// Puts an invitation of the dashboard on record, by which an entry of this name joins with this token.
    ///
    /// # Errors
    /// What the asker is told.
    pub async fn invite(
        &self,
        token: Token,
        name: NodeName,
    ) -> Result<NewInvitation, InviteRefusal> {
        match self.ask(Question::Invite(token, name)).await {
            Ok(Answer::Invited(invitation)) => Ok(invitation),
            Ok(Answer::NotInvited(refusal)) => Err(refusal),
            _ => Err(InviteRefusal::Failed),
        }
    }

    /// The members by their newest certificates on record, and how many more there are.
    ///
    /// # Errors
    /// [`JoinRefusal::Unavailable`] when the signer does not answer.
    pub async fn members(&self) -> Result<(Vec<Certified>, u32), JoinRefusal> {
        match self.ask(Question::Members).await? {
            Answer::Members(members, left_out) => Ok((members, left_out)),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether an invitation is open, so that a stranger may join. It is `true` while the signer does
    /// not answer, so that a joiner is told.
    ///
    /// A handshake waits for it, so it takes half a second at most, and no time while the signer is
    /// known to hang.
    pub async fn may_join(&self) -> bool {
        let heard = self.0.heard.notified();
        let (next, ask) = self.openness().next(Instant::now());
        self.ask_if(ask);
        match next {
            Next::Know(any) => any,
            Next::Wait(until) => {
                // The stored answer is read, also if the wait timed out.
                let _ = timeout_at(until, heard).await;
                self.openness().believed()
            }
        }
    }

    /// The SHA-256 of the token of each open invitation, as the signer said at the last question of
    /// [`may_join`](Self::may_join), and puts that question if the answer is old.
    #[must_use]
    pub fn open_tokens(&self) -> Arc<[TokenHash]> {
        let (_, ask) = self.openness().next(Instant::now());
        self.ask_if(ask);
        self.openness().open()
    }

    fn ask_if(&self, ask: bool) {
        if ask {
            let this = self.clone();
            tokio::spawn(async move { this.ask_openness().await });
        }
    }

    async fn ask_openness(&self) {
        let answer = match self.ask(Question::Open).await {
            Ok(Answer::Open(tokens)) => Some(tokens),
            _ => None,
        };
        self.openness().heard(answer, Instant::now());
        self.0.heard.notify_waiters();
    }

    fn openness(&self) -> MutexGuard<'_, Openness> {
        self.0.openness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, question: Question) -> Result<Answer, JoinRefusal> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        let answer = match &self.0.way {
            Way::Here(clerk, clock) => {
                let mut clerk = clerk.lock().unwrap_or_else(PoisonError::into_inner);
                clerk.answer(&question, clock.now())
            }
            Way::Process(signer) => {
                let asked = Asked { at: UnixTime::now().as_secs(), question };
                let bytes = asked.encode().ok_or(JoinRefusal::Internal)?;
                let answer = timeout(PATIENCE, signer.ask(bytes)).await.ok().flatten();
                let answer = answer.and_then(|answer| Answer::decode(&answer));
                answer.ok_or(JoinRefusal::Unavailable)?
            }
        };
        match answer {
            Answer::Refused(refusal) => Err(refusal),
            answer => Ok(answer),
        }
    }
}

impl fmt::Debug for AuthorityClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.way {
            Way::Here(..) => "AuthorityClient(here)",
            Way::Process(_) => "AuthorityClient(process)",
        })
    }
}

fn unexpected(answer: &Answer) -> JoinRefusal {
    tracing::warn!("the signer's answer is for another question");
    tracing::debug!(?answer, "the answer");
    JoinRefusal::Unavailable
}
