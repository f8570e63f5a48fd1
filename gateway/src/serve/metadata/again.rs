//! What a gateway's papers do for a metadata node: they have the CA's key, wrapped by the root key.
//!
//! `--papers`: every certificate ended while all was off, and nobody is there who could renew them: the node makes one for its own key.
//! `--found-again`: one node begins a cluster anew whose replicas are all lost.
//!
//! Where the node's key and papers are left, it is the node that it was. Where they are gone as well, `--papers` gives it what a gateway
//! has: the CA's key, wrapped by the root key. It makes itself a key and a certificate, as the first node of a cluster does, and leaves papers
//! for the gateways that name it.

use super::papers::{self, Papers};
use super::{FIRST_LIFE, MetadataRoleError};
use crate::boot::Home;
use crate::core::now;
use crate::fleet::authority::Authority;
use crate::fleet::cluster::GatewayPapers;
use crate::fleet::enlist::metadata_admission;
use crate::keys::Keys;
use ::metadata::cluster::Client;
use ::metadata::service::MetadataNode;
use spine::id::NodeId;
use spine::wire::cluster::Endpoint;
use spine::wire::copy::RestoreCommand;
use spine::wire::{Batch, Chain, Command, Metadata, Refusal, Reply};
use std::path::Path;
use storage_node::NodeKey;

/// Makes a node of the fleet whose papers lie in `from`. `member.json` comes last: a crash before it leaves a folder that begins again.
pub fn of_papers(home: &Home, address: &str, from: &Path) -> Result<(NodeKey, Papers), MetadataRoleError> {
    if home.metadata_dir().exists() {
        return Err(MetadataRoleError::NotEmpty { path: home.dir().to_path_buf() });
    }
    let GatewayPapers { fleet, authority, authority_key, root_key, members } = GatewayPapers::load(from)?;
    let opened = Authority::open(fleet, &Keys::of(&root_key).unwrap_fleet_key(fleet, &authority_key)?, &authority)?;
    let key = NodeKey::load_or_make(home.dir())?;
    let issued = opened.certify(key.node(), &metadata_admission(fleet, address), now(), FIRST_LIFE)?;
    let own = Papers::new(authority.clone(), issued.certificate.to_vec(), members, true);
    let own = own.map_err(|reason| MetadataRoleError::Papers { path: home.dir().to_path_buf(), reason })?;
    let own = Papers { again: true, ..own };
    let at = Endpoint { node: key.node(), address: address.to_string() };
    let gateways = GatewayPapers { fleet, authority, authority_key, root_key, members: vec![at] };
    gateways.save(&papers::gateway_papers(home.dir()))?;
    own.save(home.dir())?;
    Ok((key, own))
}

/// A new certificate for a node that has its key and papers, made by what lies in `from`. Its replica stays what it is, and so does what was
/// said of it: who was removed is refused as before.
pub fn certify(home: &Home, known: Papers, address: &str, from: &Path) -> Result<(NodeKey, Papers), MetadataRoleError> {
    let GatewayPapers { fleet, authority, authority_key, root_key, .. } = GatewayPapers::load(from)?;
    let key = NodeKey::load_or_make(home.dir())?;
    if fleet != known.fleet || authority != known.authority || key.node() != known.says.node {
        return Err(MetadataRoleError::OtherFleet { path: from.to_path_buf() });
    }
    let opened = Authority::open(fleet, &Keys::of(&root_key).unwrap_fleet_key(fleet, &authority_key)?, &authority)?;
    let issued = opened.certify(key.node(), &metadata_admission(fleet, address), now(), FIRST_LIFE)?;
    let certified = Papers::new(authority, issued.certificate.to_vec(), known.members, known.founds);
    let certified = certified.map_err(|reason| MetadataRoleError::Papers { path: home.dir().to_path_buf(), reason })?;
    let certified = Papers { again: known.again, ..certified };
    certified.save(home.dir())?;
    tracing::info!(target: "breakwater", "this node has a new certificate");
    Ok((key, certified))
}

/// Looks whether every other member has nothing, or is gone.
///
/// - `gone`: nodes that the operator knows to be lost for good.
///
/// # Errors
/// One answers and has a log; one does not answer, and may be there for others: two clusters would write to the same storage nodes.
pub async fn nobody_has_it(client: &Client, papers: &Papers, at: &Endpoint, gone: &[NodeId]) -> Result<(), MetadataRoleError> {
    let mut silent = Vec::new();
    for other in papers.members.iter().filter(|other| other.node != at.node) {
        match client.status_of(other).await {
            Ok(status) if status.groups.iter().any(|group| group.last > 0) => {
                return Err(MetadataRoleError::StillThere { address: other.address.clone() });
            }
            Ok(_) => {}
            Err(_) if gone.contains(&other.node) => {}
            Err(_) => silent.push(other.to_string()),
        }
    }
    if silent.is_empty() { Ok(()) } else { Err(MetadataRoleError::Silent { nodes: silent.join(", ") }) }
}

/// Before anybody is served: an empty cluster must never be taken for one in which nothing is stored.
pub async fn expect(node: &MetadataNode) -> Result<(), MetadataRoleError> {
    let batch = Batch { chain: Chain::Stop, commands: vec![Command::Restore(RestoreCommand::Expect)] };
    let replies = node.propose(batch).await.map_err(|error| MetadataRoleError::Expect(error.to_string()))?;
    match replies.first() {
        // Restored already, by an earlier life of this process.
        Some(Reply::Done | Reply::Refused(Refusal::NotEmpty)) => Ok(()),
        other => Err(MetadataRoleError::Expect(format!("{other:?}"))),
    }
}
