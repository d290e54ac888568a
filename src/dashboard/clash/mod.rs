//! The read part of the controller API of Clash, and the choice of an exit, so that programs made for
//! Clash show and steer this node.
//!
//! | request | answer |
//! |---|---|
//! | `GET /proxies`, `/proxies/NAME` | the exits, and the group `Exit` that chooses one of them, or `Auto` |
//! | `PUT /proxies/Exit` with `{"name": "mit"}` | sends new flows through an exit, as `ronproxy use` |
//! | `GET /proxies/NAME/delay` | a probe of the routes to an exit |
//! | `GET /connections` | the flows; over a WebSocket each second |
//! | `DELETE /connections/ID` | closes a flow |
//! | `GET /traffic`, `/logs` | rates each second, and events, over a WebSocket or as lines of JSON |
//! | `GET /configs`, `/rules`, `/providers/proxies`, `/providers/rules` | what programs want to see before they go on |
//!
//! Names of the groups have capitals, so no node has the same. `GET /version` is that of our own API.

mod facts;
mod feed;
mod socket;

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, body::Incoming};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::feed::Feed;
use crate::{
    admin::{Admin, json as answered},
    app::Steer,
    identity::NodeName,
};

/// The first part of each path.
const ROOTS: [&str; 7] =
    ["proxies", "connections", "traffic", "logs", "configs", "rules", "providers"];

/// The longest body: the name of an exit.
const MAX_BODY: usize = 1024;

/// Answers that never end, at once: a dashboard has three, and a person a few of those.
const MAX_FEEDS: usize = 32;

/// The body of an answer, which may never end.
pub(super) type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// Whether this API has the path.
pub(super) fn serves(path: &str) -> bool {
    let root = path.strip_prefix('/').and_then(|path| path.split('/').next());
    root.is_some_and(|root| ROOTS.contains(&root))
}

/// Whether a page of an allowed origin may ask for the path.
pub(super) fn is_open_to_pages(path: &str) -> bool {
    serves(path) || path == "/version"
}

/// Whether the token may stand in the query.
pub(super) fn takes_token(path: &str, headers: &HeaderMap) -> bool {
    serves(path) && socket::is_asked_for(headers)
}

/// The methods that it has beside those of the rest.
pub(super) const METHODS: [Method; 2] = [Method::PUT, Method::DELETE];

/// Answers programs made for Clash.
pub(super) struct Clash {
    feeds: Arc<Semaphore>,
}

impl Default for Clash {
    fn default() -> Self {
        Self { feeds: Arc::new(Semaphore::new(MAX_FEEDS)) }
    }
}

impl Clash {
    /// Answers a request that may be answered.
    pub(super) async fn answer(
        &self,
        admin: &Arc<Admin>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let asked = request.uri().query().unwrap_or_default().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (request.method(), &parts[..]) {
            (&Method::GET, ["connections"]) if !socket::is_asked_for(request.headers()) => {
                ok(&facts::connections(&admin.view))
            }
            (&Method::GET, ["connections" | "traffic" | "logs"]) => {
                match (Feed::new(parts[0], &asked, admin.clone()), self.place()) {
                    (Ok(feed), Some(place)) => socket::send(request, feed, place),
                    (Err(error), _) => message(StatusCode::BAD_REQUEST, &error),
                    (_, None) => message(StatusCode::SERVICE_UNAVAILABLE, "too many readers"),
                }
            }
            (&Method::PUT, ["proxies", group]) => choose(admin, group, request.into_body()).await,
            (&Method::GET, ["proxies", name, "delay"]) => delay(admin, name).await,
            (&Method::DELETE, ["connections", id]) => {
                match id.parse().is_ok_and(|label| admin.view.close_flow(label)) {
                    true => nothing(),
                    false => message(StatusCode::NOT_FOUND, "there is no such connection"),
                }
            }
            (&Method::GET, parts) => listing(admin, parts),
            _ => message(StatusCode::METHOD_NOT_ALLOWED, "this node's configuration is its file"),
        }
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.feeds.clone().try_acquire_owned().ok()
    }
}

fn listing(admin: &Admin, parts: &[&str]) -> Response<Body> {
    let view = &admin.view;
    match parts {
        ["proxies"] => ok(&json!({ "proxies": facts::proxies(view) })),
        ["proxies", name] => match facts::proxies(view).get(*name) {
            Some(proxy) => ok(proxy),
            None => message(StatusCode::NOT_FOUND, "there is no such exit"),
        },
        ["configs"] => ok(&facts::configs(view)),
        ["rules"] => ok(&json!({ "rules": [] })),
        ["providers", "proxies" | "rules"] => ok(&json!({ "providers": {} })),
        _ => message(StatusCode::NOT_FOUND, "nothing is here"),
    }
}

/// Sends new flows through the exit that the body names.
async fn choose(admin: &Admin, group: &str, body: Incoming) -> Response<Body> {
    if ![facts::GROUP, facts::GLOBAL].contains(&group) {
        return message(StatusCode::BAD_REQUEST, "only Exit has a choice");
    }
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return message(StatusCode::BAD_REQUEST, "the body is too long");
    };
    let wanted: Option<Value> = serde_json::from_slice(&body.to_bytes()).ok();
    let name = wanted.as_ref().and_then(|wanted| wanted["name"].as_str()).unwrap_or_default();
    let exit = match name {
        facts::AUTO => Ok(None),
        name => name.parse::<NodeName>().map(Some),
    };
    let steered = exit.map_err(|error| error.to_string()).and_then(|exit| {
        let changes = vec![Steer::Exit(exit)];
        admin.view.steer(changes).map_err(|error| error.to_string())
    });
    match steered {
        Ok(_) => nothing(),
        Err(error) => message(StatusCode::BAD_REQUEST, &error),
    }
}

/// The least round trip to an exit, by probes sent now.
async fn delay(admin: &Admin, name: &str) -> Response<Body> {
    let Some(exit) = facts::exit_of(&admin.view, name) else {
        return message(StatusCode::NOT_FOUND, "there is no such exit");
    };
    match admin.view.ping(&exit, None).await {
        Ok(routes) => match routes.iter().filter_map(|route| route.rtt_ms).reduce(f64::min) {
            // A delay of 0 means a failure to these programs.
            Some(ms) => ok(&json!({ "delay": facts::whole_ms(ms) })),
            None => message(StatusCode::GATEWAY_TIMEOUT, "no route answered"),
        },
        Err(error) => message(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

pub(super) fn whole(response: Response<Full<Bytes>>) -> Response<Body> {
    response.map(|body| body.boxed_unsync())
}

fn ok(value: &Value) -> Response<Body> {
    whole(answered(value))
}

fn nothing() -> Response<Body> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    whole(response)
}

fn message(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = ok(&json!({ "message": text }));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_this_api_are_served_and_open_to_pages() {
        for path in ["/proxies", "/proxies/mit/delay", "/connections", "/traffic", "/logs"] {
            assert!(serves(path) && is_open_to_pages(path), "{path}");
        }
        for path in ["/", "/api/v1/status", "/proxiesX", "/status", "/metrics", "/open", "proxies"]
        {
            assert!(!serves(path) && !is_open_to_pages(path), "{path}");
        }
        assert!(!serves("/version") && is_open_to_pages("/version"));
    }
}
