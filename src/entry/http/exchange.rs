//! One request and its response: both travel at the same time.
//!
//! A server may answer before it has the whole request (413, 401, a redirect) and then close. A
//! client may end its side of the connection after its request. So neither direction ends the
//! other: the exchange ends with the response.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::Notify,
    time::timeout,
};
use tracing::{debug, info};

use super::{
    answer::{Kept, Trouble},
    body::{BodyReader, BodyWriter, Buffered, NoBody, NoHead},
    framing::{self, Length},
    head::{self, Reading, RequestHead, ResponseHead, Version},
    origin::Origin,
    request::{self, BodyForm},
};
use crate::entry::session::lost;

/// How long a client that waits for `100 Continue` waits for the server before it gets one from this
/// proxy: as long as curl waits before it sends the body anyway. Old servers never send one.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A request that is ready to be sent.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The head for the origin.
    pub(super) head: RequestHead,
    /// The length of the request's body.
    pub(super) length: Length,
    /// Whether the client wants to keep its connection.
    pub(super) keep: bool,
    /// Whether the client sends the body only after `100 Continue`.
    pub(super) expects: bool,
    /// Whether the client asked for another protocol.
    pub(super) upgrade: bool,
}

/// How an exchange ended.
#[derive(Debug)]
pub(super) enum End {
    /// The response was delivered; whether both connections may carry another exchange, and whether
    /// the client had sent its whole request.
    Answered { client: bool, origin: bool, sent: bool },
    /// The response was `101 Switching Protocols`, and was delivered.
    Switched,
    /// The client got nothing yet. `silent`: neither did this proxy from the origin.
    Unanswered { trouble: Trouble, silent: bool },
    /// The response broke off, and the client got the part that came. `endless`: the client cannot
    /// distinguish this from the end.
    Cut { endless: bool },
    /// The client has closed.
    Gone,
}

/// The state that both directions share.
#[derive(Debug, Default)]
struct Progress {
    /// The whole request was sent.
    sent: AtomicBool,
    /// The response has begun on the client's connection.
    begun: AtomicBool,
    /// The body may be sent.
    go_on: Notify,
}

enum NotSent {
    Client(NoBody),
    Origin(std::io::Error),
}

impl Exchange {
    /// Runs the exchange to its end.
    pub(super) async fn run(
        &self,
        from: &mut Buffered<OwnedReadHalf>,
        to: &mut OwnedWriteHalf,
        origin: &mut Origin,
    ) -> End {
        let progress = Progress::default();
        let sending = self.send_and_watch(from, &mut origin.write, &progress);
        let receiving = self.receive(&mut origin.read, to, &progress);
        tokio::select! {
            biased;
            end = receiving => end,
            end = sending => end,
        }
    }

    /// Sends the request, then watches the client. Resolves when the exchange can end.
    async fn send_and_watch(
        &self,
        from: &mut Buffered<OwnedReadHalf>,
        to: &mut (impl AsyncWrite + Unpin),
        progress: &Progress,
    ) -> End {
        match self.send(from, to, progress).await {
            Ok(()) => progress.sent.store(true, Ordering::Relaxed),
            // It may have answered before.
            Err(NotSent::Origin(error)) => debug!(%error, "the server takes no more"),
            Err(NotSent::Client(error @ (NoBody::Io(_) | NoBody::Cut))) => {
                debug!(%error, "the client left");
                return End::Gone;
            }
            Err(NotSent::Client(error)) if progress.begun.load(Ordering::Relaxed) => {
                debug!(%error, "the client's request is wrong");
                return End::Gone;
            }
            Err(NotSent::Client(error)) => {
                let trouble = Trouble::bad_request(format!("The request cannot be read: {error}"));
                return End::Unanswered { trouble, silent: false };
            }
        }
        lost(from.get_ref().as_ref()).await;
        debug!("the client left");
        End::Gone
    }

    async fn send(
        &self,
        from: &mut Buffered<OwnedReadHalf>,
        to: &mut (impl AsyncWrite + Unpin),
        progress: &Progress,
    ) -> Result<(), NotSent> {
        let chunked = self.length == Length::Chunked;
        let mut writer = BodyWriter::new(self.head.bytes(), chunked);
        if self.expects {
            writer.flush(to).await.map_err(NotSent::Origin)?;
            progress.go_on.notified().await;
        }
        let mut body = BodyReader::new(self.length, Reading::Strict);
        loop {
            if !from.has_more() {
                writer.flush(to).await.map_err(NotSent::Origin)?;
            }
            match body.next(from).await.map_err(NotSent::Client)? {
                Some(piece) => writer.write(piece, to).await.map_err(NotSent::Origin)?,
                None => break,
            }
        }
        writer.finish(to).await.map_err(NotSent::Origin)
    }

    /// Reads the response and delivers it.
    async fn receive(
        &self,
        from: &mut Buffered<impl AsyncRead + Unpin>,
        to: &mut OwnedWriteHalf,
        progress: &Progress,
    ) -> End {
        let head = match self.final_head(from, to, progress).await {
            Ok(head) => head,
            Err(end) => return end,
        };
        if head.status == 101 {
            return self.switch(head, to, progress).await;
        }
        let (length, codings) = match framing::of_response(&head, &self.head.method) {
            Ok(length) => length,
            Err(error) => return unanswered(Trouble::unclear_answer(&error)),
        };
        let sent = progress.sent.load(Ordering::Relaxed);
        let form = match (length, self.head.version) {
            (Length::Exactly(_), _) => BodyForm::Counted,
            (_, Version::Http11) => BodyForm::Chunked(codings),
            (_, Version::Http10) if codings.is_empty() => BodyForm::UntilClose,
            (_, Version::Http10) => {
                let coding = framing::BadLength::Coding(codings.join(", "));
                return unanswered(Trouble::unclear_answer(&coding));
            }
        };
        let client = self.keep && sent && form != BodyForm::UntilClose;
        let coded = head.fields.get("transfer-encoding").is_some();
        let origin = head.keeps_alive()
            && length != Length::UntilClose
            && !(coded && head.version == Version::Http10);
        let bytes = self.head_for_client(head, &form, client);
        progress.begun.store(true, Ordering::Relaxed);
        match deliver(from, to, bytes, length, &form).await {
            Ok(()) => {
                let sent = progress.sent.load(Ordering::Relaxed);
                End::Answered { client, origin: origin && sent && !from.has_more(), sent }
            }
            Err(end) => end,
        }
    }

    /// The first head that is no interim one; those go to the client at once.
    async fn final_head(
        &self,
        from: &mut Buffered<impl AsyncRead + Unpin>,
        to: &mut OwnedWriteHalf,
        progress: &Progress,
    ) -> Result<ResponseHead, End> {
        let (mut waits, mut silent) = (self.expects, true);
        loop {
            let read = if waits {
                timeout(CONTINUE_WAIT, from.head()).await
            } else {
                Ok(from.head().await)
            };
            let Ok(read) = read else {
                waits = false;
                to.write_all(CONTINUE).await.map_err(|_| End::Gone)?;
                progress.go_on.notify_one();
                continue;
            };
            let bytes = match read {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Err(End::Unanswered { trouble: Trouble::no_answer(), silent }),
                Err(error) => {
                    let silent = silent && matches!(error, NoHead::Io(_)) && !from.has_more();
                    return Err(End::Unanswered { trouble: Trouble::broken(&error), silent });
                }
            };
            silent = false;
            let mut head = match head::response(&bytes) {
                Ok(head) => head,
                Err(error) => return Err(unanswered(Trouble::bad_answer(&error))),
            };
            match head.status {
                100 => {
                    progress.go_on.notify_one();
                    if std::mem::take(&mut waits) {
                        to.write_all(CONTINUE).await.map_err(|_| End::Gone)?;
                    }
                }
                // Interim responses are forwarded (RFC 9110, §15.2); HTTP/1.0 knows none.
                102..=199 if self.head.version == Version::Http11 => {
                    request::to_client(&mut head, &BodyForm::Counted);
                    to.write_all(&head.bytes()).await.map_err(|_| End::Gone)?;
                }
                102..=199 => {}
                _ => return Ok(head),
            }
        }
    }

    async fn switch(
        &self,
        mut head: ResponseHead,
        to: &mut OwnedWriteHalf,
        progress: &Progress,
    ) -> End {
        if !self.upgrade || !progress.sent.load(Ordering::Relaxed) {
            let what = "The server switched protocols without being asked";
            return unanswered(Trouble::unexpected(what));
        }
        request::to_client(&mut head, &BodyForm::Counted);
        match to.write_all(&head.bytes()).await {
            Ok(()) => End::Switched,
            Err(_) => End::Gone,
        }
    }

    fn head_for_client(&self, mut head: ResponseHead, form: &BodyForm, keep: bool) -> Vec<u8> {
        if self.head.method == "HEAD" && head.fields.get("transfer-encoding").is_some() {
            // The body of a GET would be in chunks, so the number is not used.
            head.fields.remove("content-length");
        }
        request::to_client(&mut head, form);
        if head.fields.get("date").is_none() {
            // The first recipient with a clock says when (RFC 9110, §6.6.1).
            head.fields.push("Date", httpdate::fmt_http_date(SystemTime::now()));
        }
        Kept::of(keep, self.head.version).say(&mut head.fields);
        head.bytes()
    }
}

/// Writes the response's head and its body as it comes.
async fn deliver(
    from: &mut Buffered<impl AsyncRead + Unpin>,
    to: &mut OwnedWriteHalf,
    head: Vec<u8>,
    length: Length,
    form: &BodyForm,
) -> Result<(), End> {
    let mut body = BodyReader::new(length, Reading::Lenient);
    let mut writer = BodyWriter::new(head, matches!(form, BodyForm::Chunked(_)));
    loop {
        if !from.has_more() {
            writer.flush(to).await.map_err(|_| End::Gone)?;
        }
        match body.next(from).await {
            Ok(Some(piece)) => writer.write(piece, to).await.map_err(|_| End::Gone)?,
            Ok(None) => return writer.finish(to).await.map_err(|_| End::Gone),
            Err(error) => {
                info!(%error, "the server's answer broke off");
                writer.flush(to).await.map_err(|_| End::Gone)?;
                return Err(End::Cut { endless: *form == BodyForm::UntilClose });
            }
        }
    }
}

fn unanswered(trouble: Trouble) -> End {
    End::Unanswered { trouble, silent: false }
}
