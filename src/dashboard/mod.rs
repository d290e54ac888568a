//! The dashboard and the API on a TCP port of loopback.
//!
//! Any program on the machine can connect to a TCP port, and any web page can make a browser send requests
//! to it. So a request passes these steps, each in its own file, and is answered with one sentence when it
//! fails:
//!
//! | file | step |
//! |---|---|
//! | `server`, `visitors` | at most 64 connections, of which the one that asked nothing for longest gives way; the kernel tells which local user asks, as for the proxy |
//! | `request` | PURE: the Host header names this port; Origin and Sec-Fetch-Site name this page or nobody; the method is known |
//! | `access` | PURE: the request has a session's cookie or the bearer token |
//! | `page` | the files of the page, which are part of the program |
//! | `clash` | the API of Clash, for programs that were made for it |
//!
//! What then answers is `clash`, or [`crate::admin`], as on the Unix socket.
//!
//! A person gets a session by a link that `ronproxy open` prints. It works once, within five minutes.
//! The cookie is HttpOnly and SameSite=Strict. Without cookie or token a request learns no name and no
//! number; only `/healthz` and `/readyz` answer, with a word, and `/metrics` where that is configured.

mod access;
mod clash;
mod page;
mod request;
mod server;
mod visitors;

pub(crate) use access::LINK_LASTS;
pub(crate) use server::{BindError, Dashboard, Settings};

/// A new bearer token; `random` is 32 random bytes.
#[must_use]
pub(crate) fn token(random: [u8; access::SECRET_BYTES]) -> String {
    access::secret(random)
}
