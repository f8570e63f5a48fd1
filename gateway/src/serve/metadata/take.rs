//! A gateway's own metadata becomes the first node's of a cluster: `--init --from FOLDER`, the gateway stopped.
//!
//! ```text
//! the gateway's folder is taken -> its fleet's record read -> FOLDER/given: to whom; from here on no gateway serves it
//! -> metadata copied, read back and compared -> DATA/metadata -> gateway-papers (the same root key and CA) -> member.json
//! ```
//! Invariants: once anything of the copy can be served, the original cannot; the original is never changed otherwise, and stays until the
//! operator removes it; member.json comes last, and whoever stopped before it can be asked again.
//! Not for a single server: its shards lie on its own disks, which no fleet's gateway reaches.

use super::{FIRST_LIFE, MetadataRoleError, Papers, papers};
use crate::boot::credentials::root_query;
use crate::boot::{BootError, Home, read_text, write_whole};
use crate::core::now;
use crate::fleet::authority::Authority;
use crate::fleet::cluster::{Cluster, GatewayPapers};
use crate::fleet::enlist::metadata_admission;
use crate::fleet::table;
use crate::keys::Keys;
use ::metadata::service::MetadataNode;
use spine::wire::Metadata;
use spine::wire::cluster::Endpoint;
use spine::wire::root::{FleetRecord, RootAnswer, RootQuery};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage_node::NodeKey;

/// Bytes that are compared at a time.
const PIECE: usize = 1 << 20;

/// In a gateway's folder: the id of the metadata node that its metadata was given to.
fn given_file(data: &Path) -> PathBuf {
    data.join("given")
}

/// Whom the folder's metadata was given to.
///
/// # Errors
/// The file cannot be read.
pub fn given_to(data: &Path) -> Result<Option<String>, BootError> {
    read_text(&given_file(data))
}

/// The key and the papers of the first node, whose metadata is the gateway's in `from`.
pub async fn take(home: &Home, from: &Path, address: &str) -> Result<(NodeKey, Papers), MetadataRoleError> {
    let wrong = |reason: String| MetadataRoleError::Give { path: from.to_path_buf(), reason };
    if !from.is_dir() {
        return Err(wrong("there is no such folder".into()));
    }
    let old = Home::open(from)?;
    if old.slots_file().exists() {
        return Err(wrong(
            "it is a single server's: its shards lie on its own disks, which belong to no fleet. Copy its objects instead".into(),
        ));
    }
    if Cluster::load(&old)?.is_some() || !table::folder(old.dir()).is_dir() || !old.metadata_dir().is_dir() {
        return Err(wrong("it is not a gateway's that keeps its metadata itself".into()));
    }
    let key = NodeKey::load_or_make(home.dir())?;
    match given_to(old.dir())? {
        Some(other) if other != key.node().to_string() => return Err(wrong(format!("it was given to another metadata node, {other}"))),
        _ => {}
    }
    let root_key = old.root_key()?;
    let keys = Keys::of(&root_key);
    let record = fleet_of(&old).await.map_err(&wrong)?;
    let secret = table::read_key(&table::key_file(old.dir()), &keys, record.id).map_err(|error| wrong(error.to_string()))?;
    let authority = Authority::open(record.id, &secret, &record.authority)?;
    write_whole(&given_file(old.dir()), &key.node().to_string(), 0o600)?;
    let (source, target) = (old.metadata_dir(), home.metadata_dir());
    let copied = tokio::task::spawn_blocking(move || copy(&source, &target)).await;
    copied.map_err(|error| wrong(error.to_string()))?.map_err(|error| wrong(format!("it was not copied: {error}")))?;
    let issued = authority.certify(key.node(), &metadata_admission(record.id, address), now(), FIRST_LIFE)?;
    let authority_key = keys.wrap_fleet_key(record.id, &authority.key())?.to_vec();
    let certificate = authority.certificate().to_vec();
    let members = vec![Endpoint { node: key.node(), address: address.to_string() }];
    let gateways = GatewayPapers { fleet: record.id, authority: certificate.clone(), authority_key, root_key, members };
    gateways.save(&papers::gateway_papers(home.dir()))?;
    if !record.revocations.is_empty() {
        papers::keep_revocations(home.dir(), &record.revocations)?;
    }
    let own = Papers::new(certificate, issued.certificate.to_vec(), Vec::new(), true);
    let own = own.map_err(|reason| MetadataRoleError::Papers { path: home.dir().to_path_buf(), reason })?;
    own.save(home.dir())?;
    Ok((key, own))
}

/// The fleet's record, out of metadata that nobody else serves; what was not in the last checkpoint is then.
async fn fleet_of(old: &Home) -> Result<FleetRecord, String> {
    // The version that served it can open it afterwards, should this come to nothing.
    let settings = ::metadata::service::Settings { raises: false, ..::metadata::service::Settings::new(old.metadata_dir()) };
    let node = MetadataNode::open(settings).await.map_err(|error| error.to_string())?;
    let metadata: Arc<dyn Metadata> = node.clone();
    let answer = root_query(&metadata, RootQuery::Fleet).await;
    node.shutdown().await;
    match answer {
        Ok(RootAnswer::Fleet(Some(record))) => Ok(record),
        Ok(RootAnswer::Fleet(None)) => Err("it has no fleet: start it once more and make one with `breakwater admin fleet init`".into()),
        Ok(_) => Err("metadata gave an answer to another question".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// A folder's files at another place, which appears whole: copied, synced, read back and compared before.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if to.join("member").exists() {
        return Err(io::Error::other("there is metadata already that a node has served"));
    }
    if to.exists() {
        // A copy of before that came so far.
        fs::remove_dir_all(to)?;
    }
    let coming = to.with_extension("coming");
    match fs::remove_dir_all(&coming) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    copy_folder(from, &coming)?;
    fs::rename(&coming, to)?;
    sync_folder(to.parent().unwrap_or(Path::new(".")))
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&source, &target)?;
        } else if entry.file_name() != "owner.lock" {
            fs::copy(&source, &target)?;
            File::open(&target)?.sync_all()?;
            if !are_same(&source, &target)? {
                return Err(io::Error::other(format!("{} does not read as it was written", target.display())));
            }
        }
    }
    sync_folder(to)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn are_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE));
    loop {
        left.clear();
        right.clear();
        one.by_ref().take(PIECE as u64).read_to_end(&mut left)?;
        other.by_ref().take(PIECE as u64).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_copied_whole_but_for_its_lock_and_again_after_half_a_copy() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("metadata"));
        fs::create_dir_all(from.join("log")).unwrap();
        fs::write(from.join("log/1"), vec![7; 3 << 20]).unwrap();
        fs::write(from.join("list"), "x").unwrap();
        fs::write(from.join("owner.lock"), "").unwrap();
        fs::create_dir_all(to.with_extension("coming").join("log")).unwrap();
        fs::write(to.with_extension("coming").join("log/0"), "half").unwrap();
        for _ in 0..2 {
            copy(&from, &to).unwrap();
            assert_eq!(fs::read(to.join("log/1")).unwrap(), vec![7; 3 << 20]);
            assert_eq!(fs::read(to.join("list")).unwrap(), b"x");
            assert!(!to.join("owner.lock").exists() && !to.join("log/0").exists() && !to.with_extension("coming").exists());
        }
        fs::write(to.join("log/1"), vec![8; 3 << 20]).unwrap();
        assert!(!are_same(&from.join("log/1"), &to.join("log/1")).unwrap());
        fs::write(to.join("log/1"), vec![7; 2 << 20]).unwrap();
        assert!(!are_same(&from.join("log/1"), &to.join("log/1")).unwrap());
    }
}
