//! What a hostile member, stranger or client can make a node do, shown with figures.
//!
//! The peer is of our own making: it holds a valid certificate, or none, and speaks the protocol by
//! hand. Most tests run in virtual time on the emulated Internet, so that every packet a node sends
//! is counted by its destination. Memory is counted per thread by the allocator, CPU time per thread
//! by the kernel, log lines by a subscriber. During each attack a member works at another node (`member`):
//! its goodput and the time of its new flows are measured, too. `meters::Limits` has what no attack may
//! exceed; a test names what is larger in its case.
//!
//! | file | attacker |
//! |---|---|
//! | `records` | a member that lies about members, and floods on a link |
//! | `dials` | members whose own records name third parties |
//! | `relays` | a member's requests: labels, lanes, policy |
//! | `lanes`, `streams` | a member with lanes that it was rightly granted |
//! | `storms`, `unanswered` | the same with frames of QUIC without end, and with flows that nobody answers |
//! | `introductions` | a member that never ends them, and packets of other versions of QUIC |
//! | `addresses` | a member whose packets claim another source, or that keeps others from a change of address |
//! | `renewals` | members and others that ask for certificates without end |
//! | `liars` | neighbours that are asked for a certificate, and withhold it |
//! | `sharers` | a node of the same site that lies about members, floods and disappears |
//! | `revoked` | an ex-member, and lies about certificates |
//! | `holders` | an ex-member whose name gets another holder |
//! | `strangers`, `joiners` | senders without a certificate |
//! | `invited` | senders of first packets while somebody joins |
//! | `outbox` | neighbours that read nothing |
//! | `lines`, `churn` | a member that makes a node write lines without end |
//! | `questions` | a member that asks what the exit would carry without end, and an exit that never answers |
//! | `look_ups` | a member that asks for names of a silent zone |
//! | `pages`, `places`, `users` | web pages and other local users, at the proxy |
//! | `dashboard` | other local programs and web pages, at the dashboard's port |
//! | `states` | random sequences of members × labels × lanes, shrunk when they fail |
//! | `node`, `processes` | everything at once against a whole node, in virtual time and for real; `worst` has the attack |
//!
//! The decoders are fuzzed beside them, in `src/fuzz`. Variables: `RON_HOSTILE_SECONDS`,
//! `RON_HOSTILE_SEQUENCES`, `RON_SEED`, `RON_FUZZ_SECONDS`, `RON_FUZZ_SEED`.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the figures are the product")]

mod support;

#[path = "cli/overlay.rs"]
#[expect(dead_code, unreachable_pub, reason = "other tests use the rest")]
mod overlay;
#[path = "cli/web.rs"]
#[expect(dead_code, unreachable_pub, reason = "other tests use the rest")]
mod web;

#[path = "hostile/member.rs"]
mod member;
#[path = "hostile/meters.rs"]
mod meters;
#[path = "hostile/peer.rs"]
mod peer;
#[path = "hostile/stage.rs"]
mod stage;
#[path = "hostile/stall.rs"]
mod stall;
#[path = "hostile/words.rs"]
mod words;
#[path = "hostile/worst.rs"]
mod worst;

#[path = "hostile/addresses.rs"]
mod addresses;
#[path = "hostile/churn.rs"]
mod churn;
#[path = "hostile/crumbs.rs"]
mod crumbs;
#[cfg(target_os = "linux")]
#[path = "hostile/dashboard.rs"]
mod dashboard;
#[path = "hostile/dials.rs"]
mod dials;
#[path = "hostile/grants.rs"]
mod grants;
#[path = "hostile/holders.rs"]
mod holders;
#[path = "hostile/introductions.rs"]
mod introductions;
#[path = "hostile/invited.rs"]
mod invited;
#[cfg(target_os = "linux")]
#[path = "hostile/joiners.rs"]
mod joiners;
#[path = "hostile/lanes.rs"]
mod lanes;
#[path = "hostile/liars.rs"]
mod liars;
#[path = "hostile/lines.rs"]
mod lines;
#[cfg(target_os = "linux")]
#[path = "hostile/look_ups.rs"]
mod look_ups;
#[path = "hostile/node.rs"]
mod node;
#[path = "hostile/outbox.rs"]
mod outbox;
#[path = "hostile/pages.rs"]
mod pages;
#[cfg(target_os = "linux")]
#[path = "hostile/places.rs"]
mod places;
#[cfg(target_os = "linux")]
#[path = "hostile/processes.rs"]
mod processes;
#[path = "hostile/questions.rs"]
mod questions;
#[path = "hostile/records.rs"]
mod records;
#[path = "hostile/relays.rs"]
mod relays;
#[cfg(target_os = "linux")]
#[path = "hostile/renewals.rs"]
mod renewals;
#[path = "hostile/revoked.rs"]
mod revoked;
#[path = "hostile/sharers.rs"]
mod sharers;
#[path = "hostile/states.rs"]
mod states;
#[path = "hostile/storms.rs"]
mod storms;
#[path = "hostile/strangers.rs"]
mod strangers;
#[path = "hostile/streams.rs"]
mod streams;
#[cfg(target_os = "linux")]
#[path = "hostile/third_parties.rs"]
mod third_parties;
#[cfg(target_os = "linux")]
#[path = "hostile/unanswered.rs"]
mod unanswered;
#[cfg(target_os = "linux")]
#[path = "hostile/users.rs"]
mod users;
