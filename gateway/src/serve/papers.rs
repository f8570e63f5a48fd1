//! `breakwater admin metadata papers`: writes what a gateway's folder knows of its fleet as papers, for a metadata node that is to begin
//! anew and for other gateways. No server need run; that of a folder that has its metadata itself must not.
//!
//! The CA's key comes out wrapped as it lies there, the root key in clear: whoever has the file has the fleet.

use super::{ServeError, process};
use crate::boot::{BootError, Home, read_text};
use crate::fleet::FleetError;
use crate::fleet::cluster::{Cluster, GatewayPapers};
use crate::fleet::table;
use metadata::service::{MetadataNode, Settings};
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::{Answer, Metadata, Query};
use std::path::Path;
use std::process::ExitCode;

/// Writes the papers of the fleet of the data folder `data` to `out`, which must not be there yet.
pub fn run(data: &Path, out: &Path) -> ExitCode {
    super::finish(process::runtime().and_then(|runtime| runtime.block_on(write(data, out))).map(|()| {
        println!("{} holds the root key: keep it where nobody else reads it, and delete it where it is not needed.", out.display());
    }))
}

async fn write(data: &Path, out: &Path) -> Result<(), ServeError> {
    let file = |path: &Path, kind: std::io::ErrorKind| BootError::Folder { path: path.to_path_buf(), source: kind.into() };
    if out.exists() {
        return Err(file(out, std::io::ErrorKind::AlreadyExists).into());
    }
    if !table::key_file(data).exists() {
        return Err(file(&table::key_file(data), std::io::ErrorKind::NotFound).into());
    }
    let home = Home::open_or_read(data)?;
    home.must_have_root_key()?;
    let (fleet, authority, members) = match Cluster::load(&home)? {
        Some(cluster) => (cluster.fleet, cluster.authority, cluster.members),
        None => {
            home.must_be_ours()?;
            let node = MetadataNode::open(Settings::new(home.metadata_dir())).await?;
            let answer = node.query(Query::Root(RootQuery::Fleet)).await;
            node.shutdown().await;
            let Answer::Root(RootAnswer::Fleet(Some(record))) = answer.map_err(FleetError::Metadata)? else {
                return Err(FleetError::NoFleet.into());
            };
            (record.id, record.authority.to_vec(), Vec::new())
        }
    };
    let key = read_text(&table::key_file(data))?.unwrap_or_default();
    let authority_key = hex::decode(key).map_err(|_| FleetError::Wrong("the key of the fleet's CA does not read".into()))?;
    GatewayPapers { fleet, authority, authority_key, root_key: home.root_key()?, members }.save(out)?;
    Ok(())
}
