//! Announces this process' nodes on the routing layer: each says, under its own signature, where it is now.

use super::disks::Node;
use super::papers::Papers;
use super::{Settings, StorageError};
use crate::core::now;
use routing::{Own, Router};
use spine::fleet::announcement::{Announcement, AnnouncementError, SignedAnnouncement, message};
use spine::fleet::trust::Trust;
use spine::wire::admission::Place;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// What announces; a clone of the router keeps its task running.
pub struct Announcer {
    router: Router,
    /// `host:port` of the data plane and of routing, as others reach them.
    address: String,
    routing: String,
}

impl Announcer {
    /// Listens. `None`: the command line asks for no routing.
    pub async fn start(
        settings: &Settings,
        nodes: &[Arc<Node>],
        papers: &[Papers],
        place: &Place,
        trust: Arc<Trust>,
        stop: watch::Receiver<bool>,
    ) -> Result<Option<Announcer>, StorageError> {
        let (Some(listen), Some(node), Some(papers)) = (settings.routing_listen, nodes.first(), papers.first()) else { return Ok(None) };
        let mut router = routing::Settings::new(node.key.pkcs8().to_vec(), papers.certificate.clone());
        router.listen = Some(listen);
        router.bootstrap.clone_from(&settings.bootstrap);
        let router = Router::start(router, trust, stop).await?;
        // The host that gateways reach is the host that routers reach.
        let host = place.address.rsplit_once(':').map_or("", |(host, _)| host);
        let port = router.address().map_or(0, |address| address.port());
        Ok(Some(Announcer { routing: format!("{host}:{port}"), address: place.address.clone(), router }))
    }

    pub fn listens(&self) -> Option<SocketAddr> {
        self.router.address()
    }

    /// Says where all nodes are. `papers`: one a node, in order.
    pub async fn announce(&self, nodes: &[Arc<Node>], papers: &[Papers]) {
        let made = nodes.iter().zip(papers).map(|(node, papers)| self.sign(node, papers)).collect::<Result<Vec<_>, _>>();
        let introduced = match (made, papers.first()) {
            (Ok(announcements), Some(papers)) => self
                .router
                .introduce(Own { certificate: papers.certificate.clone(), announcements })
                .await
                .map_err(|error| error.to_string()),
            (Err(error), _) => Err(error),
            (_, None) => Ok(()),
        };
        if let Err(error) = introduced {
            tracing::error!(target: "breakwater", error, "the nodes are not announced");
        }
    }

    fn sign(&self, node: &Node, papers: &Papers) -> Result<SignedAnnouncement, String> {
        let said = Announcement {
            version: now().0,
            address: self.address.clone(),
            routing: self.routing.clone(),
            certificate: papers.certificate.clone().into(),
        };
        let announcement = said.encode().map_err(|error: AnnouncementError| error.to_string())?;
        let signature = node.key.sign(&message(&announcement))?.into();
        Ok(SignedAnnouncement { announcement, signature })
    }
}
