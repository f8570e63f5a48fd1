//! Moves of ranges, and levelling the processes out, by the metadata process that leads the root group.
//!
//! Not here: how (`metadata::mover`, `metadata::balancing`), what operators move (`admin/ranges.rs`).

use crate::core::now;
use metadata::balance::Rules;
use metadata::balancing::{Balancing, Waits};
use metadata::cluster::Client;
use metadata::mover::{Limits, Mover};
use metadata::service::MetadataNode;
use spine::id::{GroupId, MoveId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often the root is looked at for something to move.
const LOOK: Duration = Duration::from_secs(1);
/// How often the processes are asked what they bear.
const BALANCE: Duration = Duration::from_secs(10);

/// Runs until told to stop; what is cut off is taken up by the next who leads.
///
/// - `balance`: whether the processes are levelled out.
pub async fn run(node: Arc<MetadataNode>, client: Arc<Client>, balance: bool, mut stop: watch::Receiver<bool>) {
    let levelling = async {
        if balance {
            level(&node, &client).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = carry(&node, &client) => {}
        () = levelling => {}
    }
}

/// Carries all moves that are under way side by side: what somebody left frozen must not wait behind another one's rows. Ends groups that
/// have nothing any more.
async fn carry(node: &MetadataNode, client: &Arc<Client>) {
    let mover = Arc::new(Mover::new(client.clone(), client.clone(), Limits::default()));
    let mut ending = JoinSet::new();
    let (mut running, mut carried) = (JoinSet::<MoveId>::new(), BTreeSet::new());
    loop {
        tokio::time::sleep(LOOK).await;
        while let Some(ended) = running.try_join_next() {
            match ended {
                Ok(id) => drop(carried.remove(&id)),
                Err(error) => tracing::error!(%error, "the task of a move failed"),
            }
        }
        if running.is_empty() {
            carried.clear();
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
            running.spawn(async move {
                match mover.carry(id).await {
                    Ok(step) => tracing::info!(%id, ?step, "a range's move is over"),
                    Err(error) => tracing::warn!(%id, %error, "a range's move is not through yet"),
                }
                id
            });
        }
        while ending.try_join_next().is_some() {}
        if ending.is_empty() {
            let mover = mover.clone();
            ending.spawn(async move {
                if let Err(error) = mover.end_idle().await {
                    tracing::debug!(%error, "groups without a range could not be ended yet");
                }
            });
        }
    }
}

/// What is known of the past is the root's: each time that this process comes to lead it, it begins from there.
async fn level(node: &MetadataNode, client: &Arc<Client>) {
    let mut balancing = None;
    loop {
        tokio::time::sleep(BALANCE).await;
        if !leads(node) {
            balancing = None;
            continue;
        }
        let balancing = balancing.get_or_insert_with(|| Balancing::new(client.clone(), client.clone(), Rules::default(), Waits::default()));
        if let Err(error) = balancing.round(now()).await {
            tracing::debug!(%error, "the root could not be asked what there is to level out");
        }
    }
}

/// Whether this process leads the root group, as far as it knows. Two that think so do no harm: the one that takes a move up last has it.
fn leads(node: &MetadataNode) -> bool {
    node.group(GroupId(0)).is_some_and(|root| root.group.standing().0)
}
