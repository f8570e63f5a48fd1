//! Metadata that other processes keep, as a gateway has it: the client, and what follows the cluster while the gateway runs.
//!
//! Nothing of metadata is remembered here but where its nodes are and which group has what, so that several gateways see one truth: every
//! look-up is asked of the leader of the group that owns it, which refuses if it does not. What a gateway does remember, and for how long:
//! access keys (`front/auth.rs`, 5 s), tenants' derived keys (for ever: they never change), what versions consist of and where chunks were
//! (`known.rs`), the fleet's nodes (`fleet/table.rs`, 1 s; a retired one is refused by the nodes' own lists, too).
//! Not here: papers (`fleet/cluster.rs`), which gateway works in the background (`lease.rs`).

use super::ServeError;
use crate::boot::{BootError, Home};
use crate::fleet::FleetError;
use crate::fleet::cluster::{Cluster, GatewayPapers, Peers};
use crate::fleet::table::Fleet;
use crate::keys::Keys;
use crate::ops::operator::Members;
use metadata::cluster::{CallError, Client, ClientBounds};
use metadata::router::Router;
use spine::id::{GroupId, MemberId};
use spine::map::Map;
use spine::wire::Metadata;
use spine::wire::cluster::{ClusterStatus, Endpoint, Loads, Member, MemberChange, Understood};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How often certificates, revocations and members are looked at.
const LOOK: Duration = Duration::from_secs(2);

pub struct Elsewhere {
    client: Arc<Client>,
    router: Arc<Router>,
    peers: Peers,
    /// As the data folder has it.
    known: Mutex<Cluster>,
}

/// Whether a gateway's metadata is elsewhere: its folder says so, or it is given papers that say so.
///
/// # Errors
/// The folder has metadata of its own, or another cluster's papers.
pub fn find(home: &Home, papers: Option<&Path>) -> Result<Option<Cluster>, ServeError> {
    let known = Cluster::load(home)?;
    let own = std::fs::read_dir(home.metadata_dir()).is_ok_and(|mut entries| entries.next().is_some());
    if own && (known.is_some() || papers.is_some()) {
        let path = home.dir().display();
        let what = format!(
            "the data folder has metadata of its own. path=`{path}`. Choose an empty folder with --data for a gateway with --metadata."
        );
        return Err(ServeError::OtherRole(what));
    }
    match papers {
        Some(papers) => Ok(Some(Cluster::take(home, &GatewayPapers::load(papers)?)?)),
        None => Ok(known),
    }
}

impl Elsewhere {
    pub fn open(home: &Home, cluster: Cluster, keys: &Keys, life: Duration) -> Result<Elsewhere, FleetError> {
        let peers = Peers::new(home, &cluster, keys, life)?;
        let client = Client::start(cluster.members.clone(), peers.client()?, ClientBounds::default());
        let client = client.map_err(|error| FleetError::Wrong(error.to_string()))?;
        let router = Router::new(client.clone());
        Ok(Elsewhere { client, router, peers, known: Mutex::new(cluster) })
    }

    pub fn metadata(&self) -> Arc<dyn Metadata> {
        self.router.clone()
    }

    /// Every metadata node that is known, by its address, and whether it answers now.
    pub async fn look_round(&self) -> Vec<(String, Result<(), CallError>)> {
        let asked = self.client.endpoints().into_iter().map(|at| async move {
            let answer = self.client.status_of(&at).await;
            (at.address, answer.map(drop))
        });
        futures::future::join_all(asked).await
    }

    /// Renews this gateway's own certificate when it is time.
    pub fn renew(&self) -> Result<(), FleetError> {
        self.peers.renew()
    }

    /// Follows the cluster until told to stop.
    pub async fn run(self: Arc<Elsewhere>, home: Arc<Home>, fleet: Arc<Fleet>, mut stop: watch::Receiver<bool>) {
        loop {
            if let Err(error) = self.follow(&home, &fleet).await {
                tracing::debug!(%error, "the metadata cluster could not be looked at");
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn follow(&self, home: &Home, fleet: &Fleet) -> Result<(), FleetError> {
        self.peers.renew()?;
        fleet.renew_metadata_nodes().await?;
        let record = fleet.record().await?.ok_or(FleetError::NoFleet)?;
        if record.revocations_version > self.peers.trust.revocations().0 {
            self.peers.trust.follow(&record.revocations).map_err(|error| FleetError::Wrong(error.to_string()))?;
        }
        let nodes = fleet.metadata_nodes().await?.into_iter().filter(|known| !known.removed);
        let members: Vec<Endpoint> = nodes.map(|known| Endpoint { node: known.id, address: known.address }).collect();
        // At once, not at the client's own next look: the one who was asked may be gone by then.
        self.client.know(members.clone());
        self.remember(home, members)?;
        Ok(())
    }

    /// The next start begins with these.
    fn remember(&self, home: &Home, members: Vec<Endpoint>) -> Result<(), BootError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if members.is_empty() || members == known.members {
            return Ok(());
        }
        let next = Cluster { members, ..known.clone() };
        next.save(home)?;
        *known = next;
        Ok(())
    }
}

#[async_trait::async_trait]
impl Members for Elsewhere {
    fn alone(&self) -> Option<Member> {
        None
    }

    fn known(&self) -> Vec<Endpoint> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).members.clone()
    }

    fn known_map(&self) -> Option<Arc<Map>> {
        Some(self.router.map())
    }

    async fn status_of(&self, at: &Endpoint) -> Result<ClusterStatus, String> {
        self.client.status_of(at).await.map_err(|error| error.to_string())
    }

    async fn format_of(&self, at: &Endpoint) -> Result<Understood, String> {
        self.client.format_of(at).await.map_err(|error| error.to_string())
    }

    async fn loads_of(&self, at: &Endpoint) -> Result<Loads, String> {
        self.client.loads_of(at).await.map_err(|error| error.to_string())
    }

    async fn take_out(&self, group: GroupId, member: MemberId) -> Result<(), String> {
        let taken = self.client.change_of(group, MemberChange::Remove(member)).await;
        taken.map(drop).map_err(|error| error.to_string())
    }

    async fn transfer(&self, group: GroupId, to: MemberId) -> Result<(), String> {
        self.client.transfer(group, to).await.map(|_| ()).map_err(|error| error.to_string())
    }
}
