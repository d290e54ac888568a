//! Nonces that come to this node's present address, sorted by the link whose neighbour asks.
//!
//! A nonce names its link by a number that only the two ends of that link know. A nonce of no link is
//! dropped where it is received, so it uses up no place and no budget of a neighbour.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::wire::nonce::AddressNonce;

/// The links for which nonces may come, by the number under which their neighbours ask.
#[derive(Default)]
pub(super) struct Askers(Mutex<HashMap<u64, Arc<Waiting>>>);

/// The newest nonce of a link. An older one that still waits is of an earlier challenge, or the same.
#[derive(Default)]
struct Waiting {
    nonce: Mutex<Option<u64>>,
    came: Notify,
}

/// The nonces of one link. When it is dropped, they are those of no link.
pub struct NonceInbox {
    askers: Arc<Askers>,
    asker: u64,
    waiting: Arc<Waiting>,
}

impl Askers {
    /// The nonces that come under `asker` from now on.
    pub(super) fn inbox(self: &Arc<Self>, asker: u64) -> NonceInbox {
        let waiting = Arc::<Waiting>::default();
        self.lock().insert(asker, waiting.clone());
        NonceInbox { askers: self.clone(), asker, waiting }
    }

    /// Hands a nonce to its link; false if it is of none.
    pub(super) fn hand_over(&self, AddressNonce { asker, nonce }: AddressNonce) -> bool {
        let Some(waiting) = self.lock().get(&asker).cloned() else { return false };
        *waiting.nonce.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce);
        waiting.came.notify_one();
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Waiting>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NonceInbox {
    /// The next nonce that the neighbour sent to our present address. For one task.
    pub async fn next(&self) -> u64 {
        loop {
            let nonce = self.waiting.nonce.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(nonce) = nonce {
                return nonce;
            }
            self.waiting.came.notified().await;
        }
    }
}

impl Drop for NonceInbox {
    fn drop(&mut self) {
        self.askers.lock().remove(&self.asker);
    }
}
