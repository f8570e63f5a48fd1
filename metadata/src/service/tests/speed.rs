//! How fast: printed, and held to bounds that only a mistake breaks.

use super::*;
use spine::id::{BucketId, ChunkId, KeyEpoch, Seq, VersionId};
use spine::wire::namespace::{
    Attributes, Body, Codec, Condition, Etag, NamespaceAnswer, NamespaceCommand, NamespaceQuery, NewVersion, VersionBody, VersionHead,
};
use spine::wire::root::{BucketRecord, Versioning};

/// CPU time of this process so far, in seconds.
fn cpu() -> f64 {
    // SAFETY: plain out parameter.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn key(n: u64) -> String {
    format!("data/{:03}/object-{n:09}", n * 7_919 % 997)
}

fn put(bucket: BucketId, n: u64, body: usize) -> Batch {
    let mut version = [0; 16];
    version[..8].copy_from_slice(&n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    let head = VersionHead {
        id: VersionId(version),
        seq: Seq(0),
        modified: UnixMs(1_700_000_000_000 + n),
        size: body as u64,
        etag: Etag { md5: version, parts: None },
        checksum: None,
        attributes: Attributes { content_type: Some("application/octet-stream".into()), ..Attributes::default() },
        tags: Vec::new(),
        upload: None,
    };
    let body = Body::Inline {
        epoch: KeyEpoch(0),
        codec: Codec::Plain,
        id: ChunkId([n as u8; 32]),
        len: body as u32,
        sealed: vec![n as u8; body + 16].into(),
    };
    let new = Box::new(NewVersion { head, body: VersionBody { body, parts: Vec::new() }, manifest: None });
    let commit = NamespaceCommand::Commit { bucket, key: key(n), new, condition: Condition::default() };
    Batch { chain: Chain::Stop, commands: vec![Command::Namespace(commit)] }
}

async fn bucket(node: &MetadataNode) -> BucketId {
    node.propose(tenant(1)).await.unwrap();
    let record = BucketRecord {
        id: BucketId(0),
        name: "bucket".into(),
        tenant: TenantId(1),
        created: UnixMs(1),
        chunk_bytes: 1 << 20,
        versioning: Versioning::Unversioned,
        location: String::new(),
    };
    let batch = Batch { chain: Chain::Stop, commands: vec![Command::Root(RootCommand::CreateBucket(record))] };
    match &node.propose(batch).await.unwrap()[..] {
        [Reply::Bucket(bucket)] => bucket.id,
        other => panic!("{other:?}"),
    }
}

/// Proposals a sync.
async fn measure(node: &Arc<MetadataNode>, bucket: BucketId, clients: u64, count: u64, first: u64, body: usize) -> f64 {
    let (begun, cpu_before) = (Instant::now(), cpu());
    let mut tasks = tokio::task::JoinSet::new();
    let syncs = metric::LOG_SYNC_SECONDS.get_sample_count();
    for client in 0..clients {
        let node = node.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            for n in 0..count / clients {
                let begun = Instant::now();
                let replies = node.propose(put(bucket, first + n * clients + client, body)).await.unwrap();
                assert!(matches!(replies[..], [Reply::Committed { .. }]), "{replies:?}");
                times.push(begun.elapsed());
            }
            times
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done.unwrap());
    }
    let (seconds, used) = (begun.elapsed().as_secs_f64(), cpu() - cpu_before);
    times.sort();
    let done = times.len() as f64;
    let syncs = metric::LOG_SYNC_SECONDS.get_sample_count() - syncs;
    println!(
        "{clients:>3} clients, {body:>4} B: {:>6.0} proposals/s, p50 {:?}, p99 {:?}, {:.0} us CPU each, {:.1} proposals a sync",
        done / seconds,
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        used / done * 1e6,
        done / syncs as f64
    );
    done / syncs as f64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_small_writes_share_syncs_and_a_long_log_replays_quickly() {
    let dir = tempfile::tempdir().unwrap();
    let never = Settings { checkpoint_bytes: u64::MAX, checkpoint_interval: Duration::from_secs(3_600), ..Settings::new(dir.path()) };
    let node = MetadataNode::open(never.clone()).await.unwrap();
    let bucket = bucket(&node).await;
    let mut first = 0;
    let mut sharing = Vec::new();
    for (clients, count, body) in
        [(1, 1_000, 4_096), (16, 8_000, 4_096), (64, 8_000, 4_096), (1, 1_000, 100), (16, 16_000, 100), (64, 32_000, 100)]
    {
        sharing.push(measure(&node, bucket, clients, count, first, body).await);
        first += count;
    }
    assert!(sharing[0] <= 1.0 && sharing[1] > 1.5 && sharing[2] > 4.0, "concurrent writers share syncs: {sharing:?}");
    let begun = Instant::now();
    let reads = 20_000;
    for n in 0..reads {
        let head = node.query(Query::Namespace(NamespaceQuery::Head { bucket, key: key(n % first) })).await.unwrap();
        assert!(matches!(head, Answer::Namespace(NamespaceAnswer::Head(Some(_)))));
    }
    println!("head: {:.1} us", begun.elapsed().as_secs_f64() / reads as f64 * 1e6);
    let (entries, bytes) = (node.root.group.applied_index(), node.groups.means.journal.written_bytes());
    node.kill().await;
    drop(node);
    let begun = Instant::now();
    let node = MetadataNode::open(never).await.unwrap();
    let took = begun.elapsed();
    println!(
        "replay: {entries} entries, {first} proposals, {} MiB of log in {took:?}, {:.0} proposals/s",
        bytes >> 20,
        first as f64 / took.as_secs_f64()
    );
    assert!(has(&node, 1).await);
    let begun = Instant::now();
    node.shutdown().await;
    println!("checkpoint at shutdown: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_long_load_the_log_stays_short_and_the_table_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { checkpoint_bytes: 8 << 20, ..small(dir.path()) };
    let node = MetadataNode::open(settings).await.unwrap();
    let bucket = bucket(&node).await;
    // The same 2,000 objects, overwritten again and again.
    let begun = Instant::now();
    for round in 0.. {
        measure(&node, bucket, 16, 2_000, 0, 4_096).await;
        // Longer than what is looked at now and then, however fast the machine is.
        if round >= 9 && begun.elapsed() > Duration::from_secs(4) {
            break;
        }
    }
    let ended = Instant::now();
    let count = || fs::read_dir(dir.path().join("log")).unwrap().count();
    while count() >= 16 && ended.elapsed() < Duration::from_secs(4) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let files = count();
    let high = node.checkpoints().table().usage().high_bytes;
    println!("{files} log files of 4 MiB after {} MiB; table {} MiB", node.groups.means.journal.written_bytes() >> 20, high >> 20);
    assert!(node.groups.means.journal.written_bytes() > 80 << 20 && files < 16, "{files}");
    assert!(high < 200 << 20, "{high}");
    node.kill().await;
    drop(node);
    let begun = Instant::now();
    let node = MetadataNode::open(small(dir.path())).await.unwrap();
    println!("restart in {:?}", begun.elapsed());
    let head = node.query(Query::Namespace(NamespaceQuery::Head { bucket, key: key(1_999) })).await.unwrap();
    assert!(matches!(head, Answer::Namespace(NamespaceAnswer::Head(Some(_)))));
    node.shutdown().await;
}
