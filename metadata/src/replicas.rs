//! Sees to it that every group has as many replicas as it should, and that nodes which are to leave do.
//!
//! ```text
//! root: nodes, who leaves -> every node's word of its groups -> steps (decide.rs) -> each to the node or the leader that it is for
//! ```
//! Runs where the root group is led. It keeps nothing: every round looks anew, and every step can be taken again or by somebody else.
//! Not here: which step is next (`replicas/decide.rs`), what members do about a change (`group/members.rs`), which node bears what
//! (`balance/`).

pub mod decide;
#[cfg(test)]
mod tests;

use crate::cluster::Client;
use crate::metric;
use crate::root::map::ROOT;
use crate::router::Groups;
use decide::{Node, Says, Step, View, steps};
use futures::future::join_all;
use spine::id::GroupId;
use spine::wire::cluster::{ClusterStatus, Endpoint, GroupCall, GroupOrder, GroupStatus, MemberChange};
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::{Answer, MetadataError, Query};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for one step; it goes on where it is, and the next round asks again.
const STEP: Duration = Duration::from_secs(10);

/// What carries the steps.
pub struct Replicas {
    client: Arc<Client>,
    wanted: usize,
}

impl Replicas {
    /// - `wanted`: voters of each group, where there are so many nodes.
    pub fn new(client: Arc<Client>, wanted: usize) -> Replicas {
        Replicas { client, wanted }
    }

    /// The root is led elsewhere: who does not answer is told of there.
    pub fn rest(&self) {
        metric::SILENT.set(0);
    }

    /// Looks once, and takes the steps that are next. How many there were.
    ///
    /// # Errors
    /// The root cannot be asked.
    pub async fn round(&self) -> Result<usize, MetadataError> {
        let view = self.look().await?;
        let steps = steps(&view);
        join_all(steps.iter().map(|step| self.take(step))).await;
        Ok(steps.len())
    }

    async fn look(&self) -> Result<View, MetadataError> {
        let (RootAnswer::MetadataNodes(records), RootAnswer::LeavingMetadataNodes(leaving), RootAnswer::Shifts(shifts)) = (
            self.root(RootQuery::MetadataNodes).await?,
            self.root(RootQuery::LeavingMetadataNodes).await?,
            self.root(RootQuery::Shifts).await?,
        ) else {
            return Err(MetadataError::Storage { reason: "the root gave an answer to another question".into() });
        };
        let asked = records.iter().map(|record| async {
            let at = Endpoint { node: record.id, address: record.address.clone() };
            // Who was removed is let in nowhere, and lets nobody in who still counts.
            let status = if record.removed { None } else { self.client.status_of(&at).await.ok() };
            (at, record.removed, status)
        });
        let told = join_all(asked).await;
        let silent = told.iter().filter(|(_, removed, status)| !removed && status.is_none()).count();
        metric::SILENT.set(i64::try_from(silent).unwrap_or(i64::MAX));
        let groups = by_leaders(told.iter().filter_map(|(.., status)| status.as_ref()));
        let says = |status: ClusterStatus| Says { hosts: status.groups.iter().map(|group| group.group).collect(), member: status.member };
        let nodes = told.into_iter().map(|(at, removed, status)| {
            let leaves = removed || leaving.contains(&at.node);
            Node { at, leaves, removed, says: status.map(says) }
        });
        let shifting = shifts.into_iter().filter(|shift| shift.ended.is_none()).map(|shift| shift.group).collect();
        Ok(View { wanted: self.wanted, nodes: nodes.collect(), groups, shifting })
    }

    async fn root(&self, query: RootQuery) -> Result<RootAnswer, MetadataError> {
        match Groups::query_of(&*self.client, ROOT, Query::Root(query)).await? {
            Answer::Root(answer) => Ok(answer),
            _ => Err(MetadataError::Storage { reason: "the root gave an answer to another question".into() }),
        }
    }

    async fn take(&self, step: &Step) {
        let order = |group: &GroupId, order| GroupCall { group: *group, order };
        let done = async {
            match step {
                Step::Host { group, at } => {
                    self.client.order(at, &order(group, GroupOrder::Host)).await.map(drop).map_err(|error| error.to_string())
                }
                Step::Enter { group, at, leader } => {
                    let call = order(group, GroupOrder::Enter { leader: leader.clone() });
                    self.client.order(at, &call).await.map(drop).map_err(|error| error.to_string())
                }
                Step::Transfer { group, to } => self.client.transfer(*group, *to).await.map(drop).map_err(|error| error.to_string()),
                Step::Leave { group, member } => {
                    let change = MemberChange::Remove(*member);
                    self.client.change_of(*group, change).await.map(drop).map_err(|error| error.to_string())
                }
                Step::LetGo { group, at } => self.client.let_go(at, *group).await.map_err(|error| error.to_string()),
            }
        };
        match timeout(STEP, done).await {
            Ok(Ok(())) => tracing::info!(?step, "a replica's step is done"),
            Ok(Err(error)) => tracing::debug!(?step, error, "a replica's step is not through yet"),
            Err(_) => tracing::debug!(?step, "a replica's step takes long"),
        }
    }
}

/// Every group that somebody who answered says to lead, as that one says; of two, as the later one does.
fn by_leaders<'a>(told: impl Iterator<Item = &'a ClusterStatus>) -> Vec<GroupStatus> {
    let mut out: BTreeMap<GroupId, &GroupStatus> = BTreeMap::new();
    for status in told {
        for group in status.groups.iter().filter(|group| group.leader == Some(status.member.id)) {
            if out.get(&group.group).is_none_or(|known| known.term < group.term) {
                out.insert(group.group, group);
            }
        }
    }
    out.into_values().cloned().collect()
}
