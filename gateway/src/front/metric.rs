//! What the front counts. Labels have few fixed values: never a bucket, a key or an access key.

use prometheus::{
    HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_histogram_vec, register_int_counter, register_int_counter_vec,
    register_int_gauge, register_int_gauge_vec,
};
use std::sync::LazyLock;

/// Seconds from half a millisecond to two minutes.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

macro_rules! metric {
    ($(#[$doc:meta])* $name:ident: $kind:ty = $make:expr) => {
        $(#[$doc])*
        // A name is registered once, here; a failure is a bug that the first scrape of any test shows.
        pub static $name: LazyLock<$kind> = LazyLock::new(|| $make.unwrap_or_else(|error| panic!("metric {}: {error}", stringify!($name))));
    };
}

metric!(
    /// From the head of a request to the last byte of its answer; `size_class` of the object's bytes that travelled.
    REQUEST_SECONDS: HistogramVec = register_histogram_vec!("breakwater_s3_request_seconds", "Response time of S3 requests, from head to last byte", &["operation", "size_class"], SECONDS.to_vec())
);
metric!(
    REQUESTS: IntCounterVec = register_int_counter_vec!("breakwater_s3_requests_total", "S3 requests answered", &["operation", "status"])
);
metric!(
    ERRORS: IntCounterVec = register_int_counter_vec!("breakwater_s3_errors_total", "S3 requests answered with an error, by S3 code", &["code"])
);
metric!(
    RECEIVED_BYTES: IntCounterVec = register_int_counter_vec!("breakwater_s3_received_bytes_total", "Bytes of request bodies received, framing included", &["operation"])
);
metric!(
    SENT_BYTES: IntCounterVec = register_int_counter_vec!("breakwater_s3_sent_bytes_total", "Bytes of response bodies sent", &["operation"])
);
metric!(
    IN_FLIGHT: IntGauge = register_int_gauge!("breakwater_s3_requests_in_flight", "S3 requests whose answer is not sent yet")
);
metric!(
    CUT_OFF: IntCounter = register_int_counter!("breakwater_s3_answers_cut_off_total", "Answers that ended before their last byte, by the client or by a fault")
);
metric!(
    CONNECTIONS: IntGaugeVec = register_int_gauge_vec!("breakwater_connections", "Open client connections", &["listener"])
);
metric!(
    CONNECTIONS_REFUSED: IntCounterVec = register_int_counter_vec!("breakwater_connections_refused_total", "Connections turned away because there were too many", &["listener"])
);

/// Makes a listener's figures appear, at zero, before anything is counted: a query for a fault that never happened answers 0.
pub fn declare(listener: &'static str) {
    CONNECTIONS.with_label_values(&[listener]).add(0);
    CONNECTIONS_REFUSED.with_label_values(&[listener]).inc_by(0);
    CUT_OFF.inc_by(0);
    IN_FLIGHT.add(0);
}

/// The paper's size classes.
pub fn size_class(bytes: u64) -> &'static str {
    const CLASSES: &[(u64, &str)] = &[
        (4 << 10, "<=4KiB"),
        (64 << 10, "<=64KiB"),
        (1 << 20, "<=1MiB"),
        (16 << 20, "<=16MiB"),
        (256 << 20, "<=256MiB"),
        (1 << 30, "<=1GiB"),
    ];
    CLASSES.iter().find(|(most, _)| bytes <= *most).map_or(">1GiB", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_include_their_upper_bound() {
        assert_eq!(size_class(0), "<=4KiB");
        assert_eq!(size_class(4 << 10), "<=4KiB");
        assert_eq!(size_class((4 << 10) + 1), "<=64KiB");
        assert_eq!(size_class(1 << 30), "<=1GiB");
        assert_eq!(size_class((1 << 30) + 1), ">1GiB");
    }

    #[test]
    fn every_metric_registers() {
        REQUEST_SECONDS.with_label_values(&["GetObject", size_class(1)]).observe(0.1);
        REQUESTS.with_label_values(&["GetObject", "200"]).inc();
        ERRORS.with_label_values(&["NoSuchKey"]).inc();
        RECEIVED_BYTES.with_label_values(&["PutObject"]).inc();
        SENT_BYTES.with_label_values(&["GetObject"]).inc();
        IN_FLIGHT.add(0);
        CUT_OFF.inc_by(0);
        CONNECTIONS.with_label_values(&["s3"]).set(0);
        CONNECTIONS_REFUSED.with_label_values(&["s3"]).inc_by(0);
    }
}
