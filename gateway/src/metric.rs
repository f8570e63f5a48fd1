//! Metrics of the data path, declared once, in the default registry.
//!
//! Stable names. Labels have few fixed values: never a key, a bucket or a tenant.
//! Not here: response time and errors per S3 operation (the front end), the log and the disks (their crates).

use prometheus::{
    Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets, register_gauge, register_histogram,
    register_histogram_vec, register_int_counter, register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};
use std::sync::LazyLock;
use std::time::Instant;

/// A step of the pipeline, as the `stage` label names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for the client's bytes and cutting them.
    Receive,
    /// Waiting for memory that other bodies hold.
    Admit,
    Md5,
    /// Checksums beside MD5.
    Checksum,
    /// ChunkId.
    Hash,
    Reserve,
    Compress,
    Seal,
    Encode,
    /// Shard roots.
    Root,
    Store,
    Confirm,
    Commit,
    Fetch,
    Verify,
    Decode,
    /// Decrypting, decompressing, rechecking the ChunkId.
    Open,
}

impl Stage {
    fn label(self) -> &'static str {
        match self {
            Stage::Receive => "receive",
            Stage::Admit => "admit",
            Stage::Md5 => "md5",
            Stage::Checksum => "checksum",
            Stage::Hash => "hash",
            Stage::Reserve => "reserve",
            Stage::Compress => "compress",
            Stage::Seal => "seal",
            Stage::Encode => "encode",
            Stage::Root => "root",
            Stage::Store => "store",
            Stage::Confirm => "confirm",
            Stage::Commit => "commit",
            Stage::Fetch => "fetch",
            Stage::Verify => "verify",
            Stage::Decode => "decode",
            Stage::Open => "open",
        }
    }

    /// Runs `work` and books its wall-clock time under this stage.
    pub fn time<T>(self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = work();
        self.book(start);
        out
    }

    /// As [`Stage::time`], for a future.
    pub async fn time_async<T>(self, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let out = work.await;
        self.book(start);
        out
    }

    fn book(self, start: Instant) {
        STAGES[self as usize].observe(start.elapsed().as_secs_f64());
    }
}

const ALL: [Stage; 17] = [
    Stage::Receive,
    Stage::Admit,
    Stage::Md5,
    Stage::Checksum,
    Stage::Hash,
    Stage::Reserve,
    Stage::Compress,
    Stage::Seal,
    Stage::Encode,
    Stage::Root,
    Stage::Store,
    Stage::Confirm,
    Stage::Commit,
    Stage::Fetch,
    Stage::Verify,
    Stage::Decode,
    Stage::Open,
];

/// One histogram a stage, found by its place and not by hashing a label.
static STAGES: LazyLock<Vec<Histogram>> = LazyLock::new(|| {
    let family = declared(register_histogram_vec!(
        "breakwater_path_stage_seconds",
        "Wall-clock time of one step of the data path for one chunk (or one batch, for metadata rounds)",
        &["stage"],
        declared(exponential_buckets(20e-6, 2.5, 14))
    ));
    ALL.iter().map(|stage| family.with_label_values(&[stage.label()])).collect()
});

/// A metric's declaration is wrong only if two of them share a name: a bug, seen by the first test that runs.
fn declared<T>(result: prometheus::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("a metric is declared twice or wrongly: {error}"))
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $metric:literal, $help:literal) => {
        $(#[$doc])*
        pub static $name: LazyLock<IntCounter> = LazyLock::new(|| declared(register_int_counter!($metric, $help)));
    };
}

macro_rules! gauge {
    ($(#[$doc:meta])* $name:ident, $metric:literal, $help:literal) => {
        $(#[$doc])*
        pub static $name: LazyLock<IntGauge> = LazyLock::new(|| declared(register_int_gauge!($metric, $help)));
    };
}

counter!(BYTES_IN, "breakwater_path_received_bytes_total", "Bytes of bodies received, before dedup and compression");
counter!(BYTES_OUT, "breakwater_path_sent_bytes_total", "Bytes of bodies handed to clients, verified");
counter!(CHUNKS_NEW, "breakwater_path_chunks_new_total", "Chunks that had to be sealed and stored");
counter!(DEDUP_HITS, "breakwater_path_dedup_hits_total", "Chunks that were stored already");
counter!(DEDUP_SAVED, "breakwater_path_dedup_saved_bytes_total", "Plaintext bytes of chunks that were stored already");
counter!(PLAIN_BYTES, "breakwater_path_plain_bytes_total", "Plaintext bytes of new chunks");
counter!(SEALED_BYTES, "breakwater_path_sealed_bytes_total", "Bytes of new chunks, compressed and encrypted");
counter!(STORED_BYTES, "breakwater_path_stored_bytes_total", "Bytes of shards that nodes acknowledged as synced");
counter!(INLINE_BODIES, "breakwater_path_inline_bodies_total", "Bodies stored inside their version's record");
counter!(SHARDS_OWED, "breakwater_path_shards_left_owing_total", "Shards that a write left to be delivered later");
counter!(QUORUM_FAILURES, "breakwater_path_quorum_failures_total", "Chunks refused because too few nodes synced a shard");
counter!(HEDGES, "breakwater_path_hedged_reads_total", "Parity shards asked for because a data shard was slow");
counter!(HEDGED_WRITES, "breakwater_path_hedged_writes_total", "Shards put on another node as well because theirs kept the quorum waiting");
counter!(DECODES, "breakwater_path_decoded_chunks_total", "Chunks read with a data shard missing");
counter!(READ_FAILURES, "breakwater_path_unreadable_chunks_total", "Chunk reads refused because too few good shards could be reached");
counter!(COLLECTED, "breakwater_collector_chunks_deleted_total", "Chunks whose shards were trashed and whose record was forgotten");
counter!(CONDEMNED, "breakwater_collector_chunks_condemned_total", "Chunks without references that began their grace");
counter!(OUTBOX_DONE, "breakwater_collector_versions_released_total", "Terminal versions whose references were dropped");
counter!(
    INTENTS_ABORTED,
    "breakwater_collector_intents_aborted_total",
    "Unfinished writes aborted, of this writer, of dead ones, or out of time"
);
gauge!(SNAPSHOT_BYTES, "breakwater_snapshot_bytes", "Bytes of the newest copy of metadata that this gateway put into the store");
gauge!(
    SNAPSHOT_TIME,
    "breakwater_snapshot_time_seconds",
    "When the newest copy of metadata in the store was made, as far as this gateway knows, by the clock of the one that made it"
);
gauge!(
    METADATA_CERTIFICATE_END,
    "breakwater_metadata_certificate_end_seconds",
    "When the certificate of this metadata node ends, since 1970; 0 where there is none"
);
gauge!(COLLECTION_HELD, "breakwater_collector_held", "1 while nothing is collected until an operator releases it, as after re-indexing");
counter!(REPAIRED, "breakwater_repair_shards_total", "Owed shards delivered");
counter!(REPAIR_FAILURES, "breakwater_repair_failures_total", "Owed shards that could not be delivered this time");
counter!(ORPHANS, "breakwater_sweep_orphan_shards_total", "Shards trashed because the index proved that nobody refers to them");
counter!(SWEEP_HALTS, "breakwater_sweep_halts_total", "Sweeps of a node halted because more looked orphaned than can be believed");

counter!(SHARDS_ABSENT, "breakwater_audit_absent_shards_total", "Placed shards that a node, asked for all it should have, did not have");
counter!(SCRUB_FINDS, "breakwater_scrub_reported_shards_total", "Damaged shards that nodes found by reading and reported");
counter!(AUDIT_SUSPENSIONS, "breakwater_audit_suspensions_total", "Nodes suspended because they failed audits");

gauge!(
    REPAIR_RATE,
    "breakwater_repair_allowed_bytes_per_second",
    "Bytes of sealed chunks that repair may work on a second, as the foreground's latency allows"
);

gauge!(REPAIR_WAITING, "breakwater_repair_waiting_chunks", "Chunks found in need of repair and not seen to yet");
gauge!(DRAIN_LEFT, "breakwater_drain_shards_left", "Shards placed on nodes that are being emptied");
gauge!(
    REBALANCE_WORST,
    "breakwater_rebalance_worst_permille",
    "The farthest that a node is from its share, thousandths of it, as counted last"
);
gauge!(REBALANCE_SURPLUS, "breakwater_rebalance_bytes_left", "Bytes still to be moved by the rebalancing that is running");

gauge!(CHUNKS, "breakwater_chunks", "Chunks in the index");
gauge!(CHUNK_REFERENCES, "breakwater_chunk_references", "References from versions to chunks");
gauge!(CHUNKS_OWED, "breakwater_chunks_missing_shards", "Chunks that miss at least one shard");
gauge!(DURABLE_PLAIN, "breakwater_chunk_plain_bytes", "Plaintext bytes of durable chunks, each counted once");
gauge!(DURABLE_SEALED, "breakwater_chunk_sealed_bytes", "Sealed bytes of durable chunks, before erasure coding");
gauge!(WRITE_MEMORY_FREE, "breakwater_path_write_memory_free_bytes", "Body memory that writes may still take");
gauge!(READ_MEMORY_FREE, "breakwater_path_read_memory_free_bytes", "Body memory that reads may still take");
gauge!(WRITES_OPEN, "breakwater_path_writes_open", "Bodies being stored, or stored and not committed");

gauge!(LINKS_LOST, "breakwater_links_lost", "Nodes on other machines that do not answer");

/// Calls to nodes on other machines that had no usable answer.
pub static LINK_FAILURES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    declared(register_int_counter_vec!(
        "breakwater_link_failures_total",
        "Calls to nodes on other machines without a usable answer",
        &["call"]
    ))
});

/// How much slower the foreground's slowest hundredth is beside repair than without.
pub static FOREGROUND_SLOWDOWN: LazyLock<Gauge> = LazyLock::new(|| {
    declared(register_gauge!(
        "breakwater_repair_foreground_slowdown_ratio",
        "p99 of storing or fetching a chunk while repair works, over p99 while it rests; the worst kind of chunk, as judged last"
    ))
});

/// What was held against nodes beside failed questions of audits.
pub static STRIKES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    declared(register_int_counter_vec!(
        "breakwater_node_strikes_total",
        "Failures held against nodes, beside questions of audits: shards that reads found wrong, surveys in which a node lacked shards, gets that kept breaking off, too many shards that it says are damaged",
        &["cause"]
    ))
});

/// Shards that were placed anew, by why.
pub static MOVED_SHARDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    declared(register_int_counter_vec!("breakwater_moved_shards_total", "Shards placed on another node, by why", &["why"]))
});

/// Their bytes.
pub static MOVED_BYTES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    declared(register_int_counter_vec!("breakwater_moved_bytes_total", "Bytes of shards placed on another node, by why", &["why"]))
});

/// Chunks by what they can still lose, as counted last.
pub static CHUNKS_BY_SPARE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    declared(register_int_gauge_vec!(
        "breakwater_chunks_by_spare_shards",
        "Chunks by how many shards on nodes that answer they have beyond what a read takes, as counted last",
        &["spare"]
    ))
});

/// What questions of audits came to.
pub static AUDIT_ANSWERS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    declared(register_int_counter_vec!("breakwater_audit_slices_total", "Slices that nodes were asked to prove, by outcome", &["outcome"]))
});

/// What the operator lets the nodes of the fleet do.
pub static FLEET_NODES: LazyLock<IntGaugeVec> =
    LazyLock::new(|| declared(register_int_gauge_vec!("breakwater_fleet_nodes", "Nodes of the fleet by the operator's word", &["state"])));

/// Whether this process collects, repairs and audits; of several gateways one does.
pub static BACKGROUND_HERE: LazyLock<IntGauge> = LazyLock::new(|| {
    declared(register_int_gauge!(
        "breakwater_background_here",
        "1 while this process collects, repairs and audits, of several gateways one"
    ))
});

/// Requests of nodes for certificates.
pub static ADMISSIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    declared(register_int_counter_vec!("breakwater_fleet_admissions_total", "Requests of nodes for certificates", &["request", "outcome"]))
});

/// What requests knew already, and what they had to ask for.
pub static LOOKUPS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    declared(register_int_counter_vec!(
        "breakwater_path_lookups_total",
        "Buckets, manifests and placements that requests needed, by where they came from",
        &["what", "from"]
    ))
});

/// What a read found wrong with a shard.
pub static READ_DAMAGE: LazyLock<IntCounterVec> = LazyLock::new(|| {
    declared(register_int_counter_vec!(
        "breakwater_path_shard_faults_total",
        "Shards that a read could not use, by what was wrong",
        &["fault"]
    ))
});

/// Chunks that re-indexing came by.
pub static REINDEXED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    declared(register_int_counter_vec!(
        "breakwater_reindex_chunks_total",
        "Chunks that re-indexing found on nodes, by what became of them",
        &["outcome"]
    ))
});

/// Copies of metadata for the store.
pub static SNAPSHOTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    declared(register_int_counter_vec!(
        "breakwater_snapshots_total",
        "Copies of metadata for the store, by what became of them",
        &["outcome"]
    ))
});

/// Streams that one pass of the MD5 lanes advanced together.
pub static LANES_SHARED: LazyLock<Histogram> = LazyLock::new(|| {
    declared(register_histogram!(
        "breakwater_md5_streams_per_pass",
        "Streams advanced together in one pass of the shared MD5 lanes",
        vec![1.0, 2.0, 3.0, 4.0, 8.0, 16.0]
    ))
});

/// Makes every family appear, at zero, before the first request.
pub fn declare() {
    let counters = [
        &BYTES_IN,
        &BYTES_OUT,
        &CHUNKS_NEW,
        &DEDUP_HITS,
        &DEDUP_SAVED,
        &PLAIN_BYTES,
        &SEALED_BYTES,
        &STORED_BYTES,
        &INLINE_BODIES,
        &SHARDS_OWED,
        &QUORUM_FAILURES,
        &HEDGES,
        &HEDGED_WRITES,
        &DECODES,
        &READ_FAILURES,
        &COLLECTED,
        &CONDEMNED,
        &OUTBOX_DONE,
        &INTENTS_ABORTED,
        &REPAIRED,
        &REPAIR_FAILURES,
        &ORPHANS,
        &SWEEP_HALTS,
        &SHARDS_ABSENT,
        &SCRUB_FINDS,
        &AUDIT_SUSPENSIONS,
    ];
    counters.iter().for_each(|counter| counter.inc_by(0));
    let gauges = [
        &CHUNKS,
        &CHUNK_REFERENCES,
        &CHUNKS_OWED,
        &DURABLE_PLAIN,
        &DURABLE_SEALED,
        &SNAPSHOT_BYTES,
        &SNAPSHOT_TIME,
        &METADATA_CERTIFICATE_END,
        &WRITE_MEMORY_FREE,
        &READ_MEMORY_FREE,
        &WRITES_OPEN,
        &COLLECTION_HELD,
    ];
    gauges.iter().for_each(|gauge| gauge.add(0));
    declare_labelled();
}

/// Those that have labels, with every value that a label can take, and the gauges of single parts.
fn declare_labelled() {
    LINKS_LOST.add(0);
    for gauge in [&REPAIR_WAITING, &DRAIN_LEFT, &REBALANCE_WORST, &REBALANCE_SURPLUS] {
        gauge.add(0);
    }
    for why in crate::progress::Why::ALL {
        MOVED_SHARDS.with_label_values(&[why.word()]).inc_by(0);
        MOVED_BYTES.with_label_values(&[why.word()]).inc_by(0);
    }
    for spare in ["unreadable", "0", "1", "2"] {
        CHUNKS_BY_SPARE.with_label_values(&[spare]).add(0);
    }
    REPAIR_RATE.add(0);
    FOREGROUND_SLOWDOWN.add(0.0);
    for cause in ["read", "absent", "broken", "damaged"] {
        STRIKES.with_label_values(&[cause]).inc_by(0);
    }
    BACKGROUND_HERE.add(0);
    for state in ["active", "draining", "suspended", "retired"] {
        FLEET_NODES.with_label_values(&[state]).add(0);
    }
    for (request, outcome) in [
        ("join", "admitted"),
        ("join", "refused"),
        ("renew", "admitted"),
        ("renew", "refused"),
        ("enlist", "admitted"),
        ("enlist", "refused"),
        ("enlist/renew", "admitted"),
        ("enlist/renew", "refused"),
    ] {
        ADMISSIONS.with_label_values(&[request, outcome]).inc_by(0);
    }
    for outcome in ["proven", "missing", "damaged", "wrong", "unanswered", "moved"] {
        AUDIT_ANSWERS.with_label_values(&[outcome]).inc_by(0);
    }
    for call in spine::wire::peer::Call::ALL {
        LINK_FAILURES.with_label_values(&[call.name()]).inc_by(0);
    }
    for what in ["bucket", "manifest", "placement"] {
        for from in ["memory", "metadata"] {
            LOOKUPS.with_label_values(&[what, from]).inc_by(0);
        }
    }
    for fault in ["missing", "damaged", "wrong_root", "unavailable"] {
        READ_DAMAGE.with_label_values(&[fault]).inc_by(0);
    }
    for outcome in ["restored", "known", "too_few", "locked", "damaged"] {
        REINDEXED.with_label_values(&[outcome]).inc_by(0);
    }
    for outcome in ["kept", "failed"] {
        SNAPSHOTS.with_label_values(&[outcome]).inc_by(0);
    }
    LazyLock::force(&STAGES);
    LazyLock::force(&LANES_SHARED);
    routing::metric::register();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_declared_once_and_every_stage_has_its_own_place() {
        declare();
        for (place, stage) in ALL.iter().enumerate() {
            assert_eq!(*stage as usize, place);
        }
        let names: Vec<String> = prometheus::gather().iter().map(|family| family.name().to_string()).collect();
        assert!(names.iter().any(|name| name == "breakwater_path_stage_seconds"));
        assert!(names.iter().any(|name| name == "breakwater_chunks_missing_shards"));
    }
}
