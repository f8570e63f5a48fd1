//! The metrics of routing, of one process.

use crate::membership::Stranger;
use prometheus::{Histogram, IntCounter, IntGauge, register_histogram, register_int_counter, register_int_gauge};
use std::sync::LazyLock;

/// Metrics are declared once with fixed names: registering them fails only if two have one name.
fn counter(name: &str, help: &str) -> IntCounter {
    register_int_counter!(name, help).expect("a metric is declared once")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    register_int_gauge!(name, help).expect("a metric is declared once")
}

pub static PEERS: LazyLock<IntGauge> = LazyLock::new(|| gauge("breakwater_routing_peers", "Connected peers of the routing layer."));

pub static KNOWN: LazyLock<IntGauge> =
    LazyLock::new(|| gauge("breakwater_routing_known_nodes", "Nodes whose announcement this process knows."));

pub static REFUSED: LazyLock<IntCounter> =
    LazyLock::new(|| counter("breakwater_routing_refused_total", "Peers and announcements of the routing layer that were refused."));

pub static LOOKUP_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "breakwater_routing_lookup_seconds",
        "Time of an iterative lookup.",
        vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]
    )
    .expect("a metric is declared once")
});

/// Counts a peer that was turned away.
pub fn refused(stranger: &Stranger) {
    REFUSED.inc();
    tracing::debug!(%stranger, "a routing peer is refused");
}

/// Makes the metrics known before anything happens, so that a process without routing shows zeros and not gaps.
pub fn register() {
    LazyLock::force(&PEERS);
    LazyLock::force(&KNOWN);
    LazyLock::force(&REFUSED);
    LazyLock::force(&LOOKUP_SECONDS);
}
