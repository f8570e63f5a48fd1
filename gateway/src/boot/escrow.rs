//! What an operator keeps of a gateway beside its root key, so that its fleet can be read again after the metadata was lost.
//!
//! ```text
//! {"format":1,"what":"breakwater escrow","made_ms":..,"wrapped":"<hexadecimal>"}
//! wrapped: AES-256-GCM under the root key's wrapping key, as every secret in metadata (`keys.rs`), around
//! postcard of { tenants with their wrapped secrets, access keys, the fleet: its record, its CA's key wrapped, its nodes }
//! ```
//! Objects' names are not in it: they are in metadata alone. It changes with every new tenant, key and node; an older one brings back
//! what it has.
//! Invariants: without the root key it says nothing and nobody can alter it; taking it in holds the collection first, overrules nothing
//! that metadata has, and can be repeated after a crash.
//! Not here: the chunk index (`reindex`).

use super::credentials::{root_command, root_query};
use super::{BootError, Home, read_text, write_whole};
use crate::core::now;
use crate::fleet::table;
use crate::keys::Keys;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spine::id::UnixMs;
use spine::wire::chunk::ChunkCommand;
use spine::wire::peer;
use spine::wire::range::ALL_CHUNKS;
use spine::wire::root::{FleetNodeRecord, FleetRecord, KeyRecord, RootAnswer, RootCommand, RootQuery, TenantRecord};
use spine::wire::{Batch, Chain, Command, Metadata, Refusal, Reply};
use std::path::Path;
use std::sync::Arc;

const FORMAT: u32 = 1;
const WHAT: &str = "breakwater escrow";
/// Bytes of the longest file: a full fleet's nodes take some 20 MiB, twice that in hexadecimal.
const FILE_BYTES: u64 = 256 << 20;
/// Commands in one proposal.
const STEP: usize = 256;

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    format: u32,
    what: String,
    made_ms: u64,
    wrapped: String,
}

/// What is in it. Not `Debug`: none of it is for a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escrow {
    tenants: Vec<TenantRecord>,
    keys: Vec<KeyRecord>,
    fleet: Option<KeptFleet>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptFleet {
    record: FleetRecord,
    /// The CA's key as it lies in the data folder: wrapped once more.
    key: Bytes,
    nodes: Vec<FleetNodeRecord>,
}

impl Escrow {
    /// What there is now.
    pub async fn gather(data: &Path, metadata: &Arc<dyn Metadata>) -> Result<Escrow, BootError> {
        let RootAnswer::Tenants(tenants) = root_query(metadata, RootQuery::Tenants).await? else { return Err(strange("tenants")) };
        let RootAnswer::Keys(keys) = root_query(metadata, RootQuery::Keys(None)).await? else { return Err(strange("keys")) };
        let RootAnswer::Fleet(record) = root_query(metadata, RootQuery::Fleet).await? else { return Err(strange("the fleet")) };
        let fleet = match record {
            None => None,
            Some(record) => {
                let path = table::key_file(data);
                let text = read_text(&path)?.ok_or_else(|| content(&path, "the CA's key is missing"))?;
                let key = hex::decode(text).map_err(|error| content(&path, error))?.into();
                let RootAnswer::FleetNodes(nodes) = root_query(metadata, RootQuery::FleetNodes).await? else {
                    return Err(strange("the fleet's nodes"));
                };
                Some(KeptFleet { record, key, nodes })
            }
        };
        Ok(Escrow { tenants, keys, fleet })
    }

    /// How many tenants, access keys and nodes.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.tenants.len(), self.keys.len(), self.fleet.as_ref().map_or(0, |fleet| fleet.nodes.len()))
    }

    /// The file's text.
    pub fn seal(&self, keys: &Keys, made: UnixMs) -> Result<String, BootError> {
        let wrapped = hex::encode(keys.wrap_escrow(&peer::encode(self))?);
        let on_disk = OnDisk { format: FORMAT, what: WHAT.into(), made_ms: made.0, wrapped };
        serde_json::to_string(&on_disk).map_err(|error| BootError::Refused { what: error.to_string() })
    }

    /// What the file at `path` has.
    ///
    /// # Errors
    /// [`BootError::Content`] if it is no such file; [`BootError::Key`] if another root key wrapped it, or somebody altered it.
    pub fn open(keys: &Keys, path: &Path) -> Result<Escrow, BootError> {
        let size = std::fs::metadata(path).map_err(|error| content(path, error))?.len();
        if size > FILE_BYTES {
            return Err(content(path, "it is too large for one"));
        }
        let text = read_text(path)?.unwrap_or_default();
        let on_disk: OnDisk = serde_json::from_str(&text).map_err(|error| content(path, error))?;
        if on_disk.format != FORMAT || on_disk.what != WHAT {
            return Err(content(path, "it is no escrow of this format; `breakwater admin export` writes one"));
        }
        let wrapped = hex::decode(on_disk.wrapped).map_err(|error| content(path, error))?;
        let plain = keys.unwrap_escrow(&wrapped)?;
        peer::decode(&plain).map_err(|_| content(path, "it opens, and what is in it does not read"))
    }

    /// Makes metadata know what it has, and puts the CA's key into the data folder. Before anything is served.
    ///
    /// # Errors
    /// [`BootError::Refused`] where metadata has another tenant of a name, another fleet, or another owner of a key: this is for a data
    /// folder whose metadata is gone.
    pub async fn restore(&self, home: &Home, keys: &Keys, metadata: &Arc<dyn Metadata>) -> Result<(), BootError> {
        let hold = Command::Chunk(ChunkCommand::Hold { held: true, span: ALL_CHUNKS });
        let RootAnswer::Tenants(known) = root_query(metadata, RootQuery::Tenants).await? else { return Err(strange("tenants")) };
        let missing: Vec<&TenantRecord> = self.tenants.iter().filter(|tenant| !known.iter().any(|known| known.id == tenant.id)).collect();
        if let Some(taken) = missing.iter().find(|tenant| known.iter().any(|known| known.name == tenant.name)) {
            let what = format!("metadata has another tenant {}: an escrow is for a data folder whose metadata is gone", taken.name);
            return Err(BootError::Refused { what });
        }
        if missing.is_empty() && self.is_known(metadata).await? {
            // Taken in by an earlier start, and what an operator has released since stays released.
            return Ok(());
        }
        propose(metadata, vec![hold]).await?;
        propose(metadata, missing.into_iter().map(|tenant| Command::Root(RootCommand::CreateTenant(tenant.clone()))).collect()).await?;
        let RootAnswer::Keys(known) = root_query(metadata, RootQuery::Keys(None)).await? else { return Err(strange("keys")) };
        let new = |key: &&KeyRecord| !known.iter().any(|known| known.access_key == key.access_key && known.tenant == key.tenant);
        propose(metadata, self.keys.iter().filter(new).map(|key| Command::Root(RootCommand::CreateKey(key.clone()))).collect()).await?;
        if let Some(fleet) = &self.fleet {
            fleet.restore(home, keys, metadata).await?;
        }
        Ok(())
    }

    /// Whether metadata knows all keys, the fleet and all of its nodes.
    async fn is_known(&self, metadata: &Arc<dyn Metadata>) -> Result<bool, BootError> {
        let RootAnswer::Keys(keys) = root_query(metadata, RootQuery::Keys(None)).await? else { return Err(strange("keys")) };
        if !self.keys.iter().all(|key| keys.iter().any(|known| known.access_key == key.access_key)) {
            return Ok(false);
        }
        let Some(fleet) = &self.fleet else { return Ok(true) };
        let RootAnswer::Fleet(record) = root_query(metadata, RootQuery::Fleet).await? else { return Err(strange("the fleet")) };
        let RootAnswer::FleetNodes(nodes) = root_query(metadata, RootQuery::FleetNodes).await? else {
            return Err(strange("the fleet's nodes"));
        };
        Ok(record.is_some_and(|record| record.id == fleet.record.id)
            && fleet.nodes.iter().all(|node| nodes.iter().any(|n| n.id == node.id)))
    }
}

impl KeptFleet {
    /// The key before the record: a fleet whose key was never written would be a fleet for nobody.
    async fn restore(&self, home: &Home, keys: &Keys, metadata: &Arc<dyn Metadata>) -> Result<(), BootError> {
        let key = keys.unwrap_fleet_key(self.record.id, &self.key)?;
        let path = table::key_file(home.dir());
        match read_text(&path)? {
            Some(text) => {
                let there = hex::decode(text).map_err(|error| content(&path, error))?;
                if keys.unwrap_fleet_key(self.record.id, &there)? != key {
                    return Err(content(&path, "it is another CA's key"));
                }
            }
            None => {
                table::make_folder(home)?;
                write_whole(&path, &hex::encode(&self.key), 0o600)?;
            }
        }
        root_command(metadata, RootCommand::CreateFleet(self.record.clone())).await?;
        let RootAnswer::FleetNodes(known) = root_query(metadata, RootQuery::FleetNodes).await? else {
            return Err(strange("the fleet's nodes"));
        };
        let new = self.nodes.iter().filter(|node| !known.iter().any(|known| known.id == node.id));
        propose(metadata, new.map(|node| Command::Root(RootCommand::AdmitNode(node.clone()))).collect()).await
    }
}

async fn propose(metadata: &Arc<dyn Metadata>, commands: Vec<Command>) -> Result<(), BootError> {
    for some in commands.chunks(STEP) {
        let replies = metadata.propose(Batch { chain: Chain::Stop, commands: some.to_vec() }).await?;
        if let Some(refusal) = replies.iter().find_map(|reply| if let Reply::Refused(refusal) = reply { Some(*refusal) } else { None }) {
            return Err(BootError::Refused { what: Refusal::to_string(&refusal) });
        }
    }
    Ok(())
}

/// Gathers and seals, for `breakwater admin export`.
pub async fn export(data: &Path, keys: &Keys, metadata: &Arc<dyn Metadata>) -> Result<(String, Escrow), BootError> {
    let escrow = Escrow::gather(data, metadata).await?;
    Ok((escrow.seal(keys, now())?, escrow))
}

fn strange(what: &str) -> BootError {
    BootError::Refused { what: format!("the look-up of {what} was answered with something else") }
}

fn content(path: &Path, reason: impl ToString) -> BootError {
    BootError::Content { path: path.to_path_buf(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::RootKey;
    use crate::path::fake::{FakeMetadata, TENANT, rig};
    use spine::id::{FleetId, NodeId, TenantId};
    use spine::wire::root::FleetNodeState;
    use spine::wire::{Answer, Query};

    fn node(id: u8, state: FleetNodeState) -> FleetNodeRecord {
        FleetNodeRecord {
            id: NodeId([id; 32]),
            machine: "m".into(),
            zone: "z".into(),
            capacity: 1,
            address: "a:1".into(),
            serial: Bytes::from_static(b"s"),
            not_after: UnixMs(9),
            state,
            admitted: UnixMs(1),
            changed: UnixMs(2),
        }
    }

    #[tokio::test]
    async fn what_was_exported_comes_back_into_an_empty_metadata_and_holds_the_collection() {
        let rig = rig().await;
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let metadata: Arc<dyn Metadata> = rig.metadata.clone();
        let id = FleetId([3; 16]);
        let record =
            FleetRecord { id, authority: Bytes::from_static(b"ca"), created: UnixMs(1), revocations_version: 4, revocations: Bytes::new() };
        root_command(&metadata, RootCommand::CreateFleet(record)).await.unwrap();
        for (number, state) in [(1, FleetNodeState::Active), (2, FleetNodeState::Retired)] {
            root_command(&metadata, RootCommand::AdmitNode(node(number, state))).await.unwrap();
        }
        let secret = rig.keys.wrap_secret("AK", b"secret").unwrap();
        let key = KeyRecord { access_key: "AK".into(), tenant: TENANT, secret, created: UnixMs(1), revoked: false };
        root_command(&metadata, RootCommand::CreateKey(key)).await.unwrap();
        let old_home = Home::open(old.path()).unwrap();
        table::make_folder(&old_home).unwrap();
        let ca = hex::encode(rig.keys.wrap_fleet_key(id, b"the ca's key").unwrap());
        write_whole(&table::key_file(old.path()), &ca, 0o600).unwrap();

        let (text, escrow) = export(old.path(), &rig.keys, &metadata).await.unwrap();
        assert_eq!(escrow.counts(), (2, 1, 2));
        assert!(!text.contains(&hex::encode(b"secret")));
        let file = old.path().join("escrow");
        std::fs::write(&file, &text).unwrap();
        assert!(Escrow::open(&Keys::new(RootKey::generate().unwrap()), &file).is_err(), "another root key opens it");
        let escrow = Escrow::open(&rig.keys, &file).unwrap();

        let metadata: Arc<dyn Metadata> = Arc::new(FakeMetadata::default());
        let home = Home::open(new.path()).unwrap();
        escrow.restore(&home, &rig.keys, &metadata).await.unwrap();
        assert!(Escrow::gather(home.dir(), &metadata).await.unwrap() == escrow, "not all came back");
        let held = || async { metadata.query(Query::Chunk(spine::wire::chunk::ChunkQuery::Held)).await.unwrap() };
        assert_eq!(held().await, Answer::Chunk(spine::wire::chunk::ChunkAnswer::Held(true)));
        // A second start with the same file changes nothing, not even a hold that was released.
        propose(&metadata, vec![Command::Chunk(ChunkCommand::Hold { held: false, span: ALL_CHUNKS })]).await.unwrap();
        escrow.restore(&home, &rig.keys, &metadata).await.unwrap();
        assert_eq!(held().await, Answer::Chunk(spine::wire::chunk::ChunkAnswer::Held(false)));
    }

    #[tokio::test]
    async fn an_escrow_overrules_no_tenant_that_metadata_has() {
        let rig = rig().await;
        let metadata: Arc<dyn Metadata> = rig.metadata.clone();
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(place.path()).unwrap();
        let escrow = Escrow::gather(home.dir(), &metadata).await.unwrap();
        let other: Arc<dyn Metadata> = Arc::new(FakeMetadata::default());
        let record = TenantRecord { id: TenantId(99), name: TENANT.to_string(), secrets: vec![], created: UnixMs(0), revoked: false };
        root_command(&other, RootCommand::CreateTenant(record)).await.unwrap();
        assert!(matches!(escrow.restore(&home, &rig.keys, &other).await, Err(BootError::Refused { .. })));
    }

    #[test]
    fn the_bytes_of_an_escrow_stay_as_they_are() {
        let escrow = Escrow { tenants: vec![], keys: vec![], fleet: None };
        assert_eq!(peer::encode(&escrow).as_ref(), [0, 0, 0]);
        let record = FleetRecord {
            id: FleetId([3; 16]),
            authority: Bytes::new(),
            created: UnixMs(1),
            revocations_version: 0,
            revocations: Bytes::new(),
        };
        let fleet = KeptFleet { record, key: Bytes::from_static(b"k"), nodes: vec![] };
        let bytes = peer::encode(&Escrow { fleet: Some(fleet), ..escrow });
        assert_eq!(hex::encode(bytes), format!("000001{}{}", "03".repeat(16), "00010000016b00"));
    }
}
