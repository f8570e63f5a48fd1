//! Whether this process can serve.

use super::operator::Operator;
use crate::roster::Member;
use serde::Serialize;
use spine::wire::Query;
use spine::wire::root::RootQuery;
use spine::wire::shard::NodeState;
use std::collections::HashSet;
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
    /// Disks that writes need, each on a machine of its own.
    pub write_quorum: usize,
    /// Disks that reads need, each on a machine of its own.
    pub read_quorum: usize,
}

/// Looks now.
pub async fn look(operator: &Operator) -> Health {
    let question = operator.path.metadata().query(Query::Root(RootQuery::TenantByName(crate::boot::credentials::ROOT_TENANT.into())));
    let metadata = matches!(tokio::time::timeout(METADATA_TIME, question).await, Ok(Ok(_)));
    let members = operator.nodes.members();
    let states: Vec<NodeState> = members.iter().map(|member| member.link.status().state).collect();
    // No two shards of a chunk are on one machine: a machine counts once, however many disks it has.
    let machines = |serves: &dyn Fn(&Member, NodeState) -> bool| {
        let serving = members.iter().zip(&states).filter(|(member, state)| serves(member, **state));
        serving.map(|(member, _)| member.link.machine()).collect::<HashSet<String>>().len()
    };
    let readable = machines(&|_, state| state != NodeState::Lost);
    let writable = machines(&|member, state| state == NodeState::Serving && member.takes_shards);
    let (k, m) = (usize::from(operator.k), usize::from(operator.m));
    let write_quorum = k + m.div_ceil(2);
    Health {
        ready: metadata && readable >= k,
        writes: metadata && writable >= write_quorum,
        metadata,
        disks_serving: states.iter().filter(|state| **state == NodeState::Serving).count(),
        disks: states.len(),
        write_quorum,
        read_quorum: k,
    }
}
