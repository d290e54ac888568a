//! The signer: the only process with the authority's key.
//!
//! ```text
//!  ronproxy run  (UDP, the proxy; never opens authority/)
//!     │ a socket: one question, one answer, each of bounded length
//!  ronproxy signer           keeper: starts the worker, again and again, and a spare keeper
//!     │ a socket
//!  ronproxy signer --worker  reads authority/: key, record, invitations, audit log
//! ```
//!
//! The node passes on the questions of joiners and members ([`Question`]). The worker checks each
//! one itself: it looks up the token, verifies the signing request, and reads in the record what
//! may be renewed. No question returns the key, signs chosen bytes, or revokes.
//!
//! The keeper stands between them because a node that has confined itself (Landlock) can no longer
//! start a process that may read `authority/`. It holds no secret and parses nothing but lengths.
//! So that a keeper can be replaced, it starts a spare one and hands its channel to the node. The
//! spare waits without a worker; when the keeper ends, it takes its place and starts the next spare.
//! They and the worker end with the node: by the end of their channels.
//!
//! | | |
//! |---|---|
//! | `message` | questions, answers, frames |
//! | `clerk` | answers a question with the authority's folder |
//! | `invite` | which invitations the dashboard may give out |
//! | `child` | a process that is asked, and replaced when it ends |
//! | `spare` | hands a channel from one process to another |
//! | `serve` | the two processes |
//! | `client` | what the rest of the program asks |
//! | `openness` | what is known of open invitations without waiting |

mod child;
mod clerk;
mod client;
mod invite;
mod message;
mod openness;
mod serve;
mod spare;

pub(crate) use child::Program;
#[cfg(feature = "cli")]
pub(crate) use child::{NoSpare, Started};
pub(crate) use clerk::Clerk;
pub(crate) use client::AuthorityClient;
pub(crate) use invite::InviteRefusal;
pub(crate) use message::{Answer, NewInvitation, Question};
#[cfg(feature = "cli")]
pub(crate) use serve::{ServeError, hide_memory, keep, work};
