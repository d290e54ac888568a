//! What a program wants of a stream.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use super::{Error, Node, Stream};
use crate::{
    flow::{FlowRequest, Hint, IN_PROCESS, Ingress, Target, is_class},
    identity::NodeName,
};

/// The bounds of a patience, as in the configuration.
const PATIENCE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);

/// A stream that is about to be opened; `.await` opens it.
///
/// What is not said here is as the folder's rules say. Dropping the future gives the attempt up.
#[must_use = "nothing is opened before `.await`"]
#[derive(Debug)]
pub struct Connect<'a> {
    node: &'a Node,
    request: Result<FlowRequest, Error>,
}

impl<'a> Connect<'a> {
    pub(super) fn new(node: &'a Node, target: Result<Target, Error>) -> Self {
        Self { node, request: target.map(|to| FlowRequest::new(to, IN_PROCESS, Ingress::Library)) }
    }

    /// Which quality of the route matters. Default: as the rules say, else [`Hint::Latency`].
    pub fn hint(self, hint: Hint) -> Self {
        self.with(|request| {
            request.hint = Some(hint);
            Ok(())
        })
    }

    /// The node at which the stream leaves the overlay. Default: as the rules say, else the exit that serves
    /// the destination most closely and has the best route.
    pub fn exit<T>(self, exit: T) -> Self
    where
        T: TryInto<NodeName>,
        T::Error: Into<Error>,
    {
        self.with(|request| {
            request.exit = Some(exit.try_into().map_err(Into::into)?);
            Ok(())
        })
    }

    /// The traffic class, by which relays may refuse to forward: 1 to 32 characters of `a-z`, `0-9`, `-`
    /// and `_`. Default: as the rules say, else none.
    pub fn class(self, class: &str) -> Self {
        self.with(|request| {
            if !is_class(class) {
                return Err(Error::Class(class.chars().take(64).collect()));
            }
            request.class = Some(class.to_owned());
            Ok(())
        })
    }

    /// How long the stream outlives complete silence on all routes, from 1 s to 1 h. Default: as the rules
    /// say, else as under `[lane]`, 10 min. Streams with different values do not share a lane.
    pub fn patience(self, patience: Duration) -> Self {
        self.with(|request| {
            if !PATIENCE.contains(&patience) {
                return Err(Error::Patience(patience));
            }
            request.patience = Some(patience);
            Ok(())
        })
    }

    /// The first error is the one that `.await` tells.
    fn with(mut self, change: impl FnOnce(&mut FlowRequest) -> Result<(), Error>) -> Self {
        if let Ok(request) = &mut self.request
            && let Err(error) = change(request)
        {
            self.request = Err(error);
        }
        self
    }
}

impl<'a> IntoFuture for Connect<'a> {
    type Output = Result<Stream, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.node.dial(self.request?).await })
    }
}
