//! Whether an exit would carry a flow, asked on the link to it because a person asks.

use super::Mesh;
use crate::{
    flow::Target,
    identity::NodeName,
    link::{Link, LinkError},
    wire::{
        lane::JudgeReply,
        link::{LinkRefusal, Reply, Request},
    },
};

impl Mesh {
    /// Asks `exit` whether it would carry a flow of this node to `target`. `None`: no link to it is up; the
    /// outer error is the link's.
    pub async fn ask_exit(
        &self,
        exit: &NodeName,
        target: &Target,
    ) -> Option<Result<JudgeReply, LinkError>> {
        // A link outlives its path for a while; asking over it would wait for nothing.
        if !self.is_path_up(exit) {
            return None;
        }
        Some(match self.links.request(exit, &Request::Judge(target.clone())).await {
            Ok(Reply::Judged(answer)) => Ok(answer),
            Ok(_) => Err(LinkRefusal::Unexpected.into()),
            Err(error) => Err(error),
        })
    }

    /// Answers the neighbour on `link`, by what its certificate says of it.
    pub(super) async fn answer_question(
        &self,
        link: &Link,
        target: &Target,
    ) -> Result<Reply, LinkRefusal> {
        Ok(Reply::Judged(self.hosting()?.judge(link.peer(), target).await))
    }
}
