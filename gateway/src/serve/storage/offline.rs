//! Asking to be admitted by a file, and taking in the file that comes back (`fleet/offline.rs` draws both).

use super::disks::{Disks, Node};
use super::papers::{self, Papers};
use super::{Settings, StorageError, place};
use crate::boot::{BootError, write_whole};
use crate::core::now;
use crate::fleet::offline::{ANSWER_BYTES, Answer, Request};
use rustls::pki_types::{CertificateDer, UnixTime};
use spine::fleet::admission::Role;
use spine::fleet::certificate;
use spine::fleet::trust::Trust;
use spine::wire::shard::StorageNode;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storage_node::NodeKey;

/// `--request FILE`: opens the disks, new ones make their keys, writes what they ask for, and closes them again.
pub async fn request(settings: &Settings, file: &Path) -> Result<(), StorageError> {
    let place = place(settings, settings.listen)?;
    let disks = Disks::open(settings, true).await?;
    let nodes: Vec<(NodeKey, u64)> = disks.nodes().iter().map(|node| (node.key.clone(), node.disk.status().capacity)).collect();
    let missing = disks.missing();
    disks.close().await;
    if let Some(missing) = missing.first() {
        // What is not asked for now would have to be asked for again.
        return Err(StorageError::NoDisk { reasons: missing.reason.clone() });
    }
    let request = Request::sign(&place, &nodes).map_err(|reason| bad(file, reason))?;
    let text = serde_json::to_string_pretty(&request).map_err(|error| bad(file, error))?;
    write_whole(file, &text, 0o644)?;
    for (key, _) in &nodes {
        println!("node {}", key.node());
    }
    println!("The request is in {}. On the gateway: breakwater admin fleet admit FILE --out ANSWER", file.display());
    Ok(())
}

/// `--admitted FILE`: puts the papers it has for these disks on them, where they are newer than those that lie there.
pub fn take_in(file: &Path, nodes: &[Arc<Node>]) -> Result<(), StorageError> {
    let size = std::fs::metadata(file).map_err(|error| bad(file, error))?.len();
    if size > ANSWER_BYTES {
        return Err(bad(file, "it is too large for one"));
    }
    let text = std::fs::read(file).map_err(|error| bad(file, error))?;
    let answer: Answer = serde_json::from_slice(&text).map_err(|error| bad(file, error))?;
    let admitted = answer.admitted().map_err(|reason| bad(file, reason))?;
    let trust = Trust::new(admitted.fleet, &admitted.authority).map_err(|error| bad(file, error))?;
    let time = UnixTime::since_unix_epoch(Duration::from_millis(now().0));
    let mut taken: Vec<PathBuf> = Vec::new();
    let mut ours = false;
    for node in nodes {
        let id = node.key.node();
        let Some(der) = admitted.certificates.iter().find(|der| certificate::read(der).is_ok_and(|says| says.node == id)) else { continue };
        ours = true;
        let known = Papers::load(&node.dir)?;
        if let Some(known) = &known
            && known.authority != admitted.authority
        {
            return Err(StorageError::TwoFleets { one: node.dir.clone(), other: file.to_path_buf() });
        }
        let new = Papers::new(&node.dir, answer.gate.clone(), admitted.authority.to_vec(), der.to_vec())?;
        // An option that stays on the command line must not bring back what was renewed since.
        if known.is_some_and(|known| known.says.not_after >= new.says.not_after) {
            continue;
        }
        let judged = trust.judge(&CertificateDer::from(der.as_ref()), &[], time, &[Role::StorageNode], Some(id));
        judged.map_err(|refusal| bad(file, refusal))?;
        new.save(&node.dir)?;
        taken.push(node.dir.clone());
    }
    if !ours {
        return Err(bad(file, "it is for none of these disks"));
    }
    if !admitted.revocations.is_empty() && !taken.is_empty() {
        trust.revoke(&admitted.revocations).map_err(|error| bad(file, error))?;
        let kept = papers::keep_revocations(&taken, &admitted.revocations);
        kept.map_err(|source| BootError::Folder { path: taken[0].clone(), source })?;
    }
    Ok(())
}

fn bad(file: &Path, reason: impl ToString) -> StorageError {
    StorageError::Carried { file: file.to_path_buf(), reason: reason.to_string() }
}
