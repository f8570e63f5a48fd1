//! Moves of ranges, carried out by the metadata process that leads the root group, or is alone.
//!
//! Not here: how (`metadata::mover`), who begins one (`admin/ranges.rs`, `levelling.rs`).

use futures::FutureExt;
use metadata::mover::{Founder, Limits, MoveError, Mover};
use metadata::router::Groups;
use metadata::service::MetadataNode;
use spine::id::{GroupId, MoveId};
use spine::wire::root::MoveStep;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often the root is looked at for something to move.
const LOOK: Duration = Duration::from_secs(1);
/// Of these looks, every so many one is for groups that have nothing any more: all processes are asked what they have, and one that is down
/// is waited for.
const ENDING: u32 = 10;

/// Runs until told to stop; a move that is cut off is taken up by the next who leads.
pub async fn run<G: Groups + Founder>(node: Arc<MetadataNode>, groups: Arc<G>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = carry(&node, &groups) => {}
    }
}

/// Carries all moves that are under way side by side: what somebody left frozen must not wait behind another one's rows. Ends groups that
/// have nothing any more.
async fn carry<G: Groups + Founder>(node: &MetadataNode, groups: &Arc<G>) {
    let mover = Arc::new(Mover::new(groups.clone(), groups.clone(), Limits::default()));
    let mut ending = JoinSet::new();
    let mut looks: u32 = 0;
    let (mut running, mut carried) = (JoinSet::<MoveId>::new(), BTreeSet::new());
    loop {
        tokio::time::sleep(LOOK).await;
        while let Some(ended) = running.try_join_next() {
            match ended {
                Ok(id) => drop(carried.remove(&id)),
                // Cancelled, as this process ends.
                Err(error) => tracing::debug!(%error, "a move was cut off"),
            }
        }
        if !leads(node) {
            continue;
        }
        let moves = match mover.under_way().await {
            Ok(moves) => moves,
            Err(error) => {
                tracing::debug!(%error, "the root could not be asked for moves");
                continue;
            }
        };
        for id in moves {
            if !carried.insert(id) {
                continue;
            }
            let mover = mover.clone();
            running.spawn(to_its_end(id, async move { mover.carry(id).await }));
        }
        while ending.try_join_next().is_some() {}
        looks = looks.wrapping_add(1);
        if ending.is_empty() && looks.is_multiple_of(ENDING) {
            let mover = mover.clone();
            ending.spawn(async move {
                if let Err(error) = mover.end_idle().await {
                    tracing::debug!(%error, "groups without a range could not be ended yet");
                }
            });
        }
    }
}

/// Carries one move; whatever becomes of it, also in a panic, it may be taken up again.
async fn to_its_end(id: MoveId, carry: impl Future<Output = Result<MoveStep, MoveError>>) -> MoveId {
    match AssertUnwindSafe(carry).catch_unwind().await {
        Ok(Ok(step)) => tracing::info!(%id, ?step, "a range's move is over"),
        Ok(Err(error)) => tracing::warn!(%id, %error, "a range's move is not through yet"),
        Err(_) => tracing::error!(%id, "carrying a range's move panicked"),
    }
    id
}

/// Whether this process leads the root group, as far as it knows. Two that think so do no harm: the one that takes a move up last has it.
pub(super) fn leads(node: &MetadataNode) -> bool {
    node.group(GroupId(0)).is_some_and(|root| root.group.standing().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_move_is_given_back_whatever_becomes_of_it() {
        let id = MoveId(7);
        assert_eq!(to_its_end(id, async { Ok(MoveStep::Done) }).await, id);
        assert_eq!(to_its_end(id, async { Err(MoveError::Taken) }).await, id);
        assert_eq!(to_its_end(id, async { panic!("as the test wants it") }).await, id);
    }
}
