//! What the API answers, whichever way a request came.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    LogLines, Membership, NotInvited, Playground, logs, members, metric, metrics, overview,
    playground, query, question, steer,
};
use crate::app::{NodeStatus, NodeView, RoutePing, Steering};
use crate::{config::Changes, exit::ExitFlow, identity::NodeName};

/// What can be asked for with GET.
const LISTINGS: [&str; 19] = [
    "/status",
    "/links",
    "/routes",
    "/why",
    "/ping",
    "/netcheck",
    "/perfdb",
    "/lanes",
    "/flows",
    "/exit-flows",
    "/relayed",
    "/events",
    "/logs",
    "/overview",
    "/steering",
    "/rules",
    "/members",
    "/metrics",
    "/version",
];

/// What can be done with POST.
const DEEDS: [&str; 8] =
    ["/steer", "/invite", "/metric", "/reload", "/open", "/path", "/close", "/stop"];

/// The one request with a body: a configuration.
pub(super) const RELOAD: &str = "/reload";

/// The prefix of this version of the API. Without it the same is answered: the commands of this
/// program ask the node of the same version.
const VERSION: &str = "/api/v1";

/// What the API shows and what it may do.
pub(crate) struct Admin {
    /// The node's facts.
    pub view: NodeView,
    /// The process's facts.
    pub run: RunFacts,
    /// When the node started; `status` shows its age.
    pub started: Instant,
    /// Cancelled by `POST /stop`.
    pub stop: CancellationToken,
    /// Makes links that open the dashboard; `None`: it has no dashboard.
    pub links: Option<LinkMaker>,
    /// Reads the configuration again; `None`: it has none.
    pub reload: Option<Reload>,
    /// The flows that leave here; `None`: it is no exit.
    pub exit_flows: Option<ExitFlows>,
    /// The last lines of the log; `None`: nothing keeps them.
    pub logs: Option<Arc<LogLines>>,
    /// Keeps what is steered over a restart; `None`: it has no folder.
    pub save: Option<Save>,
    /// Who the members are, and who invites another one.
    pub membership: Membership,
    /// The demo's Internet; `None`: the node has the real one.
    pub playground: Option<Playground>,
}

/// Puts a configuration into force: this text, or else the node's own file.
pub(crate) type Reload = Arc<dyn Fn(Option<&str>) -> Result<Changes, String> + Send + Sync>;

/// The flows of members that leave at this node.
pub(crate) type ExitFlows = Arc<dyn Fn() -> Vec<ExitFlow> + Send + Sync>;

/// Writes down what new flows are steered to after a restart.
pub(crate) type Save = Arc<dyn Fn(&Steering) -> Result<(), String> + Send + Sync>;

/// Makes links that open the dashboard.
pub(crate) type LinkMaker = Arc<dyn Fn() -> String + Send + Sync>;

/// What only the running program knows of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunFacts {
    /// The process number.
    pub pid: u32,
    /// Where the UDP socket listens.
    pub listen: SocketAddr,
    /// Whether the overlay authority is in this node's folder.
    pub authority: bool,
    /// Whether it may invite by the dashboard.
    pub invites: bool,
    /// How the process is confined, in words.
    pub confinement: String,
}

/// The answer to `GET /status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// The node in numbers.
    #[serde(flatten)]
    pub node: NodeStatus,
    /// The process.
    #[serde(flatten)]
    pub run: RunFacts,
    /// Seconds since the node started.
    pub up_seconds: u64,
    /// Whether it is stopping.
    pub stopping: bool,
}

/// The answer to `GET /version`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Version {
    /// The program's version.
    pub version: Cow<'static, str>,
    /// The process number.
    pub pid: u32,
}

/// Answers one request.
pub(crate) async fn answer(
    admin: &Admin,
    method: &Method,
    path: &str,
    asked: &str,
    text: &str,
) -> Response<Full<Bytes>> {
    let path = path.strip_prefix(VERSION).unwrap_or(path);
    match (method, path) {
        (&Method::GET, "/version") => json(&admin.version()),
        (&Method::GET, "/status") => json(&admin.status()),
        (&Method::GET, "/links") => json(&admin.view.link_facts()),
        (&Method::GET, "/routes") => json(&admin.view.routes()),
        (&Method::GET, "/why") => match question::read(asked) {
            Ok(question) => json(&admin.view.why_asking(&question).await),
            Err(error) => sentence(StatusCode::BAD_REQUEST, &error),
        },
        (&Method::GET, "/ping") => told(ping(admin, asked).await),
        (&Method::GET, "/netcheck") => match admin.view.netcheck().await {
            Ok(report) => json(&report),
            Err(error) => sentence(StatusCode::BAD_REQUEST, error),
        },
        (&Method::GET, "/perfdb") => json(&admin.view.shared_facts()),
        (&Method::GET, "/lanes") => json(&admin.view.lane_facts()),
        (&Method::GET, "/flows") => json(&admin.view.flow_facts()),
        (&Method::GET, "/exit-flows") => {
            json(&admin.exit_flows.as_ref().map(|flows| flows()).unwrap_or_default())
        }
        (&Method::GET, "/relayed") => json(&admin.view.relayed()),
        (&Method::GET, "/events") => match query::read(asked) {
            Ok((query, patience)) => json(&admin.view.events().read_next(&query, patience).await),
            Err(error) => sentence(StatusCode::BAD_REQUEST, &error),
        },
        (&Method::GET, "/logs") => match (logs::read(asked), &admin.logs) {
            (Ok(wanted), Some(lines)) => json(&lines.read(&wanted).await),
            (Err(error), _) => sentence(StatusCode::BAD_REQUEST, &error),
            (_, None) => sentence(StatusCode::NOT_FOUND, "this node keeps no lines of its log"),
        },
        (&Method::GET, "/metrics") => {
            response(StatusCode::OK, metrics::CONTENT_TYPE, metrics::of(&admin.view).into())
        }
        (&Method::GET, "/overview") => match overview::read(asked) {
            Ok(wanted) => json(&admin.overview(&wanted)),
            Err(error) => sentence(StatusCode::BAD_REQUEST, &error),
        },
        (&Method::GET, "/members") => told(members::members(&admin.membership, &admin.view).await),
        (&Method::POST, "/invite") => invite(&admin.membership, asked).await,
        (&Method::GET, "/rules") => json(&admin.view.rules()),
        (&Method::GET, "/steering") => json(&admin.view.steering()),
        (&Method::POST, "/steer") => told(steer_by(admin, asked)),
        (&Method::POST, "/metric") => told(post_metric(admin, asked)),
        (&Method::POST, RELOAD) => told(reload(admin, text)),
        (&Method::POST, "/open") => match &admin.links {
            Some(links) => json(&Opened { link: links() }),
            None => sentence(StatusCode::NOT_FOUND, NO_DASHBOARD),
        },
        (&Method::POST, "/path") => match &admin.playground {
            None => sentence(StatusCode::NOT_FOUND, "only the demo has paths to cut"),
            Some(playground) => told(playground::cut(playground, asked)),
        },
        (&Method::POST, "/close") => match close(admin, asked) {
            Ok(()) => json(&admin.version()),
            Err(error) => sentence(StatusCode::NOT_FOUND, &error),
        },
        (&Method::POST, "/stop") => {
            admin.stop.cancel();
            json(&admin.version())
        }
        (_, path) if LISTINGS.contains(&path) => {
            sentence(StatusCode::METHOD_NOT_ALLOWED, "use GET here")
        }
        (_, path) if DEEDS.contains(&path) => {
            sentence(StatusCode::METHOD_NOT_ALLOWED, "use POST here: it does something")
        }
        _ => sentence(
            StatusCode::NOT_FOUND,
            &format!(
                "nothing is here; GET one of {}, or POST one of {}",
                LISTINGS.join(", "),
                DEEDS.join(", ")
            ),
        ),
    }
}

/// Invites the node that `asked` names.
async fn invite(membership: &Membership, asked: &str) -> Response<Full<Bytes>> {
    match members::invite(membership, asked).await {
        Ok(shown) => json(&shown),
        Err(NotInvited::Forbidden(why)) => sentence(StatusCode::FORBIDDEN, &why),
        Err(NotInvited::Impossible(why)) => sentence(StatusCode::BAD_REQUEST, &why),
    }
}

/// What was asked for, or what was wrong with the question.
fn told(result: Result<impl Serialize, String>) -> Response<Full<Bytes>> {
    match result {
        Ok(facts) => json(&facts),
        Err(error) => sentence(StatusCode::BAD_REQUEST, &error),
    }
}

/// The answer to `POST /open`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Opened {
    /// The link.
    pub link: String,
}

const NO_DASHBOARD: &str = "this node has no dashboard: set enabled = true under [dashboard], and see in \
    its log whether the port was free";

/// Makes all changes that `asked` names, or none.
fn steer_by(admin: &Admin, asked: &str) -> Result<Steering, String> {
    let (changes, save) = steer::read(asked)?;
    let save = match (save, &admin.save) {
        (true, None) => return Err("this node has no folder to save it in".to_owned()),
        (save, saver) => saver.as_ref().filter(|_| save),
    };
    let steering = admin.view.steer(changes).map_err(|error| error.to_string())?;
    match save.map(|save| save(&steering)) {
        Some(Err(error)) => {
            Err(format!("it holds until the node stops, but it is not saved: {error}"))
        }
        _ => Ok(steering),
    }
}

/// The answer to `POST /metric`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PostedValue {
    /// The metric.
    pub metric: String,
    /// The exit.
    pub exit: NodeName,
    /// The value that counts now: the mean, in which later posts count more.
    pub value: Option<f64>,
}

/// Takes the value that `asked` posts.
fn post_metric(admin: &Admin, asked: &str) -> Result<PostedValue, String> {
    let metric::Post { metric, exit, value, declared } = metric::read(asked)?;
    let posted = admin.view.post(&metric, declared, &exit, value);
    let value = posted.map_err(|error| error.to_string())?;
    Ok(PostedValue { metric: metric.as_str().to_owned(), exit, value })
}

/// Reads the configuration again: `text`, or the file if that is empty.
fn reload(admin: &Admin, text: &str) -> Result<Changes, String> {
    let reload = admin.reload.as_ref().ok_or("this node has no configuration to read")?;
    reload(Some(text).filter(|text| !text.is_empty()))
}

/// Probes the routes that `asked` names.
async fn ping(admin: &Admin, asked: &str) -> Result<Vec<RoutePing>, String> {
    let (node, via) = question::read_ping(asked)?;
    admin.view.ping(&node, via.as_ref()).await.map_err(|error| error.to_string())
}

/// Closes the flow that `asked` names.
fn close(admin: &Admin, asked: &str) -> Result<(), String> {
    let label = form_urlencoded::parse(asked.as_bytes()).find(|(name, _)| name == "label");
    let label = label.map(|(_, value)| value).unwrap_or_default();
    match label.parse().is_ok_and(|label| admin.view.close_flow(label)) {
        true => Ok(()),
        false => Err(format!("no flow has the label {label:?}; `ronproxy flows` lists them")),
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("run", &self.run).finish_non_exhaustive()
    }
}

impl Admin {
    pub(super) fn version(&self) -> Version {
        Version { version: env!("CARGO_PKG_VERSION").into(), pid: self.run.pid }
    }

    pub(super) fn status(&self) -> StatusReport {
        StatusReport {
            node: self.view.status(),
            run: self.run.clone(),
            up_seconds: self.started.elapsed().as_secs(),
            stopping: self.stop.is_cancelled(),
        }
    }
}

pub(crate) fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(bytes) => response(StatusCode::OK, "application/json", bytes.into()),
        Err(error) => {
            tracing::error!(%error, "a listing could not be written");
            sentence(StatusCode::INTERNAL_SERVER_ERROR, "the node could not write the answer")
        }
    }
}

pub(crate) fn sentence(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", format!("{text}\n").into())
}

pub(crate) fn response(
    status: StatusCode,
    kind: &'static str,
    body: Bytes,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
