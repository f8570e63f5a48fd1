//! Keeps the nodes' certificates fresh: a new one when a third of a life is left, at once when the address has changed.
//!
//! Invariant: what is shown is what lies on the disk; a gateway that does not answer is asked again, and the old certificate serves
//! for as long as it lasts.

use super::announce::Announcer;
use super::disks::Node;
use super::identity;
use super::papers::Papers;
use crate::core::now;
use crate::fleet::apply::{self, ApplyError, Gate};
use crate::fleet::authority::fingerprint;
use spine::fleet::tls::Served;
use spine::wire::admission::{AdmissionRefusal, Place};
use spine::wire::shard::StorageNode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often due dates are looked at, at most and at least.
const LOOK_MOST: Duration = Duration::from_secs(60);
const LOOK_LEAST: Duration = Duration::from_secs(1);

pub struct Renewal {
    nodes: Vec<Arc<Node>>,
    papers: Vec<Papers>,
    place: Place,
    served: Arc<Served>,
    /// Nodes that were told that they are retired: they are not asked for again.
    retired: Vec<bool>,
    announcer: Option<Announcer>,
    /// Disks that were away at the start and have come.
    coming: mpsc::UnboundedReceiver<(Arc<Node>, Papers)>,
}

impl Renewal {
    /// `papers`: one a node, in order.
    pub fn new(
        nodes: Vec<Arc<Node>>,
        papers: Vec<Papers>,
        place: Place,
        served: Arc<Served>,
        announcer: Option<Announcer>,
        coming: mpsc::UnboundedReceiver<(Arc<Node>, Papers)>,
    ) -> Renewal {
        let retired = vec![false; papers.len()];
        Renewal { nodes, papers, place, served, retired, announcer, coming }
    }

    /// Renews until told to stop.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        self.announce().await;
        loop {
            let mut renewed = false;
            for at in 0..self.papers.len() {
                if self.is_due(at) {
                    renewed |= self.renew(at).await;
                }
            }
            if renewed {
                self.announce().await;
            }
            let shortest = self.papers.iter().map(life).min().unwrap_or(LOOK_MOST);
            let pause = (shortest / 30).clamp(LOOK_LEAST, LOOK_MOST);
            let came = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                Some(came) = self.coming.recv() => Some(came),
                () = tokio::time::sleep(pause) => None,
            };
            if let Some((node, papers)) = came {
                self.nodes.push(node);
                self.papers.push(papers);
                self.retired.push(false);
                self.announce().await;
            }
        }
    }

    async fn announce(&self) {
        if let Some(announcer) = &self.announcer {
            announcer.announce(&self.nodes, &self.papers).await;
        }
    }

    fn is_due(&self, at: usize) -> bool {
        let papers = &self.papers[at];
        let left = papers.says.not_after.saturating_sub(i64::try_from(now().0 / 1_000).unwrap_or(i64::MAX));
        let late = left <= i64::try_from(life(papers).as_secs() / 3).unwrap_or(0);
        let moved = papers.says.admission.address.as_deref() != Some(self.place.address.as_str());
        !self.retired[at] && (late || moved)
    }

    /// Returns whether there is a new certificate.
    async fn renew(&mut self, at: usize) -> bool {
        let (node, papers) = (&self.nodes[at], &self.papers[at]);
        let gate = Gate { address: papers.gate.clone(), fingerprint: fingerprint(&papers.authority) };
        // A disk that is away says nothing of its size: what it was admitted with stays.
        let capacity = match node.disk.status().capacity {
            0 => papers.says.admission.capacity,
            bytes => bytes,
        };
        match apply::renew(&gate, &self.place, &[(node.key.clone(), capacity)]).await {
            Ok(admitted) => {
                let certificate = admitted.certificates.first().map(|der| der.to_vec()).unwrap_or_default();
                let taken = Papers::new(&node.dir, gate.address, admitted.authority.to_vec(), certificate).and_then(|new| {
                    new.save(&node.dir)?;
                    Ok(new)
                });
                match taken.map(|new| (identity(&node.key, &new), new)) {
                    Ok((Ok(identity), new)) => {
                        self.served.set(identity);
                        tracing::info!(target: "breakwater", node = %node.key.node(), "the certificate was renewed");
                        self.papers[at] = new;
                        return true;
                    }
                    Ok((Err(error), _)) => tracing::error!(target: "breakwater", %error, "a renewed certificate does not serve"),
                    Err(error) => tracing::error!(target: "breakwater", %error, "a renewed certificate was not kept"),
                }
            }
            Err(ApplyError::Refused(AdmissionRefusal::Retired { node })) => {
                tracing::error!(target: "breakwater", %node, "the node was retired: its certificate ends and is not renewed");
                self.retired[at] = true;
            }
            Err(error) => tracing::warn!(target: "breakwater", node = %node.key.node(), %error, "the certificate was not renewed yet"),
        }
        false
    }
}

fn life(papers: &Papers) -> Duration {
    let seconds = papers.says.not_after.saturating_sub(papers.says.not_before);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
