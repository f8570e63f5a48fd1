//! What a metadata node keeps beside its replica: whom it belongs to and what the CA says of it.
//!
//! ```text
//! DATA/node-key        0600  its key; the public half is its identity
//! DATA/member.json     0600  {format, fleet, authority: hex of DER, certificate: hex of DER, members: ["<key>@host:port"], founds, again}
//! DATA/gateway-papers  0600  on the first node alone, until the operator has carried it to the gateways (`fleet/cluster.rs`)
//! DATA/metadata/             log and table; where it is lost, the node joins again as a new member and catches up
//! ```
//! Invariants: written whole or not at all; `founds` is true from `--init` until the new cluster has its first entries and never again, so
//! that a first node that lost its replica does not found a second cluster; `again` goes with it after `--found-again`.

use super::MetadataRoleError;
use crate::boot::{BootError, read_text, write_whole};
use serde::{Deserialize, Serialize};
use spine::fleet::certificate::{self, Certified};
use spine::id::FleetId;
use spine::wire::cluster::Endpoint;
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;

/// A metadata node's papers.
#[derive(Clone, Debug)]
pub struct Papers {
    pub fleet: FleetId,
    /// DER of the CA's certificate.
    pub authority: Vec<u8>,
    /// DER of the node's.
    pub certificate: Vec<u8>,
    /// What the certificate says.
    pub says: Certified,
    /// Where the members were last; none at the first node of a new cluster.
    pub members: Vec<Endpoint>,
    /// The cluster is still to be founded, by this node.
    pub founds: bool,
    /// It was there before, and is to be restored once it is founded.
    pub again: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    format: u32,
    fleet: String,
    authority: String,
    certificate: String,
    members: Vec<String>,
    founds: bool,
    #[serde(default)]
    again: bool,
}

impl Papers {
    /// # Errors
    /// The certificate does not read, or is another fleet's.
    pub fn new(authority: Vec<u8>, certificate: Vec<u8>, members: Vec<Endpoint>, founds: bool) -> Result<Papers, String> {
        let says = certificate::read(&certificate).map_err(|error| error.to_string())?;
        Ok(Papers { fleet: says.admission.fleet, authority, certificate, says, members, founds, again: false })
    }

    /// The papers in `data`; `None` if this node has never joined or founded anything.
    pub fn load(data: &Path) -> Result<Option<Papers>, MetadataRoleError> {
        let path = file(data);
        let Some(text) = read_text(&path)? else { return Ok(None) };
        let bad = |reason: String| MetadataRoleError::Papers { path: path.clone(), reason };
        let on_disk: OnDisk = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if on_disk.format != FORMAT {
            return Err(bad(format!("format {} is not {FORMAT}", on_disk.format)));
        }
        let bytes = |text: &str| hex::decode(text).map_err(|error| bad(error.to_string()));
        let members: Result<Vec<Endpoint>, _> = on_disk.members.iter().map(|text| text.parse::<Endpoint>()).collect();
        let members = members.map_err(|error| bad(error.to_string()))?;
        let papers = Papers::new(bytes(&on_disk.authority)?, bytes(&on_disk.certificate)?, members, on_disk.founds).map_err(&bad)?;
        if papers.fleet.to_string() != on_disk.fleet {
            return Err(bad("the certificate is another fleet's".into()));
        }
        Ok(Some(Papers { again: on_disk.again, ..papers }))
    }

    pub fn save(&self, data: &Path) -> Result<(), MetadataRoleError> {
        let on_disk = OnDisk {
            format: FORMAT,
            fleet: self.fleet.to_string(),
            authority: hex::encode(&self.authority),
            certificate: hex::encode(&self.certificate),
            members: self.members.iter().map(Endpoint::to_string).collect(),
            founds: self.founds,
            again: self.again,
        };
        let path = file(data);
        let text = serde_json::to_string_pretty(&on_disk)
            .map_err(|error| MetadataRoleError::Papers { path: path.clone(), reason: error.to_string() })?;
        Ok(write_whole(&path, &text, 0o600)?)
    }
}

fn file(data: &Path) -> PathBuf {
    data.join("member.json")
}

/// Whether `data` is a metadata node's.
pub fn is_member(data: &Path) -> bool {
    file(data).exists()
}

/// Where `--init` leaves what gateways need.
pub fn gateway_papers(data: &Path) -> PathBuf {
    data.join("gateway-papers")
}

/// The newest revocation list that this node has seen, if any.
pub fn load_revocations(data: &Path) -> Result<Option<Vec<u8>>, MetadataRoleError> {
    let path = data.join("revocations");
    let Some(text) = read_text(&path)? else { return Ok(None) };
    hex::decode(text).map(Some).map_err(|error| MetadataRoleError::Papers { path, reason: error.to_string() })
}

pub fn keep_revocations(data: &Path, list: &[u8]) -> Result<(), BootError> {
    write_whole(&data.join("revocations"), &hex::encode(list), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::now;
    use crate::fleet::authority::Authority;
    use crate::fleet::enlist::metadata_admission;
    use spine::id::NodeId;
    use std::time::Duration;

    #[test]
    fn papers_read_back_and_what_is_none_is_refused() {
        let place = tempfile::tempdir().unwrap();
        assert!(Papers::load(place.path()).unwrap().is_none());
        let ca = Authority::create(FleetId([5; 16]), now()).unwrap();
        let key = storage_node::NodeKey::generate().unwrap();
        let admission = metadata_admission(ca.fleet(), "meta.example:7500");
        let issued = ca.certify(key.node(), &admission, now(), Duration::from_secs(60)).unwrap();
        let members = vec![Endpoint { node: NodeId([9; 32]), address: "other.example:7500".into() }];
        let papers = Papers::new(ca.certificate().to_vec(), issued.certificate.to_vec(), members.clone(), true).unwrap();
        papers.save(place.path()).unwrap();
        let read = Papers::load(place.path()).unwrap().unwrap();
        assert_eq!((read.fleet, read.members, read.founds, read.says.node), (ca.fleet(), members, true, key.node()));
        let text = std::fs::read_to_string(file(place.path())).unwrap();
        for wrong in [text.replace("\"format\": 1", "\"format\": 9"), text.replace(&ca.fleet().to_string(), &"00".repeat(16)), "{}".into()]
        {
            std::fs::write(file(place.path()), wrong).unwrap();
            assert!(matches!(Papers::load(place.path()), Err(MetadataRoleError::Papers { .. })));
        }
    }
}
