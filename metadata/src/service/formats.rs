//! Raising groups to the newest format that everybody understands: the root's group by what its members say, every other one once the root's is.
//!
//! Whoever has a replica of any group has one of the root's (`member.rs`: it joins that one first), but for a node that is on its way out: so
//! each group asks its own members as well (`group/formats.rs`).
//! Every process that leads a group looks now and then; alone there is nobody to ask.

use super::groups::{Groups, ROOT};
use crate::group::Group;
use futures::StreamExt;
use futures::stream;
use spine::wire::MetadataError;
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);
/// Groups that are raised at a time.
const AT_ONCE: usize = 16;

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
    let folder = &groups.means.folder;
    if root.group.format() < folder.newest() && root.group.standing().0 {
        rise(&root.group).await;
    }
    let format = root.group.format();
    folder.note_agreed(format);
    let behind = groups.all().into_iter().filter(|hosted| hosted.group.format() < format && hosted.group.standing().0);
    stream::iter(behind).for_each_concurrent(AT_ONCE, |hosted| async move { rise(&hosted.group).await }).await;
}

async fn rise(group: &Group) {
    match group.rise().await {
        Ok(()) | Err(MetadataError::Unavailable { .. }) => {}
        Err(error) => tracing::error!(group = %group.number(), %error, "a group's format could not be raised"),
    }
}
