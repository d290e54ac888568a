//! Requests in absolute form (RFC 9112, §3.2.2): forwarded over a flow to their origin.

use http_body_util::{Either, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    http::request,
};
use tracing::debug;

use super::{
    Client,
    answer::{self, Answer},
    headers, put, take,
    tunnel::Tunnel,
    upstream::{Key, RequestBody, Upstream},
};
use crate::{entry::options::Options, flow::Ingress};

impl Client {
    /// Forwards one request and gives the origin's response, its body still streaming.
    pub(super) async fn forward(&self, mut request: Request<Incoming>, options: Options) -> Answer {
        let target = match headers::target(request.uri()) {
            Ok(target) => target,
            Err(error) => {
                let sentence = format!("The address cannot be used: {error}.");
                return answer::plain(StatusCode::BAD_REQUEST, &sentence);
            }
        };
        let client = headers::upgrade_of(request.headers())
            .is_some()
            .then(|| hyper::upgrade::on(&mut request));
        let (mut head, body) = request.into_parts();
        if let Err(error) = headers::to_origin(&mut head) {
            return answer::plain(StatusCode::BAD_REQUEST, &format!("{error}."));
        }
        let key = Key { target, options };
        let (upstream, mut response) = match self.exchange(&key, head, body).await {
            Ok(answered) => answered,
            Err(answer) => return *answer,
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client) = client else {
                let sentence = "The server switched protocols without being asked.";
                return answer::plain(StatusCode::BAD_GATEWAY, sentence);
            };
            let origin = hyper::upgrade::on(&mut response);
            put(&self.tunnel, Tunnel::Upgrade { client, origin, upstream });
        } else {
            // The client's next request starts after this response, so it may take it from here.
            put(&self.idle, upstream);
        }
        let (mut head, body) = response.into_parts();
        headers::to_client(&mut head);
        Response::from_parts(head, Either::Left(body))
    }

    /// Sends the request over the kept connection, or over a new one.
    ///
    /// A kept connection may be closed by the origin just when it is used again. The request is
    /// then sent once more if that is safe: nothing of it was sent, or it is idempotent and has no
    /// body (RFC 9110, §9.2.2).
    async fn exchange(
        &self,
        key: &Key,
        head: request::Parts,
        body: Incoming,
    ) -> Result<(Upstream, Response<Incoming>), Box<Answer>> {
        let repeatable =
            (head.method.is_idempotent() && body.is_end_stream()).then(|| head.clone());
        let mut request = Request::from_parts(head, Either::Left(body));
        // Bound first: the lock must not live as long as the `if let`.
        let kept = take(&self.idle);
        if let Some(mut upstream) = kept
            && upstream.is_reusable(key).await
        {
            match upstream.send(request).await {
                Ok(response) => return Ok((upstream, response)),
                Err(failed) => {
                    let again = failed.unsent.or_else(|| repeatable.map(without_body));
                    let Some(again) = again else {
                        return Err(Box::new(answer::broken(&failed.error)));
                    };
                    debug!(error = %failed.error, "the kept connection was stale, dialing again");
                    request = again;
                }
            }
        }
        self.exchange_anew(key, request).await.map_err(Box::new)
    }

    async fn exchange_anew(
        &self,
        key: &Key,
        request: Request<RequestBody>,
    ) -> Result<(Upstream, Response<Incoming>), Answer> {
        let (target, options) = (key.target.clone(), key.options.clone());
        let opened = self
            .session
            .open(target, options, Ingress::HttpForward)
            .await
            .map_err(|refusal| answer::refused(&refusal))?;
        let mut upstream = Upstream::start(&self.session.shared, key.clone(), opened)
            .await
            .map_err(|error| answer::broken(&error))?;
        match upstream.send(request).await {
            Ok(response) => Ok((upstream, response)),
            Err(failed) => Err(answer::broken(&failed.error)),
        }
    }
}

fn without_body(head: request::Parts) -> Request<RequestBody> {
    Request::from_parts(head, Either::Right(Empty::new()))
}
