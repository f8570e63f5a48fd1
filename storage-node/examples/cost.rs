//! What putting and getting shards costs: CPU and wall time per GiB, prints only.
//!
//! `cargo run --release --ignore-rust-version -p storage-node --example cost -- DIR [GIB]`; DIR is emptied afterwards.

use bytes::Bytes;
use spine::id::{ChunkId, Gen, KeyEpoch, ShardIndex, ShardRoot, Tag, TenantId};
use spine::wire::chunk::{Sealed, ShardName};
use spine::wire::namespace::Codec;
use spine::wire::shard::{ShardHeader, StorageNode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use storage_node::{Disk, Settings};

fn cpu() -> Duration {
    // SAFETY: rusage is plain old data, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let of = |t: libc::timeval| Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64);
    of(usage.ru_utime) + of(usage.ru_stime)
}

fn header(salt: u64, n: u64, data: &Bytes) -> ShardHeader {
    let name = ShardName {
        chunk: ChunkId(*blake3::hash(&[salt, n].map(u64::to_le_bytes).concat()).as_bytes()),
        generation: Gen(n),
        index: ShardIndex(0),
        tag: Tag(n),
    };
    let sealed =
        Sealed { tenant: TenantId(1), epoch: KeyEpoch(1), codec: Codec::Plain, len: 1 << 20, sealed_len: (1 << 20) + 16, k: 4, m: 2 };
    ShardHeader { name, sealed, root: ShardRoot([0; 32]), len: data.len() as u32 }
}

async fn measure(what: &str, disk: &Arc<Disk>, len: usize, count: u64, tasks: u64, get: bool) {
    let data = Bytes::from(vec![0xA5; len]);
    let next = Arc::new(AtomicU64::new(0));
    let (started, before) = (Instant::now(), cpu());
    let running: Vec<_> = (0..tasks)
        .map(|_| {
            let (disk, data, next) = (disk.clone(), data.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Relaxed);
                    if n >= count {
                        return;
                    }
                    let header = header(len as u64, n, &data);
                    match get {
                        true => assert_eq!(disk.get(header.name).await.expect("it was put").1.len(), len),
                        false => disk.put(header, data.clone()).await.expect("the disk takes it"),
                    }
                }
            })
        })
        .collect();
    for task in running {
        task.await.expect("no panic");
    }
    let (wall, used) = (started.elapsed(), cpu() - before);
    let gib = (count * len as u64) as f64 / (1u64 << 30) as f64;
    println!(
        "{what:>22} {len:>8} B x {count:>6}, {tasks:>3} at once: {:>7.0} ms CPU/GiB, {:>6.0} MiB/s, {:>8.1} us CPU/op, {:>7.0} op/s",
        used.as_secs_f64() * 1_000.0 / gib,
        gib * 1_024.0 / wall.as_secs_f64(),
        used.as_secs_f64() * 1e6 / count as f64,
        count as f64 / wall.as_secs_f64(),
    );
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let dir = std::path::PathBuf::from(args.next().expect("a directory to use"));
    let gib: f64 = args.next().map_or(1.0, |gib| gib.parse().expect("a number of GiB"));
    let disk = Disk::open(Settings::new(&dir)).expect("an empty directory");
    for (len, tasks) in [(262_148, 1), (262_149, 16), (16_388, 1), (16_389, 64)] {
        let bytes = gib * (1u64 << 30) as f64 * if len > 100_000 { 1.0 } else { 0.1 };
        let count = (bytes / len as f64) as u64 / if tasks == 1 { 4 } else { 1 };
        measure("put", &disk, len, count, tasks, false).await;
        measure("get", &disk, len, count, tasks, true).await;
        measure("get again", &disk, len, count, tasks, true).await;
    }
    disk.shutdown().await;
    drop(disk);
    let started = Instant::now();
    let disk = Disk::open(Settings::new(&dir)).expect("the same directory");
    println!("open again: {:?}", started.elapsed());
    disk.shutdown().await;
    drop(disk);
    std::fs::remove_dir_all(dir.join("index")).expect("an index");
    let started = Instant::now();
    let disk = Disk::open(Settings::new(&dir)).expect("the same directory");
    println!("open without its index: {:?}", started.elapsed());
    drop(disk);
    for name in ["segments", "index"] {
        std::fs::remove_dir_all(dir.join(name)).expect("it is there");
    }
    for name in ["node.json", "lock"] {
        std::fs::remove_file(dir.join(name)).expect("it is there");
    }
}
