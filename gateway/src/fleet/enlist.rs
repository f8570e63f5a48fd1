//! Which metadata nodes get a certificate.
//!
//! As storage nodes (`admit.rs`), through a door of their own: an invitation for the one opens nothing of the other. Afterwards no
//! metadata node asks any more: gateways put its new certificates into the root group, where it finds them. Whether it votes is its
//! groups' to say, and a removed one is never renewed.
//!
//! Invariant: the certificate leaves this process only after the log has taken the node.

use super::FleetError;
use super::admit::{admission, admitted, check, taken, unavailable};
use super::table::{Fleet, Live};
use super::token::{Door, invite_id};
use crate::boot::BootError;
use crate::boot::credentials::{root_command, root_query};
use crate::core::now;
use spine::fleet::admission::{Admission, Role};
use spine::fleet::certificate;
use spine::id::{FleetId, UnixMs};
use spine::wire::admission::{AdmissionRefusal, Applicant, Enlisted, JoinRequest, Place, RenewRequest, SECRET_BYTES};
use spine::wire::cluster::Endpoint;
use spine::wire::root::{MetadataNodeRecord, RootAnswer, RootCommand, RootQuery};
use spine::wire::{Batch, Chain, Command};
use std::time::Duration;

/// Machine and zone of a metadata node.
pub const METADATA: &str = "metadata";

impl Fleet {
    pub(super) async fn enlist_new(&self, request: JoinRequest, binding: [u8; 32]) -> Result<Enlisted, AdmissionRefusal> {
        let live = self.live().map_err(unavailable)?;
        if request.secret.len() != SECRET_BYTES {
            return Err(AdmissionRefusal::Invalid { what: "the secret".into() });
        }
        let (invite, time) = (invite_id(Door::Metadata, &request.secret), now());
        self.look_at_invite(invite, time).await?;
        check(&live, Role::Metadata, &request.place, &request.nodes, &binding)?;
        let applicant = only(&request.nodes)?;
        if let Some(known) = self.known(applicant).await?
            && known.removed
        {
            return Err(AdmissionRefusal::Retired { node: known.id });
        }
        let take = RootCommand::UseInvite { id: invite, now: time };
        self.grant_metadata(&live, Some(take), &request.place, applicant, time).await
    }

    pub(super) async fn enlist_again(&self, request: RenewRequest, binding: [u8; 32]) -> Result<Enlisted, AdmissionRefusal> {
        let live = self.live().map_err(unavailable)?;
        check(&live, Role::Metadata, &request.place, &request.nodes, &binding)?;
        let applicant = only(&request.nodes)?;
        match self.known(applicant).await? {
            None => Err(AdmissionRefusal::Unknown { node: applicant.node }),
            Some(known) if known.removed => Err(AdmissionRefusal::Retired { node: applicant.node }),
            Some(_) => self.grant_metadata(&live, None, &request.place, applicant, now()).await,
        }
    }

    /// All metadata nodes that were ever admitted.
    pub async fn metadata_nodes(&self) -> Result<Vec<MetadataNodeRecord>, BootError> {
        match root_query(self.metadata(), RootQuery::MetadataNodes).await? {
            RootAnswer::MetadataNodes(nodes) => Ok(nodes),
            _ => Err(BootError::Refused { what: "metadata gave an answer to another question".into() }),
        }
    }

    /// Certificates for metadata nodes of which a third of a life is left, or that are of days to come. Gateways that do so at once each make
    /// one; either is good.
    pub async fn renew_metadata_nodes(&self) -> Result<(), FleetError> {
        let Ok(live) = self.live() else { return Ok(()) };
        let time = now();
        for known in self.metadata_nodes().await?.into_iter().filter(|known| !known.removed) {
            // What does not read is of no use to the node either.
            let not_before = certificate::read(&known.certificate).map_or(i64::MAX, |says| says.not_before);
            if !is_due(not_before, known.not_after, time, self.settings.life) {
                continue;
            }
            let issued =
                live.authority.certify(known.id, &metadata_admission(live.authority.fleet(), &known.address), time, self.settings.life)?;
            let (certificate, not_after) = (issued.certificate, issued.not_after);
            let renewed = MetadataNodeRecord { certificate, not_after, changed: time, ..known };
            match root_command(self.metadata(), RootCommand::AdmitMetadataNode(renewed)).await {
                // Removed meanwhile.
                Err(BootError::Refused { .. }) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn known(&self, applicant: &Applicant) -> Result<Option<MetadataNodeRecord>, AdmissionRefusal> {
        let nodes = self.metadata_nodes().await.map_err(unavailable)?;
        Ok(nodes.into_iter().find(|known| known.id == applicant.node))
    }

    async fn grant_metadata(
        &self,
        live: &Live,
        first: Option<RootCommand>,
        place: &Place,
        applicant: &Applicant,
        time: UnixMs,
    ) -> Result<Enlisted, AdmissionRefusal> {
        let says = admission(live, Role::Metadata, place, applicant);
        let issued = live.authority.certify(applicant.node, &says, time, self.settings.life).map_err(unavailable)?;
        let admit = RootCommand::AdmitMetadataNode(MetadataNodeRecord {
            id: applicant.node,
            address: place.address.clone(),
            certificate: issued.certificate.clone(),
            not_after: issued.not_after,
            removed: false,
            admitted: time,
            changed: time,
        });
        let commands = first.into_iter().chain([admit]).map(Command::Root).collect();
        taken(&self.metadata().propose(Batch { chain: Chain::Stop, commands }).await.map_err(unavailable)?)?;
        tracing::info!(target: "breakwater", node = %applicant.node, address = place.address, "a metadata node was admitted");
        let nodes = self.metadata_nodes().await.map_err(unavailable)?;
        let members = nodes.into_iter().filter(|known| !known.removed).map(|known| Endpoint { node: known.id, address: known.address });
        Ok(Enlisted { admitted: admitted(live, vec![issued.certificate]), members: members.collect() })
    }
}

/// Whether a metadata node is to get another certificate than one of these days.
///
/// - `not_before`: seconds since the epoch. Later than now: whoever made it had a clock that was far ahead, so that nobody whose clock is right
///   believes it, and the node's own runs out. Certificates begin a little before they are made, so that a clock may be a little ahead.
fn is_due(not_before: i64, not_after: UnixMs, now: UnixMs, life: Duration) -> bool {
    let left = Duration::from_millis(not_after.0.saturating_sub(now.0));
    let begun = u64::try_from(not_before).map_or(not_before < 0, |begins| begins <= now.0 / 1_000);
    left <= life / 3 || !begun
}

/// What the CA says of a metadata node. Machine and zone say nothing of it yet.
pub fn metadata_admission(fleet: FleetId, address: &str) -> Admission {
    let (machine, zone) = (METADATA.to_string(), METADATA.to_string());
    Admission { fleet, role: Role::Metadata, machine, zone, capacity: 0, address: Some(address.to_string()) }
}

fn only(nodes: &[Applicant]) -> Result<&Applicant, AdmissionRefusal> {
    match nodes {
        [one] => Ok(one),
        _ => Err(AdmissionRefusal::Invalid { what: "not one metadata node".into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(30 * 86_400);
    const DAY: u64 = 86_400;

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
        let due = |day: u64| is_due(100, UnixMs((100 + 30 * DAY) * 1_000), UnixMs((100 + day * DAY) * 1_000), LIFE);
        assert_eq!([0, 1, 19, 20, 29, 40].map(due), [false, false, false, true, true, true]);
    }

    #[test]
    fn a_certificate_from_a_clock_that_was_far_ahead_is_renewed_at_once_and_one_of_a_longer_life_is_not() {
        let now = 1_000 * DAY;
        // Made by one whose clock was so many seconds ahead; certificates begin a quarter of an hour before they are made.
        let due = |ahead: u64, life: u64| {
            let made = now + ahead;
            is_due(made as i64 - 900, UnixMs((made + life) * 1_000), UnixMs(now * 1_000), LIFE)
        };
        assert_eq!([0, 600, 901, DAY, 400 * DAY].map(|ahead| due(ahead, 30 * DAY)), [false, false, true, true, true]);
        assert!(!due(0, 300 * DAY), "another gateway is configured to make them last longer");
    }

    #[test]
    fn a_certificate_that_does_not_read_is_made_anew() {
        assert!(is_due(i64::MAX, UnixMs(u64::MAX), UnixMs(5), LIFE));
    }
}
