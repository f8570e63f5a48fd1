//! Raising groups to the newest format that everybody understands: the root's group by what its members say, every other by the root's.
//!
//! Whoever has a replica of any group has one of the root's (`member.rs`: it joins that one first), so the root's format holds for all of them.
//! Every process that leads a group looks now and then; alone there is nobody to ask.
//! Invariant: the root's group is raised to nothing that a member of it, with a vote or without, did not say it understands just before.

use super::groups::{Groups, ROOT};
use crate::group::Group;
use futures::future::join_all;
use spine::wire::MetadataError;
use spine::wire::format::{Format, agreed};
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);

/// Until it is aborted.
pub async fn run(groups: Arc<Groups>) {
    loop {
        tokio::time::sleep(EVERY).await;
        look(&groups).await;
    }
}

/// Raises what is led here and can be raised.
pub async fn look(groups: &Groups) {
    let Some(root) = groups.get(ROOT) else { return };
    let newest = groups.means.folder.newest();
    if root.group.format() < newest
        && root.group.standing().0
        && let Some(format) = understood_by_all(groups, &root.group).await
    {
        raise(&root.group, format.min(newest)).await;
    }
    let format = root.group.format();
    for hosted in groups.all() {
        if hosted.group.format() < format && hosted.group.standing().0 {
            raise(&hosted.group, format).await;
        }
    }
}

async fn raise(group: &Group, to: Format) {
    if group.format() >= to || !group.may_rise().unwrap_or(false) {
        return;
    }
    match group.raise(to).await {
        Ok(()) => tracing::info!(group = %group.number(), format = %group.format(), "a group's format was raised"),
        Err(MetadataError::Unavailable { .. }) => {}
        Err(error) => tracing::error!(group = %group.number(), %error, "a group's format could not be raised"),
    }
}

/// The newest format that all members of the root's group understand, if all of them answer.
async fn understood_by_all(groups: &Groups, root: &Group) -> Option<Format> {
    let members = root.status().members;
    let said = join_all(members.iter().map(|known| root.understood_by(&known.member))).await;
    let newest = groups.means.folder.newest();
    let behind = members.iter().zip(&said).find(|(_, said)| said.is_none_or(|format| format < newest));
    if let Some((known, said)) = behind {
        let at = &known.member.at;
        let who = match said {
            Some(format) => format!("metadata node {at} understands format {format} and not {newest}: upgrade it"),
            None => format!("metadata node {at} does not say what it understands: start it, or remove it"),
        };
        if groups.means.folder.note_holdout(who.clone()) {
            tracing::info!(who, "what came with a newer version waits");
        }
    }
    agreed(said)
}
