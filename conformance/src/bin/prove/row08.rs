//! Row 8: what was deleted is gone from the disks after two collector cycles.

use crate::row::{FAST_COLLECTOR, Outcome, Run, Said, mib, none_of, runtime};
use conformance::client;
use conformance::content::Content;
use conformance::server::Server;
use conformance::workload::Workload;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub fn run(run: &Run) -> Outcome {
    let mut dice = run.dice();
    let place = run.place()?;
    let server = run.server(&place, FAST_COLLECTOR)?;
    let runtime = runtime()?;
    let load = Workload { keys_per_worker: 50, ..Workload::new(client::of(&server), "emptied") };
    let empty = server.disk_bytes();
    println!("  empty: {} on the disks", mib(empty));
    let full = runtime.block_on(async {
        load.prepare().await.said("bucket")?;
        let (running, mut own) = (load.clone(), dice.fork());
        let workers = tokio::spawn(async move { running.run(6, &mut own).await });
        tokio::time::sleep(Duration::from_secs(run.size(60, 6))).await;
        load.stop.store(true, Ordering::SeqCst);
        workers.await.said("workers")?;
        for n in 0..run.size(200u64, 20) {
            load.put(&format!("large/{n}"), Content::dense(run.seed ^ n, 4 << 20)).await;
        }
        none_of(&load.ledger().violations)?;
        let full = server.disk_bytes();
        counted(&server).await?;
        let keys = load.ledger().keys();
        for key in keys {
            load.client.delete_object().bucket(&load.bucket).key(key).send().await.map_err(client::failure).said("delete")?;
        }
        abort_uploads(&load).await?;
        Ok::<_, String>(full)
    })?;
    println!("  full: {} on the disks; everything deleted", mib(full));
    let (used, chunks, cycles) = collect(&server, empty, full)?;
    let figure = format!(
        "{} of {} left over the empty {} after {cycles} cycles, {chunks} chunks in the index",
        mib(used.saturating_sub(empty)),
        mib(full),
        mib(empty)
    );
    if chunks == 0.0 && used <= empty + (full - empty) / 20 { Ok(figure) } else { Err(figure) }
}

/// The index's size is shown at all: or 0 at the end would mean nothing.
async fn counted(server: &Server) -> Result<(), String> {
    for _ in 0..50 {
        if server.metric("breakwater_chunks") > 0.0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err("breakwater_chunks does not count the chunks".into())
}

/// Two cycles, with the grace between them; the shards' trash has its age (1 s here) to wait for.
fn collect(server: &Server, empty: u64, full: u64) -> Result<(u64, f64, u32), String> {
    for _ in 0..2 {
        server.collect().said("collect")?;
        std::thread::sleep(Duration::from_secs(2));
    }
    let began = Instant::now();
    loop {
        let (used, chunks) = (server.disk_bytes(), server.metric("breakwater_chunks"));
        let done = chunks == 0.0 && used <= empty + (full - empty) / 20;
        if done || began.elapsed() > Duration::from_secs(30) {
            return Ok((used, chunks, 2));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

async fn abort_uploads(load: &Workload) -> Result<(), String> {
    let open = load.client.list_multipart_uploads().bucket(&load.bucket).send().await.map_err(client::failure).said("uploads")?;
    for upload in open.uploads() {
        let request = load.client.abort_multipart_upload().bucket(&load.bucket);
        let request = request.key(upload.key().unwrap_or_default()).upload_id(upload.upload_id().unwrap_or_default());
        request.send().await.map_err(client::failure).said("abort")?;
    }
    Ok(())
}
