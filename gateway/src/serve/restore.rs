//! `breakwater admin metadata restore`: puts a copy into metadata that is empty, without a gateway that serves.
//!
//! The data folder says where metadata is: with others (a gateway's, with its papers and keys), or in the folder itself, whose server must
//! not run. Gateways of a cluster may run: they answer 503 until it is done.

use super::elsewhere::{self, Elsewhere};
use super::{ServeError, process};
use crate::boot::Home;
use crate::keys::Keys;
use crate::snapshot::{self, Summary};
use metadata::service::{MetadataNode, Settings};
use spine::wire::Metadata;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Life of the certificate that this process shows.
const LIFE: Duration = Duration::from_secs(86_400);

/// Restores the copy in `file`, told from the data folder `data`.
///
/// - `papers`: of the cluster that is restored, where the folder has none or older ones.
pub fn run(data: &Path, file: &Path, papers: Option<&Path>) -> ExitCode {
    super::finish(process::runtime().and_then(|runtime| runtime.block_on(restore(data, file, papers))).map(|summary| {
        println!(
            "{} rows are restored as of {} ms. Nothing is collected until `breakwater admin metadata reconcile` has found everything that they name.",
            summary.rows, summary.name.made.0
        );
    }))
}

async fn restore(data: &Path, file: &Path, papers: Option<&Path>) -> Result<Summary, ServeError> {
    if !data.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(crate::boot::BootError::Folder { path: data.to_path_buf(), source }.into());
    }
    let home = Home::open_or_read(data)?;
    let cluster = elsewhere::find(&home, papers)?;
    home.must_have_root_key()?;
    let keys = Arc::new(Keys::new(home.root_key()?));
    match cluster {
        Some(cluster) => {
            let fleet = cluster.fleet;
            let elsewhere = Elsewhere::open(&home, cluster, &keys, LIFE)?;
            Ok(snapshot::restore(&elsewhere.metadata(), keys, file, Some(fleet)).await?)
        }
        None => {
            home.must_be_ours()?;
            let node = MetadataNode::open(Settings::new(home.metadata_dir())).await?;
            let metadata: Arc<dyn Metadata> = node.clone();
            let restored = snapshot::restore(&metadata, keys, file, None).await;
            node.shutdown().await;
            Ok(restored?)
        }
    }
}
