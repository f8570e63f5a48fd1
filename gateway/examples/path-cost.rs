//! What the data path costs without HTTP: CPU of storing and reading, beside the sum of its primitives measured in the same run.
//!
//! `cargo run --release --ignore-rust-version --package gateway --example path-cost -- DIR [MiB a stream] [STREAMS ...]`
//! DIR is emptied of nothing: it gets a folder of its own, which is removed at the end. A RAM disk shows the CPU alone.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use bytes::Bytes;
use futures::StreamExt;
use gateway::keys::{Keys, RootKey};
use gateway::path::{DataPath, Settings};
use gateway::write::{BodyRequest, BodyStream};
use spine::id::{BucketId, Seq, TenantId, UnixMs};
use spine::wire::namespace::{Attributes, Body, Condition, Etag, NamespaceCommand, NewVersion, VersionBody, VersionHead};
use spine::wire::root::{BucketRecord, RootCommand, TenantRecord, Versioning};
use spine::wire::shard::StorageNode;
use spine::wire::{Batch, Chain, Command, Metadata, Reply};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const TENANT: TenantId = TenantId(1);
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("which folder?")?;
    let mib: usize = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let mut streams: Vec<usize> = arguments.map(|text| text.parse()).collect::<Result<_, _>>()?;
    if streams.is_empty() {
        streams = vec![1, 4, 16];
    }
    let folder = tempfile::tempdir_in(dir)?;
    for n in [1, 4, 16] {
        println!("primitives of a PUT with {n} streams: {:.0} ms a GiB; of a GET: {:.0}", put_primitives(n), get_primitives());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(folder.path(), mib, &streams))
}

async fn measure(folder: &std::path::Path, mib: usize, streams: &[usize]) -> Result<(), Failure> {
    let node = metadata::service::MetadataNode::open(metadata::service::Settings::new(folder.join("metadata"))).await?;
    let mut disks = Vec::new();
    for i in 0..6 {
        let mut settings = storage_node::Settings::new(folder.join(format!("disk{i}")));
        settings.machine = format!("disk-{i}");
        settings.label = i.to_string();
        disks.push(storage_node::Disk::open(settings)?);
    }
    let links: Vec<Arc<dyn StorageNode>> = disks.iter().map(|disk| disk.clone() as Arc<dyn StorageNode>).collect();
    let keys = Arc::new(Keys::new(RootKey::generate()?));
    let bucket = introduce(&*node, &keys).await?;
    let path = DataPath::new(Settings::default(), node.clone(), links, keys)?;
    for &n in streams {
        one(&path, bucket, mib, n).await?;
    }
    small(&path, bucket, 4 << 10, 4_000).await?;
    small(&path, bucket, 64 << 10, 2_000).await?;
    path.shutdown().await;
    node.shutdown().await;
    for disk in disks {
        disk.shutdown().await;
    }
    Ok(())
}

async fn introduce(metadata: &dyn Metadata, keys: &Keys) -> Result<BucketId, Failure> {
    let tenant = TenantRecord {
        id: TENANT,
        name: "cost".into(),
        secrets: vec![keys.new_tenant_secret(TENANT)?],
        created: UnixMs(0),
        revoked: false,
    };
    let bucket = BucketRecord {
        id: BucketId(0),
        name: "cost".into(),
        tenant: TENANT,
        created: UnixMs(0),
        chunk_bytes: 1 << 20,
        versioning: Versioning::Unversioned,
        location: String::new(),
    };
    let commands = vec![Command::Root(RootCommand::CreateTenant(tenant)), Command::Root(RootCommand::CreateBucket(bucket))];
    match metadata.propose(Batch { chain: Chain::Stop, commands }).await?.pop() {
        Some(Reply::Bucket(bucket)) => Ok(bucket.id),
        other => Err(format!("{other:?}").into()),
    }
}

/// `n` bodies at once, written and read.
async fn one(path: &Arc<DataPath>, bucket: BucketId, mib: usize, n: usize) -> Result<(), Failure> {
    // Sixteen MiB of noise, sent again and again with a counter in every chunk: no two chunks are alike, and making them costs little.
    let noise = noise(16 * MIB);
    let gib = (n * mib) as f64 / 1_024.0;
    let making = {
        let before = cpu();
        let mut tasks = Vec::new();
        for i in 0..n {
            let mut body = body(&noise, mib, (n * 1_000 + i) as u64);
            tasks.push(tokio::spawn(async move {
                while let Some(piece) = body.next().await {
                    black_box(piece.ok());
                }
            }));
        }
        for task in tasks {
            task.await?;
        }
        cpu() - before
    };
    let before = threads();
    let (cpu0, start) = (cpu(), Instant::now());
    let mut puts = Vec::new();
    for i in 0..n {
        let (path, body) = (path.clone(), body(&noise, mib, (n * 1_000 + i) as u64));
        puts.push(tokio::spawn(async move { put(&path, bucket, format!("n{n}-{i}"), (mib * MIB) as u64, body).await }));
    }
    let mut bodies = Vec::new();
    for put in puts {
        bodies.push(put.await??);
    }
    let (cpu1, wall) = (cpu(), start.elapsed());
    report("PUT", n, gib, cpu1 - cpu0 - making, wall);
    by_thread(&before, gib);
    let before = threads();
    let start = Instant::now();
    let gets: Vec<_> = bodies
        .into_iter()
        .map(|body| {
            let path = path.clone();
            tokio::spawn(async move {
                let mut stream = path.read(TENANT, &body, 0..(mib * MIB) as u64).await?;
                let mut total = 0;
                while let Some(piece) = stream.next().await {
                    total += piece?.len();
                }
                if total == mib * MIB { Ok::<_, Failure>(()) } else { Err("short".into()) }
            })
        })
        .collect();
    for get in gets {
        get.await??;
    }
    report("GET", n, gib, cpu() - cpu1, start.elapsed());
    by_thread(&before, gib);
    Ok(())
}

/// `count` bodies of `len` bytes, sixteen at a time.
async fn small(path: &Arc<DataPath>, bucket: BucketId, len: usize, count: usize) -> Result<(), Failure> {
    let (cpu0, start) = (cpu(), Instant::now());
    let noise = noise(MIB);
    let mut latencies: Vec<Duration> = futures::stream::iter(0..count)
        .map(|i| {
            let (path, mut data) = (path.clone(), noise[..len].to_vec());
            data[..8].copy_from_slice(&(i as u64).to_le_bytes());
            async move {
                let start = Instant::now();
                let body: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from(data))]));
                tokio::spawn(async move { put(&path, bucket, format!("small-{len}-{i}"), len as u64, body).await }).await??;
                Ok::<_, Failure>(start.elapsed())
            }
        })
        .buffer_unordered(16)
        .map(|latency| latency.unwrap_or_default())
        .collect()
        .await;
    latencies.sort_unstable();
    let seconds = start.elapsed().as_secs_f64();
    let micros = (cpu() - cpu0).as_secs_f64() * 1e6 / count as f64;
    println!(
        "PUT {len} bytes, 16 at once: {:.0} a second, p50 {:?}, p99 {:?}, {micros:.0} us of CPU each",
        count as f64 / seconds,
        latencies[count / 2],
        latencies[count * 99 / 100]
    );
    Ok(())
}

async fn put(path: &DataPath, bucket: BucketId, key: String, len: u64, body: BodyStream) -> Result<Body, Failure> {
    let request = BodyRequest {
        tenant: TENANT,
        chunk_bytes: 1 << 20,
        declared_len: Some(len),
        max_len: 1 << 40,
        checksums: Vec::new(),
        inline_allowed: true,
    };
    let stored = path.store(request, body).await?;
    let out = stored.body();
    let head = VersionHead {
        id: stored.version,
        seq: Seq(0),
        modified: UnixMs(1),
        size: stored.size,
        etag: Etag { md5: stored.md5, parts: None },
        checksum: None,
        attributes: Attributes::default(),
        tags: Vec::new(),
        upload: None,
    };
    let reply = path.commit(stored, move |body, manifest| {
        let new = Box::new(NewVersion { head, body: VersionBody { body, parts: Vec::new() }, manifest });
        NamespaceCommand::Commit { bucket, key, new, condition: Condition::default() }
    });
    match reply.await? {
        Reply::Committed { .. } => Ok(out),
        other => Err(format!("{other:?}").into()),
    }
}

fn body(noise: &Bytes, mib: usize, seed: u64) -> BodyStream {
    let noise = noise.clone();
    let pieces = (0..mib * 16).map(move |i| {
        let at = (i * 65_536) % noise.len();
        if i % 16 == 0 {
            let mut piece = noise[at..at + 65_536].to_vec();
            piece[..8].copy_from_slice(&seed.to_le_bytes());
            piece[8..16].copy_from_slice(&(i as u64).to_le_bytes());
            return Ok(Bytes::from(piece));
        }
        Ok(noise.slice(at..at + 65_536))
    });
    Box::pin(futures::stream::iter(pieces))
}

fn noise(len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut out);
    out.into()
}

fn report(what: &str, n: usize, gib: f64, cpu: Duration, wall: Duration) {
    let (cpu, wall) = (cpu.as_secs_f64(), wall.as_secs_f64());
    println!(
        "{what} with {n} streams: {:.0} ms of CPU a GiB, {:.0} MiB/s, peak RSS {} MiB",
        cpu * 1_000.0 / gib,
        gib * 1_024.0 / wall,
        peak_rss_mib()
    );
}

/// CPU of this process so far, user and system.
fn cpu() -> Duration {
    // SAFETY: getrusage writes one rusage and reads nothing.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1_000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// CPU so far of the threads by their names without numbers: user and system, in ms.
fn threads() -> BTreeMap<String, (f64, f64)> {
    let mut out: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else { continue };
        let name: String = stat[open + 1..close].chars().filter(|c| !c.is_ascii_digit()).collect();
        let fields: Vec<f64> = stat[close + 2..].split(' ').filter_map(|field| field.parse().ok()).collect();
        // After the state (no number): fields 14 and 15 of proc(5) in hundredths of a second.
        let slot = out.entry(name).or_default();
        slot.0 += fields.get(10).copied().unwrap_or(0.0) * 10.0;
        slot.1 += fields.get(11).copied().unwrap_or(0.0) * 10.0;
    }
    out
}

fn by_thread(before: &BTreeMap<String, (f64, f64)>, gib: f64) {
    let line = threads().into_iter().filter_map(|(name, (user, system))| {
        let (u, s) = before.get(&name).copied().unwrap_or_default();
        let (user, system) = ((user - u) / gib, (system - s) / gib);
        (user + system >= 5.0).then(|| format!("{name} {user:.0}+{system:.0}"))
    });
    println!("  user+system ms a GiB: {}", line.collect::<Vec<_>>().join(", "));
}

fn peak_rss_mib() -> i64 {
    // SAFETY: as above.
    unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage.ru_maxrss / 1_024
    }
}

/// CPU of `work` on one MiB, in ms a GiB.
fn per_gib(rounds: usize, mib_a_round: usize, mut work: impl FnMut()) -> f64 {
    work();
    let before = cpu();
    for _ in 0..rounds {
        work();
    }
    (cpu() - before).as_secs_f64() * 1_000.0 * 1_024.0 / (rounds * mib_a_round) as f64
}

fn put_primitives(streams: usize) -> f64 {
    let data: Vec<Bytes> = (0..16).map(|_| noise(MIB)).collect();
    let engine = md5_many::Md5Many::new();
    let md5 = per_gib(32 / streams.min(16), streams, || {
        let mut states = vec![md5_many::Md5State::new(); streams];
        let inputs: Vec<&[u8]> = data[..streams].iter().map(|d| d.as_ref()).collect();
        match streams {
            1 => states[0].update(inputs[0]),
            _ => engine.update_many(&mut states, &inputs),
        }
        black_box(states);
    });
    let plain = &data[0];
    let id = per_gib(64, 1, || _ = black_box(blake3::keyed_hash(&[1; 32], plain)));
    let roots = per_gib(64, 1, || (0..6).for_each(|_| _ = black_box(blake3::hash(&plain[..256 << 10]))));
    let mut copy = vec![0u8; MIB];
    let receive = per_gib(64, 1, || black_box(&mut copy).copy_from_slice(plain));
    let key = || aws_lc_rs::aead::LessSafeKey::new(aws_lc_rs::aead::UnboundKey::new(&aws_lc_rs::aead::AES_256_GCM, &[1; 32]).unwrap());
    let seal = per_gib(64, 1, || {
        let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key([0; 12]);
        let _ = black_box(key().seal_in_place_separate_tag(nonce, aws_lc_rs::aead::Aad::empty(), &mut copy));
    });
    let coder = spine::erasure::Coder::new(4, 2).unwrap();
    let mut stripes: Vec<Vec<u8>> = (0..65).map(|_| plain.to_vec()).collect();
    let code = per_gib(64, 1, || drop(black_box(coder.encode(stripes.pop().unwrap_or_default()))));
    // What a disk must at least do with six shards of a quarter MiB: write them.
    let mut file = tempfile::tempfile().unwrap();
    let write = per_gib(16, 1, || (0..6).for_each(|_| std::io::Write::write_all(&mut file, &plain[..256 << 10]).unwrap()));
    println!(
        "  md5 {md5:.0}, chunk id {id:.0}, shard roots {roots:.0}, receive copy {receive:.0}, seal {seal:.0}, code {code:.0}, write {write:.0}"
    );
    md5 + id + roots + receive + seal + code + write
}

fn get_primitives() -> f64 {
    let plain = noise(MIB);
    let hash = per_gib(64, 1, || _ = black_box(blake3::keyed_hash(&[1; 32], &plain)));
    let mut copy = vec![0u8; MIB];
    let join = per_gib(64, 1, || black_box(&mut copy).copy_from_slice(&plain));
    let key = || aws_lc_rs::aead::LessSafeKey::new(aws_lc_rs::aead::UnboundKey::new(&aws_lc_rs::aead::AES_256_GCM, &[1; 32]).unwrap());
    let open = per_gib(64, 1, || {
        let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key([0; 12]);
        let _ = black_box(key().seal_in_place_separate_tag(nonce, aws_lc_rs::aead::Aad::empty(), &mut copy));
    });
    // Reading a file's pages is a copy too.
    2.0 * hash + 2.0 * join + open
}
