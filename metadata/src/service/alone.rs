//! The groups of a process that is alone, for the router and the mover: reached by a call.

use super::MetadataNode;
use crate::journal::GroupId;
use crate::mover::Founder;
use crate::router::Groups;
use spine::wire::cluster::{ClusterError, GroupCall, GroupOrder, Member};
use spine::wire::{Answer, Batch, Metadata, MetadataError, Query, Reply};

fn metadata_error(error: ClusterError) -> MetadataError {
    match error {
        ClusterError::Metadata(error) => error,
        other => MetadataError::Unavailable { reason: other.to_string() },
    }
}

#[async_trait::async_trait]
impl Groups for MetadataNode {
    async fn propose_to(&self, group: GroupId, batch: Batch) -> Result<Vec<Reply>, MetadataError> {
        self.group(group).ok_or(MetadataError::NotHere)?.propose(batch).await
    }

    async fn query_of(&self, group: GroupId, query: Query) -> Result<Answer, MetadataError> {
        self.group(group).ok_or(MetadataError::NotHere)?.query(query).await
    }
}

#[async_trait::async_trait]
impl Founder for MetadataNode {
    /// Of this process, whoever was named: there is nobody else.
    async fn create(&self, group: GroupId, _members: &[Member]) -> Result<(), MetadataError> {
        let order = GroupOrder::Create { members: vec![self.member()] };
        self.order(GroupCall { group, order }).await.map(drop).map_err(metadata_error)
    }

    async fn hosted(&self) -> Vec<GroupId> {
        self.status().groups.iter().map(|group| group.group).collect()
    }

    async fn remove(&self, groups: &[GroupId]) -> Result<(), MetadataError> {
        for group in groups {
            self.order(GroupCall { group: *group, order: GroupOrder::Remove }).await.map_err(metadata_error)?;
        }
        Ok(())
    }
}
