//! The port, and the answer to each request.

use std::{
    convert::Infallible,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY,
        SET_COOKIE, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    access::Access,
    clash::{self, Body, Clash},
    page::{self, File},
    request::{self, Allows, Refused, Shown},
    visitors::{Visitor, Visitors},
};
use crate::{
    accept,
    admin::{Admin, LinkMaker, answer, response, sentence},
    entry::{LocalGate, LocalUsers, LocalUsersError},
};

/// Connections served at once. A browser uses at most six for one host.
const MAX_CONNECTIONS: usize = 64;

/// A head comes within this time, and the next request on the connection within the same.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that lasts longer is closed after its answer; a page that polls opens the next.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes of a request's head: hyper's least. Of bodies only the name of an exit is read.
const MAX_HEAD: usize = 8 * 1024;

/// After so long without a place another connection is asked to give way: the last one was just being
/// answered.
const GIVES_WAY_WITHIN: Duration = Duration::from_millis(100);

/// Wrong tokens are logged once in so many.
const LOG_EVERY: u64 = 1000;

/// No inline code, no request to anywhere else, not inside another page's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the dashboard is started with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where it listens: an address of loopback.
    pub listen: SocketAddr,
    /// Whether `/metrics` needs no token, and serves all users of this machine.
    pub open_metrics: bool,
    /// The users of this machine that are served.
    pub local_users: LocalUsers,
    /// The bearer token.
    pub token: String,
    /// The origins of pages that may use the API of Clash, with the token.
    pub clash_origins: Vec<String>,
}

/// The dashboard, bound to its port.
pub(crate) struct Dashboard {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    listen: SocketAddr,
    open_metrics: bool,
    gate: LocalGate,
    access: Mutex<Access>,
    clash: Clash,
    clash_origins: Vec<String>,
    started: Instant,
}

/// The port cannot be had; the node runs without a dashboard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// Somebody else has it.
    #[error("port {} on {} is in use, perhaps by another ronproxy; set another port with dashboard.listen", .0.port(), .0.ip())]
    PortInUse(SocketAddr),
    /// The system refused for another reason.
    #[error("cannot listen on {0}: {1}; check dashboard.listen")]
    Io(SocketAddr, #[source] io::Error),
    /// The local users cannot be told.
    #[error(transparent)]
    LocalUsers(#[from] LocalUsersError),
}

impl Dashboard {
    /// Binds the port.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub(crate) async fn bind(settings: Settings) -> Result<Self, BindError> {
        let Settings { listen, open_metrics, local_users, token, clash_origins } = settings;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::PortInUse(listen),
            _ => BindError::Io(listen, error),
        };
        let gate = LocalGate::new(&local_users)?;
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let listen = listener.local_addr().map_err(failed)?;
        let shared = Shared {
            listen,
            open_metrics,
            gate,
            access: Mutex::new(Access::new(&token)),
            clash: Clash::default(),
            clash_origins,
            started: Instant::now(),
        };
        Ok(Self { listener, shared: Arc::new(shared) })
    }

    /// Where it listens.
    #[must_use]
    pub(crate) fn listen(&self) -> SocketAddr {
        self.shared.listen
    }

    /// Makes links with which a browser gets a session.
    #[must_use]
    pub(crate) fn links(&self) -> LinkMaker {
        let shared = self.shared.clone();
        Arc::new(move || {
            let secret = shared.access().link(shared.started.elapsed(), rand::random());
            format!("http://{}/open?link={secret}", shared.listen)
        })
    }

    /// Serves until `shutdown`.
    pub(crate) async fn serve(self, admin: Arc<Admin>, shutdown: CancellationToken) {
        tracing::info!(listen = %self.shared.listen, "dashboard open; `ronproxy open` prints a link");
        shutdown.run_until_cancelled_owned(self.accept(admin)).await;
    }

    async fn accept(self, admin: Arc<Admin>) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let visitors = Visitors::default();
        loop {
            let accepted = self.listener.accept().await;
            let accepted = accept::or_pause(accepted, "the dashboard's port").await;
            let Some((stream, client)) = accepted else { continue };
            // Further clients wait, unaccepted, in the system's backlog.
            let held = (place(&places, &visitors).await, visitors.add());
            let (shared, admin) = (self.shared.clone(), admin.clone());
            tokio::spawn(shared.converse(stream, client, admin, held));
        }
    }
}

impl Shared {
    async fn converse(
        self: Arc<Self>,
        stream: TcpStream,
        client: SocketAddr,
        admin: Arc<Admin>,
        (_place, visitor): (Option<OwnedSemaphorePermit>, Arc<Visitor>),
    ) {
        // It fails only on a connection that is already dead.
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else { return };
        let served = self.gate.judge(client, local).await.is_none();
        let asker = visitor.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (shared, admin, asking) = (self.clone(), admin.clone(), asker.asks());
            async move {
                let response = shared.respond(&admin, request, served).await;
                drop(asking);
                Ok::<_, Infallible>(response)
            }
        });
        let mut serving = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
        );
        let served = tokio::select! {
            served = timeout(CONNECTION_TIMEOUT, serving.as_mut()) => served,
            () = visitor.evicted() => return,
        };
        let served = match served {
            Ok(served) => served,
            Err(_) => {
                serving.as_mut().graceful_shutdown();
                timeout(HEAD_TIMEOUT, serving).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection of the dashboard failed");
        }
    }

    async fn respond(
        &self,
        admin: &Arc<Admin>,
        request: Request<Incoming>,
        served: bool,
    ) -> Response<Body> {
        let page = request::foreign(self.allows(request.uri().path()), request.headers()).cloned();
        let head = request.method() == Method::HEAD;
        let mut response = match self.judge(admin, &request, served).await {
            Some(mut answered) => {
                if head {
                    *answered.body_mut() = Full::default();
                }
                clash::whole(answered)
            }
            None => self.clash.answer(admin, request).await,
        };
        if let Some(page) = page {
            open_to(page, response.headers_mut());
        }
        let fixed = [
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
            (REFERRER_POLICY, "no-referrer"),
            (CACHE_CONTROL, "no-store"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ];
        for (name, value) in fixed {
            // What is opened to a page stays so.
            response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
        }
        response
    }

    /// What a path allows beside what all do.
    fn allows(&self, path: &str) -> Allows<'_> {
        let methods: &[Method] = if clash::serves(path) { &clash::METHODS } else { &[] };
        let origins: &[String] =
            if clash::is_open_to_pages(path) { &self.clash_origins } else { &[] };
        Allows { methods, origins }
    }

    /// The answer; `None`: the request may be answered, and belongs to the API of Clash.
    async fn judge<B>(
        &self,
        admin: &Admin,
        request: &Request<B>,
        served: bool,
    ) -> Option<Response<Full<Bytes>>> {
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        let asked = request.uri().query().unwrap_or_default();
        let allows = self.allows(path);
        if let Err(refused) = request::check(self.listen, method, headers, allows) {
            // The proxy's pages about failures lead here. The cookie comes with a click on the page that is shown.
            let visit =
                refused == Refused::Origin && path == "/" && request::is_visit(method, headers);
            return Some(match visit {
                true => of_file(StatusCode::UNAUTHORIZED, page::CLOSED),
                false => refuse(refused),
            });
        }
        if *method == Method::OPTIONS {
            return Some(sentence(StatusCode::OK, "ask with the token"));
        }
        let foreign = request::foreign(allows, headers).is_some();
        match self.admit(admin, request, (served, foreign)).await {
            Some(refused) => Some(refused),
            None if clash::serves(path) => None,
            None => Some(match page::file(path) {
                Some(file) if method != Method::POST => of_file(StatusCode::OK, file),
                Some(_) => sentence(StatusCode::METHOD_NOT_ALLOWED, "use GET here"),
                None if *method == Method::HEAD => {
                    answer(admin, &Method::GET, path, asked, "").await
                }
                None => answer(admin, method, path, asked, "").await,
            }),
        }
    }

    /// The answer to somebody who is not let in, or needs not to be; `None`: the request may be answered.
    async fn admit<B>(
        &self,
        admin: &Admin,
        request: &Request<B>,
        (served, foreign): (bool, bool),
    ) -> Option<Response<Full<Bytes>>> {
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        let asked = request.uri().query().unwrap_or_default();
        match path {
            "/healthz" => return Some(sentence(StatusCode::OK, "ok")),
            "/readyz" => return Some(ready(admin)),
            "/metrics" if self.open_metrics => {
                return Some(answer(admin, &Method::GET, path, asked, "").await);
            }
            _ => {}
        }
        if !served {
            let text = "this port serves the user who runs it";
            return Some(sentence(StatusCode::FORBIDDEN, text));
        }
        if path == "/open" {
            return Some(self.open(asked));
        }
        let shown = match request::shown(self.listen, headers) {
            Shown::Nothing if clash::takes_token(path, headers) => request::token_in(asked),
            shown => shown,
        };
        let by_cookie = match self.let_in(&shown) {
            Some(by_cookie) if !(by_cookie && foreign) => by_cookie,
            _ if path == "/" => return Some(of_file(StatusCode::UNAUTHORIZED, page::CLOSED)),
            _ => {
                let text = "a session or a token is needed; `ronproxy open` gives one";
                return Some(sentence(StatusCode::UNAUTHORIZED, text));
            }
        };
        let changed = if by_cookie { request::check_change(method, headers) } else { Ok(()) };
        changed.err().map(refuse)
    }

    /// Whether the request may be answered, and if so, whether by its cookie.
    fn let_in(&self, shown: &Shown<'_>) -> Option<bool> {
        let now = self.started.elapsed();
        let (right, by_cookie) = match shown {
            Shown::Nothing => return None,
            Shown::Bearer(token) => (self.access().bearer(token), false),
            Shown::Cookie(secret) => (self.access().session(now, secret), true),
        };
        if !right {
            self.note_wrong();
        }
        right.then_some(by_cookie)
    }

    /// Uses a link up and starts a session.
    fn open(&self, asked: &str) -> Response<Full<Bytes>> {
        let link = form_urlencoded::parse(asked.as_bytes()).find(|(name, _)| name == "link");
        let link = link.map(|(_, value)| value).unwrap_or_default();
        let session = self.access().redeem(self.started.elapsed(), &link, rand::random());
        let Some(session) = session else {
            self.note_wrong();
            return of_file(StatusCode::UNAUTHORIZED, page::CLOSED);
        };
        let name = request::cookie_name(self.listen);
        let cookie =
            format!("{name}={session}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000");
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SEE_OTHER;
        response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
        response
    }

    fn note_wrong(&self) {
        let wrong = self.access().wrong();
        if wrong % LOG_EVERY == 1 {
            tracing::warn!(wrong, "a wrong link, cookie or token was shown to the dashboard");
        }
    }

    fn access(&self) -> MutexGuard<'_, Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for another connection. Where all are taken, the connection that has asked nothing for longest
/// ends; where all wait for answers, one of them ends soon.
async fn place(places: &Arc<Semaphore>, visitors: &Visitors) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = places.clone().try_acquire_owned() {
        return Some(place);
    }
    loop {
        visitors.evict();
        match timeout(GIVES_WAY_WITHIN, places.clone().acquire_owned()).await {
            // The semaphore is never closed.
            Ok(place) => return place.ok(),
            Err(_) => tracing::debug!("all connections of the dashboard wait for answers"),
        }
    }
}

/// Lets a page of this allowed origin read the answer, and ask with the token.
fn open_to(page: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page);
    headers.insert(VARY, HeaderValue::from_static("origin"));
    let methods = HeaderValue::from_static("GET, PUT, DELETE");
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    let allowed = HeaderValue::from_static("authorization, content-type");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    // A browser asks for this where the page comes from the Internet.
    let private = HeaderName::from_static("access-control-allow-private-network");
    headers.insert(private, HeaderValue::from_static("true"));
    let shared = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(shared, HeaderValue::from_static("cross-origin"));
}

/// Whether the node can carry flows: it has a link, or is alone in its overlay.
fn ready(admin: &Admin) -> Response<Full<Bytes>> {
    let links = admin.view.link_facts();
    if !admin.stop.is_cancelled() && (links.is_empty() || links.iter().any(|link| link.up)) {
        return sentence(StatusCode::OK, "ready");
    }
    sentence(StatusCode::SERVICE_UNAVAILABLE, "not ready")
}

fn refuse(refused: Refused) -> Response<Full<Bytes>> {
    let status = match refused {
        Refused::Host => StatusCode::MISDIRECTED_REQUEST,
        Refused::Origin | Refused::NoOrigin => StatusCode::FORBIDDEN,
        Refused::Method => StatusCode::METHOD_NOT_ALLOWED,
    };
    sentence(status, &refused.to_string())
}

fn of_file(status: StatusCode, file: File) -> Response<Full<Bytes>> {
    response(status, file.kind, Bytes::from_static(file.text.as_bytes()))
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard").field("listen", &self.shared.listen).finish_non_exhaustive()
    }
}
