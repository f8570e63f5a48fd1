//! What a metadata node does beside serving: founds or joins, and then follows what the root group says of it.
//!
//! ```text
//! founds: the fleet's record and its own -> papers say that it is founded
//! joins:  asks the leader to take it in, until it votes; after a start with a log as well, since its address may be another one now
//! then:   a new certificate that a gateway made -> shown; revocations -> in force; members -> remembered for the next start
//! ```
//! Invariant: whatever cannot be done now is tried again; nothing here ends the process, but that the node was removed for good.

use super::papers::{self, Papers};
use crate::boot::credentials::{root_command, root_query};
use crate::boot::{BootError, Home};
use crate::core::now;
use crate::fleet::apply::{self, ApplyError, Gate};
use crate::fleet::enlist::METADATA;
use bytes::Bytes;
use metadata::cluster::Client;
use metadata::service::MetadataNode;
use rustls::pki_types::{CertificateDer, UnixTime};
use spine::fleet::admission::Role;
use spine::fleet::certificate::Certified;
use spine::fleet::tls::{Identity, Served, Shown};
use spine::fleet::trust::Trust;
use spine::id::UnixMs;
use spine::wire::Metadata;
use spine::wire::admission::{AdmissionRefusal, Place};
use spine::wire::cluster::Endpoint;
use spine::wire::root::{FleetRecord, MetadataNodeRecord, RootAnswer, RootCommand, RootQuery};
use std::sync::Arc;
use std::time::Duration;
use storage_node::NodeKey;
use tokio::sync::{oneshot, watch};

/// How often the root group is looked at, and a refused step is tried again.
const LOOK: Duration = Duration::from_secs(2);
/// How long joining is tried before it is said that it takes long.
const PATIENCE: Duration = Duration::from_secs(20);
/// After how many such times the gateway of the invitation, if there is one, is asked again whether this node is known at all.
const GATE_ROUNDS: u32 = 16;

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
    /// The gateway that an invitation on the command line names.
    pub gate: Option<Gate>,
}

/// The certificate and the key that it is of.
pub fn identity(key: &NodeKey, certificate: &[u8]) -> Result<Identity, String> {
    let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into();
    Identity::new(certificate, private).map_err(|error| error.to_string())
}

impl Keeper {
    /// Runs until told to stop, or until this node was removed for good, which it tells.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>, removed: oneshot::Sender<()>) {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.keep() => {
                let _ = removed.send(());
            }
        }
    }

    /// Ends where this node was removed for good.
    async fn keep(&mut self) {
        self.tell_end();
        while self.papers.founds {
            match self.found().await {
                Ok(()) => tracing::info!(target: "breakwater", "the metadata cluster is founded"),
                Err(error) => {
                    tracing::warn!(target: "breakwater", error, "the metadata cluster could not be founded yet");
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
        if !self.join().await {
            return;
        }
        loop {
            match self.follow().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => tracing::debug!(error, "the root group could not be looked at"),
            }
            if self.trust.is_revoked(self.key.node()) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn tell_end(&self) {
        crate::metric::METADATA_CERTIFICATE_END.set(self.papers.says.not_after);
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

    /// Until it votes. `false`: it was removed for good, and never will.
    async fn join(&self) -> bool {
        let mut rounds: u32 = 0;
        while let Err(error) = self.node.join(&self.client, PATIENCE).await {
            if self.trust.is_revoked(self.key.node()) || (rounds.is_multiple_of(GATE_ROUNDS) && self.gate_says_removed().await) {
                return false;
            }
            rounds = rounds.wrapping_add(1);
            tracing::warn!(target: "breakwater", %error, "this node is not taken in yet; if it was removed, it never is, and needs an empty folder and a new invitation");
            tokio::time::sleep(LOOK).await;
        }
        tracing::info!(target: "breakwater", "this node is a member and votes");
        true
    }

    /// Metadata nodes refuse one that was removed before it can ask them why; a gateway says it.
    async fn gate_says_removed(&self) -> bool {
        let Some(gate) = &self.gate else { return false };
        let place = Place { machine: METADATA.into(), zone: METADATA.into(), address: self.at.address.clone() };
        let asked = apply::renew_enlisted(gate, &place, &self.key).await;
        matches!(asked, Err(ApplyError::Refused(AdmissionRefusal::Retired { .. })))
    }

    /// Whether this node was not removed.
    async fn follow(&mut self) -> Result<bool, String> {
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
                return Ok(false);
            }
            // One that cannot be shown keeps nothing else back: a gateway whose clock is right makes another.
            match self.take_certificate(own) {
                Ok(taken) => changed |= taken,
                Err(error) => tracing::debug!(error, "the certificate that the root group has for this node is refused"),
            }
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
        if changed {
            self.papers.save(self.home.dir()).map_err(|error| error.to_string())?;
        }
        Ok(true)
    }

    /// Takes a certificate that is to be shown instead of the one that is, after judging it as others will.
    fn take_certificate(&mut self, own: &MetadataNodeRecord) -> Result<bool, String> {
        if own.certificate == self.papers.certificate {
            return Ok(false);
        }
        let der = CertificateDer::from(own.certificate.as_ref());
        let time = UnixTime::since_unix_epoch(Duration::from_millis(now().0));
        let says = self.trust.judge(&der, &[], time, &[Role::Metadata], Some(self.key.node())).map_err(|refusal| refusal.to_string())?;
        if !replaces(&says, &self.papers.says, now()) {
            return Ok(false);
        }
        let identity = identity(&self.key, &own.certificate)?;
        self.served.set(identity.clone());
        self.shown.set(identity);
        (self.papers.certificate, self.papers.says) = (own.certificate.to_vec(), says);
        self.tell_end();
        tracing::info!(target: "breakwater", "the certificate was renewed");
        Ok(true)
    }
}

/// Whether a certificate that others believe is to be shown instead of `shown`: it ends later, or what is shown was taken while the clock
/// was ahead, and nobody believes it yet.
fn replaces(offered: &Certified, shown: &Certified, now: UnixMs) -> bool {
    let to_come = i64::try_from(now.0 / 1_000).is_ok_and(|now| shown.not_before > now);
    offered.not_after > shown.not_after || to_come
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::authority::Authority;
    use crate::fleet::enlist::metadata_admission;
    use spine::fleet::certificate;
    use spine::id::FleetId;

    #[test]
    fn a_certificate_gives_way_to_one_that_ends_later_and_one_of_days_to_come_to_any_that_holds() {
        const DAY: u64 = 86_400_000;
        let start = now();
        let ca = Authority::create(FleetId([5; 16]), start).unwrap();
        let key = NodeKey::generate().unwrap();
        let made = |day: u64| {
            let at = UnixMs(start.0 + day * DAY);
            let life = Duration::from_secs(30 * 86_400);
            let issued = ca.certify(key.node(), &metadata_admission(ca.fleet(), "meta.example:7500"), at, life).unwrap();
            certificate::read(&issued.certificate).unwrap()
        };
        let at = |day: u64| UnixMs(start.0 + day * DAY);
        assert!(replaces(&made(20), &made(0), at(20)) && !replaces(&made(0), &made(20), at(21)));
        assert!(!replaces(&made(3), &made(3), at(3)), "the one that is shown");
        // The node's clock was forty days ahead when it took this one, and is right again.
        assert!(replaces(&made(1), &made(41), at(1)));
    }
}
