//! What the state machines cost on LMDB, without the log: `cargo run --release --ignore-rust-version -p metadata --example machine-cost -- DIR [KEYS]`.
//!
//! Fills a table in DIR with KEYS objects (default 200,000) and as many chunks, then measures single commands and listing pages
//! in it. Microseconds on one core; the commit of the table's transaction, which many commands share, is measured apart.

use bytes::Bytes;
use metadata::lmdb::Table;
use metadata::machine::{answer, apply};
use metadata::table::TableWrite;
use spine::id::*;
use spine::wire::chunk::*;
use spine::wire::namespace::*;
use spine::wire::range::ALL_CHUNKS;
use spine::wire::root::{BucketRecord, RootCommand, Versioning};
use spine::wire::{Batch, Chain, Command, Query};
use std::path::PathBuf;
use std::time::Instant;

const BUCKET: BucketId = BucketId(1);
const GROUP: GroupId = GroupId(0);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("name a directory for the table")?);
    let keys: u64 = args.next().map_or(Ok(200_000), |keys| keys.parse())?;
    std::fs::create_dir_all(&dir)?;
    let table = Table::open(&dir, 64 << 30)?;
    let mut write = table.write()?;
    run(&mut write, vec![Command::Root(bucket())])?;
    for n in 0..keys / 16 {
        run(&mut write, (0..16).map(|i| put(n * 16 + i, 0)).collect())?;
        run(&mut write, vec![reserve(n, n * 16)])?;
        run(&mut write, vec![confirm(n, n * 16)])?;
    }
    write.commit()?;
    println!("table: {keys} objects of 100 to a directory, {keys} chunks");

    let mut write = table.write()?;
    measure("put of a new inline object", 10_000, |n| run(&mut write, vec![put(keys + n, 0)]))?;
    measure("overwrite of an inline object", 10_000, |n| run(&mut write, vec![put(n * 7 % keys, 1)]))?;
    let begun = Instant::now();
    write.commit()?;
    println!("{:>40}: {:8.1} us", "commit of those 20,000", begun.elapsed().as_secs_f64() * 1e6);

    let mut write = table.write()?;
    measure("reserve of 16 new chunks", 1_000, |n| run(&mut write, vec![reserve(keys + n, (keys + n) * 16)]))?;
    measure("confirm of 16 chunks", 1_000, |n| run(&mut write, vec![confirm(keys + n, (keys + n) * 16)]))?;
    measure("reserve of 16 chunks that are there", 1_000, |n| run(&mut write, vec![reserve(2 * keys + n, n * 16 % keys)]))?;
    measure("unref of 16 chunks", 1_000, |n| {
        run(&mut write, vec![Command::Chunk(ChunkCommand::Unref { version: version(2 * keys + n, 9), span: ALL_CHUNKS })])
    })?;
    write.commit()?;

    let read = table.read()?;
    let query = |after: String, delimiter: &str| {
        let query = ListQuery { bucket: BUCKET, prefix: String::new(), delimiter: delimiter.into(), after: Some(after), max: 1_000 };
        Query::Namespace(NamespaceQuery::List { query, place: None })
    };
    measure("head", 10_000, |n| {
        answer(&read, GROUP, &Query::Namespace(NamespaceQuery::Head { bucket: BUCKET, key: key(n * 7 % keys) })).map(drop)
    })?;
    measure("listing of 1,000 keys", 100, |n| answer(&read, GROUP, &query(key(n * 1_000 % keys), "")).map(drop))?;
    measure("listing of 1,000 prefixes", 100, |n| answer(&read, GROUP, &query(key(n * 100), "/")).map(drop))?;
    Ok(())
}

fn measure<E>(what: &str, times: u64, mut step: impl FnMut(u64) -> Result<(), E>) -> Result<(), E> {
    let begun = Instant::now();
    for n in 0..times {
        step(n)?;
    }
    println!("{what:>40}: {:8.1} us", begun.elapsed().as_secs_f64() * 1e6 / times as f64);
    Ok(())
}

fn run(table: &mut dyn TableWrite, commands: Vec<Command>) -> Result<(), Box<dyn std::error::Error>> {
    apply(table, GROUP, &Batch { chain: Chain::Stop, commands }, Seq(1))?;
    Ok(())
}

fn version(n: u64, kind: u8) -> VersionId {
    VersionId(spread(n, kind)[..16].try_into().unwrap_or_default())
}

/// Spreads numbers like hashes, without needing one.
fn spread(n: u64, kind: u8) -> [u8; 32] {
    let mut state = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(kind);
    let mut out = [0; 32];
    for word in out.chunks_exact_mut(8) {
        state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) ^ n;
        word.copy_from_slice(&state.to_le_bytes());
    }
    out
}

fn key(n: u64) -> String {
    format!("{:06}/file-{:02}.bin", n / 100, n % 100)
}

fn put(n: u64, kind: u8) -> Command {
    let id = ChunkId(spread(n, kind));
    let body = Body::Inline { epoch: KeyEpoch(1), codec: Codec::Plain, id, len: 4_096, sealed: Bytes::from(vec![0x5A; 4_112]) };
    let attributes = Attributes {
        content_type: Some("application/octet-stream".into()),
        user: vec![("mtime".into(), "1700000000.123".into())],
        ..Attributes::default()
    };
    let head = VersionHead {
        id: version(n, kind),
        seq: Seq(0),
        modified: UnixMs(1),
        size: 4_096,
        etag: Etag { md5: [7; 16], parts: None },
        checksum: None,
        attributes,
        tags: vec![],
        upload: None,
    };
    let new = NewVersion { head, body: VersionBody { body, parts: vec![] }, manifest: None };
    Command::Namespace(NamespaceCommand::Commit { bucket: BUCKET, key: key(n), new: Box::new(new), condition: Condition::default() })
}

fn reserve(holder: u64, first: u64) -> Command {
    Command::Chunk(ChunkCommand::Reserve {
        version: version(holder, 9),
        chunks: (first..first + 16).map(|n| ChunkId(spread(n, 8))).collect(),
    })
}

/// Confirms what the reserve of the same numbers was given: this program counts generations along.
fn confirm(holder: u64, first: u64) -> Command {
    thread_local!(static GENERATION: std::cell::Cell<u64> = const { std::cell::Cell::new(1) });
    let from = GENERATION.with(|next| next.replace(next.get() + 16));
    let sealed =
        Sealed { tenant: TenantId(1), epoch: KeyEpoch(1), codec: Codec::Plain, len: 1 << 20, sealed_len: (1 << 20) + 16, k: 4, m: 2 };
    let place = |generation, node| Some(Place { node: NodeId([node; 32]), tag: Tag(generation), root: ShardRoot([node; 32]) });
    let confirmation = |n: u64| {
        let generation = from + (n - first);
        let placement = Placement { sealed, shards: (0..6).map(|node| place(generation, node)).collect() };
        Confirmation { chunk: ChunkId(spread(n, 8)), generation: Gen(generation), placement }
    };
    Command::Chunk(ChunkCommand::Confirm { version: version(holder, 9), chunks: (first..first + 16).map(confirmation).collect() })
}

fn bucket() -> RootCommand {
    RootCommand::CreateBucket(BucketRecord {
        id: BucketId(0),
        name: "bench".into(),
        tenant: TenantId(1),
        created: UnixMs(1),
        chunk_bytes: 1 << 20,
        versioning: Versioning::Unversioned,
        location: String::new(),
    })
}
