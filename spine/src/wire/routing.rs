//! What both ends of a routing connection say inside Noise, before anything else: the one that dialled first.
//!
//! ```text
//! [length, u16 big-endian][Hello, postcard]
//! ```

use crate::fleet::announcement::{ANNOUNCEMENT_BYTES, SignedAnnouncement};
use crate::limit::CERTIFICATE_BYTES;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of the longest [`Hello`].
pub const HELLO_BYTES: usize = CERTIFICATE_BYTES + ANNOUNCEMENT_BYTES + 16;

/// Who the peer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Certificate of the key that Noise proved, DER.
    pub certificate: Bytes,
    /// Where it can be reached; a gateway cannot.
    pub announcement: Option<SignedAnnouncement>,
}
