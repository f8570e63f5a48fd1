//! A gateway whose metadata other processes keep: what it has to know before it can ask them anything.
//!
//! ```text
//! gateway-papers            0600  made by `breakwater metadata --init`, carried to every gateway by the operator
//!   {format, fleet, authority, authority_key: wrapped by the root key, root_key, members}
//! DATA/root-key             0600  taken from it
//! DATA/fleet/ca-key         0600  the same
//! DATA/fleet/metadata.json  0600  {format, fleet, authority, members}: written last; says that this gateway's metadata is elsewhere
//! ```
//! Invariants: metadata processes never have the root key once the papers are carried away, gateways all have the same; the CA signs
//! in gateways alone; a gateway shows metadata a certificate that it made itself, for a key that dies with the process.
//! Not here: asking (`metadata::cluster`), what is asked before all of this is known (`serve/storage/`, `serve/metadata/`).

use super::FleetError;
use super::authority::Authority;
use super::table::{self, own_identity};
use crate::boot::{BootError, Home, read_text, write_whole};
use crate::core::now;
use crate::keys::{Keys, RootKey};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use spine::fleet::admission::Role;
use spine::fleet::tls::{Shown, client_of};
use spine::fleet::trust::Trust;
use spine::id::{FleetId, UnixMs};
use spine::wire::cluster::Endpoint;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const FORMAT: u32 = 1;

/// What the operator carries from the first metadata node to gateways. Not `Debug`: it holds the root key.
pub struct GatewayPapers {
    pub fleet: FleetId,
    /// DER of the CA's certificate.
    pub authority: Vec<u8>,
    /// The CA's key, wrapped by the root key.
    pub authority_key: Vec<u8>,
    pub root_key: RootKey,
    pub members: Vec<Endpoint>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PapersFile {
    format: u32,
    fleet: String,
    authority: String,
    authority_key: String,
    root_key: String,
    members: Vec<String>,
}

impl GatewayPapers {
    pub fn save(&self, path: &Path) -> Result<(), BootError> {
        let file = PapersFile {
            format: FORMAT,
            fleet: self.fleet.to_string(),
            authority: hex::encode(&self.authority),
            authority_key: hex::encode(&self.authority_key),
            root_key: self.root_key.reveal(),
            members: self.members.iter().map(Endpoint::to_string).collect(),
        };
        let text = serde_json::to_string_pretty(&file).map_err(|error| bad(path, error))?;
        write_whole(path, &text, 0o600)
    }

    pub fn load(path: &Path) -> Result<GatewayPapers, BootError> {
        let text = read_text(path)?.ok_or_else(|| bad(path, "there is no such file"))?;
        // Not the parser's own words: they quote the line, and one of them is the root key.
        let file: PapersFile = serde_json::from_str(&text).map_err(|_| bad(path, "these are no papers of `breakwater metadata --init`"))?;
        if file.format != FORMAT {
            return Err(bad(path, format!("format {} is not {FORMAT}", file.format)));
        }
        Ok(GatewayPapers {
            fleet: FleetId::parse_hex(&file.fleet).ok_or_else(|| bad(path, "the fleet is none"))?,
            authority: hex::decode(&file.authority).map_err(|error| bad(path, error))?,
            authority_key: hex::decode(&file.authority_key).map_err(|error| bad(path, error))?,
            root_key: RootKey::parse(path, &file.root_key)?,
            members: endpoints(path, &file.members)?,
        })
    }
}

fn endpoints(path: &Path, texts: &[String]) -> Result<Vec<Endpoint>, BootError> {
    texts.iter().map(|text| text.parse().map_err(|error| bad(path, error))).collect()
}

fn bad(path: &Path, reason: impl ToString) -> BootError {
    BootError::Content { path: path.to_path_buf(), reason: reason.to_string() }
}

/// Which metadata a gateway's folder belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub fleet: FleetId,
    /// DER of the CA's certificate.
    pub authority: Vec<u8>,
    /// Where metadata nodes were last.
    pub members: Vec<Endpoint>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    format: u32,
    fleet: String,
    authority: String,
    members: Vec<String>,
}

fn file(data: &Path) -> PathBuf {
    table::folder(data).join("metadata.json")
}

impl Cluster {
    /// `None`: the folder's metadata is its own, or there is none yet.
    pub fn load(home: &Home) -> Result<Option<Cluster>, BootError> {
        let path = file(home.dir());
        let Some(text) = read_text(&path)? else { return Ok(None) };
        let file: ClusterFile = serde_json::from_str(&text).map_err(|error| bad(&path, error))?;
        if file.format != FORMAT {
            return Err(bad(&path, format!("format {} is not {FORMAT}", file.format)));
        }
        Ok(Some(Cluster {
            fleet: FleetId::parse_hex(&file.fleet).ok_or_else(|| bad(&path, "the fleet is none"))?,
            authority: hex::decode(&file.authority).map_err(|error| bad(&path, error))?,
            members: endpoints(&path, &file.members)?,
        }))
    }

    pub fn save(&self, home: &Home) -> Result<(), BootError> {
        let path = file(home.dir());
        let (fleet, authority) = (self.fleet.to_string(), hex::encode(&self.authority));
        let file = ClusterFile { format: FORMAT, fleet, authority, members: self.members.iter().map(Endpoint::to_string).collect() };
        let text = serde_json::to_string_pretty(&file).map_err(|error| bad(&path, error))?;
        write_whole(&path, &text, 0o600)
    }

    /// Takes the papers into a folder that has none, or the nodes that they name into one that has. The file that says so is written last: a crash leaves a folder that takes them again.
    pub fn take(home: &Home, papers: &GatewayPapers) -> Result<Cluster, BootError> {
        if let Some(known) = Self::load(home)? {
            if known.fleet != papers.fleet || known.authority != papers.authority {
                return Err(bad(&file(home.dir()), "this gateway's metadata is another's; choose an empty folder with --data"));
            }
            // Nodes that the folder does not know: the cluster has begun anew elsewhere.
            let new = papers.members.iter().filter(|member| !known.members.contains(member));
            let next = Cluster { members: known.members.iter().chain(new).cloned().collect(), ..known.clone() };
            // Whoever has the folder learns of them from the metadata itself.
            if next != known && home.is_ours() {
                next.save(home)?;
            }
            return Ok(next);
        }
        home.must_be_ours()?;
        table::make_folder(home)?;
        papers.root_key.keep(&home.root_key_file())?;
        write_whole(&table::key_file(home.dir()), &hex::encode(&papers.authority_key), 0o600)?;
        let cluster = Cluster { fleet: papers.fleet, authority: papers.authority.clone(), members: papers.members.clone() };
        cluster.save(home)?;
        Ok(cluster)
    }
}

/// A gateway's side of the connections to metadata.
pub struct Peers {
    pub trust: Arc<Trust>,
    shown: Arc<Shown>,
    authority: Authority,
    life: Duration,
    made: Mutex<UnixMs>,
}

impl Peers {
    pub fn new(home: &Home, cluster: &Cluster, keys: &Keys, life: Duration) -> Result<Peers, FleetError> {
        let key = table::read_key(&table::key_file(home.dir()), keys, cluster.fleet)?;
        let authority = Authority::open(cluster.fleet, &key, &cluster.authority)?;
        let trust = Trust::new(cluster.fleet, &cluster.authority).map_err(|error| FleetError::Tls(error.to_string()))?;
        let time = now();
        let shown = Arc::new(Shown::new(own_identity(&authority, time, life)?));
        Ok(Peers { trust: Arc::new(trust), shown, authority, life, made: Mutex::new(time) })
    }

    /// TLS towards metadata nodes and nobody else.
    pub fn client(&self) -> Result<Arc<ClientConfig>, FleetError> {
        client_of(self.trust.clone(), self.shown.clone(), &[Role::Metadata]).map_err(|error| FleetError::Tls(error.to_string()))
    }

    /// Renews this gateway's certificate from a third of its life on.
    pub fn renew(&self) -> Result<(), FleetError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let time = now();
        if Duration::from_millis(time.0.saturating_sub(made.0)) >= self.life / 3 {
            self.shown.set(own_identity(&self.authority, time, self.life)?);
            *made = time;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::id::NodeId;

    fn papers(fleet: u8) -> GatewayPapers {
        let fleet = FleetId([fleet; 16]);
        let (authority, root) = (Authority::create(fleet, now()).unwrap(), RootKey::generate().unwrap());
        let keys = Keys::new(RootKey::parse(Path::new("x"), &root.reveal()).unwrap());
        let authority_key = keys.wrap_fleet_key(fleet, &authority.key()).unwrap().to_vec();
        let members = vec![Endpoint { node: NodeId([7; 32]), address: "meta.example:7500".into() }];
        GatewayPapers { fleet, authority: authority.certificate().to_vec(), authority_key, root_key: root, members }
    }

    #[test]
    fn papers_read_back_and_are_taken_once() {
        let place = tempfile::tempdir().unwrap();
        let (path, home) = (place.path().join("gateway-papers"), Home::open(&place.path().join("data")).unwrap());
        assert_eq!(Cluster::load(&home).unwrap(), None);
        papers(1).save(&path).unwrap();
        let read = GatewayPapers::load(&path).unwrap();
        let taken = Cluster::take(&home, &read).unwrap();
        assert_eq!(Cluster::load(&home).unwrap(), Some(taken.clone()));
        assert_eq!(Cluster::take(&home, &read).unwrap(), taken);
        // The cluster has begun anew on another node.
        let anew = GatewayPapers { members: vec![Endpoint { node: NodeId([8; 32]), address: "new.example:7500".into() }], ..read };
        let now_known = Cluster::take(&home, &anew).unwrap();
        assert_eq!(now_known.members, [&taken.members[..], &anew.members].concat());
        assert_eq!(Cluster::load(&home).unwrap(), Some(now_known));
        let taken = Cluster::load(&home).unwrap().unwrap();
        assert!(Cluster::take(&home, &papers(2)).is_err());
        let keys = Keys::new(home.root_key().unwrap());
        Peers::new(&home, &taken, &keys, Duration::from_secs(60)).unwrap().client().unwrap();
    }

    #[test]
    fn a_folder_with_another_root_key_takes_no_papers() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(place.path()).unwrap();
        home.root_key().unwrap();
        assert!(matches!(Cluster::take(&home, &papers(1)), Err(BootError::Key(_))));
        assert_eq!(Cluster::load(&home).unwrap(), None);
    }

    #[test]
    fn what_is_wrong_with_papers_is_told_without_the_root_key() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("gateway-papers");
        papers(1).save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let key = papers_key(&text);
        for wrong in [text.replace("\"format\": 1", "\"format\": 2"), text.replace("members", "memberz"), text.replace(&key, &key[1..])] {
            std::fs::write(&path, wrong).unwrap();
            let error = GatewayPapers::load(&path).err().unwrap().to_string();
            assert!(!error.contains(&key[1..]), "{error}");
        }
    }

    fn papers_key(text: &str) -> String {
        let file: PapersFile = serde_json::from_str(text).unwrap();
        file.root_key
    }
}
