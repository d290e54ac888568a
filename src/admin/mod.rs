//! The admin API: what a running node tells the commands of its user.
//!
//! It is HTTP/1.1 over the Unix socket `control.sock` in the node's private folder. Whoever may open
//! the socket (mode 0600) is the user; there is no other authentication. It reads snapshots only.
//!
//! | request | answer |
//! |---|---|
//! | `GET /version` | program version and process number |
//! | `GET /status` | the node in numbers |
//! | `GET /links` | the links to all members |
//! | `GET /routes` | for each lane and exit: the route, all candidates with figures, the last changes |
//! | `GET /why?dest=HOST[:PORT]` | why a flow there would take which exit and route; also `hint`, `exit`, `user` |
//! | `GET /ping?node=NODE&via=RELAY` | one probe of each route to a node, or of one route |
//! | `GET /netcheck` | what this machine's network lets pass |
//! | `GET /logs?since=ID&limit=N&wait=SECONDS&level=LEVEL` | the last lines of the log |
//! | `GET /perfdb` | what the other nodes of this site measured |
//! | `GET /lanes` | the lanes that start or end here |
//! | `GET /flows` | the flows of this entry |
//! | `GET /exit-flows` | the flows that leave here |
//! | `GET /relayed` | what is forwarded for others |
//! | `GET /events?since=ID&limit=N&wait=SECONDS&class=CLASS` | what happened, see [`crate::events`] |
//! | `GET /overview?since=ID&flows=1` | what the dashboard shows, in one answer |
//! | `GET /steering` | what new flows are steered to |
//! | `GET /rules` | the entry's routing rules, and which are paused |
//! | `GET /members` | the members that are known here |
//! | `POST /invite?name=NAME` | at the authority, where that is configured: invites an entry |
//! | `POST /steer?exit=EXIT&hint=HINT&avoid=RELAY&unavoid=RELAY&pause=RULE&unpause=RULE` | steers new flows |
//! | `POST /metric?name=METRIC&exit=EXIT&value=VALUE&better=more&half_life=60s` | posts a value of a metric that somebody defines |
//! | `POST /reload` | reads the configuration again: the body, or the file without one |
//! | `POST /open` | a link for one use that opens the dashboard |
//! | `POST /path?from=NODE&to=NODE&cut=1` | in the demo: cuts a path, or heals it with `cut=0` |
//! | `POST /close?label=LABEL` | closes a flow of this entry |
//! | `GET /metrics` | counters and gauges in Prometheus' text format |
//! | `POST /stop` | stops the node in order |
//!
//! Everything but `/metrics` is JSON; an error is one sentence of text.

mod api;
mod client;
mod logs;
mod members;
mod metric;
mod metrics;
mod overview;
mod playground;
mod query;
mod question;
mod server;
mod steer;

pub(crate) use api::{Admin, Reload, RunFacts, Save, Version};
#[cfg(feature = "cli")]
pub(crate) use api::{ExitFlows, Opened, PostedValue, StatusReport};
#[cfg(feature = "demo")]
pub(crate) use api::{LinkMaker, answer, json, response, sentence};
pub(crate) use client::Client;
#[cfg(feature = "cli")]
pub(crate) use client::ClientError;
pub(crate) use logs::LogLines;
#[cfg(feature = "cli")]
pub(crate) use logs::{LEVELS, LogLine, LogPage};
pub(crate) use members::{Invited, Member, MemberState, Membership, NotInvited};
#[cfg(feature = "cli")]
pub(crate) use metric::{Post, post};
#[cfg(feature = "cli")]
pub(crate) use overview::Overview;
#[cfg(feature = "demo")]
pub(crate) use playground::PlayPath;
pub(crate) use playground::Playground;
#[cfg(feature = "cli")]
pub(crate) use query::LONGEST_WAIT;
#[cfg(feature = "cli")]
pub(crate) use question::{ask, ask_ping};
pub(crate) use server::serve;
#[cfg(feature = "cli")]
pub(crate) use steer::steer;
