//! The time, as certificates are judged by.

use rustls::pki_types::UnixTime;
use std::time::{Duration, SystemTime};

/// Now; the epoch on a machine whose clock is before it, where no certificate holds.
pub fn now() -> UnixTime {
    UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}
