//! Metrics that a program defines.

use std::time::Duration;

use super::{Error, Node, Stream};
use crate::{
    flow::{AppMetric, ParseMetricError, Route},
    identity::NodeName,
    overlay::posted::{Better, Declared, HalfLifeError},
};

/// A metric that the program defines ("The Case for Resilient Overlay Networks", HotOS 2001, section 3.1); see
/// [`Node::metric`](crate::Node::metric).
///
/// Less is better, and a post counts half as much after 10 min, unless
/// [`more_is_better`](Self::more_is_better) and [`half_life`](Self::half_life) say otherwise. What the last
/// post said holds.
#[derive(Debug)]
#[must_use = "nothing is posted before `post`"]
pub struct Metric<'a> {
    node: &'a Node,
    name: Result<AppMetric, ParseMetricError>,
    declared: Result<Declared, HalfLifeError>,
}

impl<'a> Metric<'a> {
    pub(super) fn new(node: &'a Node, name: &str) -> Self {
        Self { node, name: name.parse(), declared: Ok(Declared::default()) }
    }

    /// Large values are good ones, as of a rate. To change the direction forgets the values before.
    pub fn more_is_better(mut self) -> Self {
        self.declared = self.declared.map(|declared| Declared { better: Better::More, ..declared });
        self
    }

    /// After how long a post counts half as much, from 1 s to 24 h. After eight half-lives without a post a
    /// value is gone.
    pub fn half_life(mut self, half_life: Duration) -> Self {
        self.declared = self.declared.and_then(|declared| declared.with_half_life(half_life));
        self
    }

    /// Posts a value for an exit, by whatever route.
    ///
    /// # Errors
    /// [`Error::Post`] for a value that is no finite number of at least 0, a metric too many, or `connect`, which
    /// the node measures itself;
    /// [`Error::Metric`], [`Error::HalfLife`] or [`Error::Name`] for what is not valid;
    /// [`Error::Stopped`].
    pub fn post<T>(self, exit: T, value: f64) -> Result<(), Error>
    where
        T: TryInto<NodeName>,
        T::Error: Into<Error>,
    {
        let exit = exit.try_into().map_err(Into::into)?;
        self.post_to(&exit, None, value)
    }

    /// Posts a value for the exit of a stream, and for the route that the stream takes now.
    ///
    /// # Errors
    /// As for [`post`](Self::post).
    pub fn post_for(self, stream: &Stream, value: f64) -> Result<(), Error> {
        self.post_to(stream.exit(), stream.route().as_ref(), value)
    }

    /// The value of an exit; `None`: nothing was posted lately.
    #[must_use]
    pub fn value(&self, exit: &NodeName) -> Option<f64> {
        self.node.mesh().posted(self.name.as_ref().ok()?, exit, None)
    }

    fn post_to(self, exit: &NodeName, route: Option<&Route>, value: f64) -> Result<(), Error> {
        let (name, declared) = (self.name?, self.declared?);
        if self.node.is_stopped() {
            return Err(Error::Stopped);
        }
        Ok(self.node.mesh().post(&name, declared, (exit, route), value)?)
    }
}
