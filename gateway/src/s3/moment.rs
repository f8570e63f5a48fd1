//! Times as S3 shows them: whole seconds.

use s3s::dto::{Timestamp, TimestampFormat};
use spine::id::UnixMs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The gateway's clock, for what it proposes.
pub fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Whole seconds since the epoch, rounded down: what Last-Modified carries and conditions compare.
pub fn seconds(time: UnixMs) -> u64 {
    time.0 / 1_000
}

/// For a response: without the milliseconds, so that a listing and a header say the same.
pub fn timestamp(time: UnixMs) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_secs(seconds(time)))
}

/// Seconds since the epoch of a time that a client sent; before 1970 is 0.
pub fn client_seconds(time: &Timestamp) -> u64 {
    let mut text = Vec::new();
    if time.format(TimestampFormat::EpochSeconds, &mut text).is_err() {
        return 0;
    }
    let text = String::from_utf8_lossy(&text);
    text.split('.').next().and_then(|whole| whole.parse().ok()).unwrap_or(0)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn http_date(time: UnixMs) -> String {
    let mut text = Vec::new();
    match timestamp(time).format(TimestampFormat::HttpDate, &mut text) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_loses_its_milliseconds_on_the_way_out() {
        assert_eq!(http_date(UnixMs(784_111_777_999)), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(client_seconds(&timestamp(UnixMs(784_111_777_999))), 784_111_777);
    }
}
