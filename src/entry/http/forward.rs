//! Requests in absolute form (RFC 9112, §3.2.2): forwarded over a flow to their origin.

use bytes::Bytes;
use tracing::{Instrument, debug, info};

use super::{
    Client, Next,
    answer::{Answer, Trouble},
    exchange::{End, Exchange},
    framing::Length,
    head::{RequestHead, Version},
    origin::{Key, Origin},
    request::{self, Address, BadAddress, Reach},
    tunnel::Tunnel,
};
use crate::{
    entry::{
        options::Options,
        session::{Session, lost},
    },
    flow::{DESTINATION_TARGET, Ingress, Refusal},
};

/// Methods that may be repeated without harm (RFC 9110, §9.2.2).
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

impl Client {
    /// Forwards one request, and delivers the origin's response.
    pub(super) async fn forward(
        &mut self,
        mut head: RequestHead,
        bytes: &Bytes,
        (address, length, upgrade): (Address, Length, bool),
        options: Options,
    ) -> Next {
        let target = match address.target() {
            Ok(target) => target,
            Err(error) => {
                let trouble = Trouble::bad_address(&BadAddress::Target(error));
                return self.tell(&trouble, Some(&head)).await;
            }
        };
        if head.method == "TRACE" && length != Length::Exactly(0) {
            let trouble = Trouble::bad_request("A TRACE has no body");
            return self.tell(&trouble, Some(&head)).await;
        }
        if request::count_forward(&mut head) == Reach::Here {
            let answer = if head.method == "TRACE" {
                Answer::trace(traced(bytes))
            } else {
                Answer::options()
            };
            return self.reply(answer, &head, length).await;
        }
        let original = head.clone();
        let keep = head.keeps_alive();
        request::to_origin(&mut head, &address);
        let expects = length != Length::Exactly(0)
            && head.version == Version::Http11
            && head.fields.has_token("expect", "100-continue");
        let exchange = Exchange { head, length, keep, expects, upgrade };
        self.exchange(&exchange, &original, Key { target, options }).await
    }

    /// Runs the exchange over the kept connection, or over a new one.
    ///
    /// The origin may close a kept connection at the moment when it is used again. So it is used
    /// only for a request that may be repeated: an idempotent one without a body.
    async fn exchange(&mut self, exchange: &Exchange, original: &RequestHead, key: Key) -> Next {
        let repeatable = exchange.length == Length::Exactly(0)
            && IDEMPOTENT.contains(&exchange.head.method.as_str());
        if let Some(mut kept) = self.idle.take() {
            if repeatable && kept.is_reusable(&key).await {
                let end = self.run(exchange, &mut kept).await;
                match end {
                    End::Unanswered { silent: true, .. } => {
                        debug!("the kept connection was stale, dialing again");
                    }
                    end => return self.after(end, kept, original).await,
                }
            } else {
                kept.close().await;
            }
        }
        let opened = tokio::select! {
            opened = open(&self.session, &key) => opened,
            () = lost(self.read.get_ref().as_ref()) => {
                debug!(client = %self.session.client, "the client left before its flow was open");
                return Next::Gone;
            }
        };
        match opened {
            Ok(mut origin) => {
                let end = self.run(exchange, &mut origin).await;
                self.after(end, origin, original).await
            }
            Err(refusal) => {
                let trouble = Trouble::refused(&refusal, &key.target);
                self.write_trouble(&trouble, Some(original)).await
            }
        }
    }

    async fn run(&mut self, exchange: &Exchange, origin: &mut Origin) -> End {
        let span = origin.span().clone();
        exchange.run(&mut self.read, &mut self.write, origin).instrument(span).await
    }

    /// The next state of both connections.
    async fn after(&mut self, end: End, origin: Origin, original: &RequestHead) -> Next {
        match end {
            End::Answered { client, origin: keep, sent } => {
                if keep {
                    self.idle = Some(origin);
                } else if sent {
                    origin.close().await;
                }
                match (client, sent) {
                    (true, _) => Next::Request,
                    (false, true) => Next::Close,
                    (false, false) => Next::CloseAfterUpload,
                }
            }
            End::Switched => Next::Tunnel(Tunnel::Switched(origin)),
            End::Unanswered { trouble, .. } => {
                let (reason, detail) = trouble.parts();
                origin.span().in_scope(|| {
                    info!(reason, "HTTP request failed");
                    debug!(target: DESTINATION_TARGET, detail, "reason of the failure");
                });
                self.write_trouble(&trouble, Some(original)).await
            }
            End::Cut { endless: true } => Next::Reset,
            End::Cut { endless: false } => Next::CloseAfterUpload,
            End::Gone => Next::Gone,
        }
    }
}

async fn open(session: &Session, key: &Key) -> Result<Origin, Refusal> {
    let (target, options) = (key.target.clone(), key.options.clone());
    let opened = session.open(target, options, Ingress::HttpForward).await?;
    Ok(Origin::new(key.clone(), opened))
}

/// The request as it arrived, without the lines that hold credentials.
fn traced(bytes: &[u8]) -> String {
    let secret = ["authorization:", "proxy-authorization:", "cookie:"];
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split_inclusive('\n').filter(|line| {
        let line = line.to_ascii_lowercase();
        !secret.iter().any(|name| line.starts_with(name))
    });
    lines.collect()
}
