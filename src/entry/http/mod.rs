//! HTTP/1 clients: CONNECT, requests in absolute form, and the entry's own two pages.
//!
//! One task serves one client connection. This module reads and writes the messages itself. A
//! library would normalise the order and spelling of fields, drop interim responses and early
//! answers, and refuse messages that browsers accept.
//!
//! - `head`, `framing` and `body` read messages; `fields` holds what a head says;
//! - `request` turns a client's message into the one for the origin, and back;
//! - `exchange` runs one request and its response over an `origin`'s connection;
//! - `answer` and `local` are the proxy's own words.

mod answer;
mod body;
mod exchange;
mod fields;
mod forward;
mod framing;
mod head;
mod local;
mod origin;
mod request;
mod tunnel;

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tracing::{debug, info};

use self::{
    answer::{Answer, Audience, Kept, Trouble},
    body::{Buffered, NoHead},
    framing::Length,
    head::RequestHead,
    local::Around,
    origin::Origin,
    request::Asked,
};
use super::{
    options::Options,
    session::{Session, close, close_after_upload},
};
use crate::{
    flow::{DESTINATION_TARGET, Ingress, Target, reset_on_close},
    identity::NodeName,
};

/// Longest HTTP request head in bytes. Browsers stay below 16 KiB; big cookies reach 32 KiB.
const MAX_HTTP_HEAD: usize = 64 * 1024;

/// Most fields in one HTTP head; several times what the largest real pages send. A head of the longest
/// size could hold 16,000, which would cost a megabyte.
const MAX_HTTP_HEADERS: usize = 500;

/// One client connection.
struct Client {
    session: Session,
    read: Buffered<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// The connection to the origin of the last request, for the next one.
    idle: Option<Origin>,
}

/// The next state of a client's connection.
enum Next {
    /// Another request.
    Request,
    /// Its end, after the client has read the answer.
    Close,
    /// The same while the client may still be sending a large body.
    CloseAfterUpload,
    /// A reset, so that the client does not take an incomplete answer as complete.
    Reset,
    /// Nothing: the client has closed.
    Gone,
    /// Bytes of another protocol.
    Tunnel(tunnel::Tunnel),
}

/// Serves one HTTP client to its end.
pub(super) async fn serve(tcp: TcpStream, session: Session) {
    let (read, write) = tcp.into_split();
    let mut client = Client { session, read: Buffered::new(read), write, idle: None };
    let next = client.serve_requests().await;
    if let Some(origin) = client.idle.take() {
        origin.close().await;
    }
    let (read, ahead) = client.read.into_parts();
    // Both halves are of one stream.
    let Ok(tcp) = read.reunite(client.write) else { return };
    match next {
        Next::Request | Next::Gone => {}
        Next::Close => close(tcp).await,
        Next::CloseAfterUpload => close_after_upload(tcp).await,
        Next::Reset => reset_on_close(&tcp),
        Next::Tunnel(tunnel) => tunnel.run(tcp, ahead).await,
    }
}

impl Client {
    async fn serve_requests(&mut self) -> Next {
        loop {
            let head = match self.session.handshake(next_head(&mut self.read)).await {
                Ok(Ok(Some(head))) => head,
                Ok(Ok(None)) => return Next::Gone,
                Ok(Err(error @ NoHead::TooLong)) => {
                    return self.tell(&Trouble::long_head(&error), None).await;
                }
                Ok(Err(error)) => {
                    debug!(client = %self.session.client, %error, "HTTP client left");
                    return Next::Gone;
                }
                Err(abandoned) => {
                    debug!(client = %self.session.client, %abandoned, "HTTP connection closed");
                    return Next::Gone;
                }
            };
            let next = match head::request(&head) {
                Ok(request) => self.answer(request, &head).await,
                Err(error) => self.tell(&Trouble::bad_head(&error), None).await,
            };
            match next {
                Next::Request if self.session.shared.stop.is_cancelled() => return Next::Close,
                Next::Request => {}
                last => return last,
            }
        }
    }

    async fn answer(&mut self, head: RequestHead, bytes: &Bytes) -> Next {
        if head.method == "CONNECT" {
            return self.connect(&head).await;
        }
        if head.fields.all("host").count() > 1 {
            let what = "The request has more than one Host field";
            return self.tell(&Trouble::bad_request(what), Some(&head)).await;
        }
        let length = match framing::of_request(&head) {
            Ok(length) => length,
            Err(error) => return self.tell(&Trouble::bad_length(&error), Some(&head)).await,
        };
        let address = match request::asked(&head.target) {
            Ok(Asked::Own(path)) => {
                let answer = self.own_page(&head, &path);
                return self.reply(answer, &head, length).await;
            }
            Ok(Asked::Elsewhere(address)) => address,
            Err(error) => return self.tell(&Trouble::bad_address(&error), Some(&head)).await,
        };
        let options = match self.options(&head) {
            Ok(options) => options,
            Err(answer) => return self.reply(answer, &head, length).await,
        };
        let upgrades = request::upgrade_of(&head).is_some();
        match address.scheme.as_str() {
            "http" => {}
            // A WebSocket begins as a request of HTTP (RFC 6455, §4.1).
            "ws" if upgrades => {}
            scheme => {
                let what = match scheme {
                    "https" | "wss" => format!(
                        "A {scheme}:// address needs an encrypted tunnel: ask the proxy with CONNECT host:port"
                    ),
                    _ => "Only http:// addresses can be asked for in this form; use CONNECT host:port"
                        .to_owned(),
                };
                return self.tell(&Trouble::bad_request(what), Some(&head)).await;
            }
        }
        self.forward(head, bytes, (address, length, upgrades), options).await
    }

    /// The answer to a request for a page of the proxy itself.
    fn own_page(&self, head: &RequestHead, path: &[u8]) -> Answer {
        let Session { local, port, shared, .. } = &self.session;
        let served = |exit: Option<&NodeName>| shared.dialer.served(exit);
        let (exit, ports) = (port.exit.as_ref(), &*shared.ports);
        let around = Around { local: *local, exit, ports, served: &served };
        local::answer(head, path, &around)
    }

    /// The options of the client's user name; else the demand for another name.
    fn options(&self, head: &RequestHead) -> Result<Options, Answer> {
        request::authenticate(&head.fields, &self.session.shared.auth).map_err(|error| {
            info!(client = %self.session.client, %error, "HTTP client refused");
            Answer::unauthenticated(&error)
        })
    }

    /// Opens a tunnel (RFC 9110, §9.3.6).
    async fn connect(&mut self, head: &RequestHead) -> Next {
        let options = match self.options(head) {
            Ok(options) => options,
            Err(answer) => return self.reply(answer, head, Length::Exactly(0)).await,
        };
        if framing::of_request(head) != Ok(Length::Exactly(0)) {
            let what = "A CONNECT has no body: leave out Content-Length and Transfer-Encoding";
            return self.tell(&Trouble::bad_request(what), Some(head)).await;
        }
        let target = match String::from_utf8_lossy(&head.target).parse() {
            Ok(target) => target,
            Err(error) => {
                return self.tell(&Trouble::bad_target(&error), Some(head)).await;
            }
        };
        let tcp = self.read.get_ref().as_ref();
        let opened =
            self.session.open_for(tcp, Target::clone(&target), options, Ingress::HttpConnect);
        match opened.await {
            None => Next::Gone,
            Some(Ok(opened)) => {
                match self.write.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await {
                    Ok(()) => Next::Tunnel(tunnel::Tunnel::Connect(opened)),
                    Err(_) => Next::Gone,
                }
            }
            Some(Err(refusal)) => {
                self.write_trouble(&Trouble::refused(&refusal, &target), Some(head)).await
            }
        }
    }

    /// Answers a request whose body, if it has one, is not read.
    async fn reply(&mut self, answer: Answer, head: &RequestHead, length: Length) -> Next {
        let whole = length == Length::Exactly(0);
        let keep = whole && head.keeps_alive() && !answer.closes;
        let kept = Kept::of(keep, head.version);
        match self.write.write_all(&answer.bytes(&head.method, kept)).await {
            Err(_) => Next::Gone,
            Ok(()) if keep => Next::Request,
            Ok(()) if whole => Next::Close,
            Ok(()) => Next::CloseAfterUpload,
        }
    }

    /// Logs the fault of a request, and answers the client. The bytes after it cannot be parsed.
    async fn tell(&mut self, trouble: &Trouble, head: Option<&RequestHead>) -> Next {
        let (reason, detail) = trouble.parts();
        info!(client = %self.session.client, reason, "HTTP request refused");
        debug!(target: DESTINATION_TARGET, detail, "reason of the refusal");
        self.write_trouble(trouble, head).await
    }

    async fn write_trouble(&mut self, trouble: &Trouble, head: Option<&RequestHead>) -> Next {
        let audience = head.map_or(Audience::Program, |head| Audience::of(&head.fields));
        let home = format!("http://{}/", self.session.local);
        // It is on loopback, where no other client reaches it.
        let near = self.session.client.ip().to_canonical().is_loopback();
        let dashboard = self.session.shared.dashboard.filter(|_| near);
        let errors = dashboard.map(|at| format!("http://{at}/#/errors"));
        let answer = trouble.answer(audience, &home, errors.as_deref()).closing();
        let method = head.map_or("GET", |head| head.method.as_str());
        match self.write.write_all(&answer.bytes(method, Kept::Closed)).await {
            Ok(()) => Next::CloseAfterUpload,
            Err(_) => Next::Gone,
        }
    }
}

/// The next request's head; `None` when the client closes instead.
async fn next_head(read: &mut Buffered<OwnedReadHalf>) -> Result<Option<Bytes>, NoHead> {
    if read.starts().await? { read.head().await } else { Ok(None) }
}
