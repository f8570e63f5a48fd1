//! Who gets a certificate.
//!
//! - join: whoever has an invitation that is open, for nodes whose keys sign the request; one use for all nodes of a process.
//! - renew: nodes that were admitted before and are not retired, by their keys alone. Machine and zone stay what they were
//!   admitted as: a node that could choose them anew could put two shards of a chunk on one machine.
//!
//! Metadata nodes are admitted in `enlist.rs`.
//!
//! Invariant: the certificate leaves this process only after the log has taken the node; all nodes of a request, or none.
//! The secret is looked up by its hash, and hashes are compared in constant time: how long a refusal takes says nothing of secrets.

use super::listener::Admissions;
use super::table::{Fleet, Live};
use super::token::{Door, invite_id};
use crate::boot::credentials::root_query;
use crate::core::now;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use bytes::Bytes;
use rustls::ServerConfig;
use spine::fleet::admission::{Admission, Role};
use spine::id::{InviteId, UnixMs};
use spine::wire::admission::{
    AdmissionRefusal, Admitted, Applicant, Enlisted, JoinRequest, NODES, Place, RenewRequest, SECRET_BYTES, message,
};
use spine::wire::root::{FleetNodeRecord, FleetNodeState, RootAnswer, RootCommand, RootQuery};
use spine::wire::{Batch, Chain, Command, Refusal, Reply};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[async_trait::async_trait]
impl Admissions for Fleet {
    fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.admission_tls()
    }

    async fn join(&self, request: JoinRequest, binding: [u8; 32]) -> Result<Admitted, AdmissionRefusal> {
        let live = self.live().map_err(unavailable)?;
        if request.secret.len() != SECRET_BYTES {
            return Err(AdmissionRefusal::Invalid { what: "the secret".into() });
        }
        let (invite, time) = (invite_id(Door::StorageNode, &request.secret), now());
        self.look_at_invite(invite, time).await?;
        check(&live, Role::StorageNode, &request.place, &request.nodes, &binding)?;
        let known = self.nodes().await.map_err(unavailable)?;
        for applicant in &request.nodes {
            if known.iter().any(|node| node.id == applicant.node && node.state == FleetNodeState::Retired) {
                return Err(AdmissionRefusal::Retired { node: applicant.node });
            }
        }
        let take = Some(RootCommand::UseInvite { id: invite, now: time });
        self.grant(&live, take, &request.place, &request.nodes, time, self.settings.life).await
    }

    async fn renew(&self, request: RenewRequest, binding: [u8; 32]) -> Result<Admitted, AdmissionRefusal> {
        let live = self.live().map_err(unavailable)?;
        check(&live, Role::StorageNode, &request.place, &request.nodes, &binding)?;
        let known = self.nodes().await.map_err(unavailable)?;
        for applicant in &request.nodes {
            let node = applicant.node;
            match known.iter().find(|known| known.id == node) {
                None => return Err(AdmissionRefusal::Unknown { node }),
                Some(known) if known.state == FleetNodeState::Retired => return Err(AdmissionRefusal::Retired { node }),
                Some(known) if known.machine != request.place.machine || known.zone != request.place.zone => {
                    let what =
                        format!("the node was admitted on machine {} in zone {}; join again to change that", known.machine, known.zone);
                    return Err(AdmissionRefusal::Invalid { what });
                }
                Some(_) => {}
            }
        }
        self.grant(&live, None, &request.place, &request.nodes, now(), self.settings.life).await
    }

    async fn enlist(&self, request: JoinRequest, binding: [u8; 32]) -> Result<Enlisted, AdmissionRefusal> {
        self.enlist_new(request, binding).await
    }

    async fn renew_enlisted(&self, request: RenewRequest, binding: [u8; 32]) -> Result<Enlisted, AdmissionRefusal> {
        self.enlist_again(request, binding).await
    }
}

impl Fleet {
    /// Refuses early, before anything is verified or signed; the log decides again.
    pub(super) async fn look_at_invite(&self, id: InviteId, time: UnixMs) -> Result<(), AdmissionRefusal> {
        let answer = root_query(self.metadata(), RootQuery::Invite(id)).await.map_err(unavailable)?;
        let RootAnswer::Invite(Some(invite)) = answer else { return Err(AdmissionRefusal::NoSuchInvite) };
        if aws_lc_rs::constant_time::verify_slices_are_equal(&invite.id.0, &id.0).is_err() {
            return Err(AdmissionRefusal::NoSuchInvite);
        }
        match invite {
            invite if time >= invite.expires => Err(AdmissionRefusal::InviteExpired),
            invite if invite.uses_left == 0 => Err(AdmissionRefusal::InviteUsed),
            _ => Ok(()),
        }
    }

    /// Signs, has the log take it, hands it out.
    pub(super) async fn grant(
        &self,
        live: &Live,
        first: Option<RootCommand>,
        place: &Place,
        nodes: &[Applicant],
        time: UnixMs,
        life: Duration,
    ) -> Result<Admitted, AdmissionRefusal> {
        let mut certificates = Vec::with_capacity(nodes.len());
        let mut commands: Vec<Command> = first.into_iter().map(Command::Root).collect();
        for applicant in nodes {
            let admission = admission(live, Role::StorageNode, place, applicant);
            let issued = live.authority.certify(applicant.node, &admission, time, life).map_err(unavailable)?;
            certificates.push(issued.certificate);
            commands.push(Command::Root(RootCommand::AdmitNode(FleetNodeRecord {
                id: applicant.node,
                machine: place.machine.clone(),
                zone: place.zone.clone(),
                capacity: applicant.capacity,
                address: place.address.clone(),
                serial: issued.serial,
                not_after: issued.not_after,
                state: FleetNodeState::Active,
                admitted: time,
                changed: time,
            })));
        }
        let replies = self.metadata().propose(Batch { chain: Chain::Stop, commands }).await.map_err(unavailable)?;
        taken(&replies)?;
        self.changed();
        tracing::info!(target: "breakwater", machine = place.machine, zone = place.zone, nodes = nodes.len(), "nodes were admitted");
        Ok(admitted(live, certificates))
    }
}

/// What goes out with certificates.
pub(super) fn admitted(live: &Live, certificates: Vec<Bytes>) -> Admitted {
    let revocations = live.trust.revocations().1.and_then(|signed| signed.encode().ok()).unwrap_or_default();
    let authority = Bytes::copy_from_slice(live.authority.certificate());
    Admitted { fleet: live.authority.fleet(), authority, certificates, revocations }
}

/// Whether the log took all of it.
pub(super) fn taken(replies: &[Reply]) -> Result<(), AdmissionRefusal> {
    for reply in replies {
        match reply {
            Reply::Refused(Refusal::NoSuchInvite) => return Err(AdmissionRefusal::NoSuchInvite),
            Reply::Refused(Refusal::InviteExpired) => return Err(AdmissionRefusal::InviteExpired),
            Reply::Refused(Refusal::InviteUsed) => return Err(AdmissionRefusal::InviteUsed),
            Reply::Refused(refusal) => return Err(unavailable(refusal)),
            _ => {}
        }
    }
    Ok(())
}

/// The request's form, and that every node's key signed it on this connection.
pub(super) fn check(live: &Live, role: Role, place: &Place, nodes: &[Applicant], binding: &[u8; 32]) -> Result<(), AdmissionRefusal> {
    let distinct: HashSet<_> = nodes.iter().map(|applicant| applicant.node).collect();
    if nodes.is_empty() || nodes.len() > NODES || distinct.len() != nodes.len() {
        return Err(AdmissionRefusal::Invalid { what: format!("not 1 to {NODES} different nodes") });
    }
    for applicant in nodes {
        admission(live, role, place, applicant).check().map_err(|error| AdmissionRefusal::Invalid { what: error.to_string() })?;
        let said = message(binding, applicant.node, applicant.capacity, place);
        let key = UnparsedPublicKey::new(&ED25519, applicant.node.0);
        key.verify(&said, &applicant.proof).map_err(|_| AdmissionRefusal::Proof { node: applicant.node })?;
    }
    Ok(())
}

pub(super) fn admission(live: &Live, role: Role, place: &Place, applicant: &Applicant) -> Admission {
    Admission {
        fleet: live.authority.fleet(),
        role,
        machine: place.machine.clone(),
        zone: place.zone.clone(),
        capacity: applicant.capacity,
        address: Some(place.address.clone()),
    }
}

pub(super) fn unavailable(error: impl fmt::Display) -> AdmissionRefusal {
    AdmissionRefusal::Unavailable { reason: error.to_string() }
}
