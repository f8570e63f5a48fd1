//! The groups of a cluster for the router, the mover and levelling out: by their ids, wherever their leaders are.

use super::CallError;
use super::client::{Client, metadata_error};
use crate::balancing::Servers;
use crate::mover::Founder;
use crate::router::Groups;
use futures::future::join_all;
use spine::id::{GroupId, MemberId};
use spine::wire::cluster::{Changed, ClusterError, Endpoint, GroupCall, GroupOrder, Loads, Member, MemberChange};
use spine::wire::{Answer, Batch, MetadataError, Query, Reply};
use std::collections::BTreeSet;

#[async_trait::async_trait]
impl Groups for Client {
    async fn propose_to(&self, group: GroupId, batch: Batch) -> Result<Vec<Reply>, MetadataError> {
        Client::propose_to(self, group, batch).await.map_err(metadata_error)
    }

    async fn query_of(&self, group: GroupId, query: Query) -> Result<Answer, MetadataError> {
        Client::query_of(self, group, query).await.map_err(metadata_error)
    }
}

#[async_trait::async_trait]
impl Founder for Client {
    async fn create(&self, group: GroupId, members: &[Member]) -> Result<(), MetadataError> {
        let mut why = "it has no members".to_string();
        for first in 0..members.len() {
            let mut members = members.to_vec();
            members.rotate_left(first);
            let at = members[0].at.clone();
            match self.order(&at, &GroupCall { group, order: GroupOrder::Create { members } }).await {
                Ok(_) => return Ok(()),
                Err(error) => why = format!("{}: {error}", at.address),
            }
        }
        Err(MetadataError::Unavailable { reason: format!("group {group} could not be made: {why}") })
    }

    async fn hosted(&self) -> Vec<GroupId> {
        let endpoints = self.endpoints();
        let asked = endpoints.iter().map(|endpoint| self.status_of(endpoint));
        let statuses = futures::future::join_all(asked).await;
        let groups = statuses.into_iter().flatten().flat_map(|status| status.groups).map(|status| status.group);
        groups.collect::<BTreeSet<GroupId>>().into_iter().collect()
    }

    async fn remove(&self, groups: &[GroupId]) -> Result<(), MetadataError> {
        for endpoint in self.endpoints() {
            // Who does not answer is asked again in a later round.
            let Ok(status) = self.status_of(&endpoint).await else { continue };
            for hosted in status.groups.iter().filter(|hosted| groups.contains(&hosted.group)) {
                let removed = self.order(&endpoint, &GroupCall { group: hosted.group, order: GroupOrder::Remove }).await;
                if let Err(error) = removed {
                    tracing::debug!(group = %hosted.group, at = endpoint.address, %error, "a group that has ended is not let go of yet");
                }
            }
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Servers for Client {
    async fn loads(&self) -> Vec<Loads> {
        let endpoints = self.endpoints();
        let told = join_all(endpoints.iter().map(|endpoint| async move { (endpoint, self.loads_of(endpoint).await) })).await;
        let mut loads: Vec<Loads> = Vec::new();
        for (endpoint, told) in told {
            match told {
                // A process is known once, though it may be known at two addresses.
                Ok(told) if told.member.at.node == endpoint.node && loads.iter().all(|known| known.member.at.node != endpoint.node) => {
                    loads.push(told);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(at = endpoint.address, %error, "a process does not say what it bears"),
            }
        }
        loads
    }

    async fn transfer(&self, group: GroupId, to: MemberId) -> Result<(), MetadataError> {
        Client::transfer(self, group, to).await.map(drop).map_err(metadata_error)
    }

    async fn enter(&self, to: &Member, group: GroupId, leader: &Endpoint) -> Result<(), MetadataError> {
        let order = GroupOrder::Enter { leader: leader.clone() };
        self.order(&to.at, &GroupCall { group, order }).await.map(drop).map_err(said)
    }

    async fn take_out(&self, group: GroupId, member: MemberId) -> Result<Changed, MetadataError> {
        self.change_of(group, MemberChange::Remove(member)).await.map_err(metadata_error)
    }

    async fn let_go(&self, at: &Endpoint, group: GroupId) -> Result<(), MetadataError> {
        Client::let_go(self, at, group).await.map_err(metadata_error)
    }
}

fn said(error: CallError) -> MetadataError {
    match error {
        CallError::Refused(ClusterError::Metadata(error)) => error,
        other => MetadataError::Unavailable { reason: other.to_string() },
    }
}
