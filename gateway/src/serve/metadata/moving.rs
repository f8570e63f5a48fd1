//! Moves of ranges, carried out by the metadata process that leads the root group, or is alone.
//!
//! Not here: how (`metadata::mover`), who begins one (`admin/ranges.rs`).

use metadata::mover::{Founder, Limits, Mover};
use metadata::router::Groups;
use metadata::service::MetadataNode;
use spine::id::GroupId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often the root is looked at for something to move.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until told to stop; a move that is cut off is taken up by the next who leads.
pub async fn run<G: Groups + Founder>(node: Arc<MetadataNode>, groups: Arc<G>, mut stop: watch::Receiver<bool>) {
    let mover = Mover::new(groups.clone(), groups, Limits::default());
    let keep = async {
        loop {
            tokio::time::sleep(LOOK).await;
            if !leads(&node) {
                continue;
            }
            if let Err(error) = mover.round().await {
                tracing::debug!(%error, "the root could not be asked for moves");
            }
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = keep => {}
    }
}

/// Whether this process leads the root group, as far as it knows. Two that think so do no harm: the one that takes a move up last has it.
pub(super) fn leads(node: &MetadataNode) -> bool {
    let status = node.status();
    status.groups.iter().any(|group| group.group == GroupId(0) && group.leader == Some(status.member.id))
}
