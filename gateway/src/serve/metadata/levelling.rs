//! Levelling the metadata processes out, by the one that leads the root group.
//!
//! Not here: how (`metadata::balancing`), what operators move (`admin/ranges.rs`), carrying moves of ranges (`moving.rs`).

use super::moving::leads;
use crate::core::now;
use metadata::balance::Rules;
use metadata::balancing::{Balancing, Waits};
use metadata::cluster::Client;
use metadata::service::MetadataNode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often the processes are asked what they bear.
const BALANCE: Duration = Duration::from_secs(10);

/// Runs until told to stop; what is cut off is seen by the next who leads.
pub async fn run(node: Arc<MetadataNode>, client: Arc<Client>, balance: bool, mut stop: watch::Receiver<bool>) {
    if !balance {
        return;
    }
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = level(&node, &client) => {}
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
