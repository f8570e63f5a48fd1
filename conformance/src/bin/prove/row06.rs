//! Row 6: nothing that a tenant stored can be read from the disks, and no secret from any file or log.
//!
//! The canary in the data must stand nowhere in the data folder. Key names and metadata are kept readable by the metadata
//! service (they are ordered by it), so there the claim is narrower: not on the shard disks and not in the log.

use crate::row::{Outcome, Run, Said, runtime};
use base64::{Engine, engine::general_purpose::STANDARD};
use conformance::client;
use conformance::server::{SECRET_KEY, Server, grep};
use std::path::Path;
use std::time::Duration;

const DATA: &str = "canary-in-data-3f9c1b7a";
const KEY: &str = "canary-in-key-5d20e8f4";
const METADATA: &str = "canary-in-metadata-91ab";

pub fn run(run: &Run) -> Outcome {
    let place = run.place()?;
    let mut server = run.server(&place, "")?;
    let runtime = runtime()?;
    let tenant = server.new_tenant("canary-tenant").said("tenant")?;
    runtime.block_on(store(&server))?;
    let presigned = server.log();
    server.terminate(Duration::from_secs(60)).ok_or("SIGTERM did not end the server")?;

    let mut found = Vec::new();
    let mut searched = 0;
    let mut look = |folder: &Path, needle: &[u8], what: &str| -> Result<(), String> {
        searched += 1;
        found.extend(grep(folder, needle).said("search")?.into_iter().map(|(file, at)| format!("{what} in {} at {at}", file.display())));
        Ok(())
    };
    look(place.path(), DATA.as_bytes(), "data")?;
    look(place.path(), STANDARD.encode(DATA).as_bytes(), "data in base64")?;
    look(place.path(), hex::encode(DATA).as_bytes(), "data in hex")?;
    for (secret, what) in [(SECRET_KEY, "root secret"), (&tenant.secret_key, "tenant's secret")] {
        look(place.path(), secret.as_bytes(), what)?;
        look(place.path(), STANDARD.encode(secret).as_bytes(), what)?;
        look(place.path(), hex::encode(secret).as_bytes(), what)?;
    }
    for disk in server.disks() {
        look(&disk, KEY.as_bytes(), "key name on a shard disk")?;
        look(&disk, METADATA.as_bytes(), "metadata on a shard disk")?;
    }
    found.extend([KEY, METADATA, DATA].iter().filter(|c| presigned.contains(**c)).map(|c| format!("{c} in the log")));
    if found.is_empty() {
        return Ok(format!("0 places in {searched} searches of data folder and log"));
    }
    Err(format!("{} places: {}", found.len(), found[..found.len().min(5)].join("; ")))
}

/// Canaries in inline, coded, compressible and multipart objects, overwritten and deleted ones, refused and failing requests.
async fn store(server: &Server) -> Result<(), String> {
    let client = client::of(server);
    client.create_bucket().bucket("canaries").send().await.said("bucket")?;
    for (n, repeat) in [1usize, 20, 2_000, 200_000].into_iter().enumerate() {
        let key = format!("{KEY}/{n}");
        let body = DATA.repeat(repeat).into_bytes();
        let request = client.put_object().bucket("canaries").key(&key).body(body.into()).metadata("note", METADATA);
        request.send().await.map_err(client::failure).said("put")?;
        client
            .get_object()
            .bucket("canaries")
            .key(&key)
            .send()
            .await
            .map_err(client::failure)
            .said("get")?
            .body
            .collect()
            .await
            .said("body")?;
    }
    client.delete_object().bucket("canaries").key(format!("{KEY}/2")).send().await.said("delete")?;
    let _ = client.get_object().bucket("canaries").key(format!("{KEY}/missing")).send().await;
    let wrong = conformance::server::Credential { access_key: conformance::server::ACCESS_KEY.into(), secret_key: "wrong".into() };
    let _ = client::with(server.endpoint(), &wrong).list_buckets().send().await;
    Ok(())
}
