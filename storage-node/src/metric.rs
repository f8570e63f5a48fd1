//! The metrics of storage nodes: of each disk, under its number in its process, and of the process towards its peers.

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_histogram_vec, register_int_counter_vec,
    register_int_gauge, register_int_gauge_vec,
};
use std::sync::LazyLock;

const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Metrics are declared once with fixed names: registering them fails only if two have one name.
fn histogram(name: &str, help: &str) -> HistogramVec {
    register_histogram_vec!(name, help, &["disk"], SECONDS.to_vec()).expect("a metric is declared once")
}

fn counter(name: &str, help: &str) -> IntCounterVec {
    register_int_counter_vec!(name, help, &["disk"]).expect("a metric is declared once")
}

fn gauge(name: &str, help: &str) -> IntGaugeVec {
    register_int_gauge_vec!(name, help, &["disk"]).expect("a metric is declared once")
}

macro_rules! family {
    ($($static:ident $field:ident: $vec:ident -> $one:ident = $make:ident($name:literal, $help:literal);)*) => {
        $(static $static: LazyLock<$vec> = LazyLock::new(|| $make($name, $help));)*

        /// The metrics of one disk.
        pub struct DiskMetrics { $(pub $field: $one,)* }

        impl DiskMetrics {
            pub fn new(disk: &str) -> Self {
                declare_peers();
                Self { $($field: $static.with_label_values(&[disk]),)* }
            }
        }
    };
}

family! {
    PUT_SECONDS put_seconds: HistogramVec -> Histogram = histogram("breakwater_node_put_seconds", "Time from a put's arrival until its shard is synced to disk.");
    GET_SECONDS get_seconds: HistogramVec -> Histogram = histogram("breakwater_node_get_seconds", "Time from a get's arrival until its shard is read.");
    SYNC_SECONDS sync_seconds: HistogramVec -> Histogram = histogram("breakwater_node_sync_seconds", "Time of one sync of the open segment.");
    WRITTEN written_bytes: IntCounterVec -> IntCounter = counter("breakwater_node_written_bytes_total", "Bytes of shards stored.");
    READ read_bytes: IntCounterVec -> IntCounter = counter("breakwater_node_read_bytes_total", "Bytes of shards read.");
    SHARDS shards: IntGaugeVec -> IntGauge = gauge("breakwater_node_shards", "Shards held, without trash.");
    SHARD_BYTES shard_bytes: IntGaugeVec -> IntGauge = gauge("breakwater_node_shard_bytes", "Bytes of shards held, without trash.");
    TRASH_BYTES trash_bytes: IntGaugeVec -> IntGauge = gauge("breakwater_node_trash_bytes", "Bytes of shards removed but still on disk.");
    CAPACITY capacity_bytes: IntGaugeVec -> IntGauge = gauge("breakwater_node_capacity_bytes", "Bytes the disk may hold.");
    FREE free_bytes: IntGaugeVec -> IntGauge = gauge("breakwater_node_free_bytes", "Bytes the disk may still take.");
    SERVING serving: IntGaugeVec -> IntGauge = gauge("breakwater_node_serving", "1 while the disk serves, 0 while it is lost.");
    COMPACTED compacted_bytes: IntCounterVec -> IntCounter = counter("breakwater_node_compaction_copied_bytes_total", "Bytes that compaction copied.");
    FREED freed_bytes: IntCounterVec -> IntCounter = counter("breakwater_node_compaction_freed_bytes_total", "Bytes of segments that compaction deleted.");
    DAMAGED damaged: IntCounterVec -> IntCounter = counter("breakwater_node_damaged_total", "Shards found damaged.");
    SCRUBBED scrubbed_bytes: IntCounterVec -> IntCounter = counter("breakwater_node_scrubbed_bytes_total", "Bytes of shards that the scrub read and checked.");
    SCRUB_ROUNDS scrub_rounds: IntGaugeVec -> IntGauge = gauge("breakwater_node_scrub_rounds", "Rounds of the scrub finished since the disk was made.");
}

/// Calls of the data plane by call and by `ok` or `error`.
pub static PEER_CALLS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("breakwater_peer_calls_total", "Calls that peers made on this process's nodes.", &["call", "outcome"])
        .expect("a metric is declared once")
});

pub static PEER_CONNECTIONS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("breakwater_peer_connections", "Open connections of admitted peers.").expect("a metric is declared once")
});

/// By what ended or refused the connection: `certificate`, `handshake`, `handshakes`, `slow`, `node`, `connections`, `stalled`.
pub static PEER_REFUSALS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("breakwater_peer_refusals_total", "Connections refused or cut.", &["why"]).expect("a metric is declared once")
});

/// Makes the families of peers appear, at zero, before the first one comes.
fn declare_peers() {
    for call in spine::wire::peer::Call::ALL {
        PEER_CALLS.with_label_values(&[call.name(), "ok"]).inc_by(0);
    }
    PEER_CONNECTIONS.add(0);
    PEER_REFUSALS.with_label_values(&["certificate"]).inc_by(0);
}
