//! Row 8: what was deleted is gone from the disks after two collector cycles.

use crate::row::{FAST_COLLECTOR, Outcome, Run, Said, mib, none_of, runtime};
use conformance::client;
use conformance::content::Content;
use conformance::files::allocated;
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
    let empty = settled(&server, 30);
    println!("  empty: the data folder takes {}", mib(empty));
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
        let full = allocated(server.data());
        counted(&server).await?;
        let keys = load.ledger().keys();
        for key in keys {
            load.client.delete_object().bucket(&load.bucket).key(key).send().await.map_err(client::failure).said("delete")?;
        }
        abort_uploads(&load).await?;
        Ok::<_, String>(full)
    })?;
    println!("  full: it takes {}; everything deleted", mib(full));
    for _ in 0..2 {
        server.collect().said("collect")?;
        std::thread::sleep(Duration::from_secs(2));
    }
    let left = settled(&server, 60);
    let chunks = server.metric("breakwater_chunks");
    let over = left.saturating_sub(empty);
    let figure = format!(
        "the data folder takes {} empty, {} full, {} after 2 cycles: {} or {:.2} % of full more than empty, {:.2} x empty; {chunks} chunks \
         in the index",
        mib(empty),
        mib(full),
        mib(left),
        mib(over),
        over as f64 * 100.0 / full.max(1) as f64,
        left as f64 / empty.max(1) as f64,
    );
    if chunks == 0.0 && over <= full / 20 { Ok(figure) } else { Err(figure) }
}

/// What the whole data folder takes, log and tables and all, once that has not changed for ten seconds, or `at_most` passed.
fn settled(server: &Server, at_most: u64) -> u64 {
    let began = Instant::now();
    let (mut bytes, mut since) = (allocated(server.data()), Instant::now());
    while since.elapsed() < Duration::from_secs(10) && began.elapsed() < Duration::from_secs(at_most) {
        std::thread::sleep(Duration::from_millis(500));
        let now = allocated(server.data());
        if now != bytes {
            (bytes, since) = (now, Instant::now());
        }
    }
    bytes
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

async fn abort_uploads(load: &Workload) -> Result<(), String> {
    let open = load.client.list_multipart_uploads().bucket(&load.bucket).send().await.map_err(client::failure).said("uploads")?;
    for upload in open.uploads() {
        let request = load.client.abort_multipart_upload().bucket(&load.bucket);
        let request = request.key(upload.key().unwrap_or_default()).upload_id(upload.upload_id().unwrap_or_default());
        request.send().await.map_err(client::failure).said("abort")?;
    }
    Ok(())
}
