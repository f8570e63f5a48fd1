//! What a metadata node does beside serving: founds or joins, and then follows what the root group says of it.
//!
//! ```text
//! founds: the fleet's record and its own -> papers say that it is founded
//! joins:  asks the leader to take it in, until it votes; after a start with a log as well, since its address may be another one now
//! then:   a new certificate that a gateway made -> shown; revocations -> in force; members -> remembered for the next start
//! ```
//! Invariant: whatever cannot be done now is tried again; nothing here ends the process.

use super::papers::{self, Papers};
use crate::boot::credentials::{root_command, root_query};
use crate::boot::{BootError, Home};
use crate::core::now;
use bytes::Bytes;
use metadata::cluster::Client;
use metadata::service::MetadataNode;
use rustls::pki_types::{CertificateDer, UnixTime};
use spine::fleet::admission::Role;
use spine::fleet::tls::{Identity, Served, Shown};
use spine::fleet::trust::Trust;
use spine::id::UnixMs;
use spine::wire::Metadata;
use spine::wire::cluster::Endpoint;
use spine::wire::root::{FleetRecord, MetadataNodeRecord, RootAnswer, RootCommand, RootQuery};
use std::sync::Arc;
use std::time::Duration;
use storage_node::NodeKey;
use tokio::sync::watch;

/// How often the root group is looked at, and a refused step is tried again.
const LOOK: Duration = Duration::from_secs(2);
/// How long joining is tried before it is said that it takes long.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Keeper {
    pub home: Arc<Home>,
    pub key: NodeKey,
    pub at: Endpoint,
    pub papers: Papers,
    pub trust: Arc<Trust>,
    pub served: Arc<Served>,
    pub shown: Arc<Shown>,
    pub node: Arc<MetadataNode>,
    pub client: Arc<Client>,
}

/// The certificate and the key that it is of.
pub fn identity(key: &NodeKey, certificate: &[u8]) -> Result<Identity, String> {
    let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into();
    Identity::new(certificate, private).map_err(|error| error.to_string())
}

impl Keeper {
    /// Runs until told to stop.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&mut self) {
        while self.papers.founds {
            match self.found().await {
                Ok(()) => tracing::info!(target: "breakwater", "the metadata cluster is founded"),
                Err(error) => {
                    tracing::warn!(target: "breakwater", error, "the metadata cluster could not be founded yet");
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
        self.join().await;
        loop {
            if let Err(error) = self.follow().await {
                tracing::debug!(error, "the root group could not be looked at");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Each step can be done again.
    async fn found(&mut self) -> Result<(), String> {
        let metadata: Arc<dyn Metadata> = self.node.clone();
        let created = now();
        let authority = Bytes::copy_from_slice(&self.papers.authority);
        let fleet = FleetRecord { id: self.papers.fleet, authority, created, revocations_version: 0, revocations: Bytes::new() };
        root_command(&metadata, RootCommand::CreateFleet(fleet)).await.map_err(|error| error.to_string())?;
        root_command(&metadata, RootCommand::AdmitMetadataNode(self.record(created))).await.map_err(|error| error.to_string())?;
        (self.papers.founds, self.papers.again) = (false, false);
        self.papers.members = vec![self.at.clone()];
        self.papers.save(self.home.dir()).map_err(|error| error.to_string())
    }

    fn record(&self, changed: UnixMs) -> MetadataNodeRecord {
        let not_after = u64::try_from(self.papers.says.not_after).unwrap_or(0).saturating_mul(1_000);
        MetadataNodeRecord {
            id: self.key.node(),
            address: self.at.address.clone(),
            certificate: Bytes::copy_from_slice(&self.papers.certificate),
            not_after: UnixMs(not_after),
            removed: false,
            admitted: changed,
            changed,
        }
    }

    async fn join(&self) {
        while let Err(error) = self.node.join(&self.client, PATIENCE).await {
            tracing::warn!(target: "breakwater", %error, "this node is not taken in yet");
            tokio::time::sleep(LOOK).await;
        }
        tracing::info!(target: "breakwater", "this node is a member and votes");
    }

    async fn follow(&mut self) -> Result<(), String> {
        let metadata: Arc<dyn Metadata> = self.client.clone();
        let ask = async |query| root_query(&metadata, query).await.map_err(|error: BootError| error.to_string());
        let (RootAnswer::Fleet(Some(fleet)), RootAnswer::MetadataNodes(nodes)) =
            (ask(RootQuery::Fleet).await?, ask(RootQuery::MetadataNodes).await?)
        else {
            return Err("metadata gave an answer to another question".into());
        };
        if fleet.revocations_version > self.trust.revocations().0
            && self.trust.follow(&fleet.revocations).map_err(|error| error.to_string())?
        {
            papers::keep_revocations(self.home.dir(), &fleet.revocations).map_err(|error| error.to_string())?;
        }
        let mut changed = false;
        if let Some(own) = nodes.iter().find(|known| known.id == self.key.node()) {
            if own.removed {
                tracing::error!(target: "breakwater", "this node was removed for good: nobody talks to it any more");
                return Ok(());
            }
            changed |= self.take_certificate(own)?;
            if own.address != self.at.address {
                let moved = MetadataNodeRecord { address: self.at.address.clone(), changed: now(), ..own.clone() };
                root_command(&metadata, RootCommand::AdmitMetadataNode(moved)).await.map_err(|error| error.to_string())?;
            }
        }
        let members: Vec<Endpoint> =
            nodes.into_iter().filter(|known| !known.removed).map(|known| Endpoint { node: known.id, address: known.address }).collect();
        if members != self.papers.members {
            self.papers.members = members;
            changed = true;
        }
        if changed { self.papers.save(self.home.dir()).map_err(|error| error.to_string()) } else { Ok(()) }
    }

    /// Takes a certificate that is newer than the one shown, after judging it as others will.
    fn take_certificate(&mut self, own: &MetadataNodeRecord) -> Result<bool, String> {
        if own.certificate == self.papers.certificate {
            return Ok(false);
        }
        let der = CertificateDer::from(own.certificate.as_ref());
        let time = UnixTime::since_unix_epoch(Duration::from_millis(now().0));
        let says = self.trust.judge(&der, &[], time, &[Role::Metadata], Some(self.key.node())).map_err(|refusal| refusal.to_string())?;
        if says.not_after <= self.papers.says.not_after {
            return Ok(false);
        }
        let identity = identity(&self.key, &own.certificate)?;
        self.served.set(identity.clone());
        self.shown.set(identity);
        (self.papers.certificate, self.papers.says) = (own.certificate.to_vec(), says);
        tracing::info!(target: "breakwater", "the certificate was renewed");
        Ok(true)
    }
}
