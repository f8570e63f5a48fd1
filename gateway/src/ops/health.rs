//! Whether this process can serve.

use super::operator::Operator;
use serde::Serialize;
use spine::wire::Query;
use spine::wire::root::RootQuery;
use spine::wire::shard::NodeState;
use std::time::Duration;

/// Metadata that takes longer than this to answer does not answer.
const METADATA_TIME: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
pub struct Health {
    /// Reads work.
    pub ready: bool,
    /// Writes have their quorum of disks.
    pub writes: bool,
    pub metadata: bool,
    pub disks_serving: usize,
    pub disks: usize,
    /// Disks that writes need.
    pub write_quorum: usize,
    /// Disks that reads need.
    pub read_quorum: usize,
}

/// Looks now.
pub async fn look(operator: &Operator) -> Health {
    let question = operator.path.metadata().query(Query::Root(RootQuery::TenantByName(crate::boot::credentials::ROOT_TENANT.into())));
    let metadata = matches!(tokio::time::timeout(METADATA_TIME, question).await, Ok(Ok(_)));
    let states: Vec<NodeState> = operator.nodes.iter().map(|node| node.status().state).collect();
    let readable = states.iter().filter(|state| **state != NodeState::Lost).count();
    let writable = states.iter().filter(|state| **state == NodeState::Serving).count();
    let (k, m) = (usize::from(operator.k), usize::from(operator.m));
    let write_quorum = k + m.div_ceil(2);
    Health {
        ready: metadata && readable >= k,
        writes: metadata && writable >= write_quorum,
        metadata,
        disks_serving: writable,
        disks: states.len(),
        write_quorum,
        read_quorum: k,
    }
}
