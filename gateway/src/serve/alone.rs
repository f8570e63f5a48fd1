//! Metadata in this process alone, as operators meet it: the same ranges and moves as of a cluster, and nobody else.

use crate::ops::operator::Members;
use metadata::service::MetadataNode;
use spine::id::{GroupId, MemberId};
use spine::map::Map;
use spine::wire::cluster::{ClusterStatus, Endpoint, GroupCall, GroupOrder, Loads, Member, Understood};
use std::sync::Arc;

#[async_trait::async_trait]
impl Members for MetadataNode {
    fn alone(&self) -> Option<Member> {
        Some(self.member())
    }

    fn known(&self) -> Vec<Endpoint> {
        vec![self.member().at]
    }

    fn known_map(&self) -> Option<Arc<Map>> {
        None
    }

    async fn status_of(&self, _at: &Endpoint) -> Result<ClusterStatus, String> {
        Ok(self.status())
    }

    async fn format_of(&self, _at: &Endpoint) -> Result<Understood, String> {
        Ok(self.understood())
    }

    async fn loads_of(&self, _at: &Endpoint) -> Result<Loads, String> {
        self.loads().await.map_err(|error| error.to_string())
    }

    async fn take_out(&self, _group: GroupId, _member: MemberId) -> Result<(), String> {
        Err("a process that is alone is the only member of its groups".to_string())
    }

    async fn transfer(&self, group: GroupId, to: MemberId) -> Result<(), String> {
        let done = self.order(GroupCall { group, order: GroupOrder::Transfer { to } }).await;
        done.map(drop).map_err(|error| error.to_string())
    }
}
