//! Every metric of the metadata service: name, unit, labels, buckets.

use prometheus::{
    Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, histogram_opts, register_gauge, register_histogram,
    register_histogram_vec, register_int_counter, register_int_counter_vec, register_int_gauge,
};
use spine::wire::cluster::Call;
use std::sync::LazyLock;

/// From what a call costs in memory to what a bad disk takes.
const SECONDS: &[f64] =
    &[0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

macro_rules! metric {
    ($name:ident: Histogram, $text:literal, $help:literal, $buckets:expr) => {
        pub static $name: LazyLock<Histogram> =
            LazyLock::new(|| register_histogram!(histogram_opts!($text, $help, $buckets.to_vec())).expect("a metric is registered once"));
    };
    ($name:ident: HistogramVec, $text:literal, $help:literal, $buckets:expr, $label:literal) => {
        pub static $name: LazyLock<HistogramVec> = LazyLock::new(|| {
            register_histogram_vec!(histogram_opts!($text, $help, $buckets.to_vec()), &[$label]).expect("a metric is registered once")
        });
    };
    ($name:ident: Counter, $text:literal, $help:literal) => {
        pub static $name: LazyLock<IntCounter> =
            LazyLock::new(|| register_int_counter!($text, $help).expect("a metric is registered once"));
    };
    ($name:ident: CounterVec, $text:literal, $help:literal, $labels:expr) => {
        pub static $name: LazyLock<IntCounterVec> =
            LazyLock::new(|| register_int_counter_vec!($text, $help, &$labels).expect("a metric is registered once"));
    };
    ($name:ident: Rate, $text:literal, $help:literal) => {
        pub static $name: LazyLock<Gauge> = LazyLock::new(|| register_gauge!($text, $help).expect("a metric is registered once"));
    };
    ($name:ident: Gauge, $text:literal, $help:literal) => {
        pub static $name: LazyLock<IntGauge> = LazyLock::new(|| register_int_gauge!($text, $help).expect("a metric is registered once"));
    };
}

metric!(LOG_SYNC_SECONDS: Histogram, "breakwater_metadata_log_sync_seconds", "One write and sync of the log.", SECONDS);
metric!(LOG_ENTRIES: Counter, "breakwater_metadata_log_entries_total", "Entries written to the log.");
metric!(LOG_BYTES: Counter, "breakwater_metadata_log_bytes_total", "Bytes written to the log, padding included.");
metric!(ENTRY_BATCHES: Histogram, "breakwater_metadata_entry_batches", "Proposed batches that share one log entry.", COUNTS);
metric!(APPLY_SECONDS: Histogram, "breakwater_metadata_apply_seconds", "Applying committed entries in one transaction.", SECONDS);
metric!(CHECKPOINT_SECONDS: Histogram, "breakwater_metadata_checkpoint_seconds", "Making the table durable.", SECONDS);
metric!(PROPOSE_SECONDS: Histogram, "breakwater_metadata_propose_seconds", "A proposal, from the call to its replies.", SECONDS);
metric!(QUERY_SECONDS: HistogramVec, "breakwater_metadata_query_seconds", "A query, from the call to its answer.", SECONDS, "kind");
metric!(LISTING_ENTRIES: Counter, "breakwater_metadata_listing_entries_total", "Entries that listings looked at.");
metric!(IN_FLIGHT: Gauge, "breakwater_metadata_proposals_in_flight", "Proposals waiting for their replies.");
metric!(TABLE_USED: Gauge, "breakwater_metadata_table_used_bytes", "Table bytes in use, up to its highest page.");
metric!(TABLE_MAP: Gauge, "breakwater_metadata_table_map_bytes", "Bytes the table can grow to.");
metric!(READ_ROUND_READERS: Histogram, "breakwater_metadata_read_round_readers", "Readers that share one round to a majority.", COUNTS);
metric!(CLUSTER_CALLS: CounterVec, "breakwater_metadata_cluster_calls_total", "Calls of other processes.", ["call", "outcome"]);
metric!(CLUSTER_CONNECTIONS: Gauge, "breakwater_metadata_cluster_connections", "Connections of other processes.");
metric!(CLUSTER_REFUSALS: CounterVec, "breakwater_metadata_cluster_refusals_total", "Connections that were refused or cut.", ["why"]);
metric!(SNAPSHOT_BYTES: CounterVec, "breakwater_metadata_snapshot_bytes_total", "Bytes of snapshots between members.", ["direction"]);
metric!(LEADS: Gauge, "breakwater_metadata_leads", "Groups that this process leads.");
metric!(GROUPS: Gauge, "breakwater_metadata_groups", "Groups that this process has a replica of.");
metric!(TERM: Gauge, "breakwater_metadata_term", "The highest term of its groups: how often somebody stood for leading.");
metric!(BEHIND: Gauge, "breakwater_metadata_behind_entries", "Entries that a replica of its groups lacks, of the one that lacks most.");
metric!(LEADERLESS: Gauge, "breakwater_metadata_groups_without_leader", "Its groups that nobody leads with a majority behind it.");
metric!(SILENT: Gauge, "breakwater_metadata_nodes_silent", "Metadata nodes that do not answer, where the root group is led; 0 elsewhere.");
metric!(RANGE_MOVES: CounterVec, "breakwater_metadata_range_moves_total", "Moves of ranges that are over.", ["outcome"]);
metric!(RANGE_FREEZE_SECONDS: Histogram, "breakwater_metadata_range_freeze_seconds", "A range frozen while it was handed over.", SECONDS);
metric!(LOAD_OPS: Rate, "breakwater_metadata_load_ops", "Commands and queries a second that this process bears.");
metric!(LOAD_BYTES: Rate, "breakwater_metadata_load_bytes", "Bytes a second that it logs and sends for its groups.");
metric!(LOAD_CPU: Rate, "breakwater_metadata_load_cpu", "Seconds of CPU a second that its groups cost.");
metric!(LOAD_PRESSURE: Rate, "breakwater_metadata_load_pressure", "What it bears over what it can do, of what is scarcest: what is levelled.");
metric!(IMBALANCE: Rate, "breakwater_metadata_imbalance", "Pressure of the busiest process over the mean, where the root group is led; 0 elsewhere.");
metric!(STEPS: CounterVec, "breakwater_metadata_balance_steps_total", "Steps of levelling out that are over.", ["kind", "outcome"]);

/// Makes the families of a cluster appear, at zero, before there is one.
pub fn declare() {
    for call in Call::ALL {
        CLUSTER_CALLS.with_label_values(&[call.name(), "ok"]).inc_by(0);
    }
    for why in ["handshakes", "handshake", "certificate", "slow", "connections", "stalled"] {
        CLUSTER_REFUSALS.with_label_values(&[why]).inc_by(0);
    }
    for direction in ["sent", "received"] {
        SNAPSHOT_BYTES.with_label_values(&[direction]).inc_by(0);
    }
    for outcome in ["done", "gave_up"] {
        RANGE_MOVES.with_label_values(&[outcome]).inc_by(0);
    }
    for kind in ["lead", "split", "replica", "merge"] {
        for outcome in ["done", "failed"] {
            STEPS.with_label_values(&[kind, outcome]).inc_by(0);
        }
    }
    for rate in [&LOAD_OPS, &LOAD_BYTES, &LOAD_CPU, &LOAD_PRESSURE, &IMBALANCE] {
        LazyLock::force(rate);
    }
    LazyLock::force(&RANGE_FREEZE_SECONDS);
    CLUSTER_CONNECTIONS.add(0);
    for gauge in [&GROUPS, &BEHIND, &LEADERLESS, &SILENT] {
        gauge.add(0);
    }
    LazyLock::force(&READ_ROUND_READERS);
}
