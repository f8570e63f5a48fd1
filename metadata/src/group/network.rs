//! How openraft reaches the other members. A process that is alone has none to reach.
//!
//! Appends go with those of other groups (`cluster/ways.rs`).

#![allow(clippy::result_large_err, reason = "openraft's own error")]

use super::{Types, convert, send};
use crate::checkpoint::Image;
use crate::cluster::{CallError, Way, Ways};
use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AnyError, BasicNode, OptionalSend, Snapshot, Vote};
use spine::id::{GroupId, MemberId};
use spine::wire::cluster::{Appended, Call, Endpoint, Voted};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Pause before a member that cannot be reached is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Makes connections to members.
pub struct Network {
    group: GroupId,
    /// `None`: alone.
    ways: Option<Arc<Ways>>,
}

impl Network {
    pub fn new(group: GroupId, ways: Option<Arc<Ways>>) -> Self {
        Self { group, ways }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        let endpoint: Option<Endpoint> = node.addr.parse().ok();
        let way = endpoint.zip(self.ways.as_ref()).map(|(endpoint, ways)| ways.to(&endpoint));
        Peer { group: self.group, to: MemberId(target), way }
    }
}

/// The way to one member.
pub struct Peer {
    pub(super) group: GroupId,
    pub(super) to: MemberId,
    pub(super) way: Option<Arc<Way>>,
}

type RpcError = RPCError<u64, BasicNode, RaftError<u64>>;

impl Peer {
    fn way(&self) -> Result<&Way, RpcError> {
        let nobody = || RPCError::Unreachable(Unreachable::new(&AnyError::error("the member has no address that this process can reach")));
        self.way.as_deref().ok_or_else(nobody)
    }
}

fn rpc_error(error: CallError) -> RpcError {
    match error {
        CallError::Lost(_) => RPCError::Network(NetworkError::new(&error)),
        CallError::Unreachable(_) | CallError::Stranger(_) | CallError::Refused(_) => RPCError::Unreachable(Unreachable::new(&error)),
    }
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        let append = convert::append_of(self.group, self.to, request).map_err(|e| RPCError::Unreachable(Unreachable::new(&e)))?;
        let way = self.way()?;
        let appended: Appended = match append.entries.is_empty() {
            true => way.beat(append).await.map_err(rpc_error)?,
            false => way.append(append).await.map_err(rpc_error)?,
        };
        Ok(convert::append_response_of(&appended))
    }

    async fn vote(&mut self, request: VoteRequest<u64>, _option: RPCOption) -> Result<VoteResponse<u64>, RpcError> {
        let question = convert::request_vote_of(self.group, self.to, &request);
        let voted: Voted = self.way()?.link().call(Call::Vote, &question).await.map_err(rpc_error)?;
        Ok(convert::vote_response_of(&voted))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let unreachable = |reason: String| StreamingError::Unreachable(Unreachable::new(&AnyError::error(reason)));
        let Image::Kept(pinned) = *snapshot.snapshot else { return Err(unreachable("only a checkpoint can be sent".into())) };
        let Some(link) = self.way.as_ref().map(|way| way.link().clone()) else {
            return Err(unreachable("the member has no address".into()));
        };
        let sending =
            send::Sending { link, group: self.group, to: self.to, ballot: convert::ballot_of(&vote), meta: snapshot.meta, pinned };
        tokio::select! {
            sent = sending.run() => match sent {
                Ok(ballot) => Ok(SnapshotResponse::new(convert::vote_of(&ballot))),
                Err(reason) => Err(unreachable(reason)),
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}
