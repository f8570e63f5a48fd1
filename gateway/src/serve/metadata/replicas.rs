//! Replicas of groups, seen to by the metadata process that leads the root group.
//!
//! Not here: how (`metadata::replicas`), who is to leave (`admin/metadata.rs`).

use super::moving::leads;
use metadata::cluster::Client;
use metadata::replicas::Replicas;
use metadata::service::MetadataNode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often it is looked whether something is to be done, and how soon again where something was.
const LOOK: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_millis(200);

/// Runs until told to stop; what is cut off is gone on with by the next who leads.
pub async fn run(node: Arc<MetadataNode>, client: Arc<Client>, wanted: usize, mut stop: watch::Receiver<bool>) {
    let replicas = Replicas::new(client, wanted);
    let keep = async {
        let mut pause = LOOK;
        loop {
            tokio::time::sleep(pause).await;
            pause = LOOK;
            if !leads(&node) {
                replicas.rest();
                continue;
            }
            match replicas.round().await {
                Ok(0) => {}
                Ok(_) => pause = SOON,
                Err(error) => tracing::debug!(%error, "the root could not be asked for metadata nodes"),
            }
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = keep => {}
    }
}
