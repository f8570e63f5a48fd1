//! A new version's worth of references to bytes that are stored already.

use crate::path::DataPath;
use crate::write::{StoredBody, WriteError};
use spine::id::TenantId;
use spine::wire::namespace::Body;

impl DataPath {
    /// References to all of `source` under a new version, without moving a byte; `None` if some chunk has to be read and written instead.
    pub async fn reference(&self, tenant: TenantId, source: &Body) -> Result<Option<StoredBody>, WriteError> {
        let _ = (tenant, source);
        Ok(None)
    }
}
